//! A VMX that becomes a virtual machine, against an inventory of values.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::import::fake::{Fake, ds1};
use crate::import::hypervisor::{Hypervisor, Hypervisors};
use crate::import::simulation::{ends, journal};
use crate::import::tests::put;
use crate::import::{Engine, EngineSettings, How, ImportError, Session, orphans};
use crate::inventory::{Identities, Place, Problem};

const DISK: &[u8] = &[7; 4096];
const VMX: &[u8] =
    b"displayName = \"old\"\nscsi0:0.fileName = \"a.vmdk\"\nuuid.bios = \"56 4d\"\nvc.uuid = \"50 13\"\n";

fn engine(root: &Path, fake: &Arc<Fake>) -> Engine {
    engine_that_waits(root, fake, Duration::ZERO)
}

fn hypervisors(root: &Path, fake: &Arc<Fake>) -> Vec<Hypervisor> {
    fake.vc(Arc::new(ds1(root)))
}

fn engine_that_waits(root: &Path, fake: &Arc<Fake>, register_retry: Duration) -> Engine {
    let settings = EngineSettings::new(root.join("data"), hypervisors(root, fake));
    Engine::new(EngineSettings { register_retry, ..settings }).unwrap()
}

fn cfg(more: &str) -> String {
    format!(
        "version = \"4\"\nvmname = \"web\"\nservername = \"vc\"\ndatacenter = \"dc\"\nfolder = \"Restored\"\nhostsystem = \"esx\"\n\
         resourcepool = \"low\"\ndsname = \"UUID-1\"\ndirectory = \"web\"\nvmx-name = \"a.vmx\"\nvmdk.0.name = \"a.vmdk\"\n\
         vmdk.0.extent-name = \"a-flat.vmdk\"\nvmdk.0.size = 4096\nvmdk.0.type = \"thick\"\nregister-after-import = 1\n{more}"
    )
}

fn read(session: &Arc<Session>, name: &str) -> String {
    let Ok(file) = session.open_file(name, How::Attributes) else { return String::new() };
    let mut bytes = vec![0; 1 << 16];
    let read = file.read_at(&mut bytes, 0).unwrap();
    file.close(true).unwrap();
    String::from_utf8(bytes[..read].to_vec()).unwrap()
}

#[test]
fn checked_at_the_cfg_and_registered_once_at_the_vmx() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    assert_eq!(read(&session, "vm.cfg.err"), "");
    let wanted = fake.wanted.lock().unwrap()[0].clone();
    assert_eq!((wanted.vm_name.as_str(), wanted.register, wanted.stop_on_conflict), ("web", true, true));
    let place =
        Place { datacenter: "dc".into(), folder: "Restored".into(), host: "esx".into(), pool: "low".into() };
    assert_eq!(wanted.place, place);
    assert_eq!(
        (wanted.stores.len(), wanted.stores[0].name.as_str(), wanted.stores[0].thick),
        (1, "ds1", 4096)
    );
    put(&session, "a-flat.vmdk", DISK).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    let registered = fake.registered.lock().unwrap();
    assert_eq!(registered.len(), 1);
    assert_eq!((registered[0].datastore.as_str(), registered[0].vmx.as_str()), ("ds1", "web/a.vmx"));
    assert!(registered[0].same_machine && registered[0].place == place);
    let vmx = std::fs::read_to_string(root.path().join("ds1/web/a.vmx")).unwrap();
    assert!(vmx.contains("uuid.action = \"keep\"") && vmx.contains("vc.uuid = \"50 13\""), "{vmx}");
    let log = read(&session, "import.log");
    for line in [
        ": a note",
        ": importing /vmfs/volumes/UUID-1/web/a.vmx",
        ": web registered as vm-7",
        ": done importing",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_registration_that_fails_leaves_the_data_and_is_tried_again_by_the_vmx() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { refuses: Mutex::new(2), ..Fake::default() });
    {
        let engine = engine(root.path(), &fake);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", DISK).unwrap();
        let error = put(&session, "a.vmx", VMX).unwrap_err();
        assert!(matches!(&error, ImportError::Unregistered { .. }), "{error}");
        assert!(error.to_string().contains("/vm/a.vmx: the pool is full; nothing is lost"), "{error}");
        assert!(read(&session, "vm.cfg.err").contains("the pool is full"));
        assert!(!read(&session, "import.log").contains("done importing"));
        assert_eq!(std::fs::read(root.path().join("ds1/web/a-flat.vmdk")).unwrap(), DISK);
        put(&session, "a.vmx", VMX).unwrap_err();
    }
    // After a restart too.
    let engine = engine(root.path(), &fake);
    let session = engine.session(&["vm".into()]).unwrap();
    assert!(read(&session, "vm.cfg.err").contains("the pool is full"));
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(read(&session, "vm.cfg.err"), "");
    assert_eq!(fake.registered.lock().unwrap().len(), 1);
}

#[test]
fn the_inventorys_problems_stand_beside_the_cfgs_own() {
    let root = tempfile::tempdir().unwrap();
    let problem = Problem { key: "folder".into(), message: "no such folder".into() };
    let fake = Arc::new(Fake { problem: Mutex::new(Some(problem)), ..Fake::default() });
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    std::fs::create_dir(root.path().join("ds1/web")).unwrap();
    put(&session, "vm.cfg", cfg("access-time = \"x\"\n").as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    for part in ["line 5: folder: no such folder", "access-time", "the directory [UUID-1] web exists already"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(put(&session, "a-flat.vmdk", DISK).is_err());
    let elsewhere = cfg("").replace("UUID-1", "UUID-2");
    put(&session, "vm.cfg", elsewhere.as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    assert!(errors.contains("the datastore 'ds2' of 'vc' is not in the configuration; add it"), "{errors}");
    std::fs::remove_dir(root.path().join("ds1/web")).unwrap();
    *fake.problem.lock().unwrap() = None;
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    assert_eq!(read(&session, "vm.cfg.err"), "");
    // With data there, another place to register in is checked again, and the old one goes on if it is wrong.
    put(&session, "a-flat.vmdk", DISK).unwrap();
    *fake.problem.lock().unwrap() = Some(Problem { key: "folder".into(), message: "gone".into() });
    put(&session, "vm.cfg", cfg("").replace("Restored", "Other").as_bytes()).unwrap();
    assert!(read(&session, "vm.cfg.err").contains("line 5: folder: gone"));
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(fake.registered.lock().unwrap()[0].place.folder, "Restored");
}

#[test]
fn a_mount_that_is_not_the_datastore_is_told_and_stops_nothing() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { blind: vec!["web"], ..Fake::default() });
    let told = "/vm/vm.cfg: vc does not see the directory [ds1] web that was just made: does path";
    {
        let engine = engine(root.path(), &fake);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
        assert!(read(&session, "vm.cfg.err").contains(told), "{}", read(&session, "vm.cfg.err"));
    }
    // Neither here nor after a restart.
    let engine = engine(root.path(), &fake);
    let session = engine.session(&["vm".into()]).unwrap();
    assert!(read(&session, "vm.cfg.err").contains(told));
    put(&session, "a-flat.vmdk", DISK).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(fake.registered.lock().unwrap().len(), 1);
}

#[test]
fn a_dead_server_is_waited_for_once() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { dead: true, ..Fake::default() });
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    assert_eq!(read(&session, "vm.cfg.err").matches("line 3: servername: vc does not answer").count(), 1);
    assert!(fake.wanted.lock().unwrap().is_empty());
}

#[test]
fn rename_takes_another_name_and_a_copy_its_own_identity() {
    let root = tempfile::tempdir().unwrap();
    let used = Identities { bios: true, instance: true };
    let fake = Arc::new(Fake { taken: vec!["web", "web(1)"], used, ..Fake::default() });
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("on-conflict = \"rename\"\n").as_bytes()).unwrap();
    assert!(!fake.wanted.lock().unwrap()[0].stop_on_conflict);
    assert!(read(&session, "vm.vmcfg").contains("vmname = \"web(2)\""), "{}", read(&session, "vm.cfg.err"));
    assert!(read(&session, "import.log").contains("redirecting recover from web to web(2)"));
    // A rewrite that changes nothing keeps the name.
    put(&session, "vm.cfg", cfg("on-conflict = \"rename\"\naccess-time = 7\n").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", DISK).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    let registered = fake.registered.lock().unwrap();
    assert_eq!((registered[0].vm_name.as_str(), registered[0].same_machine), ("web(2)", false));
    let vmx = std::fs::read_to_string(root.path().join("ds1/web/a.vmx")).unwrap();
    assert!(vmx.contains("displayName = \"web(2)\"") && vmx.contains("uuid.action = \"create\""), "{vmx}");
    assert!(!vmx.contains("vc.uuid"), "{vmx}");
}

#[test]
fn a_hypervisor_that_is_away_for_a_moment_costs_the_client_time_and_no_error() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { away: Mutex::new(2), ..Fake::default() });
    let engine = engine_that_waits(root.path(), &fake, Duration::from_secs(20));
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", DISK).unwrap();
    let begun = Instant::now();
    put(&session, "a.vmx", VMX).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1500), "two pauses: {:?}", begun.elapsed());
    assert_eq!((read(&session, "vm.cfg.err").as_str(), fake.registered.lock().unwrap().len()), ("", 1));
    assert!(read(&session, "import.log").contains("vc does not answer; it is tried again in 0.5 s"));
}

#[test]
fn a_hypervisor_that_stays_away_is_an_error_in_the_end_and_one_that_refuses_at_once() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { away: Mutex::new(usize::MAX), ..Fake::default() });
    let engine = engine_that_waits(root.path(), &fake, Duration::from_secs(1));
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", DISK).unwrap();
    let begun = Instant::now();
    let error = put(&session, "a.vmx", VMX).unwrap_err();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    assert!(error.to_string().contains("vc does not answer; nothing is lost"), "{error}");
    (*fake.away.lock().unwrap(), *fake.refuses.lock().unwrap()) = (0, 1);
    let begun = Instant::now();
    put(&session, "a.vmx", VMX).unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(500));
    put(&session, "a.vmx", VMX).unwrap();
}

/// Deletes a session as `deltree` does.
fn delete(engine: &Engine, session: Arc<Session>) {
    let path = session.components();
    for info in session.list().into_iter().filter(|info| !info.own) {
        session.delete(&info.name).unwrap();
    }
    drop(session);
    engine.remove_directory(&path).unwrap();
}

/// A session whose machine was registered, and that was removed after a kill before it was complete.
fn left_registered(root: &Path, fake: &Arc<Fake>) {
    complete(&engine(root, fake));
    let journal = journal(root).unwrap();
    let ends = ends(&std::fs::read(&journal).unwrap());
    let cut = ends[ends.len() - 2];
    std::fs::OpenOptions::new().write(true).open(journal).unwrap().set_len(cut as u64).unwrap();
    let engine = engine(root, fake);
    let session = engine.session(&["vm".into()]).unwrap();
    assert_eq!(engine.snapshot().sessions[0].state, "receiving");
    delete(&engine, session);
}

fn complete(engine: &Engine) {
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", DISK).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
}

#[test]
fn a_machine_that_a_removed_session_registered_is_an_orphan_and_goes_before_its_files() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    left_registered(root.path(), &fake);
    let (data, on) = (root.path().join("data"), Hypervisors(hypervisors(root.path(), &fake)));
    let found = orphans::list(&data, &on).unwrap();
    let machine = &found[0].objects[0];
    assert_eq!(
        (
            machine.kind,
            machine.state,
            machine.hypervisor.as_str(),
            machine.datastore.as_str(),
            machine.path.as_str()
        ),
        ("virtual machine", "there", "vc", "ds1", "web/a.vmx")
    );
    // While it runs, neither it nor its files go.
    fake.machines.lock().unwrap()[0].powered_off = false;
    let told = orphans::clean(&data, &on).unwrap();
    assert!(told.iter().all(|object| object.outcome == "kept"), "{told:?}");
    assert!(told[0].why.as_ref().unwrap().contains("'web' is powered on"), "{told:?}");
    assert!(root.path().join("ds1/web/a-flat.vmdk").exists());
    fake.machines.lock().unwrap()[0].powered_off = true;
    let told = orphans::clean(&data, &on).unwrap();
    assert_eq!((told[0].path.as_str(), told[0].outcome), ("web/a.vmx", "removed"));
    assert!(fake.machines.lock().unwrap().is_empty());
    if told.iter().all(|object| object.outcome != "kept") {
        assert!(!root.path().join("ds1/web").exists() && orphans::list(&data, &on).unwrap().is_empty());
    }
}

#[test]
fn another_machine_from_the_same_vmx_is_left_alone_and_so_is_one_that_nobody_can_recognise() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    left_registered(root.path(), &fake);
    let (data, on) = (root.path().join("data"), Hypervisors(hypervisors(root.path(), &fake)));
    fake.machines.lock().unwrap()[0].instance = "another".into();
    assert_eq!(orphans::list(&data, &on).unwrap()[0].objects[0].state, "changed");
    let told = orphans::clean(&data, &on).unwrap();
    assert!(
        told.iter().all(|object| object.outcome == "kept") && fake.machines.lock().unwrap().len() == 1,
        "{told:?}"
    );
    assert!(root.path().join("ds1/web/a-flat.vmdk").exists());
    // Unregistered by hand: the files may go then.
    fake.machines.lock().unwrap().clear();
    let told = orphans::clean(&data, &on).unwrap();
    assert_eq!(told[0].outcome, "gone", "{told:?}");
}

#[test]
fn a_kill_between_registering_and_knowing_it_leaves_a_machine_that_is_told_and_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake { forgets: true, ..Fake::default() });
    {
        let engine = engine(root.path(), &fake);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", DISK).unwrap();
        put(&session, "a.vmx", VMX).unwrap_err();
        delete(&engine, session);
    }
    let (data, on) = (root.path().join("data"), Hypervisors(hypervisors(root.path(), &fake)));
    let machine = &orphans::list(&data, &on).unwrap()[0].objects[0];
    assert!(machine.state == "unknown" && machine.why.as_ref().unwrap().contains("by hand"), "{machine:?}");
    orphans::clean(&data, &on).unwrap();
    assert_eq!(fake.machines.lock().unwrap().len(), 1);
}
