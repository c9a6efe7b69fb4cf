//! A restore over TCP whose connection is cut again and again, in the middle of requests and of answers: its client has a durable
//! handle, comes back, and goes on with what was not acknowledged. Not one write may fail, and every byte must be right.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use importfs::smb::transport;
use smb_proto::fscc::access;
use smb_proto::msg::create::context::{self, DurableV2Reconnect, DurableV2Request, Writer};
use smb_proto::msg::create::{self, disposition, oplock, options, share_access};
use smb_proto::msg::{FileId, write};
use smb_proto::testing::{Client, ClientError, Link, LoginOptions, Offer, Peer};
use smb_proto::utf16::Utf16;
use smb_proto::{Command, utf16};
use support::{PASSWORD, USER, World};

const DISK_BYTES: usize = 24 << 20;
const PART: usize = 256 << 10;
/// WRITEs under way at once.
const DEPTH: usize = 6;
const GUID: [u8; 16] = [9; 16];

/// A socket that breaks after so many bytes, wherever that is.
struct Fragile {
    stream: TcpStream,
    left: usize,
}

impl Link for Fragile {
    fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(message);
        let fits = frame.len().min(self.left);
        self.left -= fits;
        let sent = self.stream.write_all(&frame[..fits]);
        if sent.is_err() || fits < frame.len() {
            let _ = self.stream.shutdown(std::net::Shutdown::Both); // broken anyway
            return Err(ClientError::Closed);
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).map_err(|_| ClientError::Closed)?;
        let mut message = vec![0; u32::from_be_bytes(head) as usize];
        self.stream.read_exact(&mut message).map_err(|_| ClientError::Closed)?;
        Ok(message)
    }
}

fn connect(
    address: SocketAddr,
    left: usize,
    previous: u64,
    share: &str,
) -> Result<Peer<Fragile>, ClientError> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut peer = Peer::new(Client::new(Offer::default()), Fragile { stream, left });
    peer.negotiate()?;
    peer.login(LoginOptions { previous_session: previous, ..LoginOptions::new(USER, PASSWORD) })?;
    peer.tree_connect(share)?;
    Ok(peer)
}

/// CREATE with a batch oplock and one context.
fn open(peer: &mut Peer<Fragile>, name: &str, tag: &[u8], data: &[u8]) -> Result<FileId, ClientError> {
    let name = utf16::encode(name);
    let mut contexts = Writer::new();
    contexts.push(tag, data);
    let request = create::Request {
        oplock_level: oplock::BATCH,
        impersonation_level: 2,
        desired_access: access::ALL,
        file_attributes: 0,
        share_access: share_access::READ,
        disposition: disposition::OPEN_IF,
        options: options::NON_DIRECTORY_FILE,
        name: Utf16(&name),
        contexts: contexts.contexts(),
    };
    let answer = peer.call(Command::CREATE, 0, |out| request.encode(out))?;
    Ok(create::Response::decode(&answer.message)?.file_id)
}

/// Writes what is still to be written; leaves in `todo` what was not acknowledged when the connection broke.
fn go_on(
    peer: &mut Peer<Fragile>,
    id: FileId,
    todo: &mut Vec<usize>,
    data: &[u8],
) -> Result<(), ClientError> {
    while !todo.is_empty() {
        let batch: Vec<usize> = todo.iter().rev().take(DEPTH).copied().collect();
        let mut sent = Vec::new();
        for at in batch {
            let draft = peer.write_draft(id, at as u64, &data[at..data.len().min(at + PART)]);
            sent.push((at, peer.send(&[draft])?[0]));
        }
        for (at, message) in sent {
            let answer = peer.answer(message)?;
            assert!(!answer.header.status.is_error(), "a write failed: {:?}", answer.header.status);
            assert_eq!(write::Response::decode(&answer.message)?.count as usize, PART.min(data.len() - at));
            todo.retain(|other| *other != at);
        }
    }
    Ok(())
}

fn restore(seed: u64) {
    println!("seed {seed}");
    let world = World::plain();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    runtime.spawn(transport::serve(listener, Arc::clone(&world.server), stopped));

    let mut sure = connect(address, usize::MAX, 0, "import").unwrap();
    sure.create("w", disposition::CREATE, options::DIRECTORY_FILE).unwrap();
    let cfg = format!(
        "version = \"4\"\nvmname = \"w\"\nvmuuid = \"50133967-ae5a-052c-0140-e47ce07219ee\"\nservername = \"local\"\n\
         datacenter = \"\"\nfolder = \"\"\nhostsystem = \"\"\nresourcepool = \"\"\ndsname = \"datastore1\"\n\
         directory = \"w\"\nvmx-name = \"w.vmx\"\nvmdk.0.name = \"w.vmdk\"\nvmdk.0.extent-name = \"w-flat.vmdk\"\n\
         vmdk.0.dsname = \"datastore1\"\nvmdk.0.directory = \"w\"\nvmdk.0.size = {DISK_BYTES}\nvmdk.0.type = \"thin\"\n"
    );
    let file = sure.create("w\\w.cfg", disposition::CREATE, 0).unwrap();
    sure.write(file.id, 0, cfg.as_bytes()).unwrap();
    sure.close(file.id).unwrap();

    let data: Vec<u8> = (0..DISK_BYTES).map(|at| ((at >> 16) ^ (at % 251)) as u8).collect();
    let mut todo: Vec<usize> = (0..DISK_BYTES).step_by(PART).collect();
    let asked = DurableV2Request { timeout_ms: 60_000, flags: 0, create_guid: GUID }.encode();
    let mut peer = connect(address, usize::MAX, 0, "import").unwrap();
    let id = open(&mut peer, "w\\w-flat.vmdk", context::DH2Q, &asked).unwrap();
    let (mut random, mut cuts) = (seed, 0);
    loop {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        peer.link.left = (random >> 33) as usize % (3 << 20);
        match go_on(&mut peer, id, &mut todo, &data) {
            Ok(()) => break,
            Err(ClientError::Closed) => cuts += 1,
            Err(other) => panic!("{other}"),
        }
        let previous = peer.client.session_id;
        drop(peer);
        peer = connect(address, usize::MAX, previous, "import").unwrap();
        let back = DurableV2Reconnect { file_id: id, create_guid: GUID, flags: 0 }.encode();
        assert_eq!(open(&mut peer, "", context::DH2C, &back).unwrap(), id);
    }
    println!("{cuts} cuts");
    assert!(cuts >= 3, "the test cuts too seldom");
    peer.link.left = usize::MAX;
    peer.close(id).unwrap();
    assert!(std::fs::read(world.path("datastore1/w/w-flat.vmdk")).unwrap() == data, "the disk differs");
}

#[test]
fn a_restore_survives_a_connection_that_breaks_again_and_again() {
    for seed in 1..=3 {
        restore(seed);
    }
}
