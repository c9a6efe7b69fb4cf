//! LOCKs that wait (MS-SMB2 3.3.5.14): granted, cancelled, and overtaken by the end of what they were asked on.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Message, Open};
use smb_proto::msg::create::options;
use smb_proto::msg::lock::{Element, FLAG_EXCLUSIVE, FLAG_UNLOCK, Request};
use smb_proto::msg::{FileId, logoff, tree_disconnect};
use smb_proto::{Command, Status};

fn lock(client: &mut Client, file_id: FileId, flags: u32) -> Message {
    let request =
        Request { lock_sequence: 0, file_id, locks: vec![Element { offset: 0, length: 10, flags }] };
    client.request(Command::LOCK, |out| request.encode(out))
}

/// A client with two opens of a file, the first of which has locked it; the second's LOCK waits.
fn waiting(desk: &Desk) -> (Client, FileId, FileId) {
    let mut client = desk.client(1, "user");
    let first = client.open(&Open::file("a")).file_id();
    let second = client.open(&Open::file("a")).file_id();
    assert_eq!(lock(&mut client, first, FLAG_EXCLUSIVE).status(), Status::SUCCESS);
    assert_eq!(lock(&mut client, second, FLAG_EXCLUSIVE).status(), Status::PENDING);
    (client, first, second)
}

fn only(sent: &[Message]) -> Status {
    assert_eq!(sent.len(), 1);
    sent[0].status()
}

#[test]
fn the_next_in_line_gets_what_is_released() {
    let desk = Desk::new();
    let (mut client, first, _) = waiting(&desk);
    assert!(client.poll().is_empty());
    assert_eq!(lock(&mut client, first, FLAG_UNLOCK).status(), Status::SUCCESS);
    assert_eq!(only(&client.poll()), Status::SUCCESS);
}

#[test]
fn a_cancel_that_comes_while_the_request_runs_again_is_not_lost() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let first = client.open(&Open::file("a")).file_id();
    let second = client.open(&Open::file("a")).file_id();
    assert_eq!(lock(&mut client, first, FLAG_EXCLUSIVE).status(), Status::SUCCESS);
    let interim = lock(&mut client, second, FLAG_EXCLUSIVE);
    let job = client.take(&interim);
    client.send_cancel(&interim);
    assert!(client.rerun(&interim, job).is_empty(), "it has to wait again");
    assert_eq!(only(&client.poll()), Status::CANCELLED);
}

#[test]
fn a_close_ends_the_wait() {
    let desk = Desk::new();
    let (mut client, _, second) = waiting(&desk);
    assert_eq!(client.close(second), Status::SUCCESS);
    assert_eq!(only(&client.poll()), Status::RANGE_NOT_LOCKED);
}

#[test]
fn the_end_of_tree_or_session_ends_the_wait() {
    let desk = Desk::new();
    for end in [Command::TREE_DISCONNECT, Command::LOGOFF] {
        let (mut client, ..) = waiting(&desk);
        let ended = client.request(end, |out| match end {
            Command::LOGOFF => logoff::Request.encode(out),
            _ => tree_disconnect::Request.encode(out),
        });
        assert_eq!(ended.status(), Status::SUCCESS);
        assert_eq!(only(&client.poll()), Status::RANGE_NOT_LOCKED);
    }
}

#[test]
fn directories_have_no_locks() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let directory = Open { options: options::DIRECTORY_FILE, ..Open::file("d") };
    let id = client.open(&directory).file_id();
    for flags in [FLAG_EXCLUSIVE, FLAG_UNLOCK] {
        assert_eq!(lock(&mut client, id, flags).status(), Status::INVALID_PARAMETER);
    }
}
