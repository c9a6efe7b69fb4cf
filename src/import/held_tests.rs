//! A datastore that does not answer (a lost NFS server) holds up the sessions that restore to it, and nobody else.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::rooms::Rooms;
use super::tests::{VMX, cfg, data, memory_dir, put};
use super::*;
use crate::datastore::altered::Altered;
use crate::datastore::{Datastore, DirectoryDatastore, DiskSpec, Space};

/// Far longer than anything here takes, unless it waits for what it must not wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds who passes it until it is opened, at the latest when the test is over.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

struct AtTheEnd(Arc<Gate>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// What `work` gives, which must not wait for the gate.
fn at_once<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waited) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waited.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} waits for a datastore of others"))
}

#[test]
fn a_session_whose_datastore_hangs_holds_up_no_other() {
    let (root, gate) = (memory_dir(), Arc::new(Gate::default()));
    let _opened = AtTheEnd(Arc::clone(&gate));
    let (reached, making) = mpsc::channel();
    let store = |name: &str, uuid: Option<&str>| {
        let path = root.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let (gate, reached) = (Arc::clone(&gate), Mutex::new(reached.clone()));
        let making = Box::new(move |spec: &DiskSpec| {
            if spec.directory == "held" {
                reached.lock().unwrap().send(()).unwrap();
                gate.pass();
            }
        });
        let store = Altered { making, ..Altered::of(DirectoryDatastore::open(&path).unwrap()) };
        DatastoreEntry {
            name: name.into(),
            uuid: uuid.map(str::to_owned),
            store: Arc::new(store),
            written: None,
        }
    };
    let datastores = vec![store("ds1", None), store("ds2", Some("4e31-aa"))];
    let local = Hypervisor { name: "local".into(), aliases: Vec::new(), datastores, inventory: None };
    let engine = Arc::new(Engine::new(EngineSettings::new(root.path().join("data"), vec![local])).unwrap());
    let held = engine.create_directory(&["held".into()]).unwrap();
    put(&held, "held.cfg", cfg("held", "").as_bytes()).unwrap();
    let restore = std::thread::spawn({
        let held = Arc::clone(&held);
        move || put(&held, "a-flat.vmdk", &data(1))
    });
    making.recv_timeout(PATIENCE).unwrap();

    let asked = Arc::clone(&engine);
    let room = at_once("the room of the share", move || asked.space());
    assert!(room.available > 0);
    let asked = Arc::clone(&engine);
    let listed = at_once("the list of the directories", move || {
        let found = asked.directories(&[]);
        found
            .iter()
            .map(|session| (session.directory_info().name, session.kept_security().len()))
            .collect::<Vec<_>>()
    });
    assert_eq!(listed, [("held".to_owned(), 0)]);
    let asked = Arc::clone(&engine);
    let snapshot = at_once("the snapshot", move || asked.snapshot());
    assert_eq!((snapshot.sessions[0].path.as_str(), snapshot.sessions[0].state.as_str()), ("/held", "held"));
    // Whoever wants to be rid of it waits, and lets others make and rename their directories.
    let (asked, moving) = (Arc::clone(&engine), Arc::clone(&held));
    let moved = at_once("a rename", move || asked.rename_directory(&moving, &["other".into()]));
    assert!(matches!(moved, Err(ImportError::InUse(_))), "{moved:?}");
    let asked = Arc::clone(&engine);
    let removed = std::thread::spawn(move || asked.remove_directory(&["held".into()]));
    let asked = Arc::clone(&engine);
    at_once("another restore", move || {
        let good = asked.create_directory(&["good".into()]).unwrap();
        put(&good, "good.cfg", cfg("good", "").as_bytes()).unwrap();
        put(&good, "a-flat.vmdk", &data(1)).unwrap();
        put(&good, "b-flat.vmdk", &data(2)).unwrap();
        put(&good, "a.vmx", VMX).unwrap();
        asked.rename_directory(&good, &["better".into()]).unwrap();
    });

    gate.open();
    restore.join().unwrap().unwrap();
    assert!(removed.join().unwrap().is_err(), "a file of the client's is in it");
    assert_eq!(engine.snapshot().sessions[1].state, "receiving");
}

#[test]
fn the_room_of_a_datastore_that_does_not_answer_is_what_it_said_last() {
    let (root, gate) = (memory_dir(), Arc::new(Gate::default()));
    let _opened = AtTheEnd(Arc::clone(&gate));
    gate.open();
    let directory = Altered::of(DirectoryDatastore::open(root.path()).unwrap());
    let said = Space { total: 7, available: 5 };
    let (passed, space) = (Arc::clone(&gate), Some(said));
    let asking = Box::new(move || passed.pass());
    let store: Arc<dyn Datastore> = Arc::new(Altered { space, asking, ..directory });
    let rooms = Rooms::default();
    assert_eq!(rooms.of("local", "ds", &store), Some(said));
    *gate.open.lock().unwrap() = false;
    for _ in 0..3 {
        assert_eq!(rooms.of("local", "ds", &store), Some(said), "as it was");
    }
    let fresh = Rooms::default();
    assert_eq!(fresh.of("local", "ds", &store), None, "nothing is known");
    gate.open();
    let begun = std::time::Instant::now();
    while fresh.of("local", "ds", &store).is_none() {
        assert!(begun.elapsed() < PATIENCE);
    }
}
