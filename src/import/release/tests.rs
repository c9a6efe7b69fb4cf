//! What stays open of sessions that wait, and what happens when one goes on.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::file::How;
use super::super::session::Session;
use super::super::tests::{VMX, cfg, data, engine, log, put};

const SESSIONS: usize = 12;
const DISKS: usize = 20;
const SIZE: usize = 192 * 1024;

/// Files and directories below `root` that this process has open; other tests have theirs.
fn held(root: &Path) -> Vec<PathBuf> {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    open.filter(|path| path.starts_with(root)).collect()
}

/// Nothing of datastores but their roots, and of each session (the share's root is one, too) its journal and log.
fn assert_only_journals_and_logs(root: &Path) {
    let held = held(root);
    let (own, rest): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|path| path.starts_with(root.join("data")));
    assert!(rest.iter().all(|path| path == &root.join("ds") || path == &root.join("other")), "{rest:?}");
    assert!(own.len() <= 2 * (SESSIONS + 1), "{} of {SESSIONS} sessions: {own:?}", own.len());
}

fn large_cfg(directory: &str) -> String {
    let text = cfg(directory, "");
    let mut text = text[..text.find("vmdk.0").unwrap()].to_owned();
    for number in 0..DISKS {
        let _ = write!(
            text,
            "vmdk.{number}.name = \"d{number}.vmdk\"\nvmdk.{number}.extent-name = \"d{number}-flat.vmdk\"\n\
             vmdk.{number}.dsname = \"ds1\"\nvmdk.{number}.directory = \"{directory}\"\n\
             vmdk.{number}.size = {SIZE}\nvmdk.{number}.type = \"thin\"\n"
        );
    }
    text
}

fn contents(number: usize) -> Vec<u8> {
    (0..SIZE).map(|at| (at % 241 + number) as u8).collect()
}

fn descriptor(number: usize) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\ncreateType=\"vmfs\"\nRW {} VMFS \"d{number}-flat.vmdk\"\n",
        SIZE / 512
    )
}

fn part(session: &Arc<Session>, name: &str, at: u64, bytes: &[u8]) -> Result<(), super::ImportError> {
    let file = session.open_file(name, How::Write)?;
    let written = file.write_at(bytes, at);
    file.close(true).and(written)
}

#[test]
fn sessions_that_wait_hold_nothing_open_and_go_on() {
    let root = tempfile::tempdir().unwrap();
    let before = engine(root.path());
    for number in 0..SESSIONS {
        let name = format!("vm{number}");
        let session = before.create_directory(std::slice::from_ref(&name)).unwrap();
        put(&session, "vm.cfg", large_cfg(&name).as_bytes()).unwrap();
        for disk in 0..DISKS {
            put(&session, &format!("d{disk}.vmdk"), descriptor(disk).as_bytes()).unwrap();
            put(&session, &format!("d{disk}-flat.vmdk"), &contents(disk)).unwrap();
        }
        assert!(session.list().len() > 2 * DISKS, "{}", log(&session));
    }
    assert_only_journals_and_logs(root.path());
    drop(before);
    let after = engine(root.path());
    assert_only_journals_and_logs(root.path());
    let session = after.session(&["vm3".into()]).unwrap();
    // Written again where it was whole, half of it.
    part(&session, "d7-flat.vmdk", SIZE as u64 / 2, &contents(99)[SIZE / 2..]).unwrap();
    let file = session.open_file("d7-flat.vmdk", How::Read).unwrap();
    let mut read = vec![0; SIZE];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), SIZE);
    assert!(held(root.path()).contains(&root.path().join("ds/vm3/d7-flat.vmdk")));
    file.close(true).unwrap();
    let expected = [&contents(7)[..SIZE / 2], &contents(99)[SIZE / 2..]].concat();
    assert!(read == expected && std::fs::read(root.path().join("ds/vm3/d7-flat.vmdk")).unwrap() == expected);
    put(&session, "a.vmx", b"displayName = \"old\"\nscsi0:0.fileName = \"d7.vmdk\"\n").unwrap();
    assert!(root.path().join("ds/vm3/a.vmx").exists(), "{}", log(&session));
    assert_only_journals_and_logs(root.path());
}

#[test]
fn an_extent_that_somebody_replaced_is_told_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let engine = engine(root.path());
    let session = engine.create_directory(&["vm".into()]).unwrap();
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    let at = root.path().join("ds/vm/a-flat.vmdk");
    std::fs::rename(&at, root.path().join("aside")).unwrap();
    std::fs::write(&at, data(9)).unwrap();
    let error = part(&session, "a-flat.vmdk", 0, &[1; 128 * 1024]).unwrap_err().to_string();
    assert!(error.contains("is not the file any more") && error.contains("/vm/a-flat.vmdk"), "{error}");
    assert_eq!(log(&session).matches("is not the file any more").count(), 1, "{}", log(&session));
    assert!(std::fs::read(&at).unwrap() == data(9));
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    assert!(put(&session, "a.vmx", VMX).is_err(), "it is incomplete");
    std::fs::rename(root.path().join("aside"), &at).unwrap();
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert!(std::fs::read(&at).unwrap() == data(1));
}
