//! A client may send as many requests as it has credits for before it reads an answer, cut into segments as TCP likes. Whatever they
//! are, each gets its one answer: none is waited for by the server while it waits for the client.

#![allow(clippy::unwrap_used)]

mod client;

use std::collections::BTreeSet;
use std::io::Write;

use client::{Client, Running};
use proptest::collection::vec;
use proptest::prelude::*;
use smb_proto::fscc::info::class;
use smb_proto::msg::query_info::info_type;
use smb_proto::msg::{FileId, close, echo, flush, lock, query_directory, query_info, read, write};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Flags, Status};

/// Requests at once: fewer than the credits that [`earn`] collects.
const AT_ONCE_MAX: usize = 200;
const FILES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Echo,
    Read(usize, u32),
    Write(usize, usize),
    Flush(usize),
    Size(usize),
    List,
    Lock(usize, u64),
    /// Closes a file, which fails what comes later for it.
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Echo),
        2 => (0..FILES, 1..60_000_u32).prop_map(|(file, length)| Step::Read(file, length)),
        2 => (0..FILES, 1..20_000_usize).prop_map(|(file, length)| Step::Write(file, length)),
        1 => (0..FILES).prop_map(Step::Flush),
        4 => (0..FILES).prop_map(Step::Size),
        1 => Just(Step::List),
        2 => (0..FILES, 0..50_u64).prop_map(|(file, at)| Step::Lock(file, at)),
        1 => (0..FILES).prop_map(Step::Close),
    ]
}

fn earn(client: &mut Client) {
    for _ in 0..5 {
        client.request(Command::ECHO, |out| echo::Request.encode(out)).unwrap();
    }
}

fn post(client: &mut Client, step: &Step, files: &[FileId; FILES]) {
    match *step {
        Step::Echo => client.post(Command::ECHO, |out| echo::Request.encode(out)),
        Step::Read(file, length) => {
            client.post(Command::READ, |out| read::Request::new(files[file], 0, length).encode(out));
        }
        Step::Write(file, length) => {
            let data = vec![7; length];
            client.post(Command::WRITE, |out| write::Request::new(files[file], 0, &data).encode(out));
        }
        Step::Flush(file) => {
            client.post(Command::FLUSH, |out| flush::Request { file_id: files[file] }.encode(out));
        }
        Step::Size(file) => {
            let request = query_info::Request {
                info_type: info_type::FILE,
                info_class: class::STANDARD,
                output_buffer_length: 24,
                additional_information: 0,
                flags: 0,
                file_id: files[file],
                input: &[],
            };
            client.post(Command::QUERY_INFO, |out| request.encode(out));
        }
        Step::List => {
            let pattern = utf16::encode("*");
            let request = query_directory::Request {
                info_class: 1,
                flags: 0,
                file_index: 0,
                file_id: files[0], // no directory: an error is an answer, too
                output_buffer_length: 1000,
                pattern: Utf16(&pattern),
            };
            client.post(Command::QUERY_DIRECTORY, |out| request.encode(out));
        }
        Step::Lock(file, offset) => {
            let locks = vec![lock::Element {
                offset,
                length: 1,
                flags: lock::FLAG_EXCLUSIVE | lock::FLAG_FAIL_IMMEDIATELY,
            }];
            let request = lock::Request { lock_sequence: 0, file_id: files[file], locks };
            client.post(Command::LOCK, |out| request.encode(out));
        }
        Step::Close(file) => {
            let request = close::Request { flags: 0, file_id: files[file] };
            client.post(Command::CLOSE, |out| request.encode(out));
        }
    }
}

/// Sends all of it, cut as `cuts` say, and counts the answers.
fn exchange(running: &Running, steps: &[Step], cuts: &[usize], seal: bool) {
    let mut client = running.login("alice");
    earn(&mut client);
    let files = ["a", "b", "c"].map(|name| client.create(name).file_id());
    client.seal = seal;
    client.held_back = Some(Vec::new());
    let first = client.next_id;
    for step in steps {
        post(&mut client, step, &files);
    }
    let mut rest = client.held_back.take().unwrap();
    for cut in cuts {
        let tail = rest.split_off((*cut).min(rest.len()));
        client.stream.write_all(&rest).unwrap();
        rest = tail;
    }
    client.stream.write_all(&rest).unwrap();
    let mut missing: BTreeSet<u64> = (first..client.next_id).collect();
    while !missing.is_empty() {
        let answer = client.receive().unwrap_or_else(|| panic!("no answer to {missing:?} of {steps:?}"));
        let header = answer.header();
        if header.status == Status::PENDING && header.flags.contains(Flags::ASYNC_COMMAND) {
            continue;
        }
        assert!(
            missing.remove(&header.message_id),
            "{} is answered twice, or nobody asked",
            header.message_id
        );
    }
}

proptest! {
    // Each try at a smaller failure costs the patience of a client.
    #![proptest_config(ProptestConfig { max_shrink_iters: 8, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn every_request_of_a_pipeline_is_answered_once(
        steps in vec(step(), 1..AT_ONCE_MAX), cuts in vec(1..9_000_usize, 0..6), seal in any::<bool>(),
    ) {
        let running = Running::start(|_| {});
        exchange(&running, &steps, &cuts, seal);
    }
}

/// Bytes in flight for few of them: requests wait for room, and none for what waits for it.
#[test]
fn a_small_budget_slows_a_pipeline_and_stops_none() {
    let running = Running::start(|settings| settings.limits.bytes_in_flight = 256 << 10);
    let steps: Vec<_> = (0..AT_ONCE_MAX)
        .map(|number| match number % 4 {
            0 => Step::Read(number % FILES, 60_000),
            1 => Step::Write(number % FILES, 20_000),
            _ => Step::Size(number % FILES),
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| exchange(&running, &steps, &[5_000, 100, 70_000], false));
        }
    });
}
