//! Sessions over real sockets: authenticated again, bound to several connections, lost, ended while something is under way;
//! and what signatures and encryption must not let through.

#![allow(clippy::unwrap_used)]

mod client;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, Offer, Running};
use importfs::share::directory::DirectoryShare;
use importfs::share::ipc::IpcShare;
use importfs::smb::server::{Encryption, ShareKind};
use smb_proto::codec::Put;
use smb_proto::msg::{FileId, flush, ioctl, lock, logoff, read, tree_disconnect, write};
use smb_proto::rpc::{Provider, ShareInfo};
use smb_proto::{Command, Header, Status};

fn flush(client: &mut Client, file_id: FileId) -> Option<Status> {
    client.request(Command::FLUSH, |out| flush::Request { file_id }.encode(out)).map(|answer| answer.status())
}

fn log_off(client: &mut Client) -> Status {
    client.request(Command::LOGOFF, |out| logoff::Request.encode(out)).unwrap().status()
}

/// A second connection of the same client, bound to the session of the first.
fn channel(running: &Running, first: &Client) -> Client {
    let mut second = running.connect();
    second.negotiate(&Offer::default());
    assert_eq!(second.bind(first, "alice", "ALICE"), Status::SUCCESS);
    second
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_session_authenticates_again_with_its_keys_and_opens() {
    let running = Running::start(|_| {});
    let mut client = running.login("alice");
    let file = client.create("a").file_id();
    assert_eq!(client.login("alice"), Status::SUCCESS);
    assert_eq!(flush(&mut client, file), Some(Status::SUCCESS));
    assert_eq!(client.login("bob"), Status::SUCCESS, "another user may take it over");
    assert_eq!(flush(&mut client, file), Some(Status::SUCCESS));
}

#[test]
fn who_takes_a_session_over_keeps_only_the_shares_that_admit_him() {
    let running = Running::start(|settings| {
        Arc::get_mut(&mut settings.shares[0]).unwrap().users = vec!["alice".into()];
    });
    let mut client = running.login("alice");
    let file = client.create("a").file_id();
    assert_eq!(client.login("bob"), Status::SUCCESS);
    assert_eq!(flush(&mut client, file), Some(Status::NETWORK_NAME_DELETED));
    assert_eq!(client.tree_connect("dir"), Status::ACCESS_DENIED);
    assert!(running.server.opens.is_empty());
}

#[test]
fn who_fails_to_authenticate_again_has_no_session_any_more_on_any_channel() {
    let running = Running::start(|_| {});
    let mut first = running.login("alice");
    let file = first.create("a").file_id();
    let mut second = channel(&running, &first);
    assert_eq!(second.login_with("alice", "wrong", 0, 0), Status::LOGON_FAILURE);
    assert_eq!(flush(&mut first, file), Some(Status::USER_SESSION_DELETED));
    assert_eq!(flush(&mut second, file), Some(Status::USER_SESSION_DELETED));
    assert!(running.server.opens.is_empty());
}

#[test]
fn only_its_own_user_replaces_a_session_that_was_lost() {
    let running = Running::start(|_| {});
    let mut lost = running.login("alice");
    let file = lost.create("a").file_id();
    for (user, left) in [("bob", Status::SUCCESS), ("alice", Status::USER_SESSION_DELETED)] {
        let mut other = running.connect();
        other.negotiate(&Offer::default());
        assert_eq!(other.login_with(user, &user.to_uppercase(), 0, lost.session_id), Status::SUCCESS);
        assert_eq!(flush(&mut lost, file), Some(left), "{user}");
    }
}

#[test]
fn channels_share_opens_and_the_session_lives_as_long_as_one_of_them() {
    let running = Running::start(|_| {});
    let mut first = running.login("alice");
    let file = first.create("a").file_id();
    let mut second = channel(&running, &first);
    assert_eq!(flush(&mut second, file), Some(Status::SUCCESS));
    assert_eq!(flush(&mut first, file), Some(Status::SUCCESS));
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(flush(&mut second, file), Some(Status::SUCCESS));
    let id = second.session_id;
    drop(second);
    eventually("the session ends", || running.server.session(id).is_none());
    eventually("its file is closed", || running.server.opens.is_empty());
}

#[test]
fn a_logoff_ends_the_session_on_every_channel() {
    let running = Running::start(|_| {});
    let mut first = running.login("alice");
    let file = first.create("a").file_id();
    let mut second = channel(&running, &first);
    assert_eq!(log_off(&mut second), Status::SUCCESS);
    assert_eq!(flush(&mut first, file), Some(Status::USER_SESSION_DELETED));
    assert_eq!(flush(&mut second, file), Some(Status::USER_SESSION_DELETED));
}

#[test]
fn a_channel_signs_with_its_own_key() {
    let running = Running::start(|settings| settings.signing_required = true);
    let mut first = running.login("alice");
    let file = first.create("a").file_id();
    let mut second = channel(&running, &first);
    std::mem::swap(&mut first.keys, &mut second.keys);
    assert_eq!(flush(&mut second, file), Some(Status::ACCESS_DENIED));
    assert_eq!(flush(&mut first, file), Some(Status::ACCESS_DENIED));
    std::mem::swap(&mut first.keys, &mut second.keys);
    assert_eq!(flush(&mut second, file), Some(Status::SUCCESS));
}

#[test]
fn what_may_not_be_bound_is_refused_and_harms_no_session() {
    let running = Running::start(|_| {});
    let mut first = running.connect();
    let offer = Offer { signing: vec![1, 0], ..Offer::default() };
    first.negotiate(&offer);
    assert_eq!((first.login("alice"), first.tree_connect("dir")), (Status::SUCCESS, Status::SUCCESS));
    let file = first.create("a").file_id();
    let changed = |change: &dyn Fn(&mut Offer)| {
        let mut other = offer.clone();
        change(&mut other);
        other
    };
    let cases = [
        ("another user", offer.clone(), "bob", "BOB", true, Status::ACCESS_DENIED),
        ("a wrong password", offer.clone(), "alice", "x", true, Status::LOGON_FAILURE),
        ("no signature", offer.clone(), "alice", "ALICE", false, Status::INVALID_PARAMETER),
        (
            "SMB 2.1",
            changed(&|o| o.dialects = vec![0x0210]),
            "alice",
            "ALICE",
            true,
            Status::REQUEST_NOT_ACCEPTED,
        ),
        (
            "SMB 3.0",
            changed(&|o| o.dialects = vec![0x0300]),
            "alice",
            "ALICE",
            true,
            Status::INVALID_PARAMETER,
        ),
        (
            "another cipher",
            changed(&|o| o.ciphers = vec![1]),
            "alice",
            "ALICE",
            true,
            Status::INVALID_PARAMETER,
        ),
        ("GMAC", changed(&|o| o.signing = vec![2]), "alice", "ALICE", true, Status::NOT_SUPPORTED),
        (
            "another client",
            changed(&|o| o.guid = [2; 16]),
            "alice",
            "ALICE",
            true,
            Status::USER_SESSION_DELETED,
        ),
    ];
    for (what, offer, user, password, sign, expected) in cases {
        let mut other = running.connect();
        other.negotiate(&offer);
        other.sign = sign;
        assert_eq!(other.bind(&first, user, password), expected, "{what}");
        other.keys = None;
        assert_eq!(flush(&mut other, file), Some(Status::USER_SESSION_DELETED), "{what}");
        assert_eq!(flush(&mut first, file), Some(Status::SUCCESS), "{what}");
    }
    // By a key of another session, and a session that never was.
    let (mut other, stranger) = (running.connect(), running.login("bob"));
    other.negotiate(&offer);
    let id = first.session_id;
    first.session_id = u64::MAX;
    assert_eq!(other.bind(&first, "alice", "ALICE"), Status::USER_SESSION_DELETED);
    first.session_id = id;
    let own = std::mem::replace(&mut first.keys, stranger.keys);
    let mut other = running.connect();
    other.negotiate(&offer);
    assert_eq!(other.bind(&first, "alice", "ALICE"), Status::ACCESS_DENIED);
    first.keys = own;
    assert_eq!(flush(&mut first, file), Some(Status::SUCCESS));
}

#[test]
fn without_multichannel_nothing_is_bound_or_offered() {
    let running = Running::start(|settings| settings.multichannel = None);
    let first = running.login("alice");
    let mut other = running.connect();
    other.negotiate(&Offer::default());
    assert_eq!(other.bind(&first, "alice", "ALICE"), Status::REQUEST_NOT_ACCEPTED);
}

#[test]
fn sessions_bound_and_ended_at_once_leave_nothing() {
    let running = Running::start(|_| {});
    for round in 0..30 {
        let mut first = running.login("alice");
        first.create("a");
        let id = first.session_id;
        let mut others: Vec<_> = (0..3)
            .map(|_| {
                let mut other = running.connect();
                other.negotiate(&Offer::default());
                other
            })
            .collect();
        std::thread::scope(|scope| {
            for other in &mut others {
                let first = &first;
                scope.spawn(move || other.bind(first, "alice", "ALICE"));
            }
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(200 * round));
                running.server.remove_session(id)
            });
        });
        eventually("the session is gone", || running.server.session(id).is_none());
        eventually("its file is closed", || running.server.opens.is_empty());
    }
}

#[test]
fn a_login_that_ends_after_its_connection_leaves_no_session() {
    let running = Running::start(|_| {});
    for round in 0..50 {
        let mut client = running.connect();
        client.negotiate(&Offer::default());
        let stream = client.stream.try_clone().unwrap();
        let login = std::thread::spawn(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.login("alice"))).is_ok()
        });
        std::thread::sleep(Duration::from_micros(100 * round));
        let _ = stream.shutdown(std::net::Shutdown::Both); // the login may have cut it already
        let _ = login.join();
    }
    eventually("no session is left", || running.server.session_count() == 0);
}

#[test]
fn a_request_that_waits_is_answered_when_its_session_or_tree_goes() {
    let running = Running::start(|_| {});
    let mut holder = running.login("alice");
    let held = holder.create("a").file_id();
    let exclusive = lock::Element { offset: 0, length: 10, flags: lock::FLAG_EXCLUSIVE };
    let wait = |client: &mut Client, file_id| {
        let locks = vec![exclusive];
        let answer = client
            .request(Command::LOCK, |out| lock::Request { lock_sequence: 0, file_id, locks }.encode(out));
        answer.unwrap().status()
    };
    assert_eq!(wait(&mut holder, held), Status::SUCCESS);
    for end in [Command::LOGOFF, Command::TREE_DISCONNECT] {
        let mut waiter = running.login("alice");
        let file = waiter.create("a").file_id();
        assert_eq!(wait(&mut waiter, file), Status::PENDING);
        waiter.post(end, |out| match end {
            Command::LOGOFF => logoff::Request.encode(out),
            _ => tree_disconnect::Request.encode(out),
        });
        let answers = [waiter.receive().unwrap(), waiter.receive().unwrap()];
        let of = |command| answers.iter().find(|answer| answer.header().command == command).unwrap().status();
        assert_eq!((of(end), of(Command::LOCK)), (Status::SUCCESS, Status::RANGE_NOT_LOCKED));
    }
}

#[test]
fn unsigned_and_wrongly_signed_requests_are_refused_where_signing_is_required() {
    let running = Running::start(|settings| settings.signing_required = true);
    let mut client = running.login("alice");
    let file = client.create("a").file_id();
    client.sign = false;
    assert_eq!(flush(&mut client, file), Some(Status::ACCESS_DENIED));
    client.sign = true;
    let mut other = running.login("bob");
    std::mem::swap(&mut client.keys, &mut other.keys);
    assert_eq!(flush(&mut client, file), Some(Status::ACCESS_DENIED), "signed by another session");
    std::mem::swap(&mut client.keys, &mut other.keys);
    assert_eq!(flush(&mut client, file), Some(Status::SUCCESS));
    client.sign = false;
    assert_eq!(log_off(&mut client), Status::ACCESS_DENIED);
    client.keys = None;
    assert_eq!(client.login("alice"), Status::ACCESS_DENIED, "nobody else can end it by a failed login");
}

#[test]
fn what_must_be_encrypted_is_refused_in_the_clear() {
    let running = Running::start(|settings| {
        Arc::get_mut(&mut settings.shares[0]).unwrap().encrypt = true;
    });
    let mut client = running.login("alice");
    assert_eq!(client.create("a").status(), Status::ACCESS_DENIED);
    client.seal = true;
    assert_eq!(client.create("a").status(), Status::SUCCESS);
    let mut old = running.connect();
    old.negotiate(&Offer { dialects: vec![0x0210], ..Offer::default() });
    assert_eq!(old.login("alice"), Status::SUCCESS);
    assert_eq!(old.tree_connect("dir"), Status::ACCESS_DENIED, "it can't encrypt at all");

    let running = Running::start(|settings| settings.encryption = Encryption::Required);
    let mut client = running.connect();
    client.negotiate(&Offer::default());
    assert_eq!(client.login("alice"), Status::SUCCESS);
    assert_eq!(client.tree_connect("dir"), Status::ACCESS_DENIED);
    client.seal = true;
    assert_eq!(client.tree_connect("dir"), Status::SUCCESS);
    let mut old = running.connect();
    old.negotiate(&Offer { dialects: vec![0x0210], ..Offer::default() });
    assert_eq!(old.login("alice"), Status::ACCESS_DENIED);
}

#[test]
fn what_one_session_has_encrypted_is_no_other_sessions_request() {
    let running = Running::start(|_| {});
    let mut alice = running.login("alice");
    let file = alice.create("a").file_id();
    let key_of = alice.session_id;
    // A second session on the same connection; its requests come wrapped in the first one's key.
    let (keys, tree) = (alice.keys.take(), alice.tree_id);
    alice.session_id = 0;
    assert_eq!(alice.login("bob"), Status::SUCCESS);
    let bobs = std::mem::replace(&mut alice.session_id, key_of);
    alice.keys = keys;
    alice.tree_id = tree;
    alice.seal = true;
    let header = Header { session_id: bobs, ..alice.header(Command::FLUSH) };
    let mut message = Vec::new();
    header.encode(&mut message);
    flush::Request { file_id: file }.encode(&mut message);
    alice.send(message).unwrap();
    assert!(alice.receive().is_none(), "the connection is cut");
}

#[test]
fn no_nonce_comes_twice() {
    use std::io::Read;
    let running = Running::start(|_| {});
    let mut client = running.login("alice");
    let file = client.create("a").file_id();
    client.seal = true;
    let mut nonces = std::collections::HashSet::new();
    for _ in 0..200 {
        client.post(Command::FLUSH, |out| flush::Request { file_id: file }.encode(out));
        let mut head = [0; 4];
        client.stream.read_exact(&mut head).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(head) as usize];
        client.stream.read_exact(&mut frame).unwrap();
        assert!(frame.starts_with(b"\xfdSMB"));
        assert!(nonces.insert(frame[20..36].to_vec()));
    }
}

#[test]
fn interfaces_are_told_where_several_connections_are_allowed() {
    let addresses = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let running = Running::start(|settings| settings.multichannel = Some(addresses));
    let mut client = running.login("alice");
    let request = |room| ioctl::Request::fsctl(FileId::ANY, 0x0014_01FC, &[], room);
    let answer = client.request(Command::IOCTL, |out| request(4096).encode(out)).unwrap();
    let response = ioctl::Response::decode(&answer.0).unwrap();
    let list: Vec<_> =
        response.output.chunks(152).map(|entry| (entry[0], entry[24], entry[28..32].to_vec())).collect();
    let expected = [(152, 2, vec![127, 0, 0, 1]), (152, 2, vec![192, 0, 2, 7]), (0, 0x17, vec![0, 0, 0, 0])];
    assert_eq!(list, expected);
    let answer = client.request(Command::IOCTL, |out| request(300).encode(out)).unwrap();
    assert_eq!(answer.status(), Status::BUFFER_TOO_SMALL);
}

struct About;

impl Provider for About {
    fn shares(&self) -> Vec<ShareInfo> {
        Vec::new()
    }
    fn server_name(&self) -> String {
        "TEST".into()
    }
    fn domain(&self) -> String {
        "WORKGROUP".into()
    }
    fn comment(&self) -> String {
        String::new()
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// A bind to srvsvc over NDR (C706 12.6.4.3).
fn bind_pdu() -> Vec<u8> {
    let mut pdu = vec![5, 0, 11, 3, 0x10, 0, 0, 0, 72, 0, 0, 0, 1, 0, 0, 0];
    pdu.put_slice(&[0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    pdu.put_slice(&[0xc8, 0x4f, 0x32, 0x4b, 0x70, 0x16, 0xd3, 0x01, 0x12, 0x78]);
    pdu.put_slice(&[0x5a, 0x47, 0xbf, 0x6e, 0xe1, 0x88, 3, 0, 0, 0]);
    pdu.put_slice(&[0x04, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8]);
    pdu.put_slice(&[0x08, 0x00, 0x2b, 0x10, 0x48, 0x60, 2, 0, 0, 0]);
    pdu
}

#[test]
fn a_pipe_is_written_and_read_and_a_read_waits_for_an_answer() {
    let running = Running::start(|settings| {
        let mut pipes = client::entry("IPC$", Arc::new(IpcShare::new(Arc::new(About))));
        pipes.kind = ShareKind::Pipe;
        settings.shares.push(Arc::new(pipes));
    });
    let mut client = running.login("alice");
    assert_eq!(client.tree_connect("IPC$"), Status::SUCCESS);
    let pipe = client.create("srvsvc").file_id();
    let waiting = client.request(Command::READ, |out| read::Request::new(pipe, 0, 24).encode(out)).unwrap();
    assert_eq!(waiting.status(), Status::PENDING);
    let pdu = bind_pdu();
    client.post(Command::WRITE, |out| {
        let request = write::Request::new(pipe, 0, &pdu);
        request.encode(out);
    });
    let answers = [client.receive().unwrap(), client.receive().unwrap()];
    let of = |command| answers.iter().find(|answer| answer.header().command == command).unwrap();
    assert_eq!(of(Command::WRITE).status(), Status::SUCCESS);
    assert_eq!(of(Command::READ).status(), Status::BUFFER_OVERFLOW, "there is more of the message");
    let first = read::Response::decode(&of(Command::READ).0).unwrap().data.to_vec();
    assert_eq!((first.len(), first[2]), (24, 12));
    let rest = client.request(Command::READ, |out| read::Request::new(pipe, 0, 4096).encode(out)).unwrap();
    assert_eq!(rest.status(), Status::SUCCESS);
    let length = usize::from(u16::from_le_bytes([first[8], first[9]]));
    assert_eq!(read::Response::decode(&rest.0).unwrap().data.len(), length - 24);
}

#[test]
fn shares_are_apart() {
    let second = tempfile::tempdir().unwrap();
    let running = Running::start(|settings| {
        let mut other =
            client::entry("other", Arc::new(DirectoryShare::open(second.path(), "other").unwrap()));
        other.users = vec!["bob".into()];
        settings.shares.push(Arc::new(other));
    });
    let mut alice = running.login("alice");
    assert_eq!(alice.tree_connect("other"), Status::ACCESS_DENIED);
    assert_eq!(alice.tree_connect("none"), Status::BAD_NETWORK_NAME);
    let mut bob = running.login("Bob");
    let of_dir = bob.create("a").file_id();
    assert_eq!(bob.tree_connect("OTHER"), Status::SUCCESS);
    assert_eq!(flush(&mut bob, of_dir), Some(Status::FILE_CLOSED), "a file of another tree");
}
