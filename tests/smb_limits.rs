//! What a client may take of the server: credits, memory, connections, time; and that others go on meanwhile.

#![allow(clippy::unwrap_used)]

mod client;

use std::io::Write;
use std::time::{Duration, Instant};

use client::{Client, Offer, Running};
use importfs::smb::limits::Limits;
use smb_proto::msg::{FileId, echo, flush, read, write};
use smb_proto::{Command, Header, Status};

const MIB: usize = 1 << 20;

type MakeHeader = fn(&mut Client) -> Header;

/// A request that pays `charge`.
fn post(client: &mut Client, command: Command, charge: u16, encode: impl FnOnce(&mut Vec<u8>)) {
    let header = Header { credit_charge: charge, ..client.header(command) };
    client.next_id += u64::from(charge.max(1)) - 1;
    let mut message = Vec::new();
    header.encode(&mut message);
    encode(&mut message);
    client.send(message).unwrap();
}

fn post_write(client: &mut Client, file_id: FileId, data: &[u8], offset: u64, charge: u16) {
    post(client, Command::WRITE, charge, |out| write::Request::new(file_id, offset, data).encode(out));
}

fn post_read(client: &mut Client, file_id: FileId, length: u32, charge: u16) {
    post(client, Command::READ, charge, |out| read::Request::new(file_id, 0, length).encode(out));
}

/// Collects credits for a few large requests.
fn earn(client: &mut Client) {
    for _ in 0..20 {
        assert_eq!(
            client.request(Command::ECHO, |out| echo::Request.encode(out)).unwrap().status(),
            Status::SUCCESS
        );
    }
}

#[test]
fn a_request_pays_for_what_it_moves() {
    let running = Running::start(|_| {});
    let mut client = running.login("alice");
    earn(&mut client);
    let file = client.create("a").file_id();
    post_write(&mut client, file, &[7; 65_537], 0, 1);
    assert_eq!(client.receive().unwrap().status(), Status::INVALID_PARAMETER);
    assert_eq!(
        std::fs::metadata(running.directory.path().join("a")).unwrap().len(),
        0,
        "nothing was written"
    );
    post_write(&mut client, file, &[7; 65_537], 0, 2);
    assert_eq!(client.receive().unwrap().status(), Status::SUCCESS);
    post_read(&mut client, file, 65_537, 1);
    assert_eq!(client.receive().unwrap().status(), Status::INVALID_PARAMETER);
    post_read(&mut client, file, 65_537, 2);
    let answer = client.receive().unwrap();
    assert_eq!((answer.status(), answer.0.len()), (Status::SUCCESS, 64 + 16 + 65_537));
}

#[test]
fn ids_that_were_used_or_never_granted_end_the_connection() {
    let cases: [(&str, MakeHeader); 4] = [
        ("used", |client| Header { message_id: 2, ..client.header(Command::ECHO) }),
        ("never granted", |client| Header { message_id: 100_000, ..client.header(Command::ECHO) }),
        ("a charge past the window", |client| Header {
            credit_charge: u16::MAX,
            ..client.header(Command::ECHO)
        }),
        ("ids that wrap", |client| Header {
            message_id: u64::MAX,
            credit_charge: 2,
            ..client.header(Command::ECHO)
        }),
    ];
    let running = Running::start(|_| {});
    for (what, make) in cases {
        let mut client = running.login("alice");
        let header = make(&mut client);
        let mut message = Vec::new();
        header.encode(&mut message);
        echo::Request.encode(&mut message);
        client.send(message).unwrap();
        assert!(client.receive().is_none(), "{what}");
    }
    assert_eq!(running.login("alice").create("a").status(), Status::SUCCESS);
}

/// A Linux client that gives back many handles at once sends their CLOSEs in one segment.
#[test]
fn many_quick_requests_in_one_segment_are_all_answered() {
    const AT_ONCE: usize = 100;
    let running = Running::start(|_| {});
    let mut client = running.login("alice");
    earn(&mut client);
    let mut segment = Vec::new();
    for _ in 0..AT_ONCE {
        let mut message = Vec::new();
        client.header(Command::ECHO).encode(&mut message);
        echo::Request.encode(&mut message);
        segment.extend((message.len() as u32).to_be_bytes());
        segment.extend(message);
    }
    client.stream.write_all(&segment).unwrap();
    for number in 0..AT_ONCE {
        let answer = client.receive().unwrap_or_else(|| panic!("no answer after {number}"));
        assert_eq!(answer.status(), Status::SUCCESS);
    }
}

#[test]
fn many_writers_share_a_small_budget() {
    let running = Running::start(|settings| {
        settings.limits = Limits { bytes_in_flight: 4 * MIB, ..Limits::default() };
    });
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let running = &running;
            scope.spawn(move || {
                let mut client = running.login("alice");
                earn(&mut client);
                let file = client.create(&format!("f{writer}")).file_id();
                for block in 0..16 {
                    post_write(&mut client, file, &vec![writer; MIB], block * MIB as u64, 16);
                }
                for _ in 0..16 {
                    assert_eq!(client.receive().unwrap().status(), Status::SUCCESS);
                }
            });
        }
    });
    for writer in 0..8u8 {
        let written = std::fs::read(running.directory.path().join(format!("f{writer}"))).unwrap();
        assert!(written.len() == 16 * MIB && written.iter().all(|byte| *byte == writer), "writer {writer}");
    }
    assert_eq!(running.server.budget.free(), 4 * MIB, "all was given back");
}

#[test]
fn a_client_that_does_not_read_starves_no_other() {
    let running = Running::start(|settings| {
        settings.limits = Limits { bytes_in_flight: 8 * MIB, ..Limits::default() };
    });
    let mut lazy = running.login("alice");
    earn(&mut lazy);
    let file = lazy.create("a").file_id();
    post_write(&mut lazy, file, &vec![1; MIB], 0, 16);
    assert_eq!(lazy.receive().unwrap().status(), Status::SUCCESS);
    for _ in 0..40 {
        post_read(&mut lazy, file, MIB as u32, 16);
    }
    let begun = Instant::now();
    let mut other = running.login("bob");
    earn(&mut other);
    let file = other.create("b").file_id();
    for block in 0..8 {
        post_write(&mut other, file, &vec![2; MIB], block * MIB as u64, 16);
        assert_eq!(other.receive().unwrap().status(), Status::SUCCESS);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for the other: {:?}", begun.elapsed());
    drop(lazy);
    let deadline = Instant::now() + Duration::from_secs(10);
    while running.server.budget.free() != 8 * MIB {
        assert!(Instant::now() < deadline, "what the lazy client held was never given back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn connections_and_sessions_are_limited() {
    let running = Running::start(|settings| {
        settings.limits =
            Limits { connections_per_address: 3, sessions_per_connection: 2, ..Limits::default() };
    });
    let mut client = running.login("alice");
    let first = client.session_id;
    client.keys = None;
    for expected in [Status::SUCCESS, Status::INSUFFICIENT_RESOURCES] {
        client.session_id = 0;
        assert_eq!(client.login("bob"), expected);
        client.keys = None;
    }
    assert!(running.server.session(first).is_some());
    let others = [running.connect(), running.connect()];
    let mut refused = running.connect();
    let _ = refused.stream.write_all(&[0, 0, 0, 0]); // it may be cut already
    assert!(refused.receive().is_none());
    drop(others);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(running.login("alice").create("a").status(), Status::SUCCESS);
}

#[test]
fn who_does_not_log_in_is_cut_after_a_time_and_some_bytes() {
    let running = Running::start(|settings| {
        settings.limits =
            Limits { login_time: Duration::from_millis(400), login_bytes: 300 << 10, ..Limits::default() };
    });
    let begun = Instant::now();
    let mut silent = running.connect();
    silent.negotiate(&Offer::default());
    assert!(silent.receive().is_none());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let mut talker = running.connect();
    talker.negotiate(&Offer::default());
    let answers = (0..10)
        .take_while(|_| {
            talker.keys = None;
            let mut message = Vec::new();
            talker.header(Command::SESSION_SETUP).encode(&mut message);
            message.resize(100 << 10, 0);
            talker.send_frame(&message).is_ok() && talker.receive().is_some()
        })
        .count();
    assert!(answers < 3, "it was let send {answers} times 100 KiB");
    let mut member = running.login("alice");
    std::thread::sleep(Duration::from_millis(600));
    let file = member.create("a").file_id();
    let flushed = member.request(Command::FLUSH, |out| flush::Request { file_id: file }.encode(out));
    assert_eq!(flushed.unwrap().status(), Status::SUCCESS, "who is logged in has time");
}
