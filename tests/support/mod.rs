//! What the tests of the server share: a server with its shares in a scratch directory, and a connection to it without a
//! socket.

#![allow(dead_code, clippy::unwrap_used)] // each test crate uses a part of it

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use importfs::datastore::DirectoryDatastore;
use importfs::import::{DatastoreEntry, Engine, EngineSettings, Hypervisor};
use importfs::share::directory::DirectoryShare;
use importfs::share::import::ImportShare;
use importfs::smb::buffer::Buffer;
use importfs::smb::connection::{Connection, Signal};
use importfs::smb::dispatch::{self, Output};
use importfs::smb::job::Job;
use importfs::smb::server::{Server, Settings, ShareEntry, ShareKind, Users};
use importfs::smb::share::Share;
use smb_proto::Status;
use smb_proto::auth::ntlm::nt_hash;
use smb_proto::msg::lock::{Element, FLAG_EXCLUSIVE};
use smb_proto::testing::{Client, ClientError, Link, Offer, Peer};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) const USER: &str = "import";
pub(crate) const PASSWORD: &str = "pass-Word1";
/// A second account: someone else.
pub(crate) const OTHER: &str = "other";
/// 2026-01-01 in 100 ns since 1601: the server is told the time.
const NOW: u64 = 134_116_992_000_000_000;

struct Accounts;

impl Users for Accounts {
    fn nt_hash(&self, account: &str) -> Option<[u8; 16]> {
        matches!(account, USER | OTHER).then(|| nt_hash(PASSWORD))
    }
}

/// A server without a listener, and where its shares are.
pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    root: TempDir,
}

impl World {
    /// Shares: `dir`; `secret`, encrypted only; `others`, for OTHER only; `import`, with the datastore `datastore1` of the
    /// hypervisor `local`.
    pub(crate) fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["dir", "secret", "others", "datastore1", "data"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let directory = |name: &str| -> Arc<dyn Share> {
            Arc::new(DirectoryShare::open(&root.path().join(name), name).unwrap())
        };
        let store = Arc::new(DirectoryDatastore::open(&root.path().join("datastore1")).unwrap());
        let datastores = vec![DatastoreEntry { name: "datastore1".into(), uuid: None, store, written: None }];
        let hypervisor =
            Hypervisor { name: "local".into(), aliases: Vec::new(), datastores, inventory: None };
        let engine = Engine::new(EngineSettings::new(root.path().join("data"), vec![hypervisor]));
        let entry = |name: &str, share: Arc<dyn Share>, encrypt: bool, users: Vec<String>| {
            let (name, comment, kind) = (name.to_owned(), String::new(), ShareKind::Disk);
            Arc::new(ShareEntry { name, comment, kind, share, encrypt, users })
        };
        let shares = vec![
            entry("dir", directory("dir"), false, Vec::new()),
            entry("secret", directory("secret"), true, Vec::new()),
            entry("others", directory("others"), false, vec![OTHER.into()]),
            entry("import", Arc::new(ImportShare::new(Arc::new(engine.unwrap()), "import")), false, vec![]),
        ];
        let mut settings = Settings::new(Arc::new(Accounts), shares);
        settings.guid = [7; 16];
        change(&mut settings);
        Self { server: Server::new(settings), root }
    }

    /// A server as most tests want it.
    pub(crate) fn plain() -> Self {
        Self::new(|_| {})
    }

    /// Where something of it lies.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A new connection.
    pub(crate) fn pair(&self) -> Pair {
        let (sender, signals) = unbounded_channel();
        let connection = Arc::new(Connection::new("test".into(), sender));
        let frames = VecDeque::new();
        Pair { server: Arc::clone(&self.server), connection, signals, frames, closed: false, delay: None }
    }

    /// A client that is logged in and connected to a share.
    pub(crate) fn peer(&self, offer: Offer, share: &str) -> Peer<Pair> {
        let mut peer = Peer::connect(Client::new(offer), self.pair(), USER, PASSWORD).unwrap();
        peer.tree_connect(share).unwrap();
        peer
    }

    /// The same with what a modern client offers.
    pub(crate) fn modern(&self, share: &str) -> Peer<Pair> {
        self.peer(Offer::default(), share)
    }
}

/// A connection in memory: what a client sends is worked on at once.
pub(crate) struct Pair {
    server: Arc<Server>,
    pub(crate) connection: Arc<Connection>,
    signals: UnboundedReceiver<Signal>,
    frames: VecDeque<Vec<u8>>,
    /// The server has ended it.
    pub(crate) closed: bool,
    /// How long the last answer would have been held back.
    pub(crate) delay: Option<Duration>,
}

impl Pair {
    fn queue(&mut self, frame: &Buffer) {
        let bytes = frame.bytes();
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(length, bytes.len() - 4, "the length in front of a frame");
        self.frames.push_back(bytes[4..].to_vec());
    }

    fn take(&mut self, output: &Output) {
        output.frames.iter().for_each(|frame| self.queue(frame));
        if let Some(id) = output.parked {
            dispatch::arm(&self.connection, id);
        }
        self.delay = output.delay;
        if output.disconnect && !self.closed {
            self.closed = true;
            self.server.connection_lost(&self.connection);
        }
    }

    /// Runs requests again that were parked and woken, by this connection or another.
    pub(crate) fn pump(&mut self) {
        while let Ok(signal) = self.signals.try_recv() {
            if signal == Signal::Send {
                let posted = self.connection.take_posted();
                posted.iter().for_each(|frame| self.queue(frame));
            } else if let Some(job) = dispatch::unpark(&self.server, &self.connection, signal) {
                let output = dispatch::run(&self.server, &self.connection, job, Some(signal), NOW);
                self.take(&output);
            }
        }
    }
}

impl Link for Pair {
    fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        let mut frame = self.server.pool.take(message.len() + 16);
        frame.bytes_mut()[..message.len()].copy_from_slice(message);
        match Job::new(&self.connection, frame) {
            Ok(job) => {
                let output = dispatch::run(&self.server, &self.connection, job, None, NOW);
                self.take(&output);
                self.pump();
            }
            Err(_) => self.take(&Output { disconnect: true, ..Output::default() }),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        self.pump();
        match self.frames.pop_front() {
            Some(frame) => Ok(frame),
            None if self.closed => Err(ClientError::Closed),
            None => Err(ClientError::Rule("the server has not answered")),
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.take(&Output { disconnect: true, ..Output::default() });
    }
}

/// FILE_DIRECTORY_FILE.
pub(crate) const DIRECTORY: u32 = 1;

/// The status that a request was refused with.
pub(crate) fn status<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> Status {
    match outcome {
        Err(ClientError::Status(status)) => status,
        other => panic!("not a status: {other:?}"),
    }
}

/// One range for a LOCK.
pub(crate) fn exclusive(offset: u64, length: u64, flags: u32) -> Vec<Element> {
    vec![Element { offset, length, flags: FLAG_EXCLUSIVE | flags }]
}
