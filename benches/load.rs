//! A pipelined client for measurements: `cargo bench --bench load -- --address 127.0.0.1:4450 --share dir …`.
//!
//! Each connection is a thread that keeps `--depth` requests in flight. Prints one JSON object: operations and bytes a
//! second, and the client's own CPU seconds. `benches/load.py` runs it against importfs and Samba in turns. The password comes
//! from the environment variable IMPORTFS_PASSWORD.

use std::collections::VecDeque;
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use smb_proto::msg::create::{disposition, options};
use smb_proto::msg::{FileId, close, echo, query_info};
use smb_proto::testing::{Client, ClientError, Draft, Link, Offer, Peer, Protection};
use smb_proto::{Command, Flags};

/// A server that says nothing for this long has failed.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// Bytes of the small file of `--work small`.
const SMALL: usize = 4096;
/// FileNetworkOpenInformation (MS-FSCC 2.4.29) and InfoType of files.
const NETWORK_OPEN: (u8, u8) = (1, 34);

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Writes a file of its own from start to end, and closes it.
    Put,
    /// Writes over the file that is there.
    Over,
    /// Reads the file from start to end.
    Get,
    /// Makes a file, writes 4 KiB, closes it: one compound.
    Small,
    /// Opens a file, asks for its numbers, closes it: one compound.
    Stat,
    /// ECHO.
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shield {
    Plain,
    Signed,
    Encrypted,
}

#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long)]
    address: String,
    #[arg(long, default_value = "dir")]
    share: String,
    #[arg(long, default_value = "import")]
    user: String,
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long, value_enum, default_value_t = Shield::Plain)]
    protection: Shield,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// Bytes of one READ or WRITE.
    #[arg(long, default_value_t = 1 << 20)]
    piece: usize,
    /// MiB of each connection's file.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Operations of each connection, for the works on small things.
    #[arg(long, default_value_t = 20_000)]
    operations: u64,
    /// Zeros instead of random bytes.
    #[arg(long)]
    zeros: bool,
    /// Name of the files, with the connection's number behind it.
    #[arg(long, default_value = "load")]
    name: String,
}

struct Socket(TcpStream);

impl Link for Socket {
    fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        let length = (message.len() as u32).to_be_bytes();
        let mut parts: &mut [IoSlice<'_>] = &mut [IoSlice::new(&length), IoSlice::new(message)];
        while !parts.is_empty() {
            let sent = self.0.write_vectored(parts).map_err(|_| ClientError::Closed)?;
            IoSlice::advance_slices(&mut parts, sent);
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).map_err(|_| ClientError::Closed)?;
        let length = u64::from(u32::from_be_bytes(head));
        let mut message = Vec::with_capacity(length as usize);
        (&mut self.0).take(length).read_to_end(&mut message).map_err(|_| ClientError::Closed)?;
        if message.len() as u64 == length { Ok(message) } else { Err(ClientError::Closed) }
    }
}

type Connected = Peer<Socket>;

fn connect(arguments: &Arguments, password: &str) -> Result<Connected, ClientError> {
    let stream = TcpStream::connect(&arguments.address).map_err(|_| ClientError::Closed)?;
    stream
        .set_nodelay(true)
        .and(stream.set_read_timeout(Some(ANSWER_MAX)))
        .map_err(|_| ClientError::Closed)?;
    let mut peer = Peer::connect(Client::new(Offer::default()), Socket(stream), &arguments.user, password)?;
    // A TREE_CONNECT of 3.1.1 is signed or refused (MS-SMB2 3.3.5.7).
    peer.tree_connect(&arguments.share)?;
    peer.client.protection = match arguments.protection {
        Shield::Plain => Protection::Plain,
        Shield::Signed => Protection::Signed,
        Shield::Encrypted => Protection::Sealed,
    };
    // Credits for the depth come with the first answers.
    for _ in 0..4 {
        peer.echo()?;
    }
    Ok(peer)
}

/// Keeps `depth` frames in flight until `next` has no more; each answer of each must be a success.
fn pipeline(
    peer: &mut Connected,
    depth: usize,
    mut next: impl FnMut(&mut Connected, u64) -> Option<Vec<Draft>>,
) -> Result<u64, ClientError> {
    let mut flight: VecDeque<Vec<u64>> = VecDeque::new();
    let mut count = 0;
    loop {
        let drafts = if flight.len() < depth { next(peer, count) } else { None };
        if let Some(drafts) = drafts {
            flight.push_back(peer.send(&drafts)?);
            count += 1;
            continue;
        }
        let Some(oldest) = flight.pop_front() else { return Ok(count) };
        for id in oldest {
            let answer = peer.answer(id)?;
            if answer.header.status.is_error() {
                return Err(ClientError::Status(answer.header.status));
            }
        }
    }
}

/// Goes on with the file of the request before it in its frame.
fn related(mut draft: Draft) -> Draft {
    draft.header.flags = draft.header.flags.with(Flags::RELATED_OPERATIONS);
    (draft.header.session_id, draft.header.tree_id) = (u64::MAX, u32::MAX);
    draft
}

fn compound(peer: &mut Connected, work: Work, name: &str, data: &[u8]) -> Vec<Draft> {
    let how = if work == Work::Small { disposition::OVERWRITE_IF } else { disposition::OPEN };
    let first = peer.create_draft(name, how, options::NON_DIRECTORY_FILE);
    let second = if work == Work::Small {
        peer.write_draft(FileId::ANY, 0, data)
    } else {
        let request = query_info::Request {
            info_type: NETWORK_OPEN.0,
            info_class: NETWORK_OPEN.1,
            output_buffer_length: 56,
            additional_information: 0,
            flags: 0,
            file_id: FileId::ANY,
            input: &[],
        };
        peer.client.draft(Command::QUERY_INFO, 56, |out| request.encode(out))
    };
    let request = close::Request { flags: 0, file_id: FileId::ANY };
    let last = peer.client.draft(Command::CLOSE, 0, |out| request.encode(out));
    vec![first, related(second), related(last)]
}

fn transfer(peer: &mut Connected, arguments: &Arguments, name: &str) -> Result<(u64, u64), ClientError> {
    let how = if arguments.work == Work::Put { disposition::OVERWRITE_IF } else { disposition::OPEN };
    let file = peer.create(name, how, options::NON_DIRECTORY_FILE)?.id;
    let (piece, total) = (arguments.piece as u64, arguments.mib << 20);
    let mut data = vec![0; arguments.piece];
    if !arguments.zeros {
        let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut data));
        random.map_err(|_| ClientError::Rule("/dev/urandom can't be read"))?;
    }
    let operations = pipeline(peer, arguments.depth, |peer, count| {
        let offset = count * piece;
        let length = piece.min(total.checked_sub(offset).filter(|left| *left > 0)?);
        Some(vec![match arguments.work {
            Work::Get => peer.read_draft(file, offset, length as u32),
            _ => peer.write_draft(file, offset, &data[..length as usize]),
        }])
    })?;
    peer.close(file)?;
    Ok((operations, total))
}

/// Does the work; operations and bytes done.
fn work(peer: &mut Connected, arguments: &Arguments, name: &str) -> Result<(u64, u64), ClientError> {
    let (depth, limit, data) = (arguments.depth, arguments.operations, [0x5A; SMALL]);
    match arguments.work {
        Work::Put | Work::Over | Work::Get => return transfer(peer, arguments, name),
        Work::Echo => pipeline(peer, depth, |peer, count| {
            (count < limit)
                .then(|| vec![peer.client.draft(Command::ECHO, 0, |out| echo::Request.encode(out))])
        }),
        Work::Small => pipeline(peer, depth, |peer, count| {
            (count < limit).then(|| compound(peer, Work::Small, &format!("{name}-{count}"), &data))
        }),
        Work::Stat => pipeline(peer, depth, |peer, count| {
            (count < limit).then(|| compound(peer, Work::Stat, name, &data))
        }),
    }
    .map(|operations| (operations, 0))
}

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let password = std::env::var("IMPORTFS_PASSWORD").map_err(|_| "IMPORTFS_PASSWORD is not set")?;
    let mut peers = Vec::new();
    for _ in 0..arguments.connections {
        peers.push(connect(arguments, &password).map_err(|error| format!("connecting: {error}"))?);
    }
    let start = Arc::new(Barrier::new(peers.len() + 1));
    let threads: Vec<_> = peers
        .into_iter()
        .enumerate()
        .map(|(index, mut peer)| {
            let (arguments, start) = (arguments.clone(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                work(&mut peer, &arguments, &format!("{}{index}", arguments.name))
            })
        })
        .collect();
    let cpu = cpu_seconds();
    start.wait();
    let begun = Instant::now();
    let (mut operations, mut bytes) = (0, 0);
    for thread in threads {
        let done = thread.join().map_err(|_| "a connection's thread failed")?;
        let (more, moved) = done.map_err(|error| error.to_string())?;
        (operations, bytes) = (operations + more, bytes + moved);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{{\"operations_per_second\": {:.1}, \"mb_per_second\": {:.1}, \"seconds\": {seconds:.3}, \"client_cpu_seconds\": {:.3}}}",
        operations as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        cpu_seconds() - cpu
    );
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("load: {problem}");
            ExitCode::FAILURE
        }
    }
}
