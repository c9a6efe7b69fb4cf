//! The rules of a session, each on its own: what stands in `.cfg.err`, what a rewrite, a deletion or a restart changes,
//! what differentials, descriptors and a VMX may do.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use super::simulation::{Watch, Watched};
use super::tests::{SIZE, VMX, cfg, data, engine, engine_on, log, put, text};
use super::*;
use crate::datastore::filter::{FaultDatastore, FaultPlan, Injector};
use crate::datastore::{Datastore, DirectoryDatastore};
use crate::journal::{Journal, Record};
use crate::pancbt::{Header, Writer};

/// A restore up to the VMX: both extents are whole.
fn begun(engine: &Engine) -> Arc<Session> {
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    session
}

/// A differential that writes one sector of `value` at `sector`.
fn differential(
    size: u64,
    base: &str,
    target: &str,
    uuid: Option<[u8; 16]>,
    sector: u64,
    value: u8,
) -> Vec<u8> {
    let header = Header { disk_size: size, disk_uuid: uuid, base: base.into(), target: target.into() };
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    writer.data(sector * 512, &[value; 512]).unwrap();
    writer.finish().unwrap().0
}

#[test]
fn errors_of_the_file_and_of_the_datastores_are_told_at_once() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    std::fs::create_dir(root.path().join("ds/taken")).unwrap();
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let wrong = cfg("taken", "register-after-import = 1\naccess-time = \"now\"\n")
        .replacen("vmdk.1.dsname = \"ds1\"", "vmdk.1.dsname = \"nowhere\"", 1)
        .replacen("type = \"thin\"", "type = \"fat\"", 1);
    put(&session, "vm.cfg", wrong.as_bytes()).unwrap();
    let told = text(&session, "vm.cfg.err");
    for part in [
        "line 10: directory: the directory [4e31-aa] taken exists",
        "vmdk.0.directory: the directory [ds1] taken exists",
        "line 17: vmdk.0.type: \"fat\" is not a type",
        "vmdk.1.dsname: 'local' has no datastore 'nowhere'",
        "register-after-import: 'local' has datastores only",
        "access-time: \"now\" is text",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.starts_with("# 6 errors in vm.cfg."), "{told}");
    assert!(log(&session).matches("ERROR [thread:").count() >= 6);
}

#[test]
fn a_clash_of_one_datastore_by_name_and_uuid_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let clash = cfg("vm", "vmdk.1.rename = \"a.vmdk\"\n").replacen(
        "vmdk.1.dsname = \"ds1\"",
        "vmdk.1.dsname = \"4e31-aa\"",
        1,
    );
    put(&session, "vm.cfg", clash.as_bytes()).unwrap();
    let told = text(&session, "vm.cfg.err");
    assert!(
        told.contains("vmdk.1.name: its destination [4e31-aa] vm/a.vmdk is that of vmdk.0.name too"),
        "{told}"
    );
}

#[test]
fn a_rewritten_cfg_is_checked_and_kept() {
    let root = tempfile::tempdir().unwrap();
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        // No destination changes, but there is nothing to register with.
        put(&session, "vm.cfg", cfg("vm", "register-after-import = 1\n").as_bytes()).unwrap();
        assert!(text(&session, "vm.cfg.err").contains("nothing to register with"));
        assert!(matches!(session.create("a-flat.vmdk"), Err(ImportError::OutOfOrder { .. })));
        // Another type of disk in the same place: the session's own directory is in nobody's way.
        let thick = cfg("vm", "").replacen("\"thin\"", "\"thick\"", 1);
        put(&session, "vm.cfg", thick.as_bytes()).unwrap();
        assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
        put(&session, "vm.cfg", thick.replace("\"new\"", "\"newer\"").as_bytes()).unwrap();
        assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
    }
    let engine = engine(root.path());
    assert_eq!(engine.snapshot().sessions[0].vm_name, "newer", "after a restart too");
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
}

#[test]
fn one_directory_within_another() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let nested = cfg("vm", "").replacen("directory = \"vm\"", "directory = \"vm/config\"", 1);
    put(&session, "vm.cfg", nested.as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
    assert!(root.path().join("ds/vm/config").is_dir());
}

#[test]
fn two_hypervisors_may_have_a_datastore_of_one_name() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let second = cfg("vm", "").replace("\"local\"", "\"second\"").replace("4e31-aa", "ds1");
    put(&session, "vm.cfg", second.as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    assert!(root.path().join("other/vm/a-flat.vmdk").exists() && !root.path().join("ds/vm").exists());
}

#[test]
fn a_cfg_that_is_deleted_takes_its_errors_and_empty_directories_along() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "x.cfg", b"nonsense").unwrap();
    session.delete("x.cfg").unwrap();
    assert!(session.find("x.cfg.err").is_none());
    put(&session, "y.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(root.path().join("ds/vm").is_dir());
    session.delete("y.cfg").unwrap();
    assert!(!root.path().join("ds/vm").exists());
    assert!(matches!(session.create("a-flat.vmdk"), Err(ImportError::OutOfOrder { .. })));
    put(&session, "z.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(session.find("z.cfg.err").is_none(), "{}", log(&session));
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    // All of the client's files gone: what is there stays, and another VM may be restored from here.
    session.delete("z.cfg").unwrap();
    session.delete("a-flat.vmdk").unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
    put(&session, "w.cfg", cfg("vm2", "").as_bytes()).unwrap();
    assert!(session.find("w.cfg.err").is_none(), "{}", log(&session));
    put(&session, "a-flat.vmdk", &data(3)).unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm2/a-flat.vmdk")).unwrap(), data(3));
}

#[test]
fn an_extent_made_anew_is_needed_whole_again() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    session.delete("a-flat.vmdk").unwrap();
    assert!(matches!(session.create("a.vmx"), Err(ImportError::OutOfOrder { .. })), "its extent is gone");
    session.create("a-flat.vmdk").unwrap().close(true).unwrap();
    let refused = put(&session, "a.vmx", VMX);
    assert!(matches!(refused, Err(ImportError::OutOfOrder { .. })), "nothing of it came: {refused:?}");
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(engine.snapshot().sessions[0].state, "imported");
    put(&session, "a-flat.vmdk", &data(5)).unwrap();
    assert_eq!(engine.snapshot().sessions[0].state, "receiving", "the VMX is of an earlier state");
}

#[test]
fn a_temporary_name_over_a_file_begins_it_anew() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    put(&session, "a.vmx", &[VMX, b"guestOS = \"other\"\n"].concat()).unwrap();
    let file = session.create(".a.vmx.AbCdEf").unwrap();
    file.write_at(VMX, 0).unwrap();
    file.close(true).unwrap();
    session.rename(".a.vmx.AbCdEf", "a.vmx").unwrap();
    let stored = std::fs::read_to_string(root.path().join("ds/vm/a.vmx")).unwrap();
    assert!(!stored.contains("guestOS"), "the tail of the longer one stayed: {stored}");
    assert!(session.find(".a.vmx.AbCdEf").is_none());
}

#[test]
fn a_vmx_leads_to_the_session_s_disks_only() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    put(&session, "a.nvram", b"nvram").unwrap();
    let vmx = [
        VMX,
        b"sata0:0.fileName = \"/vmfs/volumes/x/prod/prod.vmdk\"\nnvram = \"a.nvram\"\nworkingDir = \"/x\"\n",
    ]
    .concat();
    put(&session, "a.vmx", &vmx).unwrap();
    let stored = std::fs::read_to_string(root.path().join("ds/vm/a.vmx")).unwrap();
    assert!(stored.contains("sata0:0.present = \"FALSE\"") && !stored.contains("prod.vmdk"), "{stored}");
    assert!(stored.contains("nvram = \"a.nvram\"") && !stored.contains("workingDir"), "{stored}");
    let log = log(&session);
    assert!(
        log.contains("redirecting disk from a.vmdk to a.vmdk") && log.contains("sata0:0 switched off"),
        "{log}"
    );
    assert!(matches!(put(&session, "a.vmx", b"\x7fELF"), Err(ImportError::Refused { .. })));
}

#[test]
fn descriptors_are_checked_and_kept_over_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let good = format!(
        "# Disk DescriptorFile\nRW {} VMFS \"a-flat.vmdk\"\nddb.adapterType = \"buslogic\"\n\
         ddb.uuid = \"60 00 C2 9a 5b 2d 8c 2b-1a 5f 3e 2f 5e 8b 5b 11\"\n",
        SIZE / 512
    );
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        for bad in [
            good.replace("a-flat", "../prod/x-flat"),
            good.replace(&(SIZE / 512).to_string(), "7"),
            "RW 7 VMFS".to_owned(),
        ] {
            let refused = put(&session, "a.vmdk", bad.as_bytes());
            assert!(matches!(refused, Err(ImportError::Refused { .. })), "{bad}");
        }
        put(&session, "a.vmdk", good.as_bytes()).unwrap();
    }
    let engine = engine(root.path());
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    let stored = std::fs::read_to_string(root.path().join("ds/vm/a.vmdk")).unwrap();
    assert!(stored.contains("buslogic") && stored.contains("60 00 C2 9a"), "{stored}");
    let wrong = differential(SIZE, "", "", Some([7; 16]), 3, 1);
    let refused = put(&session, "a-flat.pancbt", &wrong).unwrap_err().to_string();
    assert!(refused.contains("6000c29a-5b2d-8c2b-1a5f-3e2f5e8b5b11 by its descriptor"), "{refused}");
}

#[test]
fn a_differential_of_another_disk_changes_nothing_but_stops_the_vmx() {
    let root = tempfile::tempdir().unwrap();
    {
        let engine = engine(root.path());
        let session = begun(&engine);
        let wrong = differential(SIZE + 512, "", "1", None, 3, 9);
        assert!(matches!(put(&session, "a-flat.pancbt", &wrong), Err(ImportError::Refused { .. })));
        let told = text(&session, "vm.cfg.err");
        assert!(told.contains("nothing was merged") && told.contains("it is for a disk of"), "{told}");
        assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
        assert!(matches!(put(&session, "a.vmx", VMX), Err(ImportError::OutOfOrder { .. })));
    }
    let engine = engine(root.path());
    let session = engine.session(&["vm".into()]).unwrap();
    assert!(
        matches!(put(&session, "a.vmx", VMX), Err(ImportError::OutOfOrder { .. })),
        "after a restart too"
    );
    put(&session, "a-flat.pancbt", &differential(SIZE, "", "1", None, 3, 9)).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
    put(&session, "a.vmx", VMX).unwrap();
}

#[test]
fn a_chain_keeps_its_order_over_a_restart() {
    let root = tempfile::tempdir().unwrap();
    {
        let engine = engine(root.path());
        let session = begun(&engine);
        put(&session, "a-flat.1.pancbt", &differential(SIZE, "", "1", None, 3, 1)).unwrap();
        put(&session, "a-flat.2.pancbt", &differential(SIZE, "1", "2", None, 3, 2)).unwrap();
    }
    let engine = engine(root.path());
    let session = engine.session(&["vm".into()]).unwrap();
    let early = put(&session, "a-flat.1.pancbt", &differential(SIZE, "", "1", None, 3, 1));
    assert!(early.unwrap_err().to_string().contains("merged already"));
    let gap = put(&session, "a-flat.4.pancbt", &differential(SIZE, "3", "4", None, 3, 4)).unwrap_err();
    assert!(gap.to_string().contains("change id 3, and the disk stands at 2"), "{gap}");
    put(&session, "a-flat.3.pancbt", &differential(SIZE, "2", "3", None, 3, 3)).unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap()[3 * 512], 3);
}

#[test]
fn a_corrupt_differential_makes_its_extent_needed_again() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    let mut corrupt = differential(SIZE, "", "1", None, 3, 9);
    corrupt[256 + 40 + 7] ^= 1;
    assert!(put(&session, "a-flat.pancbt", &corrupt).is_err());
    let told = text(&session, "vm.cfg.err");
    assert!(told.contains("is corrupt") && told.contains("copy a-flat.vmdk again from its start"), "{told}");
    assert_eq!(engine.snapshot().sessions[0].disks[0].stage, "doubtful");
    let right = differential(SIZE, "", "1", None, 3, 9);
    assert!(matches!(put(&session, "a-flat.pancbt", &right), Err(ImportError::OutOfOrder { .. })));
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    assert!(session.find("vm.cfg.err").is_none());
    put(&session, "a-flat.pancbt", &right).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
}

#[test]
fn the_journals_tell_what_the_service_does() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    put(&session, "a-flat.pancbt", &differential(SIZE, "", "1", None, 3, 9)).unwrap();
    let waiting = engine.create_directory(&["empty".into()]).unwrap();
    put(&waiting, "x.cfg", b"nonsense").unwrap();
    let live = engine.snapshot();
    let disk = &live.sessions[1].disks[0];
    assert_eq!((disk.received, disk.written + disk.skipped, disk.differentials), (SIZE, SIZE, 1));
    assert_eq!(disk.skipped, 16 * 65536, "but for the sector that the differential wrote: {disk:?}");
    let mut told = Snapshot::from_journals(&root.path().join("data")).unwrap();
    for disk in told.sessions.iter_mut().flat_map(|session| &mut session.disks) {
        disk.rate = live.sessions[1].disks[disk.disk].rate; // there is none without a service
    }
    assert_eq!(told, live);
    put(&session, "a.vmx", VMX).unwrap();
    let told = Snapshot::from_journals(&root.path().join("data")).unwrap();
    assert_eq!(told.sessions[1].state, "imported");
    assert_eq!(Snapshot::from_journals(&root.path().join("none")).unwrap(), Snapshot::default());
}

/// What a kill leaves: of each session's journal what was recorded before the first such record.
fn cut_journals(root: &Path, end: impl Fn(&Record) -> bool) {
    for entry in std::fs::read_dir(root.join("data/sessions")).unwrap() {
        let at = entry.unwrap().path().join("journal");
        let (_, records) = Journal::open(&at).unwrap();
        std::fs::remove_file(&at).unwrap();
        let (journal, _) = Journal::open(&at).unwrap();
        records.iter().take_while(|record| !end(record)).for_each(|record| journal.record(record).unwrap());
    }
}

/// A crash after the directories were made and before the CFG was recorded: they are in nobody's way.
#[test]
fn directories_of_a_cfg_that_a_crash_cut_short_are_taken_again() {
    let root = tempfile::tempdir().unwrap();
    {
        let engine = engine(root.path());
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    }
    cut_journals(root.path(), |record| matches!(record, Record::CfgAccepted { .. }));
    let engine = engine(root.path());
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", log(&session));
    // Somebody else's directory of that name, made in the meantime, is not.
    let other = engine.create_directory(&["other".into()]).unwrap();
    put(&other, "o.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(text(&other, "o.cfg.err").contains("exists already"));
}

/// The state of a kill in the middle of a recursive delete, or of somebody who deletes all files and starts over.
#[test]
fn what_the_session_made_is_not_in_the_way_of_its_next_cfg() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    let ds = root.path().join("ds/vm");
    for restart in [false, true] {
        let session = {
            let first = engine(root.path());
            let session = first.session(&path).unwrap_or_else(|| first.create_directory(&path).unwrap());
            put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
            assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
            put(&session, "a-flat.vmdk", &data(1)).unwrap();
            for name in ["a-flat.vmdk", "vm.cfg"] {
                session.delete(name).unwrap();
            }
            session
        };
        assert_eq!(std::fs::read(ds.join("a-flat.vmdk")).unwrap(), data(1), "a delete touches no datastore");
        let session = if restart {
            drop(session);
            engine(root.path()).session(&path).unwrap()
        } else {
            session
        };
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
        assert_eq!(std::fs::read(ds.join("a-flat.vmdk")).unwrap(), data(1), "nor does a CFG");
        put(&session, "a-flat.vmdk", &data(5)).unwrap();
        put(&session, "b-flat.vmdk", &data(2)).unwrap();
        assert_eq!(std::fs::read(ds.join("a-flat.vmdk")).unwrap(), data(5));
        for name in ["a-flat.vmdk", "b-flat.vmdk", "vm.cfg"] {
            session.delete(name).unwrap();
        }
    }
    // Nor is a directory that it took because the first was another's.
    std::fs::create_dir(root.path().join("ds/theirs")).unwrap();
    let session = engine(root.path()).create_directory(&["second".into()]).unwrap();
    for _ in 0..2 {
        put(&session, "vm.cfg", cfg("theirs", "on-conflict = \"rename\"\n").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        assert!(root.path().join("ds/theirs(1)/a-flat.vmdk").exists());
        for name in ["a-flat.vmdk", "vm.cfg"] {
            session.delete(name).unwrap();
        }
    }
    assert!(!root.path().join("ds/theirs(2)").exists());
    drop(session);
    // The virtual machine is complete: it is not the session's any more.
    let session = engine(root.path()).session(&path).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    for name in ["a-flat.vmdk", "b-flat.vmdk", "vm.cfg", "a.vmx"] {
        session.delete(name).unwrap();
    }
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(text(&session, "vm.cfg.err").contains("exists already"));
}

/// A kill while an extent was made: it is there, its record is not. Then the CFG goes, which leaves its directory.
#[test]
fn an_extent_that_a_kill_left_is_not_in_the_way_of_the_next_cfg() {
    let root = tempfile::tempdir().unwrap();
    let path = ["vm".to_owned()];
    {
        let session = engine(root.path()).create_directory(&path).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
    }
    let noted = |record: &Record| matches!(record, Record::LedgerIdentity { key, .. } if key.path == "vm/a-flat.vmdk");
    cut_journals(root.path(), noted);
    assert!(root.path().join("ds/vm/a-flat.vmdk").exists());
    let engine = engine(root.path());
    let session = engine.session(&path).unwrap();
    session.delete("vm.cfg").unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
    put(&session, "a-flat.vmdk", &data(3)).unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(3));
}

/// By its path alone nothing is taken for the session's own.
#[test]
fn what_somebody_else_put_in_place_of_the_sessions_own_stays() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let ds = root.path().join("ds/vm");
    let session = engine.create_directory(&["vm".into()]).unwrap();
    let begin = || {
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        assert!(session.find("vm.cfg.err").is_none(), "{}", text(&session, "vm.cfg.err"));
    };
    begin();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    session.delete("a-flat.vmdk").unwrap();
    session.delete("vm.cfg").unwrap();
    std::fs::write(ds.join("new"), b"theirs").unwrap();
    std::fs::rename(ds.join("new"), ds.join("a-flat.vmdk")).unwrap();
    begin();
    assert!(put(&session, "a-flat.vmdk", &data(1)).is_err());
    assert_eq!(std::fs::read(ds.join("a-flat.vmdk")).unwrap(), b"theirs");
    put(&session, "b-flat.vmdk", &data(1)).unwrap();
    session.delete("b-flat.vmdk").unwrap();
    session.delete("vm.cfg").unwrap();
    let theirs = root.path().join("ds/theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("b-flat.vmdk"), b"theirs").unwrap();
    std::fs::rename(&ds, root.path().join("ds/aside")).unwrap();
    std::fs::rename(&theirs, &ds).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert!(text(&session, "vm.cfg.err").contains("exists already"));
}

/// A recursive delete removes what it has listed, in whatever order, and may not miss anything.
#[test]
fn every_file_that_was_listed_can_be_deleted() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = begun(&engine);
    put(&session, "a-flat.pancbt", &differential(SIZE, "", "1", None, 3, 9)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    for info in session.list().into_iter().rev() {
        session.delete(&info.name).unwrap();
    }
    engine.remove_directory(&["vm".into()]).unwrap();
    assert_eq!(std::fs::read_dir(root.path().join("data/orphans")).unwrap().count(), 0, "it had completed");
}

#[test]
fn a_disk_without_its_descriptor_is_not_whole() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    let at = root.path().join("ds/vm/a.vmdk");
    std::fs::create_dir(&at).unwrap(); // in the descriptor's way
    assert!(put(&session, "a-flat.vmdk", &data(1)).is_err());
    assert!(matches!(put(&session, "a.vmx", VMX), Err(ImportError::OutOfOrder { .. })));
    std::fs::remove_dir(&at).unwrap();
    session.open_file("a-flat.vmdk", How::Write).unwrap().close(true).unwrap();
    assert!(at.is_file());
    put(&session, "a.vmx", VMX).unwrap();
}

#[test]
fn a_refused_write_is_logged_once_a_handle() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    let file = session.create("a-flat.vmdk").unwrap();
    for _ in 0..3 {
        assert!(file.write_at(&[1; 512], SIZE).is_err());
    }
    let log = log(&session);
    let told =
        format!("/vm/a-flat.vmdk: {} is past the end of the disk ({SIZE} bytes as the CFG says)", SIZE + 512);
    assert_eq!(log.matches(&told).count(), 1, "{log}");
}

/// Found by `import_sequences`: what two clients wrote into one disk was called merged.
#[test]
fn an_extent_does_not_come_while_a_differential_does() {
    let root = tempfile::tempdir().unwrap();
    let session = begun(&engine(root.path()));
    let differential = differential(SIZE, "", "one", None, 1, 7);
    let merging = session.create("a-flat.pancbt").unwrap();
    merging.write_at(&differential[..300], 0).unwrap();
    let refused = session.open_file("a-flat.vmdk", How::Write);
    assert!(matches!(refused, Err(ImportError::OutOfOrder { .. })));
    assert!(session.open_file("a-flat.vmdk", How::Read).is_ok());
    session.delete("a-flat.vmdk").unwrap();
    assert!(matches!(session.create("a-flat.vmdk"), Err(ImportError::OutOfOrder { .. })));
    assert!(log(&session).contains("a differential of a-flat.vmdk is still arriving"));
}

/// Found by `import_sequences`.
#[test]
fn a_refused_zeroing_is_logged() {
    let root = tempfile::tempdir().unwrap();
    let session = begun(&engine(root.path()));
    let file = session.open_file("vm.cfg", How::Write).unwrap();
    assert!(file.zero_range(0, 10).is_err());
    assert!(log(&session).contains("vm.cfg: it is no extent"), "{}", log(&session));
}

/// Found by `import_sequences`: after the restart it only had to be opened and closed.
#[test]
fn a_half_merged_extent_that_is_deleted_is_needed_from_its_start_after_a_restart_too() {
    let root = tempfile::tempdir().unwrap();
    let first = engine(root.path());
    let session = begun(&first);
    let differential = differential(SIZE, "", "one", None, 1, 7);
    put(&session, "a-flat.pancbt", &differential[..900]).unwrap_err();
    session.delete("a-flat.vmdk").unwrap();
    drop((session, first));
    let session = engine(root.path()).session(&["vm".into()]).unwrap();
    let file = session.open_file("a-flat.vmdk", How::Write).unwrap();
    assert!(file.write_at(&[1; 512], 0).is_err());
    file.close(true).unwrap();
    assert!(matches!(put(&session, "a.vmx", VMX), Err(ImportError::OutOfOrder { .. })));
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
}

/// Found by `import_sequences`: its sentence names the disk, which was taken for one that has to come again, and the VMX by its name on
/// the datastore, which was never taken out of `.cfg.err` again.
#[test]
fn a_vmx_that_failed_with_its_datastore_can_be_copied_again_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("ds");
    std::fs::create_dir_all(&store).unwrap();
    for plan in [
        FaultPlan { flushes: 1000, ..FaultPlan::default() },
        FaultPlan { others: 1000, ..FaultPlan::default() },
    ] {
        let injector = Injector::new(plan);
        injector.arm(false);
        let inner = Arc::new(DirectoryDatastore::open(&store).unwrap());
        let first = engine_on(root.path(), Arc::new(FaultDatastore::new(inner, Arc::clone(&injector))));
        let session = first.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "vmx-rename = \"z.vmx\"\non-conflict = \"rename\"\n").as_bytes())
            .unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        put(&session, "b-flat.vmdk", &data(2)).unwrap();
        injector.arm(true);
        put(&session, "a.vmx", VMX).unwrap_err();
        drop((session, first));
        let engine = engine(root.path());
        let session = engine.session(&["vm".into()]).unwrap();
        assert!(text(&session, "vm.cfg.err").contains("injected fault"));
        put(&session, "a.vmx", VMX).unwrap();
        assert!(session.find("vm.cfg.err").is_none());
        for info in session.list().into_iter().filter(|info| !info.own) {
            session.delete(&info.name).unwrap();
        }
        drop(session);
        engine.remove_directory(&["vm".into()]).unwrap();
    }
}

/// Found by `import_sequences`: killed before it had made its directory, a session took the one that another made there since for its own,
/// and removed it.
#[test]
fn what_a_kill_kept_a_session_from_making_is_another_s_when_that_makes_it() {
    let root = tempfile::tempdir().unwrap();
    let watch = Watch::new(root.path());
    std::fs::create_dir_all(root.path().join("ds")).unwrap();
    let inner = Box::new(DirectoryDatastore::open(&root.path().join("ds")).unwrap());
    let first = engine_on(root.path(), Arc::new(Watched::<dyn Datastore>(Arc::clone(&watch), inner)));
    let session = first.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("to", "").as_bytes()).unwrap();
    let left = std::mem::take(&mut *watch.left.lock().unwrap());
    let left = left.into_iter().find(|moment| moment.before == "a directory is made").unwrap().root;
    let engine = engine(left.path());
    let second = engine.create_directory(&["second".into()]).unwrap();
    put(&second, "second.cfg", cfg("to", "").as_bytes()).unwrap();
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("to", "").as_bytes()).unwrap();
    assert!(text(&session, "vm.cfg.err").contains("the directory [4e31-aa] to exists"));
    put(&second, "a-flat.vmdk", &data(1)).unwrap();
}
