//! Against a small server of the tests' own that loses connections and data when told to; the real one is nbdkit, in
//! `interop/check_nbd.py`.

#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::wire::{self, Command, Content, Expected};
use super::{ClientOptions, NbdDatastore, NbdOptions};
use crate::datastore::{Adapter, Datastore, DirectoryDatastore, DiskSpec, Provisioning};

mod secured;

const MIB: usize = 1024 * 1024;

/// What a test server does wrong, and what it holds.
#[derive(Default)]
struct Behaviour {
    /// Requests after which each connection is cut, 0 for never.
    cut_after: AtomicU64,
    /// Forgets at a cut what was written since the last flush, as a machine that loses its power does.
    forgets: AtomicBool,
    /// Answers nothing.
    mute: AtomicBool,
    /// Fails this many requests with EIO.
    eio: AtomicU64,
    /// No write-zeroes, no structured replies.
    plain: bool,
    /// It speaks TLS, and nothing else.
    tls: Option<Arc<rustls::ServerConfig>>,
    contents: Mutex<Vec<u8>>,
    durable: Mutex<Vec<u8>>,
    requests: AtomicU64,
    connections: AtomicU64,
    /// Connections that are open now.
    open: AtomicU64,
}

impl Behaviour {
    fn sized(self, size: usize) -> Arc<Self> {
        *self.contents.lock().unwrap() = vec![0; size];
        *self.durable.lock().unwrap() = vec![0; size];
        Arc::new(self)
    }

    fn power_cut(&self) {
        *self.contents.lock().unwrap() = self.durable.lock().unwrap().clone();
    }
}

fn be<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Serves connections until the test ends.
fn serve(behaviour: &Arc<Behaviour>) -> u16 {
    serve_at(0, behaviour)
}

fn serve_at(port: u16, behaviour: &Arc<Behaviour>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let behaviour = Arc::clone(behaviour);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let behaviour = Arc::clone(&behaviour);
            behaviour.connections.fetch_add(1, Ordering::Relaxed);
            behaviour.open.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let _ = welcome(stream.unwrap(), &behaviour);
                behaviour.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    port
}

/// The greeting, TLS where that is what it speaks, and all that follows.
fn welcome(mut stream: TcpStream, behaviour: &Behaviour) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    be::<4>(&mut stream)?;
    let Some(tls) = &behaviour.tls else { return session(stream, behaviour) };
    loop {
        let option: [u8; 16] = be(&mut stream)?;
        let length = u32::from_be_bytes(option[12..].try_into().unwrap());
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut answer = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        answer.extend_from_slice(&option[8..12]);
        let agreed = option[11] == 5;
        answer.extend_from_slice(if agreed { b"\0\0\0\x01\0\0\0\0" } else { b"\x80\0\0\x05\0\0\0\0" });
        stream.write_all(&answer)?;
        if agreed {
            break;
        }
    }
    let connection = rustls::ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
    session(rustls::StreamOwned::new(connection, stream), behaviour)
}

/// The rest of the handshake; whether replies are structured.
fn greet(stream: &mut (impl Read + Write), behaviour: &Behaviour) -> io::Result<bool> {
    let size = behaviour.contents.lock().unwrap().len() as u64;
    let mut structured = false;
    loop {
        be::<8>(stream)?;
        let option = u32::from_be_bytes(be(stream)?);
        let length = u32::from_be_bytes(be(stream)?);
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut reply = |kind: u32, body: &[u8]| {
            let mut message = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            message.extend([option, kind, body.len() as u32].iter().flat_map(|word| word.to_be_bytes()));
            message.extend_from_slice(body);
            stream.write_all(&message)
        };
        match option {
            5 => reply(0x8000_0001, b"")?,
            8 if behaviour.plain => reply(0x8000_0001, b"")?,
            8 => {
                structured = true;
                reply(1, b"")?;
            }
            10 => {
                reply(4, b"\0\0\0\x07base:allocation")?;
                reply(1, b"")?;
            }
            _ => {
                let flags: u16 = if behaviour.plain { 0x105 } else { 0x165 };
                let info = [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
                reply(3, &info)?;
                reply(1, b"")?;
                return Ok(structured);
            }
        }
    }
}

fn session(mut stream: impl Read + Write, behaviour: &Behaviour) -> io::Result<()> {
    let structured = greet(&mut stream, behaviour)?;
    let mut served = 0;
    loop {
        be::<4>(&mut stream)?;
        let _flags = be::<2>(&mut stream)?;
        let command = u16::from_be_bytes(be(&mut stream)?);
        let cookie = be::<8>(&mut stream)?;
        let offset = u64::from_be_bytes(be(&mut stream)?) as usize;
        let length = u32::from_be_bytes(be(&mut stream)?) as usize;
        served += 1;
        behaviour.requests.fetch_add(1, Ordering::Relaxed);
        let mut data = vec![0; if command == 1 { length } else { 0 }];
        stream.read_exact(&mut data)?;
        let cut_after = behaviour.cut_after.load(Ordering::Relaxed);
        if cut_after > 0 && served > cut_after {
            if behaviour.forgets.load(Ordering::Relaxed) {
                behaviour.power_cut();
            }
            return Ok(());
        }
        if behaviour.mute.load(Ordering::Relaxed) {
            continue;
        }
        let eio = behaviour.eio.load(Ordering::Relaxed);
        let fails = eio > 0
            && behaviour.eio.compare_exchange(eio, eio - 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let mut body = Vec::new();
        if !fails {
            let mut contents = behaviour.contents.lock().unwrap();
            match command {
                0 => body.extend_from_slice(&contents[offset..offset + length]),
                1 => contents[offset..offset + length].copy_from_slice(&data),
                3 => behaviour.durable.lock().unwrap().clone_from(&contents),
                6 => contents[offset..offset + length].fill(0),
                7 => {
                    let zero = contents[offset..offset + length].iter().all(|byte| *byte == 0);
                    body.extend_from_slice(&7_u32.to_be_bytes());
                    body.extend(
                        [length as u32, u32::from(zero) * 3].iter().flat_map(|word| word.to_be_bytes()),
                    );
                }
                _ => return Ok(()),
            }
        }
        let mut message = Vec::new();
        if structured {
            let (kind, body): (u16, Vec<u8>) = match (fails, command) {
                (true, _) => (0x8001, b"\0\0\0\x05\0\0".to_vec()),
                (_, 0) => (1, [&(offset as u64).to_be_bytes()[..], &body].concat()),
                (_, 7) => (5, body),
                _ => (0, Vec::new()),
            };
            message.extend_from_slice(&0x668e_33ef_u32.to_be_bytes());
            message.extend_from_slice(&[0, 1]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&cookie);
            message.extend_from_slice(&(body.len() as u32).to_be_bytes());
            message.extend_from_slice(&body);
        } else {
            message.extend_from_slice(&0x6744_6698_u32.to_be_bytes());
            message.extend_from_slice(&(u32::from(fails) * 5).to_be_bytes());
            message.extend_from_slice(&cookie);
            message.extend_from_slice(&body);
        }
        stream.write_all(&message)?;
        stream.flush()?;
    }
}

struct Lab {
    _directory: tempfile::TempDir,
    store: NbdDatastore,
    spec: DiskSpec,
}

fn lab(port: u16, size: usize, retry: Duration) -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let files = Arc::new(DirectoryDatastore::open(directory.path()).unwrap());
    let options = NbdOptions {
        template: format!("nbd://127.0.0.1:{port}/{{directory}}/{{extent}}"),
        client: ClientOptions { connections: 3, retry, tls: None },
        fresh_reads_zero: false,
        existing_disks: false,
    };
    let spec = DiskSpec {
        directory: "vm".into(),
        extent: "x-flat.vmdk".into(),
        descriptor: "x.vmdk".into(),
        size: size as u64,
        provisioning: Provisioning::Thin,
        adapter: Adapter::default(),
        machine: None,
    };
    Lab { _directory: directory, store: NbdDatastore::new("ds", options, files).unwrap(), spec }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn pattern(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

#[test]
fn a_disk_over_several_connections_with_either_kind_of_reply() {
    for plain in [false, true] {
        let behaviour = Behaviour { plain, ..Behaviour::default() }.sized(9 * MIB);
        let lab = lab(serve(&behaviour), 9 * MIB, PATIENCE);
        let disk = lab.store.create_disk(&lab.spec).unwrap();
        assert_eq!(disk.fresh_reads_zero(), !plain, "zeros are known by block status only");
        let data = pattern(5 * MIB + 77, 3);
        disk.write_at(&data, 1000).unwrap();
        disk.zero(2 * MIB as u64, MIB as u64 + 1).unwrap();
        disk.flush().unwrap();
        disk.keep_alive().unwrap();
        let mut expected = vec![0; 9 * MIB];
        expected[1000..1000 + data.len()].copy_from_slice(&data);
        expected[2 * MIB..=3 * MIB].fill(0);
        let mut read = vec![1; 9 * MIB];
        disk.read_at(&mut read, 0).unwrap();
        assert!(read == expected && *behaviour.durable.lock().unwrap() == expected);
        assert!(behaviour.connections.load(Ordering::Relaxed) > 1);
        assert!(disk.write_at(&[0; 2], 9 * MIB as u64 - 1).is_err());
    }
}

#[test]
fn cut_connections_are_made_anew_and_nothing_is_missing() {
    let behaviour = Behaviour { cut_after: AtomicU64::new(40), ..Behaviour::default() }.sized(16 * MIB);
    let lab = lab(serve(&behaviour), 16 * MIB, PATIENCE);
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    let data = pattern(16 * MIB, 9);
    std::thread::scope(|scope| {
        for quarter in 0..4 {
            let (disk, data) = (&disk, &data);
            scope.spawn(move || {
                for piece in 0..64 {
                    let at = quarter * 4 * MIB + piece * MIB / 16;
                    disk.write_at(&data[at..at + MIB / 16], at as u64).unwrap();
                    if piece % 16 == 15 {
                        disk.flush().unwrap();
                    }
                }
            });
        }
    });
    disk.flush().unwrap();
    assert!(*behaviour.durable.lock().unwrap() == data);
    assert!(behaviour.connections.load(Ordering::Relaxed) > 5);
}

#[test]
fn what_a_server_forgot_is_told_by_the_next_flush_and_only_by_that() {
    let behaviour =
        Behaviour { cut_after: AtomicU64::new(4), forgets: AtomicBool::new(true), ..Behaviour::default() }
            .sized(4 * MIB);
    let lab = lab(serve(&behaviour), 4 * MIB, PATIENCE);
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    for piece in 0..16 {
        disk.write_at(&pattern(MIB / 8, piece), u64::from(piece) * MIB as u64 / 8).unwrap();
    }
    behaviour.cut_after.store(0, Ordering::Relaxed);
    disk.write_at(&pattern(MIB / 4, 99), MIB as u64).unwrap();
    let error = disk.flush().unwrap_err();
    assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("lost"), "{error}");
    for piece in 0..16 {
        disk.write_at(&pattern(MIB / 8, piece), u64::from(piece) * MIB as u64 / 8).unwrap();
    }
    disk.flush().unwrap();
    assert!(behaviour.durable.lock().unwrap()[MIB / 8..MIB / 4] == pattern(MIB / 8, 1));
}

#[test]
fn passing_errors_are_tried_again_and_lasting_ones_told() {
    let behaviour = Behaviour { eio: AtomicU64::new(2), ..Behaviour::default() }.sized(MIB);
    let lab = lab(serve(&behaviour), MIB, PATIENCE);
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    disk.write_at(&[1; 4096], 0).unwrap();
    behaviour.eio.store(1000, Ordering::Relaxed);
    let error = disk.write_at(&[1; 4096], 0).unwrap_err();
    assert!(error.to_string().contains("EIO") && error.to_string().starts_with("nbd://127.0.0.1"), "{error}");
}

#[test]
fn patience_has_an_end() {
    let behaviour = Behaviour::default().sized(MIB);
    let lab = lab(serve(&behaviour), MIB, Duration::from_millis(300));
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    behaviour.mute.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let error = disk.write_at(&[1; 4096], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    behaviour.mute.store(false, Ordering::Relaxed);
    disk.write_at(&[1; 4096], 0).unwrap();
}

#[test]
fn wrong_sizes_and_busy_exports_are_refused() {
    let behaviour = Behaviour::default().sized(MIB);
    let lab = lab(serve(&behaviour), MIB, PATIENCE);
    for size in [512, 2 * MIB as u64] {
        let other = DiskSpec { size, ..lab.spec.clone() };
        let error = lab.store.create_disk(&other).err().unwrap();
        assert!(error.to_string().contains("1048576 bytes"), "{error}");
    }
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    assert_eq!(lab.store.open_disk(&lab.spec).err().unwrap().kind(), io::ErrorKind::ResourceBusy);
    drop(disk);
    lab.store.open_disk(&lab.spec).unwrap();
    let outside = DiskSpec { directory: "..".into(), ..lab.spec.clone() };
    assert_eq!(lab.store.create_disk(&outside).err().unwrap().kind(), io::ErrorKind::InvalidInput);
}

/// Waits until the server has that many connections.
fn await_open(behaviour: &Behaviour, wanted: u64) {
    let begun = Instant::now();
    while behaviour.open.load(Ordering::Relaxed) != wanted {
        assert!(begun.elapsed() < PATIENCE, "{} are open", behaviour.open.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_disk_that_is_released_has_no_connection_until_it_is_used_again() {
    let behaviour = Behaviour::default().sized(4 * MIB);
    let lab = lab(serve(&behaviour), 4 * MIB, PATIENCE);
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    disk.write_at(&pattern(3 * MIB, 1), 0).unwrap();
    disk.release().unwrap();
    await_open(&behaviour, 0);
    assert!(behaviour.durable.lock().unwrap()[..3 * MIB] == pattern(3 * MIB, 1), "it was flushed");
    let made = behaviour.connections.load(Ordering::Relaxed);
    disk.keep_alive().unwrap();
    disk.flush().unwrap();
    disk.release().unwrap();
    assert_eq!(behaviour.connections.load(Ordering::Relaxed), made, "nothing of these needs one");
    disk.write_at(&[9; 512], 512).unwrap();
    let mut read = [0; 512];
    disk.read_at(&mut read, 512).unwrap();
    assert_eq!(read, [9; 512]);
    disk.release().unwrap();
    await_open(&behaviour, 0);
    drop(disk);
    // As a restart does it: nothing is connected before it is used.
    let made = behaviour.connections.load(Ordering::Relaxed);
    let disk = lab.store.open_disk(&lab.spec).unwrap();
    assert_eq!((disk.size(), behaviour.connections.load(Ordering::Relaxed)), (4 * MIB as u64, made));
    disk.read_at(&mut read, 512).unwrap();
    assert_eq!(read, [9; 512]);
}

#[test]
fn a_server_that_comes_back_late_is_waited_for_and_another_disk_refused() {
    let behaviour = Behaviour::default().sized(MIB);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lab = lab(port, MIB, PATIENCE);
    assert!(lab.store.create_disk(&lab.spec).is_err(), "a new disk's address is tried once");
    let disk = lab.store.open_disk(&lab.spec).unwrap();
    let late = Arc::clone(&behaviour);
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        serve_at(port, &late);
    });
    disk.write_at(&[7; 4096], 0).unwrap();
    server.join().unwrap();
    disk.release().unwrap();
    *behaviour.contents.lock().unwrap() = vec![0; 2 * MIB];
    let error = disk.write_at(&[7; 4096], 0).unwrap_err();
    assert!(error.to_string().contains("2097152 bytes, the disk 1048576"), "{error}");
}

/// A server's bytes to read, and a place for ours.
struct Canned(Cursor<Vec<u8>>);

impl Read for Canned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Canned {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_greeting_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), right in 0..5usize) {
        // With right pieces in front the rest is reached.
        let mut canned = b"NBDMAGICIHAVEOPT\x00\x03".to_vec();
        for option in [8_u32, 10, 7].into_iter().take(right) {
            canned.extend_from_slice(&0x0003_e889_0455_65a9_u64.to_be_bytes());
            canned.extend_from_slice(&option.to_be_bytes());
            if option != 7 {
                canned.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
            }
        }
        canned.append(&mut bytes);
        let mut stream = Canned(Cursor::new(canned));
        let _ = wire::greet(&mut stream).and_then(|()| wire::agree(&mut stream, "x"));
    }

    #[test]
    fn no_reply_panics_or_leaves_what_was_asked(
        structured in any::<bool>(),
        flags in 0..2u16, kind in prop_oneof![Just(0u16), Just(1), Just(2), Just(5), Just(0x8001), any::<u16>()],
        length in 0..40u32, body in prop::collection::vec(any::<u8>(), 0..48),
        command in prop_oneof![Just(Command::Read), Just(Command::Write), Just(Command::BlockStatus)],
        asked in 0..32u32,
    ) {
        let mut bytes = Vec::new();
        if structured {
            bytes.extend_from_slice(&0x668e_33ef_u32.to_be_bytes());
            bytes.extend_from_slice(&flags.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&length.to_be_bytes());
        } else {
            bytes.extend_from_slice(&0x6744_6698_u32.to_be_bytes());
        }
        bytes.extend_from_slice(&body);
        let expected = Expected { command, offset: 0, length: asked };
        if let Ok(reply) = wire::read_reply(&mut bytes.as_slice(), |_| Some(expected)) {
            match reply.content {
                Content::Data(inside, data) => {
                    prop_assert!(command == Command::Read && inside + data.len() <= asked as usize);
                }
                Content::Hole(inside, length) => prop_assert!(inside + length <= asked as usize),
                Content::Error(number) => prop_assert!(number != 0),
                Content::Extents(_) => prop_assert_eq!(command, Command::BlockStatus),
                Content::Nothing => {}
            }
        }
        prop_assert!(wire::read_reply(&mut bytes.as_slice(), |_| None).is_err());
    }
}

/// A store whose exports follow what disks are called, on a server that is not there.
fn following(template: &str, existing_disks: bool) -> Result<(tempfile::TempDir, NbdDatastore), String> {
    let directory = tempfile::tempdir().unwrap();
    let files = Arc::new(DirectoryDatastore::open(directory.path()).unwrap());
    let options = NbdOptions {
        template: template.to_owned(),
        client: ClientOptions { connections: 1, retry: Duration::from_secs(1), tls: None },
        fresh_reads_zero: false,
        existing_disks,
    };
    Ok((directory, NbdDatastore::new("ds", options, files)?))
}

#[test]
fn addresses_of_disks_that_exist_follow_their_names() {
    for (template, existing, part) in [
        ("nbd://h/{extent}", true, "needs {directory} and one of"),
        ("nbd://h/{directory}", true, "needs {directory} and one of"),
        ("nbd://h/{vm}/{directory}/{descriptor}", false, "{vm} is known of disks that a virtual machine has"),
    ] {
        let why = following(template, existing).err().unwrap();
        assert!(why.contains(part), "{template}: {why}");
    }
    let template = "nbd+unix:///{vm}/{datastore}/{directory}/{descriptor}?socket=/nowhere.sock";
    let (_directory, store) = following(template, true).unwrap();
    let spec = DiskSpec {
        directory: "web/more".into(),
        extent: "x-000001-flat.vmdk".into(),
        descriptor: "x-000001.vmdk".into(),
        size: MIB as u64,
        provisioning: Provisioning::Thick,
        adapter: Adapter::default(),
        machine: Some("vm-7".into()),
    };
    let error = store.reach(&spec).unwrap_err().to_string();
    assert!(error.starts_with("nbd+unix:///vm-7/ds/web/more/x-000001.vmdk?socket=/nowhere.sock"), "{error}");
    assert!(store.open_disk(&spec).is_ok(), "a restart connects to nothing");
    assert!(store.open_disk(&DiskSpec { machine: None, ..spec.clone() }).is_err());
    assert_eq!(store.create_disk(&spec).err().unwrap().kind(), io::ErrorKind::Unsupported);
    let outside = DiskSpec { descriptor: "../y.vmdk".into(), ..spec };
    assert_eq!(store.reach(&outside).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_disk_that_others_made_is_looked_at_and_never_trimmed() {
    let behaviour = Behaviour::default().sized(MIB);
    let template = format!("nbd://127.0.0.1:{}/{{directory}}/{{extent}}", serve(&behaviour));
    let (_directory, store) = following(&template, true).unwrap();
    let Lab { spec, .. } = lab(1, MIB, PATIENCE);
    store.reach(&spec).unwrap();
    let error = store.reach(&DiskSpec { size: 512, ..spec.clone() }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let asked = behaviour.requests.load(Ordering::Relaxed);
    assert_eq!(store.remove_disk("vm/x-flat.vmdk").unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(behaviour.requests.load(Ordering::Relaxed), asked);
    let disk = store.open_disk(&spec).unwrap();
    assert!(!disk.fresh_reads_zero());
    disk.write_at(&[7; 512], 512).unwrap();
    disk.release().unwrap();
    assert_eq!(behaviour.durable.lock().unwrap()[512..1024], [7; 512]);
}
