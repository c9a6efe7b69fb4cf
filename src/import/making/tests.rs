//! A driver that takes its time, and what goes on meanwhile.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::datastore::altered::Altered;
use crate::datastore::{Capabilities, DirectoryDatastore, DiskSpec};
use crate::import::tests::engine_on;
use crate::import::{Engine, How, Session};

const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    root: tempfile::TempDir,
    engine: Engine,
    asked: Receiver<String>,
    go: Sender<()>,
}

fn site() -> Site {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("slow")).unwrap();
    let directory = Altered::of(DirectoryDatastore::open(&root.path().join("slow")).unwrap());
    let ((asked, told), (go, goes)) = (channel(), channel());
    let goes = Mutex::new(goes);
    // It tells when it is asked for a disk, and makes it when it is told to.
    let making = Box::new(move |spec: &DiskSpec| {
        asked.send(spec.file(&spec.extent)).unwrap();
        goes.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    });
    let capabilities = |all| Capabilities { makes_descriptor: true, ..all };
    let engine = engine_on(root.path(), Arc::new(Altered { capabilities, making, ..directory }));
    Site { root, engine, asked: told, go }
}

fn cfg(directory: &str) -> String {
    let disk = |n: usize| {
        format!(
            "vmdk.{n}.name = \"d{n}.vmdk\"\nvmdk.{n}.extent-name = \"d{n}-flat.vmdk\"\nvmdk.{n}.size = 4096\nvmdk.{n}.type = \"thin\"\n"
        )
    };
    format!(
        "version = \"4\"\nvmname = \"web\"\nservername = \"local\"\ndsname = \"ds1\"\ndirectory = \"{directory}\"\nvmx-name = \"a.vmx\"\n{}{}",
        disk(0),
        disk(1)
    )
}

fn put(session: &Arc<Session>, name: &str, bytes: &[u8]) {
    let file = match session.find(name) {
        Some(_) => session.open_file(name, How::Write).unwrap(),
        None => session.create(name).unwrap(),
    };
    file.set_len(0).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.close(true).unwrap();
}

/// Does something on a thread of its own, so that a lock that is held fails the test and does not hang it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = channel();
    std::thread::spawn(move || done.send(work()));
    finished.recv_timeout(PATIENCE).expect("it waits for the disk that is being made")
}

fn has(root: &Path, path: &str) -> bool {
    root.join("slow").join(path).exists()
}

#[test]
fn meanwhile_the_session_is_listed_and_its_other_disks_are_written() {
    let Site { root, engine, asked, go } = site();
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("web").as_bytes());
    go.send(()).unwrap();
    let first = session.create("d0-flat.vmdk").unwrap();
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "web/d0-flat.vmdk");
    let second = {
        let session = Arc::clone(&session);
        std::thread::spawn(move || put(&session, "d1-flat.vmdk", &[2; 4096]))
    };
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "web/d1-flat.vmdk");
    let listing = Arc::clone(&session);
    let names = in_time(move || listing.list().into_iter().map(|info| info.name).collect::<Vec<_>>());
    assert!(names.contains(&"d0-flat.vmdk".to_owned()) && !names.contains(&"d1-flat.vmdk".to_owned()));
    in_time(move || {
        first.write_at(&[1; 4096], 0).unwrap();
        first.close(true).unwrap();
    });
    go.send(()).unwrap();
    second.join().unwrap();
    for (name, byte) in [("web/d0-flat.vmdk", 1), ("web/d1-flat.vmdk", 2)] {
        assert_eq!(std::fs::read(root.path().join("slow").join(name)).unwrap(), [byte; 4096]);
    }
}

#[test]
fn a_cfg_that_changes_meanwhile_leads_the_disk_elsewhere_and_leaves_none() {
    let Site { root, engine, asked, go } = site();
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("web").as_bytes());
    let copy = {
        let session = Arc::clone(&session);
        std::thread::spawn(move || put(&session, "d0-flat.vmdk", &[3; 4096]))
    };
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "web/d0-flat.vmdk");
    let rewriting = Arc::clone(&session);
    in_time(move || put(&rewriting, "vm.cfg", cfg("other").as_bytes()));
    // The first disk is made, and not wanted any more; then the one that is.
    go.send(()).unwrap();
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "other/d0-flat.vmdk");
    go.send(()).unwrap();
    copy.join().unwrap();
    assert!(!has(root.path(), "web/d0-flat.vmdk"));
    assert_eq!(std::fs::read(root.path().join("slow/other/d0-flat.vmdk")).unwrap(), [3; 4096]);
}
