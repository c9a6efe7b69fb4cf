//! Applications that fail over from one machine to another (MS-SMB2 3.3.5.9.13): the file that the first has left open, and shares
//! with nobody, is the second's.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Message, Open};
use smb_proto::Status;
use smb_proto::msg::create::context::{self, AppVersion, Writer};
use smb_proto::msg::create::oplock;
use smb_proto::msg::negotiate::{DIALECT_210, DIALECT_302, DIALECT_311};

const APP: [u8; 16] = [7; 16];

/// Opens a file alone, with a batch oplock, for an instance of an application.
fn open(client: &mut Client, name: &str, app: [u8; 16], version: Option<(u64, u64)>) -> Message {
    let mut contexts = Writer::new();
    contexts.push(context::APP_INSTANCE_ID, &context::encode_app_instance_id(app));
    if let Some((high, low)) = version {
        contexts.push(context::APP_INSTANCE_VERSION, &AppVersion { high, low }.encode());
    }
    let contexts = contexts.contexts();
    client.open(&Open { share: 0, oplock: oplock::BATCH, contexts, ..Open::file(name) })
}

/// Two machines; the first has opened the file.
fn machines(desk: &Desk, dialect: u16, version: Option<(u64, u64)>) -> (Client, Client, Message) {
    let (mut first, second) = (desk.client_of(1, "user", dialect), desk.client_of(2, "user", dialect));
    let held = open(&mut first, "disk", APP, version);
    assert_eq!(held.status(), Status::SUCCESS);
    (first, second, held)
}

#[test]
fn the_second_machine_has_the_file_at_once_and_the_first_is_not_asked() {
    let desk = Desk::new();
    let (mut first, mut second, held) = machines(&desk, DIALECT_302, None);
    let taken = open(&mut second, "DISK", APP, None);
    assert_eq!(taken.status(), Status::SUCCESS);
    assert!(first.poll().is_empty(), "no break");
    assert_eq!(first.write(held.file_id(), 0, b"late"), Status::FILE_CLOSED);
    assert_eq!(first.close(held.file_id()), Status::FILE_CLOSED);
    assert_eq!(second.write(taken.file_id(), 0, b"mine"), Status::SUCCESS);
    // And back again.
    assert_eq!(open(&mut first, "disk", APP, None).status(), Status::SUCCESS);
    assert_eq!(second.write(taken.file_id(), 0, b"late"), Status::FILE_CLOSED);
}

#[test]
fn nothing_else_is_taken_over() {
    let desk = Desk::new();
    let (mut first, mut second, held) = machines(&desk, DIALECT_302, None);
    assert_eq!(open(&mut second, "other", APP, None).status(), Status::SUCCESS, "another file");
    let asked = open(&mut second, "disk", [8; 16], None);
    assert_eq!(asked.status(), Status::PENDING, "another application");
    assert_eq!(second.cancel(&asked)[0].status(), Status::CANCELLED);
    assert_eq!(first.poll().len(), 1, "its oplock breaks");
    let mut same = desk.client_of(1, "user", DIALECT_302);
    let asked = open(&mut same, "disk", APP, None);
    assert_eq!(asked.status(), Status::PENDING, "the same machine");
    assert_eq!(same.cancel(&asked)[0].status(), Status::CANCELLED);
    assert_eq!(first.write(held.file_id(), 0, b"still"), Status::SUCCESS);
}

#[test]
fn before_version_3_there_are_no_instances() {
    let desk = Desk::new();
    let (mut first, mut second, held) = machines(&desk, DIALECT_210, None);
    assert_eq!(open(&mut second, "disk", APP, None).status(), Status::PENDING);
    assert_eq!(first.write(held.file_id(), 0, b"still"), Status::SUCCESS);
}

#[test]
fn who_may_not_read_the_file_takes_nothing_over() {
    let desk = Desk::new();
    let (mut first, _, held) = machines(&desk, DIALECT_302, None);
    let mut blind = desk.client_with(2, "blind", DIALECT_302, 0x0012_0116); // to write, not to read
    let mut contexts = Writer::new();
    contexts.push(context::APP_INSTANCE_ID, &context::encode_app_instance_id(APP));
    let writing = Open { access: 0x0012_0116, contexts: contexts.contexts(), ..Open::file("disk") };
    assert_eq!(blind.open(&writing).status(), Status::PENDING);
    assert_eq!(first.write(held.file_id(), 0, b"still"), Status::SUCCESS);
}

#[test]
fn an_older_instance_is_told_that_it_was_replaced() {
    let refused = Status::FILE_FORCED_CLOSED;
    for (dialect, old, new, status) in [
        (DIALECT_311, Some((1, 1)), Some((1, 0)), refused),
        (DIALECT_311, Some((1, 1)), Some((1, 1)), refused),
        (DIALECT_311, Some((1, 1)), None, refused),
        (DIALECT_311, Some((1, 1)), Some((1, 2)), Status::SUCCESS),
        (DIALECT_311, Some((1, 1)), Some((2, 0)), Status::SUCCESS),
        (DIALECT_311, None, Some((0, 0)), Status::SUCCESS),
        (DIALECT_302, Some((1, 1)), Some((1, 0)), Status::SUCCESS),
    ] {
        let desk = Desk::new();
        let (mut first, mut second, held) = machines(&desk, dialect, old);
        assert_eq!(open(&mut second, "disk", APP, new).status(), status, "{old:?} {new:?}");
        let kept = if status == refused { Status::SUCCESS } else { Status::FILE_CLOSED };
        assert_eq!(first.write(held.file_id(), 0, b"x"), kept, "{old:?} {new:?}");
    }
}

#[test]
fn contexts_that_are_cut_off_are_refused() {
    let desk = Desk::new();
    let mut client = desk.client_of(1, "user", DIALECT_311);
    for (id, version) in [(19, 24), (0, 24), (20, 23), (20, 0)] {
        let mut contexts = Writer::new();
        contexts.push(context::APP_INSTANCE_ID, &context::encode_app_instance_id(APP)[..id]);
        contexts.push(context::APP_INSTANCE_VERSION, &AppVersion { high: 1, low: 1 }.encode()[..version]);
        let cut = Open { contexts: contexts.contexts(), ..Open::file("f") };
        assert_eq!(client.open(&cut).status(), Status::INVALID_PARAMETER, "{id} {version}");
    }
    assert!(!desk.directory.path().join("f").exists());
}
