//! Whole restores on a directory datastore, without sockets.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::datastore::altered::{Altered, by_name};
use crate::datastore::{Datastore, DirectoryDatastore};
use crate::disk::Options;
use crate::pancbt;

pub(super) const SIZE: u64 = 3 * 1024 * 1024 + 512;

pub(super) fn engine(root: &Path) -> Engine {
    let store = root.join("ds");
    std::fs::create_dir_all(&store).unwrap();
    engine_on(root, Arc::new(DirectoryDatastore::open(&store).unwrap()))
}

/// The same where what [`killed`] leaves is recognised, although it is a copy.
pub(super) fn engine_to_kill(root: &Path) -> Engine {
    let store = root.join("ds");
    std::fs::create_dir_all(&store).unwrap();
    let directory = Altered::of(DirectoryDatastore::open(&store).unwrap());
    engine_on(root, Arc::new(Altered { identity: by_name, ..directory }))
}

pub(super) fn engine_on(root: &Path, store: Arc<dyn Datastore>) -> Engine {
    engine_with(root, store, Options::default())
}

pub(super) fn engine_with(root: &Path, store: Arc<dyn Datastore>, disk_options: Options) -> Engine {
    let datastores =
        vec![DatastoreEntry { name: "ds1".into(), uuid: Some("4e31-aa".into()), store, written: None }];
    let other = root.join("other");
    std::fs::create_dir_all(&other).unwrap();
    let store = Arc::new(DirectoryDatastore::open(&other).unwrap());
    let twins = vec![DatastoreEntry { name: "ds1".into(), uuid: None, store, written: None }];
    let hypervisors = [("local", datastores), ("second", twins)];
    let hypervisors = hypervisors
        .map(|(name, datastores)| Hypervisor {
            name: name.into(),
            aliases: Vec::new(),
            datastores,
            inventory: None,
        })
        .into();
    Engine::new(EngineSettings { disk_options, ..EngineSettings::new(root.join("data"), hypervisors) })
        .unwrap()
}

pub(super) fn cfg(directory: &str, more: &str) -> String {
    let mut text = format!(
        "version = \"4\"\nvmname = \"new\"\nvmuuid = \"50133967-ae5a-052c-0140-e47ce07219ee\"\nservername = \"local\"\n\
         datacenter = \"\"\nfolder = \"\"\nhostsystem = \"\"\nresourcepool = \"\"\ndsname = \"4e31-aa\"\n\
         directory = \"{directory}\"\nvmx-name = \"a.vmx\"\n"
    );
    for (number, (name, kind)) in [("a", "thin"), ("b", "thick")].iter().enumerate() {
        let _ = write!(
            text,
            "vmdk.{number}.name = \"{name}.vmdk\"\nvmdk.{number}.extent-name = \"{name}-flat.vmdk\"\n\
             vmdk.{number}.dsname = \"ds1\"\nvmdk.{number}.directory = \"{directory}\"\n\
             vmdk.{number}.size = {SIZE}\nvmdk.{number}.type = \"{kind}\"\n"
        );
    }
    text + more
}

pub(super) fn put(session: &Arc<Session>, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
    put_in(session, name, bytes, 1 << 20)
}

/// The same in pieces.
pub(super) fn put_in(
    session: &Arc<Session>,
    name: &str,
    bytes: &[u8],
    piece: usize,
) -> Result<(), ImportError> {
    let file = match session.find(name) {
        Some(_) => session.open_file(name, How::Write)?,
        None => session.create(name)?,
    };
    file.set_len(0)?;
    // Last part first: clients write out of order.
    for (number, part) in bytes.chunks(piece).enumerate().rev() {
        file.write_at(part, (number * piece) as u64)?;
    }
    file.close(true)
}

pub(super) fn data(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|at| if at / 65536 % 3 == 0 { 0 } else { (at % 251) as u8 ^ seed }).collect()
}

pub(super) fn log(session: &Arc<Session>) -> String {
    text(session, "import.log")
}

/// A file as a client reads it.
pub(super) fn text(session: &Arc<Session>, name: &str) -> String {
    let file = session.open_file(name, How::Attributes).unwrap();
    let mut bytes = vec![0; 1 << 20];
    let read = file.read_at(&mut bytes, 0).unwrap();
    file.close(true).unwrap();
    String::from_utf8(bytes[..read].to_vec()).unwrap()
}

pub(super) const VMX: &[u8] =
    b"displayName = \"old\"\nscsi0:0.fileName = \"a.vmdk\"\nscsi0:1.fileName = \"b.vmdk\"\n";

#[test]
fn a_whole_restore_with_two_disks_in_parallel() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    assert!(matches!(put(&session, "a-flat.vmdk", b"x"), Err(ImportError::OutOfOrder { .. })));
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
    let vmx = b"displayName = \"old\"\nscsi0:1.fileName = \"b.vmdk\"\n";
    assert!(matches!(put(&session, "a.vmx", vmx), Err(ImportError::OutOfOrder { .. })));
    std::thread::scope(|scope| {
        scope.spawn(|| put(&session, "a-flat.vmdk", &data(1)).unwrap());
        scope.spawn(|| put(&session, "b-flat.vmdk", &data(2)).unwrap());
    });
    put(&session, "a.vmx", vmx).unwrap();
    put(&session, "a.vmx", vmx).unwrap();
    let at = root.path().join("ds/vm");
    assert_eq!(std::fs::read(at.join("a-flat.vmdk")).unwrap(), data(1));
    assert_eq!(std::fs::read(at.join("b-flat.vmdk")).unwrap(), data(2));
    assert!(std::fs::read_to_string(at.join("a.vmdk")).unwrap().contains("a-flat.vmdk"));
    let text = std::fs::read_to_string(at.join("a.vmx")).unwrap();
    assert!(text.contains("displayName = \"new\"") && text.contains("b.vmdk"));
    let log = log(&session);
    assert_eq!(log.matches("done importing /vmfs/volumes/4e31-aa/vm/a.vmx").count(), 1, "{log}");
    assert!(log.contains("stats: /vm/a-flat.vmdk total 3072 kb, write thru "), "{log}");
    assert!(log.contains(&format!("a-flat.vmdk ({SIZE} bytes thin)")), "{log}");
}

#[test]
fn refusals_and_conflicts() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    assert!(matches!(session.create("4913"), Err(ImportError::UnsupportedType(_))));
    assert!(log(&session).contains("Cannot create /vm/4913 of unsupported file type"));
    assert!(matches!(session.create("import.log"), Err(ImportError::Exists(_) | ImportError::OwnFile(_))));
    std::fs::create_dir(root.path().join("ds/taken")).unwrap();
    put(&session, "x.cfg", cfg("taken", "register-after-import = 1\n").as_bytes()).unwrap();
    assert!(session.find("x.cfg.err").is_some());
    assert!(log(&session).contains("nothing to register with"));
    assert!(matches!(put(&session, "y.cfg", b"y"), Err(ImportError::SecondCfg { .. })));
    assert!(matches!(put(&session, "a-flat.vmdk", b"x"), Err(ImportError::OutOfOrder { .. })));
    put(&session, "x.cfg", cfg("taken", "on-conflict = \"rename\"\n").as_bytes()).unwrap();
    assert!(session.find("x.cfg.err").is_none(), "{}", log(&session));
    assert!(log(&session).contains("import session redirecting recover from taken to taken(1)"));
    put(&session, "a-flat.vmdk", &data(3)).unwrap();
    put(&session, "x.cfg", cfg("elsewhere", "").as_bytes()).unwrap();
    assert!(session.find("x.cfg.err").is_some(), "a change of destination after data is an error");
    assert!(
        root.path().join("ds/taken(1)/a-flat.vmdk").exists() && !root.path().join("ds/elsewhere").exists()
    );
    put(&session, "b-flat.vmdk", &data(4)).unwrap();
}

#[test]
fn removing_a_session_leaves_the_datastore() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let path = ["vm".to_owned()];
    let session = engine.create_directory(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    assert!(matches!(engine.remove_directory(&path), Err(ImportError::NotEmpty(_))));
    for info in session.list() {
        session.delete(&info.name).unwrap();
    }
    drop(session);
    engine.remove_directory(&path).unwrap();
    assert!(engine.session(&path).is_none());
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
    assert_eq!(std::fs::read_dir(root.path().join("data/orphans")).unwrap().count(), 1);
}

#[test]
fn a_restart_takes_up_what_was_there() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&path).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        let file = session.create("b-flat.vmdk").unwrap();
        file.write_at(&data(2)[..1 << 20], 0).unwrap();
    }
    let engine = engine(root.path());
    let session = engine.session(&path).unwrap();
    assert_eq!(session.find("a-flat.vmdk").unwrap().size, SIZE);
    assert!(matches!(put(&session, "a.vmx", b"x"), Err(ImportError::OutOfOrder { .. })));
    put(&session, "b-flat.vmdk", &data(5)).unwrap();
    put(&session, "a.vmx", b"scsi0:0.fileName = \"a.vmdk\"\n").unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm/b-flat.vmdk")).unwrap(), data(5));
}

/// A directory in memory, where the system has such a place: what a kill leaves does not depend on fsync, and a simulation
/// of thousands of restores should not wait for a disk.
pub(super) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What a kill -9 leaves: the data directory and the datastore as they are now, in a directory of their own.
pub(super) fn killed(root: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let left = memory_dir();
    copy(root, left.path());
    left
}

/// Explorer sets the end of file before it sends a byte: if its connection breaks, the rest is missing, not zero.
#[test]
fn a_client_that_is_lost_leaves_its_extent_incomplete() {
    let root = tempfile::tempdir().unwrap();
    let session = engine(root.path()).create_directory(&["vm".to_owned()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    let file = session.create("a-flat.vmdk").unwrap();
    file.set_len(SIZE).unwrap();
    file.write_at(&data(1)[..1 << 20], 0).unwrap();
    drop(file);
    let refused = put(&session, "a.vmx", b"x");
    assert!(matches!(refused, Err(ImportError::OutOfOrder { .. })), "half of it never came");
}

#[test]
fn a_kill_leaves_what_was_not_closed_incomplete() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    let session = engine_to_kill(root.path()).create_directory(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    let file = session.create("a-flat.vmdk").unwrap();
    file.set_len(SIZE).unwrap();
    file.write_at(&data(1)[..1 << 20], 0).unwrap();
    file.flush().unwrap();
    let left = killed(root.path());
    let session = engine_to_kill(left.path()).session(&path).unwrap();
    session.open_file("a-flat.vmdk", How::Write).unwrap().close(true).unwrap(); // to set its times
    assert!(matches!(put(&session, "a.vmx", b"x"), Err(ImportError::OutOfOrder { .. })));
    let again = session.open_file("a-flat.vmdk", How::Write).unwrap();
    let mut flushed = vec![0; 1 << 20];
    assert_eq!(again.read_at(&mut flushed, 0).unwrap(), 1 << 20);
    assert!(flushed == data(1)[..1 << 20], "what was flushed is there");
    again.close(true).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(std::fs::read(left.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
}

/// The differential from one state of a disk to another.
pub(super) fn differential(base: &[u8], new: &[u8], from: &str, to: &str) -> Vec<u8> {
    differential_in(base, new, from, to, 4096)
}

/// The same in records of `step` bytes.
pub(super) fn differential_in(base: &[u8], new: &[u8], from: &str, to: &str, step: usize) -> Vec<u8> {
    let (base_id, target) = (from.to_owned(), to.to_owned());
    let header = pancbt::Header { disk_size: base.len() as u64, disk_uuid: None, base: base_id, target };
    let mut writer = pancbt::Writer::new(Vec::new(), &header).unwrap();
    for (number, (old, new)) in base.chunks(step).zip(new.chunks(step)).enumerate() {
        let offset = (number * step) as u64;
        match new.iter().all(|byte| *byte == 0) {
            _ if old == new => {}
            true => writer.zero(offset, new.len() as u64).unwrap(),
            false => writer.data(offset, new).unwrap(),
        }
    }
    writer.finish().unwrap().0
}

#[test]
fn everything_can_be_copied_again() {
    let root = tempfile::tempdir().unwrap();
    let session = engine(root.path()).create_directory(&["vm".to_owned()]).unwrap();
    for _ in 0..2 {
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        put(&session, "b-flat.vmdk", &data(2)).unwrap();
        put(&session, "a-flat.pancbt", &differential(&data(1), &data(3), "", "one")).unwrap();
        put(&session, "a.vmx", VMX).unwrap();
        assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(3));
    }
}

/// A chain goes on where it stood: a differential that was merged before the restart is not merged again.
#[test]
fn a_chain_goes_on_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    let states = [data(1), data(7), data(9)];
    let differential = |from: usize, to: usize| {
        let ids = ["", "one", "two"];
        let (base, target) = (states[from].clone(), states[to].clone());
        differential(&base, &target, ids[from], ids[to])
    };
    let session = engine_to_kill(root.path()).create_directory(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &states[0]).unwrap();
    put(&session, "a-flat.pancbt", &differential(0, 1)).unwrap();
    put(&session, "a-flat.1.pancbt", &differential(1, 2)).unwrap();
    let left = killed(root.path());
    let session = engine_to_kill(left.path()).session(&path).unwrap();
    let refused = put(&session, "a-flat.pancbt", &differential(0, 1));
    assert!(refused.is_err(), "merging it twice would undo the second");
    assert_eq!(std::fs::read(left.path().join("ds/vm/a-flat.vmdk")).unwrap(), states[2]);
    assert!(session.find("a-flat.1.pancbt").is_some(), "it is listed as before");
    let wrong = put(&session, "a-flat.2.pancbt", &differential(1, 2));
    assert!(wrong.is_err(), "the disk stands at two, not at one");
}

/// A wrong CFG gives back what the one before had made; that one comes again after a restart.
#[test]
fn a_cfg_comes_back_after_a_wrong_one_and_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    let session = engine(root.path()).create_directory(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "vm.cfg", cfg("other", "").replace("ds1", "none").as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_some());
    let left = killed(root.path());
    let session = engine(left.path()).session(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    assert_eq!(std::fs::read(left.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
}

#[test]
fn what_the_service_changes_is_told_and_reading_the_log_is_not() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    engine.listen(move |path, name, change| {
        listener.lock().unwrap().push((path.join("/"), name.to_owned(), change));
    });
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let heard = |name: &str, change| told.lock().unwrap().contains(&("vm".into(), name.into(), change));
    put(&session, "x.cfg", b"nonsense").unwrap();
    assert!(heard("x.cfg.err", OwnChange::Added) && heard("import.log", OwnChange::Modified));
    put(&session, "x.cfg", b"other nonsense").unwrap();
    assert!(heard("x.cfg.err", OwnChange::Modified));
    std::fs::create_dir(root.path().join("ds/vm")).unwrap();
    put(&session, "x.cfg", cfg("vm", "on-conflict = \"rename\"\n").as_bytes()).unwrap();
    assert!(heard("x.cfg.err", OwnChange::Removed) && heard("x.vmcfg", OwnChange::Added));
    told.lock().unwrap().clear();
    session.open_file("import.log", How::Read).unwrap().close(true).unwrap();
    assert!(told.lock().unwrap().is_empty(), "who reads the log at each change must come to rest");
}
