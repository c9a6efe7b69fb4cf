//! An export as its disk sees it: several connections, made anew when they are lost, and requests that are sent again until
//! they are answered or the configured time is over.
//!
//! A lost connection may mean a server that restarted and forgot what it had acknowledged but not flushed. So the checksum of
//! each such write is kept ([`super::unflushed`]), and the next flush after a loss reads those ranges back: what is not there is
//! an error, and the extent has to be copied again. Flushes come often enough to bound that.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::channel::Tls;
use super::connection::{Answer, CallError, Connection, Pending};
use super::unflushed::{Kind, Unflushed};
use super::uri::Uri;
use super::wire::{self, Command, Offer, STATE_ZERO, export, flag};
use crate::datastore::zeros::is_zero;

/// Bytes of one read or write request: large enough for a server's disk, small enough to be spread over connections.
pub(super) const PIECE: usize = 1024 * 1024;
/// Bytes zeroed or trimmed by one request.
const ZERO_PIECE: u64 = 64 * 1024 * 1024;
/// Bytes asked about by one block status request.
const STATUS_PIECE: u64 = 1 << 30;
/// Block status requests for one question: past this the answer is "not known".
const STATUS_REQUESTS_MAX: usize = 64 * 1024;
/// First and longest pause between attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts after an error of the server's that may pass (EIO, ENOMEM).
const SERVER_ATTEMPTS: u32 = 5;

/// How an export is used.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Connections, where the server allows several.
    pub connections: usize,
    /// How long a request is tried again after the connection is lost, and how long an answer may take.
    pub retry: Duration,
    /// For addresses with `nbds`.
    pub tls: Option<Tls>,
}

/// A piece of work that can be sent as one request.
#[derive(Clone, Copy)]
struct Piece<'a> {
    command: Command,
    flags: u16,
    offset: u64,
    length: u32,
    data: &'a [u8],
}

/// A piece that was sent, and where.
struct Sent {
    connection: Arc<Connection>,
    pending: Pending,
}

/// An export, connected.
pub(super) struct Client {
    uri: Uri,
    options: ClientOptions,
    offer: Offer,
    /// Each place is locked while its connection is made, so that others wait for the same attempt.
    places: Vec<Mutex<Option<Arc<Connection>>>>,
    turn: AtomicUsize,
    /// Connections lost so far.
    losses: AtomicU64,
    unflushed: Mutex<Unflushed>,
    /// Held during a flush.
    flushing: Mutex<()>,
}

impl Client {
    /// Connects once, without retries: a wrong address is told at once.
    pub(super) fn open(uri: &Uri, options: &ClientOptions) -> io::Result<Self> {
        let first =
            Connection::open(uri, options.tls.as_ref(), options.retry).map_err(|error| named(uri, &error))?;
        Ok(Self::over(first, uri, options))
    }

    /// Connects to an export that was there before: a server that does not answer may be about to come back.
    pub(super) fn open_patiently(uri: &Uri, options: &ClientOptions) -> io::Result<Self> {
        let first = connect(uri, options, Instant::now() + options.retry, Ok)?;
        Ok(Self::over(first, uri, options))
    }

    fn over(first: Connection, uri: &Uri, options: &ClientOptions) -> Self {
        let offer = first.offer();
        let several = offer.flags & export::MULTI_CONN != 0;
        let count = if several { options.connections.max(1) } else { 1 };
        let mut places: Vec<_> = (0..count).map(|_| Mutex::new(None)).collect();
        places[0] = Mutex::new(Some(Arc::new(first)));
        Self {
            uri: uri.clone(),
            options: options.clone(),
            offer,
            places,
            turn: AtomicUsize::new(0),
            losses: AtomicU64::new(0),
            unflushed: Mutex::default(),
            flushing: Mutex::new(()),
        }
    }

    pub(super) fn offer(&self) -> Offer {
        self.offer
    }

    fn has(&self, capability: u16) -> bool {
        self.offer.flags & capability != 0
    }

    fn unflushed(&self) -> MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let pieces = buffer.chunks(PIECE).zip((offset..).step_by(PIECE)).map(|(chunk, offset)| Piece {
            command: Command::Read,
            flags: 0,
            offset,
            length: chunk.len() as u32,
            data: &[],
        });
        let answers = self.carry_out(&pieces.collect::<Vec<_>>())?;
        for (chunk, answer) in buffer.chunks_mut(PIECE).zip(answers) {
            if answer.data.len() != chunk.len() {
                return Err(named(&self.uri, &io::Error::other("fewer bytes came than were asked for")));
            }
            chunk.copy_from_slice(&answer.data);
        }
        Ok(())
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        // Without a flush, a write is durable when it is acknowledged, if the server has that.
        let flags = if !self.has(export::FLUSH) && self.has(export::FUA) { flag::FUA } else { 0 };
        let pieces: Vec<_> = data
            .chunks(PIECE.min(self.offer.payload_max as usize))
            .scan(offset, |at, chunk| {
                let offset = *at;
                *at += chunk.len() as u64;
                Some(Piece {
                    command: Command::Write,
                    flags,
                    offset,
                    length: chunk.len() as u32,
                    data: chunk,
                })
            })
            .collect();
        self.prepare(offset, data.len() as u64)?;
        let losses = self.losses();
        self.carry_out(&pieces)?;
        let mut unflushed = self.unflushed();
        let doubtful = self.losses() != losses;
        for piece in &pieces {
            let kind = Kind::Data(crc32c::crc32c(piece.data));
            unflushed.note(piece.offset, u64::from(piece.length), kind, doubtful);
        }
        self.flush_if_due(unflushed)
    }

    /// Zeroes a range; `keep_space` asks that it stays allocated. Whether the server could: if not, it is to be written.
    pub(super) fn write_zeroes(&self, offset: u64, length: u64, keep_space: bool) -> io::Result<bool> {
        if !self.has(export::WRITE_ZEROES) {
            return Ok(false);
        }
        let mut flags = if keep_space { flag::NO_HOLE } else { 0 };
        if !self.has(export::FLUSH) && self.has(export::FUA) {
            flags |= flag::FUA;
        }
        self.prepare(offset, length)?;
        let losses = self.losses();
        match self.carry_out(&ranges(Command::WriteZeroes, flags, offset, length)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut unflushed = self.unflushed();
        unflushed.note(offset, length, Kind::Zeros, self.losses() != losses);
        self.flush_if_due(unflushed).map(|()| true)
    }

    /// Gives a range's space back, where the server can; what it reads as afterwards is not known.
    pub(super) fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.has(export::TRIM) {
            self.carry_out(&ranges(Command::Trim, 0, offset, length))?;
        }
        Ok(())
    }

    /// Whether the range is known to read as zeros, from base:allocation. `false` also where nothing is known.
    pub(super) fn is_known_zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        if self.offer.allocation.is_none() {
            return Ok(false);
        }
        let end = offset + length;
        let mut at = offset;
        for _ in 0..STATUS_REQUESTS_MAX {
            if at >= end {
                return Ok(true);
            }
            let length = (end - at).min(STATUS_PIECE) as u32;
            let piece = Piece { command: Command::BlockStatus, flags: 0, offset: at, length, data: &[] };
            let answers = match self.carry_out(&[piece]) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(false),
                other => other?,
            };
            let before = at;
            for (length, flags) in answers.iter().flat_map(|answer| &answer.extents) {
                if flags & STATE_ZERO == 0 {
                    return Ok(false);
                }
                at += u64::from(*length);
            }
            if at == before {
                return Ok(false); // An answer about nothing.
            }
        }
        Ok(false)
    }

    fn flush_if_due(&self, unflushed: MutexGuard<'_, Unflushed>) -> io::Result<()> {
        let due = unflushed.is_due();
        drop(unflushed);
        if due { self.flush_now() } else { Ok(()) }
    }

    /// Before a range is changed: an entry of which only a part would be left is flushed, while its checksum still fits.
    fn prepare(&self, offset: u64, length: u64) -> io::Result<()> {
        let would_cut = self.unflushed().would_cut(offset, offset + length);
        if would_cut { self.flush_now() } else { Ok(()) }
    }

    /// Makes durable what was acknowledged; an error where something of it is gone.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.flush_now()?;
        let Some((offset, length, all)) = self.unflushed().take_missing() else { return Ok(()) };
        let message = format!(
            "the server lost what it had accepted when its connection broke ({all} bytes, the first {length} at {offset})"
        );
        Err(named(&self.uri, &io::Error::new(io::ErrorKind::InvalidData, message)))
    }

    /// Flushes, after a loss with a look at what was acknowledged before. What is missing is noted for [`Client::flush`].
    fn flush_now(&self) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + self.options.retry;
        loop {
            let losses = self.losses();
            let taken = self.unflushed().take();
            if taken.is_empty() {
                return Ok(());
            }
            let done = self.verify(&taken).and_then(|missing| {
                if self.has(export::FLUSH) {
                    let piece = Piece { command: Command::Flush, flags: 0, offset: 0, length: 0, data: &[] };
                    self.carry_out(&[piece])?;
                }
                Ok(missing)
            });
            match done {
                // Lost once more meanwhile: what this flush covered is looked at again.
                Ok(_) if self.losses() != losses => {
                    self.unflushed().put_back(taken);
                    if Instant::now() >= deadline {
                        return Err(self.gave_up("the connection breaks again and again"));
                    }
                }
                Ok(missing) => {
                    self.unflushed().put_back(missing);
                    return Ok(());
                }
                Err(error) => {
                    self.unflushed().put_back(taken);
                    return Err(error);
                }
            }
        }
    }

    /// Reads back what was acknowledged before a connection was lost; returns what is missing.
    fn verify(&self, unflushed: &Unflushed) -> io::Result<Unflushed> {
        let (mut buffer, mut missing) = (Vec::new(), Unflushed::default());
        for (offset, length, kind) in unflushed.doubtful() {
            let good = match kind {
                Kind::Missing => false,
                Kind::Data(checksum) => {
                    buffer.resize(length as usize, 0);
                    self.read(&mut buffer, offset)?;
                    crc32c::crc32c(&buffer) == checksum
                }
                Kind::Zeros => self.reads_zero(offset, length, &mut buffer)?,
            };
            if !good {
                missing.note(offset, length, Kind::Missing, true);
            }
        }
        Ok(missing)
    }

    fn reads_zero(&self, offset: u64, length: u64, buffer: &mut Vec<u8>) -> io::Result<bool> {
        if self.is_known_zero(offset, length)? {
            return Ok(true);
        }
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(PIECE as u64);
            buffer.resize(part as usize, 0);
            self.read(buffer, at)?;
            if !is_zero(buffer) {
                return Ok(false);
            }
            at += part;
        }
        Ok(true)
    }

    /// Sends pieces one behind the other, over the connections in turn, and waits for all answers.
    fn carry_out(&self, pieces: &[Piece<'_>]) -> io::Result<Vec<Answer>> {
        let mut under_way: Vec<Option<Sent>> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            // Where one finds no connection, it and those behind it are sent when their turn comes.
            let open = under_way.last().is_none_or(Option::is_some);
            under_way.push(if open { self.send(piece, Instant::now()).ok().flatten() } else { None });
        }
        let mut answers = Vec::with_capacity(pieces.len());
        let mut failed = None;
        for (piece, sent) in pieces.iter().zip(under_way) {
            // All that were sent are waited for, whatever became of one: a write under way could overtake the next.
            if failed.is_some() && sent.is_none() {
                continue;
            }
            match self.complete(piece, sent) {
                Ok(answer) => answers.push(answer),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(answers), Err)
    }

    /// Sends a piece; `None` where the connection broke over it.
    fn send(&self, piece: &Piece<'_>, deadline: Instant) -> io::Result<Option<Sent>> {
        let connection = self.connection(deadline)?;
        let sent = connection.submit(piece.command, piece.flags, piece.offset, piece.length, piece.data);
        Ok(sent.ok().map(|pending| Sent { connection, pending }))
    }

    /// Waits for a piece's answer, sending it again as long as that may help.
    fn complete(&self, piece: &Piece<'_>, mut sent: Option<Sent>) -> io::Result<Answer> {
        let deadline = Instant::now() + self.options.retry;
        let (mut pause, mut refusals) = (Duration::ZERO, 0);
        loop {
            let late = Instant::now() >= deadline;
            match sent.take() {
                None => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
                    sent = self.send(piece, deadline)?;
                    if sent.is_none() && late {
                        return Err(self.gave_up("the connection breaks again and again"));
                    }
                }
                Some(Sent { connection, pending }) => match connection.wait(&pending) {
                    Ok(answer) => return Ok(answer),
                    Err(CallError::Lost(why)) if late => return Err(self.gave_up(&why)),
                    Err(CallError::Lost(why)) => {
                        tracing::debug!(uri = %self.uri, why, "an NBD request is sent again");
                    }
                    Err(CallError::Server(number)) => {
                        refusals += 1;
                        if refusals >= SERVER_ATTEMPTS || late || !wire::is_passing(number) {
                            return Err(named(&self.uri, &wire::error_of(number)));
                        }
                        tracing::warn!(uri = %self.uri, number, "the NBD server failed a request; it is sent again");
                    }
                },
            }
        }
    }

    fn gave_up(&self, why: &str) -> io::Error {
        gave_up(&self.uri, &self.options, why)
    }

    /// A live connection, made anew where it must be, until `deadline`.
    fn connection(&self, deadline: Instant) -> io::Result<Arc<Connection>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.places.len();
        let mut place = self.places[turn].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*place {
            if !connection.is_dead() {
                return Ok(Arc::clone(connection));
            }
            *place = None;
            // Counted before anything is sent on the new one: a flush that sees the number sees the loss.
            self.losses.fetch_add(1, Ordering::AcqRel);
            self.unflushed().lost();
            tracing::warn!(uri = %self.uri, "the connection to the NBD server was lost");
        }
        let connection = connect(&self.uri, &self.options, deadline, |new| self.same(new))?;
        let connection = Arc::new(connection);
        *place = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Refuses an export that is not the one of before.
    fn same(&self, connection: Connection) -> io::Result<Connection> {
        let offer = connection.offer();
        if (offer.size, offer.flags, offer.block) == (self.offer.size, self.offer.flags, self.offer.block) {
            return Ok(connection);
        }
        Err(io::Error::other("the server came back with another export under that name"))
    }
}

/// Connects, again and again until `deadline`.
fn connect(
    uri: &Uri,
    options: &ClientOptions,
    deadline: Instant,
    check: impl Fn(Connection) -> io::Result<Connection>,
) -> io::Result<Connection> {
    let mut pause = PAUSE_FIRST;
    loop {
        match Connection::open(uri, options.tls.as_ref(), options.retry).and_then(&check) {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() + pause >= deadline => {
                return Err(gave_up(uri, options, &error.to_string()));
            }
            Err(error) => tracing::debug!(%uri, %error, "the NBD server does not answer yet"),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn gave_up(uri: &Uri, options: &ClientOptions, why: &str) -> io::Error {
    let message = format!("{why}; tried for {} s", options.retry.as_secs());
    named(uri, &io::Error::new(io::ErrorKind::TimedOut, message))
}

/// Cuts a range into requests.
fn ranges<'a>(command: Command, flags: u16, offset: u64, length: u64) -> Vec<Piece<'a>> {
    (offset..offset + length)
        .step_by(ZERO_PIECE as usize)
        .map(|at| {
            let length = (offset + length - at).min(ZERO_PIECE) as u32;
            Piece { command, flags, offset: at, length, data: &[] }
        })
        .collect()
}

/// An error with the address in front.
pub(super) fn named(uri: &Uri, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{uri}: {error}"))
}
