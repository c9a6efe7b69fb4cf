//! Orphans: what is listed, what is removed, and what never is.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::hypervisor::Hypervisors;
use super::tests::{SIZE, VMX, cfg, data, engine, put};
use super::*;
use crate::datastore::DirectoryDatastore;

fn hypervisors(root: &Path) -> Hypervisors {
    let store = std::sync::Arc::new(DirectoryDatastore::open(&root.join("ds")).unwrap());
    let entry = DatastoreEntry { name: "ds1".into(), uuid: None, store, written: None };
    Hypervisors(vec![Hypervisor {
        name: "local".into(),
        aliases: Vec::new(),
        datastores: vec![entry],
        inventory: None,
    }])
}

/// Deletes a session as `deltree` does.
fn delete(engine: &Engine, name: &str) {
    let session = engine.session(&[name.into()]).unwrap();
    for info in session.list() {
        session.delete(&info.name).unwrap();
    }
    drop(session);
    engine.remove_directory(&[name.into()]).unwrap();
}

#[test]
fn a_foreign_file_in_an_extent_s_place_is_never_removed() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    let foreign = root.path().join("ds/vm/a-flat.vmdk");
    fs::write(&foreign, "somebody's").unwrap();
    for _ in 0..2 {
        assert!(session.create("a-flat.vmdk").is_err());
        assert_eq!(fs::read(&foreign).unwrap(), b"somebody's");
    }
    drop(session);
    delete(&engine, "vm");
    let told = orphans::clean(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    assert!(told.iter().any(|object| object.path == "vm" && object.outcome == "kept"), "{told:?}");
    assert!(told.iter().all(|object| object.path != "vm/a-flat.vmdk"), "{told:?}");
    assert_eq!(fs::read(&foreign).unwrap(), b"somebody's");
}

/// Its CFG was rewritten before any disk came, and something small had come by then. Found by `import_sequences`.
#[test]
fn what_lies_elsewhere_than_a_session_s_machine_is_its_orphan() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("before", "").as_bytes()).unwrap();
    put(&session, "a.nvram", b"n").unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    for (name, bytes) in [("a-flat.vmdk", data(1)), ("b-flat.vmdk", data(2)), ("a.vmx", VMX.into())] {
        put(&session, name, &bytes).unwrap();
    }
    drop(session);
    delete(&engine, "vm");
    let found = orphans::list(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    let paths: Vec<_> =
        found.iter().flat_map(|session| &session.objects).map(|object| &object.path).collect();
    assert_eq!(paths, ["before", "before/a.nvram"], "{found:?}");
    orphans::clean(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    assert!(!root.path().join("ds/before").exists() && root.path().join("ds/vm/a.vmx").exists());
}

#[test]
fn only_the_removed_session_s_own_objects_go_and_a_crash_in_between_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)[..SIZE as usize / 2]).unwrap();
        drop(session);
        let whole = engine.create_directory(&["whole".into()]).unwrap();
        put(&whole, "whole.cfg", cfg("whole", "").as_bytes()).unwrap();
        for (name, bytes) in [("a-flat.vmdk", data(1)), ("b-flat.vmdk", data(2)), ("a.vmx", VMX.into())] {
            put(&whole, name, &bytes).unwrap();
        }
        drop(whole);
        delete(&engine, "vm");
        delete(&engine, "whole");
    }
    let found = orphans::list(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].path == "/vm" && found[0].state == "removed");
    assert!(found[0].objects.iter().all(|object| object.state == "there"), "{found:?}");
    // The extent was replaced by hand; the rest is the session's.
    let extent = root.path().join("ds/vm/a-flat.vmdk");
    fs::remove_file(&extent).unwrap();
    fs::write(&extent, "another").unwrap();
    orphans::clean(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    assert_eq!(fs::read(&extent).unwrap(), b"another");
    assert!(root.path().join("ds/whole/a.vmx").exists());
    fs::remove_file(&extent).unwrap();
    let told = orphans::clean(&root.path().join("data"), &hypervisors(root.path())).unwrap();
    assert!(told.iter().any(|object| object.outcome == "removed"), "{told:?}");
    assert!(!root.path().join("ds/vm").exists());
    assert!(orphans::list(&root.path().join("data"), &hypervisors(root.path())).unwrap().is_empty());
    assert_eq!(fs::read_dir(root.path().join("data/orphans")).unwrap().count(), 0);
}

#[test]
fn what_was_a_complete_machine_once_stays_whatever_was_copied_since() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    {
        let engine = engine(at);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        for (name, bytes) in [("a-flat.vmdk", data(1)), ("b-flat.vmdk", data(2)), ("a.vmx", VMX.into())] {
            put(&session, name, &bytes).unwrap();
        }
        put(&session, "a-flat.vmdk", &data(3)[..SIZE as usize / 2]).unwrap();
    }
    let on = hypervisors(at);
    assert!(orphans::list(&at.join("data"), &on).unwrap().is_empty(), "open, and complete once");
    delete(&engine(at), "vm");
    assert!(orphans::list(&at.join("data"), &on).unwrap().is_empty());
    assert!(orphans::clean(&at.join("data"), &on).unwrap().is_empty());
    for name in ["a.vmx", "a-flat.vmdk", "b-flat.vmdk"] {
        assert!(at.join("ds/vm").join(name).exists(), "{name}");
    }
    // The next machine of the same session is another's.
    let engine = engine(at);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("again", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    drop(session);
    delete(&engine, "vm");
    orphans::clean(&at.join("data"), &on).unwrap();
    assert!(!at.join("ds/again").exists() && at.join("ds/vm/a.vmx").exists());
}
