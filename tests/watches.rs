//! CHANGE_NOTIFY (MS-SMB2 3.3.5.19): what watchers are told of, when, and how a watch ends.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Message, Open};
use smb_proto::fscc::info::{self, class};
use smb_proto::msg::change_notify::{FLAG_WATCH_TREE, Request, Response, action, decode_events, filter};
use smb_proto::msg::create::context::{
    self, DurableV2Request, LEASE_HANDLE, LEASE_READ, Lease, LeaseV2, Writer,
};
use smb_proto::msg::create::{disposition, oplock, options};
use smb_proto::msg::{FileId, logoff, tree_disconnect};
use smb_proto::{Command, Status};

const NAMES: u32 = filter::FILE_NAME | filter::DIR_NAME;
/// FILE_READ_ATTRIBUTES (MS-SMB2 2.2.13.1.1).
const READ_ATTRIBUTES: u32 = 0x80;

fn directory(name: &str) -> Open<'_> {
    Open { options: options::DIRECTORY_FILE, ..Open::file(name) }
}

fn watch(client: &mut Client, file_id: FileId, flags: u16, completion_filter: u32) -> Message {
    let request = Request { flags, output_buffer_length: 4096, file_id, completion_filter };
    client.request(Command::CHANGE_NOTIFY, |out| request.encode(out))
}

fn events(message: &Message) -> Vec<(u32, String)> {
    assert_eq!(message.status(), Status::SUCCESS);
    let data = Response::decode(&message.0).unwrap().data;
    let events = decode_events(data).unwrap();
    events.into_iter().map(|(action, name)| (action, name.decode().unwrap())).collect()
}

/// All that one client is told now, by one answer.
fn told(client: &mut Client) -> Vec<(u32, String)> {
    let sent = client.poll();
    assert_eq!(sent.len(), 1);
    events(&sent[0])
}

fn end_of(client: &mut Client) -> Status {
    let sent = client.poll();
    assert_eq!(sent.len(), 1);
    sent[0].status()
}

#[test]
fn another_client_s_changes_are_told() {
    let desk = Desk::new();
    let (mut watcher, mut other) = (desk.client(1, "a"), desk.client(2, "b"));
    let root = watcher.open(&Open { access: READ_ATTRIBUTES | 1, ..directory("") }).file_id();
    let everything = u32::MAX;
    assert_eq!(watch(&mut watcher, root, FLAG_WATCH_TREE, everything).status(), Status::PENDING);
    let d = other.open(&directory("d")).file_id();
    other.close(d);
    assert_eq!(told(&mut watcher), [(action::ADDED, "d".into())]);
    // Between two requests the changes are kept.
    let f = other.open(&Open::file("d\\f")).file_id();
    assert_eq!(other.write(f, 0, b"x"), Status::SUCCESS);
    let basic = info::Basic { attributes: 2, ..info::Basic::default() };
    let mut hidden = Vec::new();
    basic.encode(&mut hidden);
    assert_eq!(other.set(f, class::BASIC, &hidden), Status::SUCCESS);
    assert_eq!(other.rename(f, "d\\g", false), Status::SUCCESS);
    assert_eq!(other.rename(f, "h", false), Status::SUCCESS);
    assert_eq!(other.set(f, class::DISPOSITION, &[1]), Status::SUCCESS);
    assert_eq!(other.close(f), Status::SUCCESS);
    assert_eq!(
        events(&watch(&mut watcher, root, FLAG_WATCH_TREE, everything)),
        [
            (action::ADDED, "d\\f".into()),
            (action::MODIFIED, "d\\f".into()),
            (action::RENAMED_OLD_NAME, "d\\f".into()),
            (action::RENAMED_NEW_NAME, "d\\g".into()),
            (action::REMOVED, "d\\g".into()),
            (action::ADDED, "h".into()),
            (action::REMOVED, "h".into()),
        ],
        "equal modifications in a row are one"
    );
}

#[test]
fn an_overwritten_file_and_a_copy_s_last_writes_are_told() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let root = client.open(&directory("")).file_id();
    let written = filter::LAST_WRITE;
    assert_eq!(watch(&mut client, root, 0, written).status(), Status::PENDING);
    let f = client.open(&Open::file("f")).file_id();
    assert_eq!(client.write(f, 0, b"x"), Status::SUCCESS);
    assert_eq!(told(&mut client), [(action::MODIFIED, "f".into())]);
    assert_eq!(watch(&mut client, root, 0, written).status(), Status::PENDING);
    assert_eq!(client.write(f, 0, b"x"), Status::SUCCESS);
    assert!(client.poll().is_empty(), "told a moment ago");
    client.close(f);
    assert_eq!(told(&mut client), [(action::MODIFIED, "f".into())], "the last one is never lost");
    assert_eq!(watch(&mut client, root, 0, written).status(), Status::PENDING);
    client.open(&Open { disposition: disposition::OVERWRITE, ..Open::file("f") });
    assert_eq!(told(&mut client), [(action::MODIFIED, "f".into())]);
}

#[test]
fn requests_on_one_open_are_served_in_turn() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let root = client.open(&directory("")).file_id();
    let first = watch(&mut client, root, 0, NAMES);
    let second = watch(&mut client, root, 0, NAMES);
    client.open(&Open::file("a"));
    let sent = client.poll();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header().async_id, first.header().async_id);
    client.open(&Open::file("b"));
    let sent = client.poll();
    assert_eq!(sent[0].header().async_id, second.header().async_id);
    assert_eq!(events(&sent[0]), [(action::ADDED, "b".into())]);
}

/// Found by `sequences`.
#[test]
fn a_rename_to_the_same_name_is_no_change() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let root = client.open(&Open { access: READ_ATTRIBUTES | 1, ..directory("") }).file_id();
    let f = client.open(&Open::file("f")).file_id();
    assert_eq!(watch(&mut client, root, 0, NAMES).status(), Status::PENDING);
    assert_eq!(client.rename(f, "f", false), Status::SUCCESS);
    assert!(client.poll().is_empty());
    assert_eq!(client.rename(f, "F", false), Status::SUCCESS);
    assert_eq!(
        told(&mut client),
        [(action::RENAMED_OLD_NAME, "f".into()), (action::RENAMED_NEW_NAME, "F".into())]
    );
}

#[test]
fn a_watch_is_cancelled_and_goes_on() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let root = client.open(&directory("")).file_id();
    let interim = watch(&mut client, root, 0, NAMES);
    let sent = client.cancel(&interim);
    assert_eq!(sent[0].status(), Status::CANCELLED);
    client.open(&Open::file("a"));
    assert!(client.poll().is_empty());
    assert_eq!(events(&watch(&mut client, root, 0, NAMES)), [(action::ADDED, "a".into())]);
}

/// Found by sequences: the open waits for its client, and its watch waited with it on a connection that stays.
#[test]
fn the_end_of_the_session_ends_the_watch_of_a_durable_open() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let (state, key, v2) =
        (LEASE_READ | LEASE_HANDLE, [7; 16], Some(LeaseV2 { parent_key: [0; 16], epoch: 0 }));
    let mut contexts = Writer::new();
    contexts.push(context::RQLS, &Lease { key, state, flags: 0, v2 }.encode());
    let wanted = DurableV2Request { timeout_ms: 0, flags: 0, create_guid: [5; 16] };
    contexts.push(context::DH2Q, &wanted.encode());
    let leased = Open { oplock: oplock::LEASE, contexts: contexts.contexts(), ..directory("d") };
    let root = client.open(&leased).file_id();
    assert_eq!(watch(&mut client, root, 0, NAMES).status(), Status::PENDING);
    assert_eq!(client.request(Command::LOGOFF, |out| logoff::Request.encode(out)).status(), Status::SUCCESS);
    assert!(desk.server.opens.by_id(root.volatile).is_some(), "it waits for its client");
    let sent = client.poll();
    assert_eq!(sent.iter().map(Message::status).collect::<Vec<_>>(), [Status::NOTIFY_CLEANUP]);
}

#[test]
fn the_end_of_open_tree_or_session_ends_the_watch() {
    let desk = Desk::new();
    for end in [Command::CLOSE, Command::TREE_DISCONNECT, Command::LOGOFF] {
        let mut client = desk.client(1, "a");
        let root = client.open(&directory("")).file_id();
        assert_eq!(watch(&mut client, root, 0, NAMES).status(), Status::PENDING);
        let ended = match end {
            Command::CLOSE => client.close(root),
            Command::LOGOFF => client.request(end, |out| logoff::Request.encode(out)).status(),
            _ => client.request(end, |out| tree_disconnect::Request.encode(out)).status(),
        };
        assert_eq!(ended, Status::SUCCESS);
        assert_eq!(end_of(&mut client), Status::NOTIFY_CLEANUP, "{end:?}");
        assert!(desk.server.notify.is_idle(), "{end:?} leaves no watch behind");
    }
}

#[test]
fn a_directory_that_goes_says_so() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let watched = client.open(&directory("d")).file_id();
    assert_eq!(watch(&mut client, watched, 0, NAMES).status(), Status::PENDING);
    let deleting = client.open(&directory("d")).file_id();
    assert_eq!(client.set(deleting, class::DISPOSITION, &[1]), Status::SUCCESS);
    assert_eq!(end_of(&mut client), Status::DELETE_PENDING);
    assert_eq!(watch(&mut client, watched, 0, NAMES).status(), Status::DELETE_PENDING);
}

#[test]
fn only_directories_that_may_be_listed_are_watched() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let file = client.open(&Open::file("f")).file_id();
    assert_eq!(watch(&mut client, file, 0, NAMES).status(), Status::INVALID_PARAMETER);
    let blind = client.open(&Open { access: READ_ATTRIBUTES, ..directory("") }).file_id();
    assert_eq!(watch(&mut client, blind, 0, NAMES).status(), Status::ACCESS_DENIED);
    assert!(desk.server.notify.is_idle());
}

#[test]
fn a_renamed_directory_is_still_watched() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let d = client.open(&directory("d")).file_id();
    assert_eq!(watch(&mut client, d, 0, NAMES).status(), Status::PENDING);
    assert_eq!(client.rename(d, "e", false), Status::SUCCESS);
    assert!(client.poll().is_empty(), "its own name is not in it");
    client.open(&Open::file("E\\f"));
    assert_eq!(told(&mut client), [(action::ADDED, "f".into())]);
}

#[test]
fn a_directory_that_is_not_empty_stays_when_its_deleter_closes_it() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    client.open(&directory("d"));
    client.open(&Open::file("d\\f"));
    let deleting = client.open(&Open { options: 0x1001, ..directory("d") });
    assert_eq!(client.close(deleting.file_id()), Status::SUCCESS);
    assert!(desk.directory.path().join("d/f").exists());
}

#[test]
fn shares_know_nothing_of_each_other_s_paths() {
    let desk = Desk::new();
    let (mut client, mut beside) = (desk.client(1, "a"), desk.client(2, "b"));
    beside.connect("other");
    let root = client.open(&Open { access: READ_ATTRIBUTES | 1, ..directory("") }).file_id();
    assert_eq!(watch(&mut client, root, FLAG_WATCH_TREE, u32::MAX).status(), Status::PENDING);
    beside.open(&directory("d"));
    beside.open(&Open::file("d\\f"));
    assert!(client.poll().is_empty(), "no news of the other share");
    let d = client.open(&directory("d")).file_id();
    assert_eq!(told(&mut client), [(action::ADDED, "d".into())]);
    assert_eq!(
        client.rename(d, "e", false),
        Status::SUCCESS,
        "what is open in the other share is not below it"
    );
}
