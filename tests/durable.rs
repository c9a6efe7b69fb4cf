//! Opens that outlive their connection (MS-SMB2 3.3.5.9.6 to 3.3.5.9.12, 3.3.7.1): who has them back, when they are gone, and
//! CREATEs that are sent again.
#![allow(clippy::unwrap_used)]

mod desk;

use std::time::{Duration, Instant};

use desk::import::{DISK_BYTES, begin};
use desk::{Client, Desk, Message, Open};
use importfs::smb::durable::{DURABLE_V1, DURABLE_V2};
use smb_proto::fscc::fsctl::code;
use smb_proto::msg::create::context::{
    self, DurableV2Reconnect, DurableV2Request, LEASE_HANDLE, LEASE_READ, LEASE_WRITE, Lease, Writer,
};
use smb_proto::msg::create::{self, oplock, options};
use smb_proto::msg::lock::{self, Element, FLAG_EXCLUSIVE, FLAG_FAIL_IMMEDIATELY};
use smb_proto::msg::{FileId, ioctl, tree_disconnect};
use smb_proto::{Command, Status};

const GUID: [u8; 16] = [5; 16];
const RWH: u32 = LEASE_READ | LEASE_HANDLE | LEASE_WRITE;

fn opened(message: &Message) -> create::Response<'_> {
    assert_eq!(message.status(), Status::SUCCESS);
    create::Response::decode(&message.0).unwrap()
}

/// Opens with a batch oplock and one context more.
fn batch(client: &mut Client, name: &str, tag: &[u8], data: &[u8]) -> Message {
    let mut contexts = Writer::new();
    contexts.push(tag, data);
    client.open(&Open { oplock: oplock::BATCH, contexts: contexts.contexts(), ..Open::file(name) })
}

fn durable(client: &mut Client, name: &str) -> FileId {
    let answer = batch(client, name, context::DHNQ, &[0; 16]);
    assert!(opened(&answer).contexts.find(context::DHNQ).is_some(), "granted");
    answer.file_id()
}

fn back(client: &mut Client, id: FileId) -> Message {
    let mut data = Vec::new();
    id.encode(&mut data);
    batch(client, "whatever", context::DHNC, &data)
}

fn request_v2() -> Vec<u8> {
    DurableV2Request { timeout_ms: 0, flags: 0, create_guid: GUID }.encode()
}

fn back_v2(client: &mut Client, file_id: FileId, create_guid: [u8; 16]) -> Message {
    let data = DurableV2Reconnect { file_id, create_guid, flags: 0 }.encode();
    batch(client, "f", context::DH2C, &data)
}

fn lock(client: &mut Client, file_id: FileId) -> Status {
    let flags = FLAG_EXCLUSIVE | FLAG_FAIL_IMMEDIATELY;
    let locks = vec![Element { offset: 0, length: 10, flags }];
    let request = lock::Request { lock_sequence: 0, file_id, locks };
    client.request(Command::LOCK, |out| request.encode(out)).status()
}

#[test]
fn its_owner_has_it_back_with_its_locks() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let id = durable(&mut client, "f");
    assert_eq!(lock(&mut client, id), Status::SUCCESS);
    client.lose();
    let mut client = desk.client(2, "user");
    assert_eq!(client.write(id, 0, b"x"), Status::FILE_CLOSED, "not yet");
    let mut stranger = desk.client(3, "somebody");
    assert_eq!(back(&mut stranger, id).status(), Status::ACCESS_DENIED);
    let again = back(&mut client, id);
    let response = opened(&again);
    assert_eq!((response.file_id, response.oplock_level, response.create_action), (id, oplock::BATCH, 1));
    let waiting = back(&mut client, id);
    assert_eq!(waiting.status(), Status::PENDING, "it has a connection, which might be lost");
    assert_eq!(client.expire(&waiting)[0].status(), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(lock(&mut client, id), Status::LOCK_NOT_GRANTED, "held as before");
    assert_eq!(client.write(id, 0, b"x"), Status::SUCCESS);
}

#[test]
fn a_client_may_be_back_before_its_loss_is_seen() {
    let desk = Desk::new();
    let mut first = desk.client(1, "user");
    let id = durable(&mut first, "f");
    let mut second = desk.client(1, "user");
    assert_eq!(back(&mut second, id).status(), Status::PENDING);
    first.lose();
    let sent = second.poll();
    assert_eq!(opened(&sent[0]).file_id, id);
}

#[test]
fn without_its_cache_nothing_waits() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let mut contexts = Writer::new();
    contexts.push(context::DHNQ, &[0; 16]);
    let exclusive = Open { oplock: oplock::EXCLUSIVE, contexts: contexts.contexts(), ..Open::file("f") };
    let answer = client.open(&exclusive);
    assert!(opened(&answer).contexts.find(context::DHNQ).is_none());
    let id = answer.file_id();
    client.lose();
    assert_eq!(back(&mut desk.client(1, "user"), id).status(), Status::OBJECT_NAME_NOT_FOUND);
    assert!(desk.server.opens.is_empty());
}

#[test]
fn its_time_runs_out() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let id = durable(&mut client, "f");
    client.lose();
    desk.server.scavenge(Instant::now() + (DURABLE_V1 / 16) * 15);
    assert_eq!(desk.server.opens.len(), 1);
    desk.server.scavenge(Instant::now() + DURABLE_V1);
    assert!(desk.server.opens.is_empty());
    assert_eq!(back(&mut desk.client(1, "user"), id).status(), Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn who_needs_the_file_does_not_wait_for_a_client_that_is_away() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let mut contexts = Writer::new();
    contexts.push(context::DHNQ, &[0; 16]);
    let doomed = Open {
        oplock: oplock::BATCH,
        share: 0,
        options: options::DELETE_ON_CLOSE,
        contexts: contexts.contexts(),
        ..Open::file("f")
    };
    let id = client.open(&doomed).file_id();
    client.lose();
    let mut other = desk.client(2, "other");
    assert_eq!(other.open(&Open::file("f")).status(), Status::PENDING);
    let sent = other.poll();
    assert_eq!(opened(&sent[0]).create_action, 2, "deleted with its last open, and made anew");
    assert_eq!(back(&mut desk.client(1, "user"), id).status(), Status::OBJECT_NAME_NOT_FOUND);
}

/// A durable open under a lease.
fn durable_leased(client: &mut Client) -> FileId {
    let lease = Lease { key: [9; 16], state: RWH, flags: 0, v2: None }.encode();
    let mut contexts = Writer::new();
    contexts.push(context::RQLS, &lease).push(context::DHNQ, &[0; 16]);
    let open = Open { oplock: oplock::LEASE, contexts: contexts.contexts(), ..Open::file("f") };
    let answer = client.open(&open);
    assert!(opened(&answer).contexts.find(context::DHNQ).is_some(), "granted");
    answer.file_id()
}

/// A client's lease over two connections, of which both are lost, one with the break unanswered.
#[test]
fn nobody_waits_for_a_break_that_only_opens_without_a_client_could_answer() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "user"), desk.client(1, "user"));
    durable_leased(&mut first);
    durable_leased(&mut second);
    first.lose();
    let mut other = desk.client(2, "other");
    assert_eq!(other.open(&Open::file("f")).status(), Status::PENDING);
    assert_eq!(second.poll().len(), 1, "told where the client is still connected");
    second.lose();
    let sent = other.poll();
    assert_eq!(sent.len(), 1, "goes on at once");
    assert_eq!(opened(&sent[0]).create_action, 1);
}

#[test]
fn what_a_lease_kept_for_a_client_that_is_away_goes_with_its_handle_caching() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "user"), desk.client(1, "user"));
    let kept = durable_leased(&mut first);
    let used = durable_leased(&mut second);
    first.lose();
    let mut other = desk.client(2, "other");
    let alone = Open { share: 0, ..Open::file("f") };
    assert_eq!(other.open(&alone).status(), Status::PENDING);
    assert_eq!(second.poll().len(), 1);
    assert!(other.poll().is_empty(), "one is there to answer");
    assert_eq!(second.close(used), Status::SUCCESS);
    assert_eq!(opened(&other.poll()[0]).create_action, 1, "nothing of the lease is left");
    assert_eq!(back(&mut desk.client(1, "user"), kept).status(), Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn a_tree_disconnect_ends_it_and_a_logoff_does_not() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let id = durable(&mut client, "f");
    client.request(Command::TREE_DISCONNECT, |out| tree_disconnect::Request.encode(out));
    let mut client = desk.client(1, "user");
    assert_eq!(back(&mut client, id).status(), Status::OBJECT_NAME_NOT_FOUND);
    let id = durable(&mut client, "f");
    desk.server.remove_session(client.session.id);
    assert_eq!(back(&mut desk.client(1, "user"), id).status(), Status::SUCCESS);
}

#[test]
fn version_2_needs_its_guid_and_has_its_own_time() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let answer = batch(&mut client, "f", context::DH2Q, &request_v2());
    assert_eq!(opened(&answer).contexts.find(context::DH2Q).unwrap()[..4], 60_000u32.to_le_bytes());
    let id = answer.file_id();
    client.lose();
    let mut client = desk.client(1, "user");
    assert_eq!(back_v2(&mut client, id, [6; 16]).status(), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(back_v2(&mut client, id, GUID).status(), Status::SUCCESS);
    client.lose();
    desk.server.scavenge(Instant::now() + DURABLE_V2);
    assert!(desk.server.opens.is_empty());
}

#[test]
fn a_create_that_is_sent_again_has_the_same_answer() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let first = batch(&mut client, "f", context::DH2Q, &request_v2());
    assert_eq!(batch(&mut client, "f", context::DH2Q, &request_v2()).status(), Status::DUPLICATE_OBJECTID);
    let mut contexts = Writer::new();
    contexts.push(context::DH2Q, &request_v2());
    let open = Open { oplock: oplock::BATCH, contexts: contexts.contexts(), ..Open::file("f") };
    let again = client.replay(Command::CREATE, |out| open.encode(out));
    assert_eq!(opened(&again), opened(&first));
    assert_eq!(desk.server.opens.len(), 1);
    // Once the client has used it, it has heard of it.
    assert_eq!(client.write(first.file_id(), 0, b"x"), Status::SUCCESS);
    assert_eq!(
        client.replay(Command::CREATE, |out| open.encode(out)).status(),
        Status::PENDING,
        "breaks the first"
    );
}

#[test]
fn contexts_that_contradict_each_other_are_refused() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    for (first, second) in [
        (context::DHNQ, context::DH2Q),
        (context::DHNC, context::DH2C),
        (context::DH2Q, context::DH2C),
        (context::DHNQ, context::DH2C),
        (context::DHNC, context::DH2Q),
    ] {
        let mut contexts = Writer::new();
        contexts.push(first, &[0; 36]).push(second, &[0; 36]);
        let answer = client.open(&Open { contexts: contexts.contexts(), ..Open::file("f") });
        assert_eq!(answer.status(), Status::INVALID_PARAMETER, "{first:?} {second:?}");
    }
}

#[test]
fn a_leased_open_is_had_back_by_its_lease_and_name() {
    let desk = Desk::new();
    let open = |client: &mut Client, name: &str, key: u8, (tag, data): (&[u8], &[u8])| {
        let lease = Lease { key: [key; 16], state: RWH, flags: 0, v2: None };
        let mut contexts = Writer::new();
        contexts.push(context::RQLS, &lease.encode()).push(tag, data);
        client.open(&Open { oplock: oplock::LEASE, contexts: contexts.contexts(), ..Open::file(name) })
    };
    let mut client = desk.client(1, "user");
    let id = open(&mut client, "f", 1, (context::DHNQ, &[0; 16])).file_id();
    client.lose();
    let mut data = Vec::new();
    id.encode(&mut data);
    let asked = (context::DHNC, &data[..]);
    let mut client = desk.client(1, "user");
    assert_eq!(back(&mut client, id).status(), Status::OBJECT_NAME_NOT_FOUND, "without its lease");
    assert_eq!(open(&mut client, "f", 2, asked).status(), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(open(&mut client, "g", 1, asked).status(), Status::INVALID_PARAMETER);
    let mut other = desk.client(2, "user");
    assert_eq!(open(&mut other, "f", 1, asked).status(), Status::OBJECT_NAME_NOT_FOUND, "another client");
    let again = open(&mut client, "F", 1, asked);
    let lease = Lease::decode(opened(&again).contexts.find(context::RQLS).unwrap()).unwrap();
    assert_eq!(lease.state, RWH);
}

#[test]
fn a_resilient_open_waits_whatever_it_caches() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let id = client.open(&Open::file("f")).file_id();
    let mut resilient = |timeout: u32| {
        let mut input = timeout.to_le_bytes().to_vec();
        input.extend([0; 4]);
        let request = ioctl::Request::fsctl(id, code::LMR_REQUEST_RESILIENCY, &input, 0);
        client.request(Command::IOCTL, |out| request.encode(out)).status()
    };
    assert_eq!(resilient(u32::MAX), Status::INVALID_PARAMETER);
    assert_eq!(resilient(1000), Status::SUCCESS);
    client.lose();
    let mut client = desk.client(1, "user");
    assert_eq!(back(&mut client, id).status(), Status::SUCCESS);
    assert_eq!(client.write(id, 0, b"x"), Status::SUCCESS);
    client.lose();
    desk.server.scavenge(Instant::now() + Duration::from_secs(1));
    assert!(desk.server.opens.is_empty());
}

#[test]
fn a_restore_goes_on_over_lost_connections() {
    let desk = Desk::import(None);
    let mut client = desk.client(1, "user");
    begin(&mut client, "");
    let id = durable(&mut client, "w\\w-flat.vmdk");
    let data: Vec<u8> = (0..DISK_BYTES).map(|at| (at % 251) as u8).collect();
    for (number, part) in data.chunks(1 << 19).enumerate() {
        assert_eq!(client.write(id, (number << 19) as u64, part), Status::SUCCESS);
        client.lose();
        client = desk.client(1, "user");
        assert_eq!(back(&mut client, id).status(), Status::SUCCESS);
    }
    assert_eq!(client.close(id), Status::SUCCESS, "the extent is whole");
    assert_eq!(std::fs::read(desk.directory.path().join("ds/w/w-flat.vmdk")).unwrap(), data);
}

/// Linux and Windows put off the close of what they cache: the next step of a restore comes before it.
#[test]
fn a_vmx_has_clients_close_what_they_only_keep_open() {
    let desk = Desk::import(None);
    let mut client = desk.client(1, "user");
    begin(&mut client, "");
    let caching = |name| Open { oplock: oplock::BATCH, ..Open::file(name) };
    let level = |answer: &Message| create::Response::decode(&answer.0).unwrap().oplock_level;
    let extent = client.open(&caching("w\\w-flat.vmdk"));
    assert_eq!(level(&extent), oplock::BATCH);
    for part in 0..3 {
        assert_eq!(client.write(extent.file_id(), part << 20, &[7; 1 << 20]), Status::SUCCESS);
    }
    let mut second = desk.client(2, "user");
    assert_eq!(second.open(&caching("w\\w.vmx")).status(), Status::PENDING);
    assert_eq!(client.poll().len(), 1, "it is told");
    assert_eq!(client.close(extent.file_id()), Status::SUCCESS);
    let mut sent = second.poll();
    assert_eq!(sent.len(), 1);
    let vmx = sent.remove(0);
    assert_eq!((vmx.status(), level(&vmx)), (Status::SUCCESS, oplock::NONE), "its own close is not put off");
}
