//! Restores to a datastore that takes whole machines only: staged, pushed at the VMX, begun again after a restart.

#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::tests::{SIZE, VMX, cfg, data, log, put, text};
use super::*;
use crate::datastore::sink::{Course, Machine, Pushed, Sink, Told};
use crate::datastore::{Capabilities, Datastore, DirectoryDatastore, Disk, DiskSpec, Space};
use crate::inventory::Place;

/// What came, and what the next push does.
#[derive(Default)]
struct Received {
    machines: Mutex<Vec<(String, Vec<Vec<u8>>)>>,
    fails: AtomicBool,
    hangs: AtomicBool,
    /// A push that is called off leaves what it made.
    stays: AtomicBool,
    nvram: Mutex<Option<Vec<u8>>>,
    undone: Mutex<Vec<String>>,
}

struct Whole(Arc<Received>);

impl Sink for Whole {
    fn push(&self, machine: &Machine, course: &Course, told: &dyn Told) -> io::Result<Pushed> {
        if !told.left().is_empty() {
            self.undo(&told.left())?;
            told.leave("")?;
        }
        told.leave("a trace")?;
        told.note("on its way");
        while self.0.hangs.load(Ordering::Relaxed) {
            if let Some(why) = course.cancelled() {
                if !self.0.stays.load(Ordering::Relaxed) {
                    told.leave("")?;
                }
                return Err(io::Error::new(io::ErrorKind::Interrupted, why));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.0.fails.load(Ordering::Relaxed) {
            told.leave("")?;
            return Err(io::Error::other("the lease ended"));
        }
        self.0.nvram.lock().unwrap().clone_from(&machine.nvram);
        let mut disks = Vec::new();
        for disk in &machine.disks {
            // Only what is said to be allocated is read.
            let mut bytes = vec![0; disk.spec.size as usize];
            for range in &disk.allocated {
                disk.source.read_at(&mut bytes[range.start as usize..range.end as usize], range.start)?;
            }
            disks.push(bytes);
        }
        self.0.machines.lock().unwrap().push((String::from_utf8(machine.vmx.clone()).unwrap(), disks));
        Ok(Pushed { reference: Some("vm-7".into()) })
    }

    fn is_there(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }

    fn undo(&self, trace: &str) -> io::Result<bool> {
        self.0.undone.lock().unwrap().push(trace.to_owned());
        Ok(false)
    }
}

/// A datastore of whole machines; only names are asked of the directory behind it.
struct Machines {
    names: DirectoryDatastore,
    received: Arc<Received>,
}

fn no<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Datastore for Machines {
    fn capabilities(&self) -> Capabilities {
        Capabilities { random_write: false, resumable: false, ..self.names.capabilities() }
    }
    fn space(&self) -> io::Result<Space> {
        self.names.space()
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.names.exists(path)
    }
    fn sink(&self, _: &Place) -> Option<Arc<dyn Sink>> {
        Some(Arc::new(Whole(Arc::clone(&self.received))))
    }
    fn create_directory(&self, _: &str) -> io::Result<()> {
        no()
    }
    fn create_disk(&self, _: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        no()
    }
    fn open_disk(&self, _: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        no()
    }
    fn put_file(&self, _: &str, _: &[u8]) -> io::Result<()> {
        no()
    }
    fn get_file(&self, _: &str, _: u64) -> io::Result<Vec<u8>> {
        no()
    }
    fn remove_file(&self, _: &str) -> io::Result<()> {
        no()
    }
    fn remove_directory(&self, _: &str) -> io::Result<()> {
        no()
    }
}

fn hypervisors(root: &Path, received: &Arc<Received>) -> Vec<Hypervisor> {
    let names = root.join("names");
    std::fs::create_dir_all(&names).unwrap();
    let names = DirectoryDatastore::open(&names).unwrap();
    let entry = DatastoreEntry {
        name: "ds1".into(),
        uuid: Some("4e31-aa".into()),
        store: Arc::new(Machines { names, received: Arc::clone(received) }),
        written: Some("ds1 is written by nfc".into()),
    };
    vec![Hypervisor { name: "local".into(), aliases: Vec::new(), datastores: vec![entry], inventory: None }]
}

fn engine(root: &Path, received: &Arc<Received>, stage: u64) -> Engine {
    let mut settings = EngineSettings::new(root.join("data"), hypervisors(root, received));
    settings.stage_bytes_max = Some(stage);
    Engine::new(settings).unwrap()
}

fn staged_files(root: &Path) -> usize {
    let sessions = std::fs::read_dir(root.join("data/sessions")).unwrap().flatten();
    sessions
        .map(|session| std::fs::read_dir(session.path().join("stage")).into_iter().flatten().count())
        .sum()
}

fn begin(engine: &Engine, name: &str) -> Arc<Session> {
    let session = engine.create_directory(&[name.into()]).unwrap();
    put(&session, "vm.cfg", cfg(name, "").as_bytes()).unwrap();
    session
}

fn extents(session: &Arc<Session>) {
    put(session, "a-flat.vmdk", &data(1)).unwrap();
    put(session, "b-flat.vmdk", &data(2)).unwrap();
}

#[test]
fn a_machine_goes_as_a_whole_and_leaves_the_stage() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    let engine = engine(root.path(), &received, 2 * SIZE);
    let session = begin(&engine, "vm");
    assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
    extents(&session);
    put(&session, "a.nvram", b"nvram").unwrap();
    assert_eq!(staged_files(root.path()), 2);
    // It fails once; nothing of what arrived is lost.
    received.fails.store(true, Ordering::Relaxed);
    assert!(put(&session, "a.vmx", VMX).is_err());
    assert!(text(&session, "vm.cfg.err").contains("the lease ended"));
    received.fails.store(false, Ordering::Relaxed);
    put(&session, "a.vmx", VMX).unwrap();
    assert!(session.find("vm.cfg.err").is_none());
    {
        let machines = received.machines.lock().unwrap();
        assert_eq!(machines.len(), 1);
        assert!(machines[0].0.contains("displayName = \"new\""));
        assert!(machines[0].1 == [data(1), data(2)]);
    }
    assert_eq!(received.nvram.lock().unwrap().as_deref(), Some(&b"nvram"[..]));
    assert_eq!(staged_files(root.path()), 0);
    // They stand in the listing as ever, and can be looked at and deleted.
    let sizes: Vec<_> = session.list().into_iter().filter(|info| info.size == SIZE).collect();
    assert_eq!(sizes.len(), 2);
    let extent = session.open_file("a-flat.vmdk", How::Attributes).unwrap();
    assert!(extent.read_at(&mut [0; 4], 0).is_err() && extent.write_at(&[1], 0).is_err());
    extent.close(true).unwrap();
    drop(extent);
    assert!(log(&session).contains("on its way") && log(&session).contains("new is vm-7"));
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(received.machines.lock().unwrap().len(), 1, "once for each content");
    // Another VMX for a machine whose disks are gone from the stage is told so, also after a restart.
    drop(session);
    drop(engine);
    let engine = self::engine(root.path(), &received, 2 * SIZE);
    let session = engine.session(&["vm".into()]).unwrap();
    let error = put(&session, "a.vmx", &[VMX, b"memsize = \"4\"\n"].concat()).unwrap_err();
    assert!(error.to_string().contains("copy it again from its start"), "{error}");
    extents(&session);
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(received.machines.lock().unwrap().len(), 2);
}

#[test]
fn what_can_not_fit_is_refused_before_it_comes_and_room_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    let engine = engine(root.path(), &received, 3 * SIZE);
    let first = begin(&engine, "one");
    let second = begin(&engine, "two");
    let told = text(&second, "vm.cfg.err");
    assert!(told.contains("vmdk.1.size") && told.contains(&format!("{SIZE} bytes free")), "{told}");
    assert!(second.create("a-flat.vmdk").is_err());
    extents(&first);
    put(&first, "a.vmx", VMX).unwrap();
    put(&second, "vm.cfg", cfg("two", "").as_bytes()).unwrap();
    assert!(second.find("vm.cfg.err").is_none());
    extents(&second);
    for info in second.list() {
        second.delete(&info.name).unwrap();
    }
    drop(second);
    engine.remove_directory(&["two".into()]).unwrap();
    assert_eq!(staged_files(root.path()), 0);
    assert!(begin(&engine, "three").find("vm.cfg.err").is_none());
}

#[test]
fn nothing_changes_under_a_push_and_one_that_was_cut_begins_again() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    {
        let engine = engine(root.path(), &received, 2 * SIZE);
        let session = begin(&engine, "vm");
        extents(&session);
        received.hangs.store(true, Ordering::Relaxed);
        received.fails.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let push = scope.spawn(|| put(&session, "a.vmx", VMX));
            wait(|| log(&session).contains("on its way"));
            let error = put(&session, "a-flat.vmdk", &data(3)).unwrap_err();
            assert!(error.to_string().contains("is being brought"), "{error}");
            assert_eq!(engine.snapshot().sessions.len(), 1, "status is shown meanwhile");
            received.hangs.store(false, Ordering::Relaxed);
            assert!(push.join().unwrap().is_err());
        });
    }
    received.fails.store(false, Ordering::Relaxed);
    let engine = engine(root.path(), &received, 2 * SIZE);
    let session = engine.session(&["vm".into()]).unwrap();
    wait(|| log(&session).contains("done importing"));
    assert!(received.machines.lock().unwrap()[0].1 == [data(1), data(2)]);
    assert!(log(&session).contains("is taken up again"));
}

/// A push that hangs.
fn hanging(
    session: &Arc<Session>,
    received: &Arc<Received>,
) -> std::thread::JoinHandle<Result<(), ImportError>> {
    received.hangs.store(true, Ordering::Relaxed);
    let pushed = Arc::clone(session);
    let push = std::thread::spawn(move || put(&pushed, "a.vmx", VMX));
    wait(|| log(session).contains("on its way"));
    push
}

fn wait(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(what());
}

#[test]
fn deleting_a_session_calls_its_push_off() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    let engine = engine(root.path(), &received, 2 * SIZE);
    let session = begin(&engine, "vm");
    extents(&session);
    let push = hanging(&session, &received);
    assert_eq!(engine.snapshot().sessions[0].state, "pushing");
    session.delete("import.log").unwrap();
    assert!(!push.is_finished(), "the service's own file is nobody's to delete");
    for info in session.list() {
        session.delete(&info.name).unwrap();
    }
    let error = push.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("files of its session were deleted"), "{error}");
    drop(session);
    engine.remove_directory(&["vm".into()]).unwrap();
    let kept = std::fs::read_dir(root.path().join("data/orphans")).unwrap().count();
    assert_eq!((staged_files(root.path()), kept), (0, 0));
}

#[test]
fn the_end_of_the_service_calls_pushes_off_and_its_start_begins_them_again() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    {
        let engine = engine(root.path(), &received, 2 * SIZE);
        let session = begin(&engine, "vm");
        extents(&session);
        let push = hanging(&session, &received);
        engine.stop();
        assert!(session.import_is_over(), "it was waited for");
        assert!(push.join().unwrap().unwrap_err().to_string().contains("begins again by itself"));
        assert!(text(&session, "vm.cfg.err").contains("begins again by itself"));
        let error = put(&session, "a.vmx", &[VMX, b"memsize = \"4\"\n"].concat()).unwrap_err();
        assert!(error.to_string().contains("the service ends"), "no new one begins: {error}");
        put(&session, "a.vmx", VMX).unwrap_err();
    }
    received.hangs.store(false, Ordering::Relaxed);
    let engine = engine(root.path(), &received, 2 * SIZE);
    let session = engine.session(&["vm".into()]).unwrap();
    wait(|| log(&session).contains("done importing"));
    wait(|| session.find("vm.cfg.err").is_none());
    assert_eq!(received.machines.lock().unwrap().len(), 1);
    assert!(received.undone.lock().unwrap().is_empty(), "nothing was left");
}

#[test]
fn what_a_push_left_is_listed_and_undone() {
    let root = tempfile::tempdir().unwrap();
    let received = Arc::new(Received::default());
    let data = root.path().join("data");
    let listed = || {
        let sessions = orphans::list(&data, &Hypervisors(hypervisors(root.path(), &received))).unwrap();
        let of = |session: &OrphanSession| {
            let object = &session.objects[0];
            (session.state, object.kind, object.state, object.path.clone())
        };
        sessions.iter().map(of).collect::<Vec<_>>()
    };
    {
        let engine = engine(root.path(), &received, 4 * SIZE);
        let session = begin(&engine, "vm");
        extents(&session);
        received.stays.store(true, Ordering::Relaxed);
        let push = hanging(&session, &received);
        session.cancel_push("the test wants it");
        push.join().unwrap().unwrap_err();
        assert_eq!(listed(), [("open", "virtual machine", "there", "vm/a.vmx".to_owned())]);
        let gone = begin(&engine, "gone");
        extents(&gone);
        let push = hanging(&gone, &received);
        for info in gone.list() {
            gone.delete(&info.name).unwrap();
        }
        push.join().unwrap().unwrap_err();
        drop(gone);
        engine.remove_directory(&["gone".into()]).unwrap();
        assert_eq!(listed().len(), 2);
        assert!(listed().contains(&("removed", "virtual machine", "there", "gone/a.vmx".to_owned())));
    }
    received.hangs.store(false, Ordering::Relaxed);
    // Both at the next start: the one by a push that begins again, the other by itself.
    let engine = engine(root.path(), &received, 4 * SIZE);
    let session = engine.session(&["vm".into()]).unwrap();
    wait(|| log(&session).contains("done importing"));
    wait(|| listed().is_empty());
    assert_eq!(*received.undone.lock().unwrap(), ["a trace", "a trace"]);
    wait(|| std::fs::read_dir(data.join("orphans")).unwrap().count() == 0);
}
