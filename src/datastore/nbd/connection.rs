//! One connection: requests go out from their callers' threads, a thread of its own hands the replies to those who wait.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::channel::{Channel, Tls};
use super::socket::{CONNECT_SECONDS, Socket};
use super::uri::Uri;
use super::wire::{self, Command, Content, Expected, Offer};

/// Requests under way on one connection: the server's queue, and with [`super::client::PIECE`] what may be in its buffers.
const IN_FLIGHT_MAX: usize = 32;
/// Bytes read from the socket at a time: replies to writes are 16 bytes, and many come at once.
const READ_BUFFER: usize = 64 * 1024;

/// Why a request has no good answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection is gone: the request may have been carried out or not.
    Lost(String),
    /// The server says no; its number.
    Server(u32),
}

/// A good answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What was read.
    pub(super) data: Vec<u8>,
    /// Extents of base:allocation.
    pub(super) extents: Vec<(u32, u32)>,
}

/// A request under way, as its caller sees it.
#[derive(Debug)]
pub(super) struct Pending {
    receiver: Receiver<Result<Answer, u32>>,
}

/// A request under way, as the reading thread sees it.
struct Waiting {
    expected: Expected,
    answer: Answer,
    error: Option<u32>,
    sender: SyncSender<Result<Answer, u32>>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, Waiting>,
    /// Why the connection is gone.
    dead: Option<String>,
}

struct Shared {
    table: Mutex<Table>,
    /// Told when a request is answered or the connection is gone.
    room: Condvar,
    channel: Channel,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection; everybody who waits is told.
    fn kill(&self, why: String) {
        self.channel.shutdown();
        let mut table = self.lock();
        table.dead.get_or_insert(why);
        table.waiting.clear(); // Drops the senders, which is what their callers see.
        self.room.notify_all();
    }

    /// Hands replies to those who wait, until the connection ends.
    fn read_replies(&self) {
        let mut from = BufReader::with_capacity(READ_BUFFER, self.channel.replies());
        loop {
            let expected = |cookie| self.lock().waiting.get(&cookie).map(|waiting| waiting.expected);
            match wire::read_reply(&mut from, expected) {
                Ok(reply) => self.settle(reply),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.kill("the server closed the connection".to_owned());
                }
                Err(error) => return self.kill(error.to_string()),
            }
        }
    }

    fn settle(&self, reply: wire::Reply) {
        let mut table = self.lock();
        let Some(waiting) = table.waiting.get_mut(&reply.cookie) else { return };
        match reply.content {
            Content::Nothing => {}
            Content::Error(number) => waiting.error = Some(number),
            Content::Data(0, bytes) if bytes.len() == waiting.expected.length as usize => {
                waiting.answer.data = bytes;
            }
            Content::Data(inside, bytes) => {
                waiting.answer.data.resize(waiting.expected.length as usize, 0);
                waiting.answer.data[inside..inside + bytes.len()].copy_from_slice(&bytes);
            }
            Content::Hole(inside, length) => {
                waiting.answer.data.resize(waiting.expected.length as usize, 0);
                waiting.answer.data[inside..inside + length].fill(0);
            }
            Content::Extents(extents) => waiting.answer.extents = extents,
        }
        if reply.done
            && let Some(waiting) = table.waiting.remove(&reply.cookie)
        {
            self.room.notify_one();
            let outcome = waiting.error.map_or(Ok(waiting.answer), Err);
            let _ = waiting.sender.try_send(outcome); // Whoever asked may have given up.
        }
    }
}

/// An open connection to an export.
pub(super) struct Connection {
    offer: Offer,
    shared: Arc<Shared>,
    /// The thread that reads replies.
    reader: Option<JoinHandle<()>>,
    cookies: AtomicU64,
    /// How long an answer may take.
    patience: Duration,
}

impl Connection {
    /// Connects and agrees on the export. `patience` bounds the wait for an answer.
    pub(super) fn open(uri: &Uri, tls: Option<&Tls>, patience: Duration) -> io::Result<Self> {
        let socket = Socket::connect(&uri.server)?;
        let step = Some(patience.min(Duration::from_secs(CONNECT_SECONDS)));
        socket.set_timeouts(step, step)?;
        let (channel, offer) = Channel::enter(socket, uri, tls, patience)?;
        // A reader waits as long as nothing is asked; a writer no longer than for an answer.
        channel.set_timeouts(None, Some(patience))?;
        let shared = Arc::new(Shared { table: Mutex::default(), room: Condvar::new(), channel });
        let own = Arc::clone(&shared);
        let reader =
            std::thread::Builder::new().name("nbd-replies".into()).spawn(move || own.read_replies())?;
        Ok(Self { offer, shared, reader: Some(reader), cookies: AtomicU64::new(1), patience })
    }

    pub(super) fn offer(&self) -> Offer {
        self.offer
    }

    pub(super) fn is_dead(&self) -> bool {
        self.shared.lock().dead.is_some()
    }

    /// Sends a request, waiting for room in the queue; `data` is a write's.
    pub(super) fn submit(
        &self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<Pending, CallError> {
        let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        let expected = Expected { command, offset, length };
        {
            let mut table = self.shared.lock();
            // Bounded: who is in the queue is answered, or its caller ends the connection for want of an answer.
            while table.dead.is_none() && table.waiting.len() >= IN_FLIGHT_MAX {
                table = self.shared.room.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(why) = &table.dead {
                return Err(CallError::Lost(why.clone()));
            }
            table
                .waiting
                .insert(cookie, Waiting { expected, answer: Answer::default(), error: None, sender });
        }
        let header = wire::request(command, flags, cookie, offset, length);
        if let Err(error) = self.shared.channel.send(&header, data) {
            self.shared.kill(error.to_string());
            return Err(CallError::Lost(error.to_string()));
        }
        Ok(Pending { receiver })
    }

    /// Waits for the answer.
    pub(super) fn wait(&self, pending: &Pending) -> Result<Answer, CallError> {
        match pending.receiver.recv_timeout(self.patience) {
            Ok(outcome) => outcome.map_err(CallError::Server),
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Lost(self.why())),
            Err(RecvTimeoutError::Timeout) => {
                self.shared.kill(format!("no answer within {} s", self.patience.as_secs()));
                Err(CallError::Lost(self.why()))
            }
        }
    }

    fn why(&self) -> String {
        self.shared.lock().dead.clone().unwrap_or_else(|| "the connection ended".to_owned())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let goodbye = wire::request(Command::Disconnect, 0, 0, 0, 0);
        let _ = self.shared.channel.send(&goodbye, &[]); // A courtesy.
        self.shared.kill("it was closed".to_owned());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // It ends with the socket, which is closed when it is gone.
        }
    }
}
