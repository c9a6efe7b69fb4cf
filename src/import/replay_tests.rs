//! What happened on a datastore while the service was down.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::tests::{cfg, engine, put, text};

fn image(byte: u8) -> Vec<u8> {
    vec![byte; super::tests::SIZE as usize]
}

/// A session with one extent whole, before the service stops.
fn begun(root: &Path) {
    let engine = engine(root);
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &image(1)).unwrap();
}

#[test]
fn an_extent_that_was_replaced_meanwhile_is_not_taken_and_not_written() {
    let root = tempfile::tempdir().unwrap();
    begun(root.path());
    let extent = root.path().join("ds/vm/a-flat.vmdk");
    let other = root.path().join("another");
    std::fs::write(&other, image(2)).unwrap();
    std::fs::rename(&other, &extent).unwrap();
    for _ in 0..2 {
        let engine = engine(root.path());
        let session = engine.session(&["vm".into()]).unwrap();
        let errors = text(&session, "vm.cfg.err");
        let told = "/vm/a-flat.vmdk: it is not the one that was made here";
        assert_eq!(errors.matches(told).count(), 1, "{errors}");
        assert!(errors.contains("move it away, and copy this again"), "{errors}");
        assert!(text(&session, "import.log").contains(told));
        // It is needed again, and can't be had while that is there.
        put(&session, "b-flat.vmdk", &image(3)).unwrap();
        let refused = put(&session, "a.vmx", b"x = \"y\"\n").unwrap_err().to_string();
        assert!(refused.contains("the extent a-flat.vmdk comes first"), "{refused}");
        put(&session, "a-flat.vmdk", &image(4)).unwrap_err();
        assert!(std::fs::read(&extent).unwrap() == image(2), "somebody else's");
    }
    std::fs::rename(&extent, &other).unwrap();
    let engine = engine(root.path());
    let session = engine.session(&["vm".into()]).unwrap();
    put(&session, "a-flat.vmdk", &image(4)).unwrap();
    assert!(session.find("vm.cfg.err").is_none());
    put(&session, "b-flat.vmdk", &image(3)).unwrap();
    put(&session, "a.vmx", b"x = \"y\"\n").unwrap();
    assert!(std::fs::read(&extent).unwrap() == image(4));
}

#[test]
fn one_that_is_gone_or_of_another_size_is_told_too() {
    let root = tempfile::tempdir().unwrap();
    begun(root.path());
    let extent = root.path().join("ds/vm/a-flat.vmdk");
    std::fs::OpenOptions::new().write(true).open(&extent).unwrap().set_len(512).unwrap();
    let errors = || {
        let engine = engine(root.path());
        text(&engine.session(&["vm".into()]).unwrap(), "vm.cfg.err")
    };
    assert!(errors().contains("it is not an extent of"), "{}", errors());
    std::fs::remove_file(&extent).unwrap();
    assert!(errors().contains("/vm/a-flat.vmdk: "), "{}", errors());
}

#[test]
fn what_became_of_a_complete_machine_s_disks_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    begun(root.path());
    {
        let engine = engine(root.path());
        let session = engine.session(&["vm".into()]).unwrap();
        put(&session, "b-flat.vmdk", &image(3)).unwrap();
        put(&session, "a.vmx", b"x = \"y\"\n").unwrap();
    }
    std::fs::remove_file(root.path().join("ds/vm/a-flat.vmdk")).unwrap();
    let engine = engine(root.path());
    assert!(engine.session(&["vm".into()]).unwrap().find("vm.cfg.err").is_none());
}
