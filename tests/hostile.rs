//! A live server under attack: mutated sessions on connections of strangers and of users, while one client copies files.
//!
//! `HOSTILE_SEED=…` repeats the mutations of a run, `HOSTILE_SECONDS=…` makes it longer, `HOSTILE_CORPUS=FILE…` (separated by
//! colons) adds recorded requests: each message behind its length, a little-endian u32.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use importfs::smb::limits::Limits;
use importfs::smb::transport;
use smb_proto::msg::FileId;
use smb_proto::msg::create::disposition::{OPEN, OPEN_IF};
use smb_proto::testing::{Client, ClientError, Draft, Link, LoginOptions, Offer, Peer, Protection};
use smb_proto::{Command, Header};
use support::{OTHER, PASSWORD, USER, World};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long the attack lasts where nothing else is asked for.
const SECONDS: u64 = 10;
/// Attackers at once.
const ATTACKERS: u64 = 6;
/// An answer that takes longer than this is none.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// What the whole process may grow by under attack, in bytes: frame buffers of a few busy connections, and the tests' own.
const GROWTH_MAX: u64 = 192 << 20;
/// What it may grow by in the second half, when all buffers are there.
const LATE_GROWTH_MAX: u64 = 48 << 20;

/// SplitMix64: the same seed, the same attack.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A socket as the client half wants it.
struct Socket(TcpStream);

fn closed(error: &std::io::Error) -> ClientError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            ClientError::Rule("the server has not answered in time")
        }
        _ => ClientError::Closed,
    }
}

impl Socket {
    fn open(address: SocketAddr, patience: Duration) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(address).map_err(|error| closed(&error))?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_write_timeout(Some(patience)).unwrap();
        Ok(Self(stream))
    }
}

impl Link for Socket {
    fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(message);
        self.0.write_all(&frame).map_err(|error| closed(&error))
    }

    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).map_err(|error| closed(&error))?;
        let mut message = vec![0; u32::from_be_bytes(head) as usize];
        self.0.read_exact(&mut message).map_err(|error| closed(&error))?;
        Ok(message)
    }
}

fn templates() -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = vec![
        include_bytes!("../protocol/tests/data/smbclient-requests.bin").to_vec(),
        include_bytes!("../protocol/tests/data/smbtorture-requests.bin").to_vec(),
    ];
    let more = std::env::var("HOSTILE_CORPUS").unwrap_or_default();
    files.extend(more.split(':').filter(|name| !name.is_empty()).map(|name| std::fs::read(name).unwrap()));
    let mut messages = Vec::new();
    for file in &files {
        let mut rest = &file[..];
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = (u32::from_le_bytes(*length) as usize).min(tail.len());
            // Writes of megabytes would only slow the attack down.
            if (64..100_000).contains(&length) {
                messages.push(tail[..length].to_vec());
            }
            rest = &tail[length..];
        }
    }
    assert!(messages.len() > 50, "the recorded requests were not found");
    messages
}

/// Where a request has its FileId, from the header's start.
fn file_id_at(command: Command) -> Option<usize> {
    Some(match command {
        Command::CLOSE | Command::FLUSH | Command::LOCK | Command::IOCTL => 72,
        Command::QUERY_DIRECTORY | Command::CHANGE_NOTIFY => 72,
        Command::READ | Command::WRITE | Command::SET_INFO => 80,
        Command::QUERY_INFO => 88,
        _ => return None,
    })
}

/// Changes a few bytes as mistakes and attacks do.
fn mutate(message: &mut Vec<u8>, random: &mut Random) {
    const INTERESTING: [u64; 12] =
        [0, 1, 7, 8, 63, 64, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX];
    for _ in 0..=random.below(4) {
        if message.is_empty() {
            return;
        }
        let at = random.below(message.len());
        match random.below(8) {
            0 => message[at] ^= 1 << random.below(8),
            1 => message[at] = random.next() as u8,
            2 | 3 => {
                let value = random.pick(&INTERESTING).to_le_bytes();
                let width = *random.pick(&[1, 2, 4, 8]);
                let end = (at + width).min(message.len());
                message[at..end].copy_from_slice(&value[..end - at]);
            }
            4 => message.truncate(at),
            5 => message.extend(std::iter::repeat_n(random.next() as u8, random.below(300))),
            6 => {
                let part = message[at..].to_vec();
                message.extend(part);
                message.truncate(200_000);
            }
            // The body's first fields hold its lengths and offsets.
            _ if message.len() > 68 => {
                let at = 64 + random.below((message.len() - 64).min(56));
                message[at] = *random.pick(&[0, 1, 0x40, 0x7F, 0x80, 0xFF]);
            }
            _ => {}
        }
    }
}

/// A user may reserve space, and a mutated size would reserve all that this machine has: the one thing that is left out.
fn spare_the_disk(command: Command, body: &mut [u8]) {
    const ALLOCATION_INFORMATION: u8 = 19;
    if command == Command::SET_INFO && body.get(3) == Some(&ALLOCATION_INFORMATION) {
        body[3] = 20;
    }
    if command == Command::CREATE {
        while let Some(at) = body.windows(4).position(|name| name == b"AlSi") {
            body[at] = b'a';
        }
    }
}

struct Attack {
    address: SocketAddr,
    templates: Arc<Vec<Vec<u8>>>,
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Attack {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Nobody in particular: tokens and messages before a login.
    fn stranger(&self, random: &mut Random) -> Result<(), ClientError> {
        let mut peer = Peer::new(Client::default(), Socket::open(self.address, Duration::from_millis(300))?);
        let draft = peer.client.negotiate();
        let mut first = peer.client.frame(&[draft]);
        if random.below(2) == 0 {
            mutate(&mut first, random);
        }
        peer.link.send(&first)?;
        peer.link.receive()?;
        let mut initiator = smb_proto::testing::Initiator::new(LoginOptions::new("nobody", "none"));
        for _ in 0..random.below(6) {
            let mut token = initiator.first();
            mutate(&mut token, random);
            let draft = peer.client.session_setup(&token, 0);
            let mut frame = peer.client.frame(&[draft]);
            if random.below(3) == 0 {
                frame.clone_from(random.pick(&self.templates));
            }
            if random.below(3) == 0 {
                mutate(&mut frame, random);
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
            peer.link.send(&frame)?;
            peer.link.receive()?;
        }
        Ok(())
    }

    /// Somebody who is logged in, and sends recorded requests with a few bytes changed, in his own session.
    fn user(&self, random: &mut Random) -> Result<(), ClientError> {
        let dialect = *random.pick(&smb_proto::conn::negotiate::DIALECTS);
        let offer = Offer { dialects: vec![dialect], ..Offer::default() };
        let socket = Socket::open(self.address, Duration::from_millis(300))?;
        let mut peer = Peer::connect(Client::new(offer), socket, USER, PASSWORD)?;
        let share = ["dir", "import"][random.below(2)];
        peer.tree_connect(share)?;
        let mut files = vec![FileId::ANY];
        for (name, options) in [("", 1), ("victim.cfg", 0), ("victim", 0)] {
            let disposition = if name.is_empty() { OPEN } else { OPEN_IF };
            if let Ok(opened) = peer.create(name, disposition, options) {
                files.push(opened.id);
            }
        }
        for _ in 0..200 {
            if self.over() {
                break;
            }
            let protections = [Protection::Plain, Protection::Signed, Protection::Sealed];
            peer.client.protection = *random.pick(&protections[..if peer.client.can_seal() { 3 } else { 2 }]);
            let drafts: Vec<Draft> =
                (0..=random.below(3)).map(|_| self.request(&mut peer, &files, random)).collect();
            let mut frame = peer.client.frame(&drafts);
            let reserves =
                |draft: &Draft| matches!(draft.header.command, Command::CREATE | Command::SET_INFO);
            if random.below(10) == 0 && !drafts.iter().any(reserves) {
                mutate(&mut frame, random); // after it was protected, and in its header
            }
            self.sent.fetch_add(drafts.len() as u64, Ordering::Relaxed);
            peer.link.send(&frame)?;
            match peer.link.receive() {
                Ok(answer) => drop(peer.client.open(answer)),
                Err(ClientError::Closed) => return Err(ClientError::Closed),
                Err(_) => {} // it waits, or was none that is answered
            }
        }
        Ok(())
    }

    /// A recorded request in this session, with a file of it, changed.
    fn request(&self, peer: &mut Peer<Socket>, files: &[FileId], random: &mut Random) -> Draft {
        let template = random.pick(&self.templates);
        let recorded =
            Header::decode(template).unwrap_or_else(|_| Header::decode(&self.templates[0]).unwrap());
        // LOGOFF and TREE_DISCONNECT end what the rest of the attack needs: seldom.
        let ends =
            matches!(recorded.command, Command::LOGOFF | Command::TREE_DISCONNECT | Command::NEGOTIATE);
        let command = if ends && random.below(20) > 0 { Command::QUERY_INFO } else { recorded.command };
        let mut body = template[64..].to_vec();
        if let Some(at) = file_id_at(command).filter(|at| template.len() >= at + 16)
            && random.below(5) > 0
        {
            let mut id = Vec::new();
            random.pick(files).encode(&mut id);
            body[at - 64..at - 48].copy_from_slice(&id);
        }
        if random.below(8) > 0 {
            mutate(&mut body, random);
        }
        spare_the_disk(command, &mut body);
        let mut draft = peer.client.draft(command, 1, |out| out.extend_from_slice(&body));
        draft.header.flags = recorded.flags;
        draft.header.flags.0 &= !0x9; // neither a response nor signed by somebody else
        draft
    }

    fn run(&self, seed: u64) {
        let mut random = Random(seed);
        while !self.over() {
            // Whatever the server does to an attacker is right.
            let _ = if random.below(3) == 0 { self.stranger(&mut random) } else { self.user(&mut random) };
        }
    }
}

/// Copies a file there and back until it is over; how often.
fn copy(attack: &Attack) -> u64 {
    let data: Vec<u8> = (0..500_003u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut rounds = 0;
    while !attack.over() {
        let socket = Socket::open(attack.address, ANSWER_MAX).unwrap();
        let mut peer = Peer::connect(Client::default(), socket, OTHER, PASSWORD).unwrap();
        peer.tree_connect("others").unwrap(); // where the attackers have no right to be
        let name = format!("copy-{rounds}");
        peer.put(&name, &data, 100_000).unwrap();
        assert!(peer.get(&name, 65_536).unwrap() == data, "the copy differs");
        let file = peer.create(&name, OPEN, 0).unwrap();
        peer.set(file.id, 13, &[1]).unwrap(); // FileDispositionInformation
        peer.close(file.id).unwrap();
        peer.logoff().unwrap();
        rounds += 1;
        std::thread::sleep(Duration::from_millis(5)); // the attackers are to have their turn
    }
    rounds
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn mutated_sessions_harm_nobody() {
    let seed = number("HOSTILE_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    println!("HOSTILE_SEED={seed}");
    let seconds = number("HOSTILE_SECONDS").unwrap_or(SECONDS);
    let panics = Arc::new(AtomicU64::new(0));
    let (counter, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let world = World::plain();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    runtime.spawn(transport::serve(listener, Arc::clone(&world.server), stopped));
    let attack = Attack {
        address,
        templates: Arc::new(templates()),
        sent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let start = resident();
    let (rounds, half, end) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| copy(&attack));
        for attacker in 0..ATTACKERS {
            let attack = &attack;
            scope.spawn(move || attack.run(seed ^ attacker << 56));
        }
        let half_time = Instant::now() + Duration::from_secs(seconds) / 2;
        while Instant::now() < half_time && !honest.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let half = resident();
        while Instant::now() < half_time + Duration::from_secs(seconds) / 2 && !honest.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let end = resident();
        attack.stop.store(true, Ordering::Relaxed);
        (honest.join().expect("the honest client is served"), half, end)
    });
    let sent = attack.sent.load(Ordering::Relaxed);
    println!("{sent} hostile requests, {rounds} files copied, memory {start} {half} {end}");
    assert_eq!(panics.load(Ordering::Relaxed), 0, "something in the server panicked");
    assert!(sent > 100 && rounds > 0, "{sent} hostile requests, {rounds} files copied");
    assert!(end < start + GROWTH_MAX, "memory grew from {start} to {end}");
    assert!(end < half + LATE_GROWTH_MAX, "memory grew from {half} to {end} in the second half");
    stop.send(true).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let names = std::fs::read_dir(world.path(".")).unwrap().count();
    assert_eq!(names, 5, "something was made outside of the shares");
}

fn limits() -> Limits {
    Limits {
        connections: 40,
        login_time: Duration::from_millis(1500),
        idle_time: Duration::from_millis(2500),
        frame_time: Duration::from_secs(1),
        ..Limits::default()
    }
}

/// A server with short limits, and a runtime that keeps it running.
fn limited(world: &World) -> (SocketAddr, tokio::runtime::Runtime, watch::Sender<bool>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    runtime.spawn(transport::serve(listener, Arc::clone(&world.server), stopped));
    (address, runtime, stop)
}

/// How long it takes until the server cuts the connection.
fn until_cut(mut stream: TcpStream, since: Instant) -> Duration {
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => since.elapsed(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => since.elapsed(),
        Err(error) => panic!("not cut within {ANSWER_MAX:?}: {error}"),
    }
}

/// Row 15: connections that never log in, or only begin a frame, are cut by the clock; so are sessions that say nothing.
#[test]
fn half_open_slow_and_idle_connections_are_cut() {
    let world = World::new(|settings| settings.limits = limits());
    let (address, runtime, _stop) = limited(&world);
    let negotiated = || {
        let mut peer = Peer::new(Client::default(), Socket::open(address, ANSWER_MAX).unwrap());
        peer.negotiate().unwrap();
        peer
    };
    let logged_in = || {
        Peer::connect(Client::default(), Socket::open(address, ANSWER_MAX).unwrap(), USER, PASSWORD).unwrap()
    };
    let (early, late) = (Duration::from_millis(300), Duration::from_secs(3));
    std::thread::scope(|scope| {
        let cut = |what: &'static str, limit: Duration, stream: TcpStream, since: Instant| {
            let after = until_cut(stream, since);
            assert!(
                after + early > limit && after < limit + late,
                "{what}: cut after {after:?}, the limit is {limit:?}"
            );
        };
        scope.spawn(move || {
            cut("silence", limits().login_time, TcpStream::connect(address).unwrap(), Instant::now());
        });
        scope.spawn(move || {
            let since = Instant::now();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[0, 0, 1]).unwrap();
            cut("part of a length", limits().login_time, stream, since);
        });
        scope.spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let since = Instant::now();
            stream.write_all(&[0, 0, 1, 0, 0xFE, b'S']).unwrap();
            cut("part of a frame", limits().frame_time, stream, since);
        });
        scope.spawn(move || {
            // A byte now and then does not help.
            let since = Instant::now();
            let mut stream = TcpStream::connect(address).unwrap();
            let mut slow = stream.try_clone().unwrap();
            std::thread::scope(|dripping| {
                dripping.spawn(move || {
                    for byte in [0, 0, 1, 0].into_iter().chain([0xFE; 60]) {
                        if slow.write_all(&[byte]).is_err() {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                });
                stream.flush().unwrap();
                let after = until_cut(stream, since);
                assert!(
                    after < limits().login_time + limits().frame_time + late,
                    "dripping: cut after {after:?}"
                );
            });
        });
        scope.spawn(move || {
            let since = Instant::now();
            cut("no login", limits().login_time, negotiated().link.0, since);
        });
        scope.spawn(move || {
            // ECHO before a login answers, and buys no time.
            let since = Instant::now();
            let mut peer = negotiated();
            while peer.echo().is_ok() {
                std::thread::sleep(Duration::from_millis(100));
                assert!(
                    since.elapsed() < limits().login_time + late,
                    "echoes keep a stranger's connection open"
                );
            }
        });
        scope.spawn(move || {
            let peer = logged_in();
            let session = peer.client.session_id;
            cut("an idle session", limits().idle_time, peer.link.0, Instant::now());
            assert!(session != 0);
        });
        scope.spawn(move || {
            let peer = logged_in();
            let mut stream = peer.link.0;
            let since = Instant::now();
            stream.write_all(&[0, 0, 1, 0, 0xFE]).unwrap();
            cut("part of a user's frame", limits().frame_time, stream, since);
        });
    });
    drop(runtime);
}

/// Row 15: a flood of connections is refused at a bound, and lets go of it again.
#[test]
fn connections_have_a_bound() {
    let world = World::new(|settings| settings.limits = limits());
    let (address, runtime, _stop) = limited(&world);
    let flood: Vec<TcpStream> =
        (0..limits().connections * 3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let since = Instant::now();
    let last = flood.last().unwrap().try_clone().unwrap();
    assert!(
        until_cut(last, since) < limits().login_time / 2,
        "beyond the bound a connection is refused at once"
    );
    drop(flood);
    let mut served = false;
    while !served && since.elapsed() < Duration::from_secs(10) {
        let socket = Socket::open(address, ANSWER_MAX).unwrap();
        served = Peer::connect(Client::default(), socket, USER, PASSWORD).is_ok();
    }
    assert!(served, "the places are not given back");
    drop(runtime);
}
