//! Renames at every step of a session, those that are refused, and a kill within one.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::super::tests::{VMX, cfg, data, engine, killed, log, memory_dir, put};
use super::super::*;

fn at(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

/// All directories of the share.
fn tree(engine: &Engine) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        for session in engine.directories(&path) {
            found.push(session.components().join("/"));
            open.push(session.components());
        }
    }
    found.sort();
    found
}

fn rename(engine: &Engine, from: &str, to: &str) -> Result<(), ImportError> {
    engine.rename_directory(&engine.session(&at(from)).unwrap(), &at(to))
}

#[test]
fn a_new_folder_gets_its_name_at_any_step() {
    let root = memory_dir();
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&at("New folder")).unwrap();
        rename(&engine, "New folder", "web").unwrap();
        assert_eq!(tree(&engine), ["web"]);
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        rename(&engine, "web", "WEB").unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        rename(&engine, "WEB", "web2").unwrap();
        let log = log(&session);
        for line in [
            "import_session: created /web\n",
            "Create file /WEB/a-flat.vmdk\n",
            "Rename /New folder to /web\n",
            "Rename /WEB to /web2\n",
        ] {
            assert!(log.contains(line), "{line}: {log}");
        }
    }
    let engine = engine(root.path());
    assert_eq!(tree(&engine), ["web2"], "after a restart too");
    let session = engine.session(&at("web2")).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    rename(&engine, "web2", "web3").unwrap();
    let told = Snapshot::from_journals(&root.path().join("data")).unwrap();
    assert_eq!((told.sessions[0].path.as_str(), told.sessions[0].state.as_str()), ("/web3", "imported"));
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1), "its CFG says where");
    session.list().iter().for_each(|info| session.delete(&info.name).unwrap());
    engine.remove_directory(&at("web3")).unwrap();
    assert!(matches!(engine.rename_directory(&session, &at("back")), Err(ImportError::NotFound(_))));
}

#[test]
fn what_can_t_be_renamed_stays() {
    let root = memory_dir();
    let engine = engine(root.path());
    let session = engine.create_directory(&at("vm")).unwrap();
    engine.create_directory(&at("vm/below")).unwrap();
    engine.create_directory(&at("other")).unwrap();
    put(&engine.session(&[]).unwrap(), "root.cfg", b"nonsense").unwrap();
    assert!(matches!(rename(&engine, "vm", "OTHER"), Err(ImportError::Exists(_))));
    assert!(matches!(rename(&engine, "vm", "Root.cfg"), Err(ImportError::Exists(_))));
    assert!(matches!(rename(&engine, "vm", "nowhere/vm"), Err(ImportError::PathNotFound(_))));
    assert!(matches!(rename(&engine, "vm", "vm/below/vm"), Err(ImportError::Refused { .. })));
    let too_deep = "other/3/4/5/6/7/8";
    for depth in 2..=7 {
        engine.create_directory(&at(too_deep)[..depth]).unwrap();
    }
    assert!(matches!(rename(&engine, "vm", &format!("{too_deep}/vm")), Err(ImportError::Limit { .. })));
    let share = engine.session(&[]).unwrap();
    assert!(matches!(engine.rename_directory(&share, &at("root")), Err(ImportError::InUse(_))));
    let file = engine.session(&at("vm/below")).unwrap().create("x.cfg").unwrap();
    assert!(matches!(rename(&engine, "vm", "vm2"), Err(ImportError::InUse(_))), "a file below is open");
    drop(file);
    rename(&engine, "vm", "other/vm").unwrap();
    assert!(engine.session(&at("other/vm/below")).is_some() && engine.session(&at("vm/below")).is_none());
    assert_eq!(session.components(), at("other/vm"));
}

fn journals(root: &Path) -> Vec<PathBuf> {
    let caches = std::fs::read_dir(root.join("data/sessions")).unwrap();
    caches.map(|entry| entry.unwrap().path().join("journal")).collect()
}

/// The records of a rename in the order in which they are made: the directory's, those of what lies below, the directory's
/// again. A kill leaves the first few of them, the last perhaps torn.
#[test]
fn a_kill_within_a_rename_leaves_one_tree_or_the_other() {
    let root = memory_dir();
    let names = ["from", "from/a", "from/a/b", "from/c", "stays"];
    {
        let engine = engine(root.path());
        names.iter().for_each(|name| drop(engine.create_directory(&at(name)).unwrap()));
        put(&engine.session(&at("from/a")).unwrap(), "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    }
    let before = killed(root.path());
    rename(&engine(root.path()), "from", "to").unwrap();
    // Whose journal each is, and what the rename added to it: the directory's own first, and its second one last.
    let mut writes = Vec::new();
    for path in journals(root.path()) {
        let name = path.strip_prefix(root.path()).unwrap().to_owned();
        let old = std::fs::read(before.path().join(&name)).unwrap();
        let new = std::fs::read(&path).unwrap();
        assert!(new.starts_with(&old));
        let mut rest = &new[old.len()..];
        while !rest.is_empty() {
            let length = 8 + u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            writes.push((name.clone(), rest[..length].to_vec()));
            rest = &rest[length..];
        }
    }
    let told = |write: &(PathBuf, Vec<u8>)| {
        let crate::journal::Record::SessionMoved { directory, followers } =
            crate::journal::Record::decode(&write.1[8..]).unwrap()
        else {
            panic!("another record")
        };
        (followers.is_empty(), directory == "to", directory)
    };
    writes.sort_by_key(told);
    assert_eq!(writes.len(), 5, "two of the directory, one of each below");
    let old_tree = names.map(str::to_owned).to_vec();
    let new_tree: Vec<_> = ["stays", "to", "to/a", "to/a/b", "to/c"].map(str::to_owned).to_vec();
    for done in 0..=writes.len() {
        for torn in [0, 5] {
            let left = killed(before.path());
            let append = |name: &Path, bytes: &[u8]| {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).open(left.path().join(name)).unwrap();
                file.write_all(bytes).unwrap();
            };
            writes[..done].iter().for_each(|(name, bytes)| append(name, bytes));
            if let Some((name, bytes)) = writes.get(done) {
                append(name, &bytes[..torn]);
            }
            let expected = if done == 0 { &old_tree } else { &new_tree };
            for start in ["the first start", "the next"] {
                let engine = engine(left.path());
                assert_eq!(&tree(&engine), expected, "{done} records, {torn} bytes: {start}");
            }
            // What is made where it was is none of its followers.
            let again = engine(left.path());
            if done > 0 {
                again.create_directory(&at("from")).unwrap();
                again.create_directory(&at("from/a")).unwrap();
            }
            drop(again);
            let a = engine(left.path()).session(&at(if done == 0 { "from/a" } else { "to/a" })).unwrap();
            assert!(a.find("vm.cfg").is_some());
        }
    }
}
