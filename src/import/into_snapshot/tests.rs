//! Restores into a snapshot, against an inventory of values and a directory whose driver says that it takes the disks of others.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::datastore::altered::Altered;
use crate::datastore::{Capabilities, Datastore, DiskSpec};
use crate::import::fake::{Fake, ds1, machine};
use crate::import::hypervisor::Hypervisors;
use crate::import::tests::put;
use crate::import::{Engine, EngineSettings, How, ImportError, Session, orphans};
use crate::inventory::{Machine, MachineDisk, StoreFile};

const SIZE: usize = 1 << 18;

/// A virtual machine `web` with one disk full of 0xEE, and the same behind its first snapshot.
fn site(root: &Path) -> Arc<Fake> {
    let web = root.join("ds1/web");
    std::fs::create_dir_all(&web).unwrap();
    for name in ["a-flat.vmdk", "a-000001-flat.vmdk"] {
        std::fs::write(web.join(name), vec![0xee; SIZE]).unwrap();
    }
    std::fs::write(web.join("a.vmx"), "its own").unwrap();
    let file = StoreFile { datastore: "ds1".into(), path: "web/a.vmdk".into() };
    let disk = MachineDisk { current: file.clone(), base: file, size: SIZE as u64 };
    Arc::new(Fake {
        machines: Mutex::new(vec![machine("vm-1", "web", ("ds1", "web/a.vmx"))]),
        disks: Mutex::new(vec![disk]),
        ..Fake::default()
    })
}

fn engine(root: &Path, fake: &Arc<Fake>) -> Engine {
    let directory = Altered::of(ds1(root));
    // Its disks may be others'.
    let capabilities = |all| Capabilities { existing_disks: true, makes_descriptor: true, ..all };
    engine_on(root, fake, Arc::new(Altered { capabilities, ..directory }))
}

fn engine_on(root: &Path, fake: &Arc<Fake>, store: Arc<dyn Datastore>) -> Engine {
    Engine::new(EngineSettings::new(root.join("data"), fake.vc(store))).unwrap()
}

fn cfg(more: &str) -> String {
    format!(
        "version = \"4\"\nvmname = \"web\"\nservername = \"vc\"\ndatacenter = \"dc\"\nfolder = \"Restored\"\ndsname = \"ds1\"\n\
         directory = \"web\"\nvmx-name = \"a.vmx\"\nvmdk.0.name = \"a.vmdk\"\nvmdk.0.extent-name = \"a-flat.vmdk\"\n\
         vmdk.0.size = {SIZE}\nvmdk.0.type = \"thin\"\nregister-after-import = 1\n{more}"
    )
}

const INTO: &str = "on-conflict = \"snapshot\"\n";

fn read(session: &Arc<Session>, name: &str) -> String {
    let Ok(file) = session.open_file(name, How::Attributes) else { return String::new() };
    let mut bytes = vec![0; 1 << 16];
    let read = file.read_at(&mut bytes, 0).unwrap();
    file.close(true).unwrap();
    String::from_utf8(bytes[..read].to_vec()).unwrap()
}

/// Zeros, then data: over what the virtual machine wrote, neither may be left out.
fn image() -> Vec<u8> {
    [vec![0; SIZE / 2], vec![7; SIZE / 2]].concat()
}

#[test]
fn the_snapshots_disk_is_written_whole_and_what_it_was_stays() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    {
        let engine = engine(root.path(), &fake);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
        assert_eq!(read(&session, "vm.cfg.err"), "");
        assert!(read(&session, "import.log").contains("to have it back as it was, revert to that"));
        // A sparse restore: the first half is never written, only said to be there.
        let file = session.create("a-flat.vmdk").unwrap();
        file.set_len(SIZE as u64).unwrap();
        file.write_at(&image()[SIZE / 2..], SIZE as u64 / 2).unwrap();
        file.flush().unwrap();
    }
    let engine = engine(root.path(), &fake);
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &image()).unwrap();
    put(&session, "a.nvram", b"other").unwrap();
    put(&session, "a.vmx", b"scsi0:0.fileName = \"a.vmdk\"\n").unwrap();
    let web = root.path().join("ds1/web");
    assert!(std::fs::read(web.join("a-000001-flat.vmdk")).unwrap() == image());
    assert!(std::fs::read(web.join("a-flat.vmdk")).unwrap().iter().all(|byte| *byte == 0xee));
    assert_eq!(std::fs::read(web.join("a.vmx")).unwrap(), b"its own");
    assert!(!web.join("a.nvram").exists() && !web.join("a.vmdk").exists());
    assert_eq!(fake.snapshots.lock().unwrap().len(), 1, "one snapshot, whatever comes between");
    assert!(fake.registered.lock().unwrap().is_empty(), "it is registered already");
    assert!(read(&session, "import.log").contains("keeps the VMX that it has"));
    // It may run from here on: nothing is written into it any more, and its snapshot is no orphan.
    let refused = put(&session, "a-flat.vmdk", &image()).unwrap_err();
    assert!(matches!(refused, ImportError::OfMachine { .. }), "{refused}");
    assert!(refused.to_string().contains("to restore into it again, delete this directory"), "{refused}");
    put(&session, "a.vmx", b"scsi0:0.fileName = \"a.vmdk\"\n").unwrap();
    drop(session);
    delete(&engine);
    assert_eq!(listed(root.path(), &fake), []);
    assert_eq!(fake.snapshots.lock().unwrap().len(), 1);
}

/// Deletes the session as `deltree` does.
fn delete(engine: &Engine) {
    let path = ["vm".to_owned()];
    let session = engine.session(&path).unwrap();
    for info in session.list().into_iter().filter(|info| !info.own) {
        session.delete(&info.name).unwrap();
    }
    drop(session);
    engine.remove_directory(&path).unwrap();
}

fn on(root: &Path, fake: &Arc<Fake>) -> Hypervisors {
    Hypervisors(fake.vc(Arc::new(ds1(root))))
}

/// What `orphans list` tells: kind, state, why.
fn listed(root: &Path, fake: &Arc<Fake>) -> Vec<(&'static str, &'static str, String)> {
    let found = orphans::list(&root.join("data"), &on(root, fake)).unwrap();
    let objects = found.into_iter().flat_map(|session| session.objects);
    objects.map(|object| (object.kind, object.state, object.why.unwrap_or_default())).collect()
}

#[test]
fn a_snapshot_that_half_a_restore_is_behind_is_told_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    {
        let engine = engine(root.path(), &fake);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &image()[..SIZE / 2]).unwrap();
    }
    let told = listed(root.path(), &fake);
    assert_eq!((told.len(), told[0].0, told[0].1), (1, "snapshot", "there"), "of an open session too");
    assert!(
        told[0].2.contains("half of a restore is in the disks of 'web' since its snapshot 'importfs "),
        "{told:?}"
    );
    delete(&engine(root.path(), &fake));
    assert_eq!(listed(root.path(), &fake).len(), 1);
    for _ in 0..2 {
        let told = orphans::clean(&root.path().join("data"), &on(root.path(), &fake)).unwrap();
        assert_eq!((told[0].path.as_str(), told[0].outcome), ("web/a.vmx", "kept"));
        assert!(told[0].why.iter().any(|why| why.contains("revert to that")), "{told:?}");
        assert_eq!(fake.snapshots.lock().unwrap().len(), 1);
    }
    // Its administrator has done it.
    fake.snapshots.lock().unwrap().clear();
    assert_eq!(listed(root.path(), &fake)[0].1, "gone");
    orphans::clean(&root.path().join("data"), &on(root.path(), &fake)).unwrap();
    assert_eq!(listed(root.path(), &fake), []);
}

#[test]
fn one_that_nothing_was_written_behind_is_removed_while_the_machine_is_off() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    drop(session);
    delete(&engine);
    let clean = || orphans::clean(&root.path().join("data"), &on(root.path(), &fake)).unwrap()[0].outcome;
    fake.machines.lock().unwrap()[0].powered_off = false;
    assert_eq!(clean(), "kept");
    fake.machines.lock().unwrap()[0].powered_off = true;
    *fake.mute.lock().unwrap() = true;
    assert_eq!((clean(), listed(root.path(), &fake)[0].1), ("kept", "unknown"));
    *fake.mute.lock().unwrap() = false;
    assert_eq!(clean(), "removed");
    assert!(fake.snapshots.lock().unwrap().is_empty() && listed(root.path(), &fake).is_empty());
}

#[test]
fn a_snapshot_that_was_not_made_is_none_of_the_ledgers() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    *fake.lacks.lock().unwrap() = vec!["VirtualMachine.State.CreateSnapshot".into()];
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    assert!(
        errors.contains(
            "on-conflict: the account lacks VirtualMachine.State.CreateSnapshot on the virtual machine 'web'"
        ),
        "{errors}"
    );
    fake.lacks.lock().unwrap().clear();
    *fake.refuses.lock().unwrap() = 1;
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    assert!(read(&session, "vm.cfg.err").contains("the pool is full"));
    assert_eq!(listed(root.path(), &fake), []);
}

#[test]
fn a_session_that_goes_takes_nothing_of_the_machine_with_it() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    // The same CFG with another mode, before data: the machine's own directory is in the way.
    put(&session, "vm.cfg", cfg("vmx-rename = \"b.vmx\"\non-conflict = \"stop\"\n").as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    assert!(errors.contains("the directory [ds1] web exists already"), "{errors}");
    assert!(root.path().join("ds1/web/a.vmx").exists());
}

/// What a CFG is refused with.
fn errors(fake: &Arc<Fake>, root: &Path, more: &str) -> String {
    let engine = engine(root, fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(more).as_bytes()).unwrap();
    read(&session, "vm.cfg.err")
}

#[test]
fn what_is_in_the_way_is_told_with_its_key() {
    type Change = fn(&Fake);
    let cases: [(Change, &str); 4] = [
        (
            |fake| fake.machines.lock().unwrap()[0].powered_off = false,
            "line 14: on-conflict: the virtual machine 'web' runs or is suspended; power it off first",
        ),
        (
            |fake| fake.disks.lock().unwrap()[0].size = 4096,
            "line 11: vmdk.0.size: [ds1] web/a.vmdk of 'web' has 4096 bytes",
        ),
        (
            |fake| fake.disks.lock().unwrap().clear(),
            "line 9: vmdk.0.name: 'web' has no disk [ds1] web/a.vmdk",
        ),
        (
            |fake| fake.machines.lock().unwrap().clear(),
            "line 7: directory: the directory [ds1] web exists already",
        ),
    ];
    for (change, part) in cases {
        let root = tempfile::tempdir().unwrap();
        let fake = site(root.path());
        change(&fake);
        let errors = errors(&fake, root.path(), INTO);
        assert!(errors.contains(part), "{part}: {errors}");
        assert!(fake.snapshots.lock().unwrap().is_empty());
    }
}

#[test]
fn without_a_machine_it_is_an_ordinary_restore() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let machine: Machine = fake.machines.lock().unwrap().pop().unwrap();
    assert_eq!(machine.name, "web");
    std::fs::remove_dir_all(root.path().join("ds1/web")).unwrap();
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    put(&session, "vm.cfg", cfg(&format!("{INTO}access-time = 0\n")).as_bytes()).unwrap();
    assert_eq!(read(&session, "vm.cfg.err"), "");
    assert!(read(&session, "import.log").contains("[ds1] web/a.vmx: it is restored as a new one"));
    put(&session, "a-flat.vmdk", &image()).unwrap();
    assert!(std::fs::read(root.path().join("ds1/web/a-flat.vmdk")).unwrap() == image());
    assert!(fake.snapshots.lock().unwrap().is_empty());
}

#[test]
fn a_driver_that_can_t_says_which_can() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let store = Arc::new(ds1(root.path()));
    let engine = engine_on(root.path(), &fake, store);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    let part = "line 14: on-conflict: \"snapshot\" is not to be had on [ds1]: hotadd writes into the disks of a virtual machine that \
                exists, and nbd where existing-disks = true says that an address follows a disk's name";
    assert!(errors.contains(part), "{errors}");
    assert!(fake.snapshots.lock().unwrap().is_empty());
}

/// A store as nbd is with `existing-disks`: no descriptors of its own, no new disks. `reaching` is asked of each disk.
fn following(
    root: &Path,
    fake: &Arc<Fake>,
    reaching: impl Fn(&DiskSpec) -> io::Result<()> + Send + Sync + 'static,
) -> Engine {
    let directory = Altered::of(ds1(root));
    let capabilities = |all| Capabilities { existing_disks: true, new_disks: false, ..all };
    engine_on(root, fake, Arc::new(Altered { capabilities, reaching: Box::new(reaching), ..directory }))
}

#[test]
fn what_is_not_hotadd_s_is_asked_for_each_disk_before_and_after_the_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let engine = following(root.path(), &fake, move |spec| {
        let machine = spec.machine.clone().unwrap_or_default();
        noted.lock().unwrap().push(format!("{machine} {} {}", spec.file(&spec.descriptor), spec.size));
        Ok(())
    });
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    assert_eq!(read(&session, "vm.cfg.err"), "");
    assert_eq!(*asked.lock().unwrap(), ["vm-1 web/a.vmdk 262144", "vm-1 web/a-000001.vmdk 262144"]);
    put(&session, "a-flat.vmdk", &image()).unwrap();
    let descriptor =
        format!("# Disk DescriptorFile\nversion=1\nCID=1\nRW {} VMFS \"a-flat.vmdk\"\n", SIZE / 512);
    put(&session, "a.vmdk", descriptor.as_bytes()).unwrap();
    put(&session, "a.vmx", b"scsi0:0.fileName = \"a.vmdk\"\n").unwrap();
    let web = root.path().join("ds1/web");
    assert!(std::fs::read(web.join("a-000001-flat.vmdk")).unwrap() == image());
    assert!(
        !web.join("a.vmdk").exists() && !web.join("a-000001.vmdk").exists(),
        "descriptors are the machine's own"
    );
    assert!(read(&session, "import.log").contains("done importing"));
}

#[test]
fn a_server_that_can_t_is_told_before_there_is_a_snapshot_or_the_snapshot_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let fake = site(root.path());
    // Which names it does not serve, and why.
    let wrong = Arc::new(Mutex::new(("a.vmdk", io::ErrorKind::PermissionDenied)));
    let told = Arc::clone(&wrong);
    let engine = following(root.path(), &fake, move |spec| match *told.lock().unwrap() {
        (name, kind) if name == spec.descriptor => Err(io::Error::new(kind, "the export is read-only")),
        _ => Ok(()),
    });
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    let errors = read(&session, "vm.cfg.err");
    let part = "line 9: vmdk.0.name: [ds1] web/a.vmdk can't be written: the export is read-only";
    assert!(errors.contains(part), "{errors}");
    assert!(fake.snapshots.lock().unwrap().is_empty() && listed(root.path(), &fake).is_empty());
    // The snapshot's own disk is not to be had: that shows when it is there.
    *wrong.lock().unwrap() = ("a-000001.vmdk", io::ErrorKind::TimedOut);
    for first in [true, false] {
        put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
        let errors = read(&session, "vm.cfg.err");
        assert!(errors.contains("vmdk.0.name: [ds1] web/a-000001.vmdk can't be written"), "{errors}");
        let kept = "line 14: on-conflict: nothing is restored yet, and the snapshot 'importfs ";
        assert_eq!(errors.contains(kept), first, "{errors}");
        assert_eq!(fake.snapshots.lock().unwrap().len(), 1);
        assert_eq!(listed(root.path(), &fake)[0].1, "there");
        assert!(put(&session, "a-flat.vmdk", &image()).is_err());
    }
    *wrong.lock().unwrap() = ("", io::ErrorKind::Other);
    put(&session, "vm.cfg", cfg(INTO).as_bytes()).unwrap();
    assert_eq!((read(&session, "vm.cfg.err").as_str(), fake.snapshots.lock().unwrap().len()), ("", 1));
    put(&session, "a-flat.vmdk", &image()).unwrap();
    assert!(std::fs::read(root.path().join("ds1/web/a-000001-flat.vmdk")).unwrap() == image());
}

#[test]
fn one_that_takes_no_new_disks_makes_none() {
    for (more, machine) in [("on-conflict = \"rename\"\n", true), (INTO, false)] {
        let root = tempfile::tempdir().unwrap();
        let fake = site(root.path());
        if !machine {
            fake.machines.lock().unwrap().clear();
            std::fs::remove_dir_all(root.path().join("ds1/web")).unwrap();
        }
        let engine = following(root.path(), &fake, |_| Ok(()));
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg(more).as_bytes()).unwrap();
        let errors = read(&session, "vm.cfg.err");
        assert!(errors.contains("line 14: on-conflict: [ds1] takes no new disks, only those of"), "{errors}");
        assert_eq!(root.path().join("ds1/web").exists(), machine);
    }
}
