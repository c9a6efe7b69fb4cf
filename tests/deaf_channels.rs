//! A client that hears nothing over one of its connections, though that one stands: a packet filter on its socket lets nothing in, so that
//! its TCP acknowledges nothing.
#![allow(clippy::unwrap_used)]

mod client;

use std::time::{Duration, Instant};

use client::{Answer, Client, Offer, Running};
use smb_proto::msg::create::{self, oplock};
use smb_proto::msg::oplock_break as wire;
use smb_proto::{Command, Status};

fn level(answer: &Answer) -> u8 {
    create::Response::decode(&answer.0).unwrap().oplock_level
}

/// A session's connection, and another channel of it.
fn two_channels(running: &Running) -> (Client, Client) {
    let (first, mut channel) = (running.login("alice"), running.connect());
    channel.negotiate(&Offer::default());
    assert_eq!(channel.bind(&first, "alice", "ALICE"), Status::SUCCESS);
    (first, channel)
}

/// Lets nothing in any more, neither data nor acknowledgements.
fn deafen(client: &Client) {
    let nothing = socket2::SockFilter::new(0x06, 0, 0, 0); // BPF_RET | BPF_K, 0 bytes
    socket2::SockRef::from(&client.stream).attach_filter(&[nothing]).unwrap();
}

#[test]
fn a_break_that_one_channel_does_not_get_across_reaches_another() {
    let running = Running::start(|_| {});
    let (mut first, mut channel) = two_channels(&running);
    first.post_create("f", oplock::BATCH);
    let held = first.receive().unwrap();
    assert_eq!((held.status(), level(&held)), (Status::SUCCESS, oplock::BATCH));
    deafen(&first);

    let mut other = running.login("bob");
    let asked = Instant::now();
    other.post_create("f", oplock::BATCH);
    assert_eq!(other.receive().unwrap().status(), Status::PENDING);
    let told = channel.receive().expect("the session's other channel, and it stands");
    assert_eq!(told.header().command, Command::OPLOCK_BREAK);
    // 35 s is what it takes to give up; TCP has sent it again four times in 3 s, and is asked every second.
    let took = asked.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(15)).contains(&took), "{took:?}");
    let request = wire::Request::Oplock(wire::Oplock { level: oplock::LEVEL_II, file_id: held.file_id() });
    assert_eq!(
        channel.request(Command::OPLOCK_BREAK, |out| request.encode(out)).unwrap().status(),
        Status::SUCCESS
    );
    let opened = other.receive().unwrap();
    assert_eq!((opened.status(), level(&opened)), (Status::SUCCESS, oplock::LEVEL_II));
    assert_eq!(running.server.session_count(), 2, "the session lives on by its other channel");
}

#[test]
fn a_client_that_only_takes_its_time_keeps_its_channel() {
    let running = Running::start(|_| {});
    let (mut first, _channel) = two_channels(&running);
    first.post_create("f", oplock::BATCH);
    let held = first.receive().unwrap().file_id();
    let mut other = running.login("bob");
    other.post_create("f", oplock::BATCH);
    assert_eq!(other.receive().unwrap().status(), Status::PENDING);
    std::thread::sleep(Duration::from_secs(6)); // its TCP has acknowledged; it has not
    assert_eq!(first.receive().unwrap().header().command, Command::OPLOCK_BREAK);
    let request = wire::Request::Oplock(wire::Oplock { level: oplock::NONE, file_id: held });
    assert_eq!(
        first.request(Command::OPLOCK_BREAK, |out| request.encode(out)).unwrap().status(),
        Status::SUCCESS
    );
    assert_eq!(other.receive().unwrap().status(), Status::SUCCESS);
}
