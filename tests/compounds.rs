//! Compounds (MS-SMB2 3.3.5.2.7): what requests inherit from those before them, and what a failure means to those behind it.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Open, Part, part};
use smb_proto::fscc::fsctl::code;
use smb_proto::msg::lock::{self, Element, FLAG_EXCLUSIVE};
use smb_proto::msg::{FileId, change_notify, close, ioctl, read, write};
use smb_proto::{Command, Flags, Status};

fn close_it(related: bool) -> Part {
    part(Command::CLOSE, related, |out| close::Request { flags: 0, file_id: FileId::ANY }.encode(out))
}

fn open_it(related: bool, open: &Open<'_>) -> Part {
    part(Command::CREATE, related, |out| open.encode(out))
}

fn write_it() -> Part {
    let request = write::Request {
        offset: 0,
        file_id: FileId::ANY,
        channel: 0,
        remaining_bytes: 0,
        channel_info: &[],
        flags: 0,
        data_offset: 0,
        data: b"data",
    };
    part(Command::WRITE, true, |out| request.encode(out))
}

fn read_it() -> Part {
    let request = read::Request::new(FileId::ANY, 0, 1);
    part(Command::READ, true, |out| request.encode(out))
}

fn statuses(client: &mut Client, parts: Vec<Part>) -> Vec<Status> {
    client.compound(parts).iter().map(desk::Message::status).collect()
}

#[test]
fn a_failed_request_does_not_fail_those_behind_it() {
    let desk = Desk::new();
    std::fs::write(desk.directory.path().join("a"), "x").unwrap();
    let mut client = desk.client(1, "user");
    let open = Open { access: 1, ..Open::file("a") };
    let parts = vec![open_it(false, &open), read_it(), write_it(), read_it(), close_it(true)];
    let expected =
        [Status::SUCCESS, Status::SUCCESS, Status::ACCESS_DENIED, Status::SUCCESS, Status::SUCCESS];
    assert_eq!(statuses(&mut client, parts), expected);
}

#[test]
fn a_failed_create_fails_what_means_its_file() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let missing = Open { disposition: 1, ..Open::file("missing") };
    let parts = vec![
        open_it(false, &missing),
        close_it(true),
        read_it(),
        open_it(true, &Open::file("there")),
        close_it(true),
    ];
    let missing = Status::OBJECT_NAME_NOT_FOUND;
    assert_eq!(statuses(&mut client, parts), [missing, missing, missing, Status::SUCCESS, Status::SUCCESS]);
}

#[test]
fn a_related_request_means_the_file_before_it_whatever_it_says() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let stale = client.open(&Open::file("a")).file_id();
    assert_eq!(client.close(stale), Status::SUCCESS);
    let close = part(Command::CLOSE, true, |out| close::Request { flags: 0, file_id: stale }.encode(out));
    assert_eq!(statuses(&mut client, vec![open_it(false, &Open::file("a")), close]), [Status::SUCCESS; 2]);
}

#[test]
fn no_file_is_a_reparse_point() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let file_id = client.open(&Open::file("a")).file_id();
    let request = ioctl::Request::fsctl(file_id, code::GET_REPARSE_POINT, &[], 1024);
    let answer = client.request(Command::IOCTL, |out| request.encode(out));
    assert_eq!(answer.status(), Status::NOT_A_REPARSE_POINT);
}

#[test]
fn the_answers_of_a_compound_have_a_bound() {
    let desk = Desk::new();
    std::fs::write(desk.directory.path().join("a"), vec![1; 5 << 20]).unwrap();
    let mut client = desk.client(1, "user");
    for _ in 0..8 {
        client.open(&Open::file("credits"));
    }
    let large = || {
        let request = read::Request::new(FileId::ANY, 0, 5 << 20);
        let mut read = part(Command::READ, true, |out| request.encode(out));
        read.body.resize(5 << 20, 0); // pays for its answer
        read
    };
    let parts = vec![open_it(false, &Open::file("a")), large(), large(), close_it(true)];
    let (good, much) = (Status::SUCCESS, Status::INSUFFICIENT_RESOURCES);
    assert_eq!(statuses(&mut client, parts), [good, good, much, good]);
}

#[test]
fn the_first_request_is_related_to_nothing() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let parts = vec![open_it(true, &Open::file("a")), close_it(true), close_it(false)];
    let wrong = Status::INVALID_PARAMETER;
    assert_eq!(statuses(&mut client, parts), [wrong, wrong, Status::FILE_CLOSED]);
    assert!(!desk.directory.path().join("a").exists());
}

#[test]
fn a_session_that_is_not_there_is_no_context_for_the_next() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let mut stranger = close_it(false);
    stranger.session_id = Some(u64::MAX);
    let parts = vec![open_it(false, &Open::file("a")), close_it(true), stranger, close_it(true)];
    assert_eq!(
        statuses(&mut client, parts),
        [Status::SUCCESS, Status::SUCCESS, Status::USER_SESSION_DELETED, Status::INVALID_PARAMETER]
    );
}

#[test]
fn a_watch_holds_up_nothing_behind_it() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let directory = Open { options: 1, ..Open::file("d") };
    let watch = change_notify::Request {
        flags: 0,
        output_buffer_length: 1000,
        file_id: FileId::ANY,
        completion_filter: 1,
    };
    let watch = part(Command::CHANGE_NOTIFY, true, |out| watch.encode(out));
    let parts = vec![open_it(false, &directory), watch, close_it(true)];
    assert_eq!(statuses(&mut client, parts), [Status::SUCCESS, Status::INTERNAL_ERROR, Status::SUCCESS]);
}

#[test]
fn an_unknown_command_is_an_invalid_parameter() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let mut unknown = close_it(false);
    (unknown.command, unknown.flags) = (Command(0xFF), Flags::default());
    assert_eq!(statuses(&mut client, vec![unknown]), [Status::INVALID_PARAMETER]);
}

#[test]
fn an_interim_response_is_a_frame_of_its_own() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let holder = client.open(&Open::file("a")).file_id();
    let element = Element { offset: 0, length: 1, flags: FLAG_EXCLUSIVE };
    let lock = |file_id| lock::Request { lock_sequence: 0, file_id, locks: vec![element] };
    assert_eq!(client.request(Command::LOCK, |out| lock(holder).encode(out)).status(), Status::SUCCESS);
    let wait = part(Command::LOCK, true, |out| lock(FileId::ANY).encode(out));
    let output = client.run_only(vec![open_it(false, &Open::file("a")), wait, close_it(true)]);
    let frames: Vec<Vec<Status>> = output
        .frames
        .iter()
        .map(|frame| desk::split(&frame.bytes()[4..]).iter().map(desk::Message::status).collect())
        .collect();
    assert_eq!(frames, [[Status::SUCCESS], [Status::PENDING]]);
    client.sent(&output);
    assert_eq!(client.close(holder), Status::SUCCESS);
    let ended: Vec<_> = client.poll().iter().map(desk::Message::status).collect();
    assert_eq!(ended, [Status::SUCCESS, Status::SUCCESS]);
}
