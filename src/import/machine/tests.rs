//! Nothing changes what belongs to a machine that is registered, by whatever way it comes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use crate::import::fake::{Fake, ds1, machine};
use crate::import::tests::put;
use crate::import::{Engine, EngineSettings, How, ImportError, Session};

const SIZE: usize = 8192;
const VMX: &[u8] = b"scsi0:0.fileName = \"a.vmdk\"\nuuid.bios = \"56 4d\"\nvc.uuid = \"50 13\"\n";
const DESCRIPTOR: &[u8] =
    b"# Disk DescriptorFile\nversion=1\ncreateType=\"vmfs\"\nRW 16 VMFS \"a-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n";

fn engine(root: &Path, fake: &Arc<Fake>) -> Engine {
    Engine::new(EngineSettings::new(root.join("data"), fake.vc(Arc::new(ds1(root))))).unwrap()
}

fn cfg(register: u8) -> String {
    format!(
        "version = \"4\"\nvmname = \"web\"\nservername = \"vc\"\ndsname = \"ds1\"\ndirectory = \"web\"\nvmx-name = \"a.vmx\"\n\
         vmdk.0.name = \"a.vmdk\"\nvmdk.0.extent-name = \"a-flat.vmdk\"\nvmdk.0.size = {SIZE}\nvmdk.0.type = \"thin\"\n\
         register-after-import = {register}\n"
    )
}

fn complete(engine: &Engine, register: u8) -> Arc<Session> {
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(register).as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &[7; SIZE]).unwrap();
    put(&session, "a.vmdk", DESCRIPTOR).unwrap();
    put(&session, "a.nvram", b"its own").unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    session
}

fn log(session: &Arc<Session>) -> String {
    let file = session.open_file("import.log", How::Read).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let read = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Everything on the datastore: name and bytes.
fn lies(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(root.join("ds1/web"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

fn refused<T>(outcome: Result<T, ImportError>, part: &str) {
    let Err(error) = outcome else { panic!("not refused: {part}") };
    assert!(matches!(error, ImportError::OfMachine { .. }), "{error}");
    assert!(error.to_string().contains(part), "{part}: {error}");
}

/// Every way to its files that a client has.
fn try_all(session: &Arc<Session>, part: &str) {
    for how in [How::Read, How::Attributes] {
        let file = session.open_file("a-flat.vmdk", how).unwrap();
        refused(file.write_at(&[1; 512], 0), "for reading");
        refused(file.set_len(0), "for reading");
        refused(file.zero_range(0, 4096), "for reading");
        file.close(true).unwrap();
    }
    refused(session.open_file("a-flat.vmdk", How::Write), part);
    refused(session.create("a-flat.pancbt"), part);
    refused(session.create(".a-flat.vmdk.AbCdEf"), part);
    refused(put(session, "a.vmdk", DESCRIPTOR), part);
    refused(put(session, "a.nvram", b"another"), part);
    refused(put(session, "a.vmx", &[VMX, b"memsize = \"4\"\n"].concat()), part);
    // The same VMX is the end of the same restore.
    put(session, "a.vmx", VMX).unwrap();
    let file = session.open_file("a-flat.vmdk", How::Read).unwrap();
    let mut read = vec![0; SIZE];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), SIZE);
    file.close(true).unwrap();
    assert!(read == [7; SIZE]);
}

#[test]
fn a_registered_machine_s_files_are_its_own_after_a_restart_and_a_deletion_too() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let part = "'web' ([ds1] web/a.vmx) is registered and may run; delete this directory";
    let before;
    {
        let engine = engine(root.path(), &fake);
        let session = complete(&engine, 1);
        before = lies(root.path());
        // It runs, and has written to its nvram.
        fake.machines.lock().unwrap()[0].powered_off = false;
        try_all(&session, part);
        assert_eq!(lies(root.path()), before);
        assert!(
            log(&session).contains("Cannot change /vm/a-flat.vmdk: the restore is complete"),
            "{}",
            log(&session)
        );
        // What is not there yet hurts nobody: clients copy in the order of names.
        put(&session, "a.vmxf", b"<Foundry/>").unwrap();
        std::fs::remove_file(root.path().join("ds1/web/a.vmxf")).unwrap();
    }
    let engine = engine(root.path(), &fake);
    let session = engine.session(&["vm".into()]).unwrap();
    try_all(&session, part);
    session.delete("a-flat.vmdk").unwrap();
    refused(session.create("a-flat.vmdk"), part);
    assert_eq!(lies(root.path()), before);
    assert_eq!(fake.registered.lock().unwrap().len(), 1);
    // The whole restore once more: the CFG is the same, the data is refused.
    put(&session, "vm.cfg", cfg(1).as_bytes()).unwrap();
    refused(put(&session, "a-flat.vmdk", &[9; SIZE]), part);
    assert_eq!(lies(root.path()), before);
}

#[test]
fn one_that_was_unregistered_is_restored_again_and_one_that_nobody_knows_of_is_not() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let engine = engine(root.path(), &fake);
    let session = complete(&engine, 1);
    let machines = std::mem::take(&mut *fake.machines.lock().unwrap());
    *fake.mute.lock().unwrap() = true;
    refused(
        put(&session, "a-flat.vmdk", &[9; SIZE]),
        "can't be found out, and it may run: vc does not answer",
    );
    *fake.mute.lock().unwrap() = false;
    put(&session, "a-flat.vmdk", &[9; SIZE]).unwrap();
    // Whoever registers it by hand has it protected again.
    *fake.machines.lock().unwrap() = machines;
    refused(put(&session, "a-flat.vmdk", &[8; SIZE]), "is registered and may run");
    fake.machines.lock().unwrap().clear();
    put(&session, "a.nvram", b"another").unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(fake.registered.lock().unwrap().len(), 2);
    assert!(std::fs::read(root.path().join("ds1/web/a-flat.vmdk")).unwrap() == [9; SIZE]);
}

#[test]
fn where_it_was_registered_by_hand_it_is_the_same_and_else_data_may_come_again() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let engine = engine(root.path(), &fake);
    let session = complete(&engine, 0);
    put(&session, "a-flat.vmdk", &[9; SIZE]).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    fake.machines.lock().unwrap().push(machine("vm-1", "by hand", ("ds1", "web/a.vmx")));
    refused(put(&session, "a-flat.vmdk", &[8; SIZE]), "'by hand' ([ds1] web/a.vmx) is registered");
    assert!(std::fs::read(root.path().join("ds1/web/a-flat.vmdk")).unwrap() == [9; SIZE]);
}

#[test]
fn a_registration_that_failed_leaves_the_disks_to_the_client() {
    let root = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    *fake.refuses.lock().unwrap() = 1;
    let engine = engine(root.path(), &fake);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(1).as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &[7; SIZE]).unwrap();
    put(&session, "a.vmx", VMX).unwrap_err();
    put(&session, "a-flat.vmdk", &[9; SIZE]).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert!(std::fs::read(root.path().join("ds1/web/a-flat.vmdk")).unwrap() == [9; SIZE]);
}

/// Whoever registered it, from whatever VMX, in whatever inventory: a machine that runs leaves marks beside its disks.
#[test]
fn a_disk_beside_the_marks_of_a_running_machine_is_not_changed() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path(), &Arc::new(Fake::default()));
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg(1).as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &[7; SIZE]).unwrap();
    for mark in [".lck-e003090001000000", "other-1234.vswp", "other.vmx.lck"] {
        let mark = root.path().join("ds1/web").join(mark);
        std::fs::write(&mark, b"").unwrap();
        let before = lies(root.path());
        for name in ["a-flat.vmdk", "a-flat.pancbt"] {
            let refused = put(&session, name, &[8; SIZE]).unwrap_err();
            assert!(matches!(refused, ImportError::OfMachine { .. }), "{name}: {refused}");
            let part = "/vmfs/volumes/ds1/web/ has the marks of a running virtual machine (";
            assert!(refused.to_string().contains(part) && log(&session).contains(part), "{name}: {refused}");
        }
        assert_eq!(lies(root.path()), before);
        std::fs::remove_file(mark).unwrap();
    }
    put(&session, "a-flat.vmdk", &[8; SIZE]).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
}
