//! What the settings change.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::tests::{VMX, cfg, data, log, memory_dir, put};
use super::*;
use crate::datastore::DirectoryDatastore;
use crate::disk::digest::Algorithm;

const DAY: Duration = Duration::from_hours(24);

fn engine(root: &Path, change: impl FnOnce(&mut EngineSettings)) -> Engine {
    let at = root.join("ds");
    std::fs::create_dir_all(&at).unwrap();
    let store = Arc::new(DirectoryDatastore::open(&at).unwrap());
    let twin = DatastoreEntry { name: "ds1".into(), uuid: Some("4e31-aa".into()), store, written: None };
    let local =
        Hypervisor { name: "local".into(), aliases: Vec::new(), datastores: vec![twin], inventory: None };
    let mut settings = EngineSettings::new(root.join("data"), vec![local]);
    change(&mut settings);
    Engine::new(settings).unwrap()
}

#[test]
fn further_names_are_passed_through_and_others_refused() {
    let root = memory_dir();
    let names = NameRules {
        pass: vec!["*.ISO".into(), "note?.txt".into(), "*.vmdk".into()],
        refuse: vec!["*.vmsd".into(), "secret*.iso".into()],
    };
    {
        let engine = engine(root.path(), |settings| settings.names = names.clone());
        let session = engine.create_directory(&["vm".into()]).unwrap();
        assert!(
            matches!(put(&session, "cd.iso", b"x"), Err(ImportError::OutOfOrder { .. })),
            "the CFG first"
        );
        let renamed = cfg("vm", "vmdk.1.rename = \"c.vmdk\"\nvmdk.1.extent-rename = \"c-flat.vmdk\"\n");
        put(&session, "vm.cfg", renamed.as_bytes()).unwrap();
        put(&session, "cd.iso", b"iso").unwrap();
        put(&session, "NOTE1.txt", b"note").unwrap();
        put(&session, "old.vmdk", b"old").unwrap();
        for name in ["note12.txt", "vm.vmsd", "Secret1.iso", "c.vmdk", "C-flat.vmdk", "notes"] {
            let refused = put(&session, name, b"x").unwrap_err();
            assert!(matches!(refused, ImportError::UnsupportedType(_)), "{name}: {refused}");
        }
    }
    let engine = engine(root.path(), |settings| settings.names = names);
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "cd.iso", b"again").unwrap();
    assert_eq!(std::fs::read(root.path().join("ds/vm/cd.iso")).unwrap(), b"again", "after a restart too");
    assert_eq!(std::fs::read(root.path().join("ds/vm/NOTE1.txt")).unwrap(), b"note");
}

#[test]
fn a_session_that_nothing_happens_in_is_marked_once_and_kept() {
    let root = memory_dir();
    let engine = engine(root.path(), |settings| settings.idle = 3 * DAY);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    engine.mark_idle();
    let marks = || log(&session).matches("/vm: nothing has happened for 4 days").count();
    assert_eq!((marks(), engine.snapshot().sessions[0].idle_days), (0, 0));
    let aged = || {
        for cache in std::fs::read_dir(root.path().join("data/sessions")).unwrap() {
            let journal = std::fs::File::open(cache.unwrap().path().join("journal")).unwrap();
            journal.set_modified(SystemTime::now() - 4 * DAY - DAY / 2).unwrap();
        }
    };
    aged();
    engine.mark_idle();
    engine.mark_idle();
    assert_eq!((marks(), engine.snapshot().sessions[0].idle_days), (1, 4), "once");
    assert_eq!(Snapshot::from_journals(&root.path().join("data")).unwrap().sessions[0].idle_days, 4);
    // It goes on as if nothing had been said.
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    engine.mark_idle();
    assert_eq!(engine.snapshot().sessions[0].idle_days, 0);
    aged();
    engine.mark_idle();
    assert_eq!(marks(), 2, "and is marked again");
    assert_eq!(std::fs::read(root.path().join("ds/vm/a-flat.vmdk")).unwrap(), data(1));
    let share = engine.session(&[]).unwrap();
    assert!(!log(&share).contains("nothing has happened"), "the share's root is nobody's restore");
}

#[test]
fn digests_stand_in_the_log_where_they_are_wanted() {
    use sha2::{Digest, Sha256};
    for wanted in [None, Some(Algorithm::Sha256)] {
        let root = memory_dir();
        let engine = engine(root.path(), |settings| settings.digest = wanted);
        let session = engine.create_directory(&["vm".into()]).unwrap();
        put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
        put(&session, "a-flat.vmdk", &data(1)).unwrap();
        put(&session, "b-flat.vmdk", &data(2)).unwrap();
        put(&session, "a.vmx", VMX).unwrap();
        let told = log(&session);
        for (seed, name) in [(1, "a"), (2, "b")] {
            let hash = Sha256::digest(data(seed))
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            let line = format!(": sha256: /vm/{name}-flat.vmdk {hash}");
            assert_eq!(told.contains(&line), wanted.is_some(), "{told}");
        }
    }
}

#[test]
fn few_bytes_in_flight_are_enough_for_many_writers() {
    let root = memory_dir();
    let few = |settings: &mut EngineSettings| {
        (settings.disk_bytes_in_flight, settings.session_bytes_in_flight) = (70_000, 100_000);
    };
    let engine = engine(root.path(), few);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    let files = ["a-flat.vmdk", "b-flat.vmdk"].map(|name| session.create(name).unwrap());
    std::thread::scope(|scope| {
        for (seed, file) in (1..).zip(&files) {
            let image = data(seed);
            for part in 0..4 {
                let image = image.clone();
                scope.spawn(move || {
                    for (number, piece) in image.chunks(100_000).enumerate().filter(|(n, _)| n % 4 == part) {
                        file.write_at(piece, number as u64 * 100_000).unwrap();
                    }
                });
            }
        }
    });
    files.iter().for_each(|file| file.close(true).unwrap());
    put(&session, "a.vmx", VMX).unwrap();
    for (seed, name) in (1..).zip(["a-flat.vmdk", "b-flat.vmdk"]) {
        assert_eq!(std::fs::read(root.path().join("ds/vm").join(name)).unwrap(), data(seed));
    }
}
