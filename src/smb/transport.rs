//! Sockets: accepts connections, reads frames into pooled buffers and has them worked on: what is quick in place, what moves
//! data or may take long on threads that may block. All protocol decisions are in [`super::dispatch`]; answers leave by
//! [`super::outbox`]. Needs tokio's multi-threaded runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use smb_proto::frame::{FRAME_HEADER_LEN, decode_length};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::buffer::{Buffer, size_of};
use super::connection::{Connection, Signal};
use super::dispatch::{self, Output};
use super::job::{Job, Pace};
use super::limits::Allowance;
use super::outbox::Outbox;
use super::running::INTERIM_AFTER;
use super::scavenger;
use super::seldom::Seldom;
use super::server::{PAYLOAD_BYTES_MAX, Server};

/// The longest frame: the largest payload, its headers and a compound's other parts.
const FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (64 << 10);
/// The longest frame before a login: a token with its SPNEGO around it.
const FRAME_BYTES_BEFORE_LOGIN_MAX: usize = 128 << 10;
/// Data requests of one connection that are worked on at once: covers a disk's latency, bounds buffers to 64 MiB.
const BULK_PER_CONNECTION_MAX: usize = 8;
/// Metadata requests of one connection that are worked on at once, each longer than [`IN_ORDER_MAX`]: a datastore that answers nobody
/// holds no more threads for one client, and what comes behind them waits.
const SLOW_PER_CONNECTION_MAX: usize = 64;
/// Threads that may block at once, over all connections: a datastore that hangs holds those of its own clients, hundreds of them, and leaves
/// the others theirs. For whoever builds the runtime.
pub const BLOCKED_THREADS_MAX: usize = 4096;
/// Small requests are read together, as many as fit here; larger frames go straight into their own buffer.
const READ_AHEAD: usize = 8 << 10;
/// Longest request that moves data in place, where it is the only one: an old client's 64 KiB and its headers.
const ALONE_MAX: usize = (64 << 10) + 256;
/// A metadata request that takes longer does not hold up those behind it.
const IN_ORDER_MAX: Duration = Duration::from_millis(50);

/// 100 ns since 1601-01-01 UTC (MS-DTYP 2.3.3).
fn now() -> u64 {
    const UNIX_EPOCH_SECONDS: u64 = 11_644_473_600;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (UNIX_EPOCH_SECONDS + since.as_secs()) * 10_000_000 + u64::from(since.subsec_nanos() / 100)
}

/// Serves until `shutdown` becomes true.
pub async fn serve(listener: TcpListener, server: Arc<Server>, mut shutdown: watch::Receiver<bool>) {
    let mut refusals = Seldom::new(1);
    tokio::spawn(scavenger::run(Arc::clone(&server), shutdown.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("can't accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: don't spin
                continue;
            }
        };
        let place = match server.door.enter(peer.ip(), &server.settings.limits) {
            Ok(place) => place,
            Err(full) => {
                refusals
                    .note(Instant::now(), |more| tracing::warn!(%peer, more, "connection refused: {full}"));
                continue;
            }
        };
        let (server, mut shutdown) = (Arc::clone(&server), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = connection(stream, server, peer.to_string()) => {}
                _ = shutdown.wait_for(|stop| *stop) => {}
            }
        });
    }
}

/// What the tasks of a connection have in common.
struct Tasks {
    server: Arc<Server>,
    connection: Arc<Connection>,
    outbox: Outbox,
    stop: Notify,
    runtime: Handle,
    /// What its large frames and answers may take of the server's memory.
    allowance: Allowance,
}

async fn connection(stream: TcpStream, server: Arc<Server>, peer: String) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer, "TCP_NODELAY: {error}");
    }
    let local = stream.local_addr().map(|address| address.ip());
    let socket = rustix::fs::fstat(&stream).map(|stat| stat.st_ino);
    let (reader, writer) = stream.into_split();
    let (signals, signalled) = mpsc::unbounded_channel();
    let mut connection = Connection::new(peer.into(), signals);
    connection.sessions_max = server.settings.limits.sessions_per_connection;
    let allowance = server.budget.allowance();
    if let Ok(local) = local {
        let _ = connection.local.set(local); // set here only
    }
    if let Ok(socket) = socket {
        let _ = connection.socket.set(socket); // likewise
    }
    let tasks = Arc::new(Tasks {
        server,
        connection: Arc::new(connection),
        outbox: Outbox::new(writer, allowance.bytes()),
        stop: Notify::new(),
        runtime: Handle::current(),
        allowance,
    });
    let _cleanup = Cleanup(Arc::clone(&tasks));
    // A task of its own: what it works on in place holds up nothing else of this connection.
    let mut reading =
        Reading(tokio::spawn(read(BufReader::with_capacity(READ_AHEAD, reader), Arc::clone(&tasks))));
    tokio::select! {
        _ = &mut reading.0 => {}
        () = tasks.outbox.run() => {}
        () = resume(signalled, &tasks) => {}
        () = tasks.stop.notified() => {}
        () = tasks.connection.cut.notified() => tasks.outbox.reset(),
    }
}

/// Ends the connection's sessions, also where its task is dropped at shutdown.
struct Cleanup(Arc<Tasks>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.0.server.connection_lost(&self.0.connection);
    }
}

/// The reading task, stopped with the connection.
struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Reader = BufReader<OwnedReadHalf>;

/// Reads frames. Those that move data run beside each other, what is quick runs here, and all others run in order, unless one
/// takes too long.
async fn read(mut reader: Reader, tasks: Arc<Tasks>) {
    let bulk = Arc::new(Semaphore::new(BULK_PER_CONNECTION_MAX));
    let slow = Arc::new(Semaphore::new(SLOW_PER_CONNECTION_MAX));
    let started = tokio::time::Instant::now();
    let mut unproved = 0; // bytes before a login
    loop {
        tasks.outbox.room().await;
        let Some((frame, mut place)) = next_frame(&mut reader, &tasks, started, &bulk, &mut unproved).await
        else {
            return;
        };
        let Ok(mut job) = Job::new(&tasks.connection, frame) else { return };
        match job.pace(&tasks.connection) {
            Pace::Quick => {
                let output = tokio::task::block_in_place(|| tasks.run(job, None));
                if let Some(delay) = output.delay {
                    tokio::time::sleep(delay).await;
                }
                tasks.take_up(output);
                if !holds_frame(reader.buffer()) {
                    tasks.outbox.flush();
                }
            }
            Pace::Bulk => {
                tasks.outbox.flush();
                if place.is_none() {
                    place = Arc::clone(&bulk).acquire_owned().await.ok();
                }
                job.hold(tasks.allowance.reserve(job.answer_len()).await);
                tasks.set_apart(&mut job);
                if job.len() <= ALONE_MAX
                    && bulk.available_permits() + 1 == BULK_PER_CONNECTION_MAX
                    && is_idle(&reader)
                {
                    // Nothing to run beside: handing it over would cost more than it brings.
                    let output = tokio::task::block_in_place(|| tasks.run(job, None));
                    tasks.deliver(output);
                } else {
                    tasks.hand_over(job, None, place);
                }
            }
            Pace::Slow => {
                tasks.outbox.flush();
                let turn = Arc::clone(&slow).acquire_owned().await.ok();
                job.hold(tasks.allowance.reserve(job.answer_len()).await);
                let work = tasks.hand_over(job, None, (place, turn));
                let _ = timeout(IN_ORDER_MAX, work).await; // too slow: it goes on by itself
            }
        }
    }
}

/// Whether a whole frame has been read already.
fn holds_frame(buffered: &[u8]) -> bool {
    buffered.first_chunk().is_some_and(|head| {
        decode_length(*head, FRAME_BYTES_MAX).is_ok_and(|length| buffered.len() >= FRAME_HEADER_LEN + length)
    })
}

/// Whether the client has sent nothing more yet.
fn is_idle(reader: &Reader) -> bool {
    reader.buffer().is_empty()
        && rustix::io::ioctl_fionread(reader.get_ref().as_ref()).is_ok_and(|waiting| waiting == 0)
}

/// The next frame, with 16 bytes of room behind it, and its place among the bulk requests if it is large. `None`: the client
/// is gone, too slow, or sends what can't be a frame.
async fn next_frame(
    reader: &mut Reader,
    tasks: &Tasks,
    started: tokio::time::Instant,
    bulk: &Arc<Semaphore>,
    unproved: &mut u64,
) -> Option<(Buffer, Option<OwnedSemaphorePermit>)> {
    let (limits, logged_in) = (&tasks.server.settings.limits, tasks.connection.has_session());
    let mut head = [0; FRAME_HEADER_LEN];
    if reader.buffer().len() < FRAME_HEADER_LEN {
        let patience =
            if logged_in { limits.idle_time } else { limits.login_time.saturating_sub(started.elapsed()) };
        timeout(patience, reader.read_exact(&mut head)).await.ok()?.ok()?;
    } else {
        reader.read_exact(&mut head).await.ok()?;
    }
    let longest = if logged_in { FRAME_BYTES_MAX } else { FRAME_BYTES_BEFORE_LOGIN_MAX };
    let length = decode_length(head, longest).ok()?;
    if !logged_in {
        *unproved += length as u64;
        if *unproved > limits.login_bytes {
            tracing::debug!(peer = %tasks.connection.peer, "cut: too much was sent before a login (limits.login-bytes)");
            return None;
        }
    }
    // A large buffer is taken only when there is a place for what is in it.
    let place = if length > READ_AHEAD { Some(Arc::clone(bulk).acquire_owned().await.ok()?) } else { None };
    let reserved = tasks.allowance.reserve(size_of(length + 16)).await;
    let mut frame = tasks.server.pool.take(length + 16);
    frame.hold(reserved);
    let body = &mut frame.bytes_mut()[..length];
    if reader.buffer().len() >= length {
        reader.read_exact(body).await.ok()?;
    } else {
        timeout(limits.frame_time, reader.read_exact(body)).await.ok()?.ok()?;
    }
    Some((frame, place))
}

impl Tasks {
    /// Runs a job on this thread, which may block. A panic in it costs the connection.
    fn run(&self, job: Job, signal: Option<Signal>) -> Output {
        let work = || dispatch::run(&self.server, &self.connection, job, signal, now());
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            // The panic hook has printed what and where.
            tracing::error!(peer = %self.connection.peer, "a request failed inside the server: its connection is cut");
            Output { disconnect: true, ..Output::default() }
        })
    }

    /// A job is about to run where it may take long: has its client told if it does.
    fn set_apart(self: &Arc<Self>, job: &mut Job) {
        job.set_apart();
        if self.connection.running.begin_watch() {
            // Weak: a lost connection must not live on for it.
            let tasks = Arc::downgrade(self);
            self.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(INTERIM_AFTER / 2).await;
                    let Some(tasks) = tasks.upgrade() else { return };
                    dispatch::tell_pending(&tasks.server, &tasks.connection, INTERIM_AFTER, |output| {
                        tasks.take_up(output);
                        tasks.outbox.flush();
                    });
                    if tasks.connection.running.end_watch() {
                        return;
                    }
                }
            });
        }
    }

    /// Runs a job on a thread that may block and sends its answers from there; then it gives up what it `holds`.
    fn hand_over(
        self: &Arc<Self>,
        mut job: Job,
        signal: Option<Signal>,
        holds: impl Send + 'static,
    ) -> JoinHandle<()> {
        self.set_apart(&mut job);
        let tasks = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let output = tasks.run(job, signal);
            tasks.deliver(output);
            drop(holds);
        })
    }

    /// Does what a job led to, but for its delay; its answers are queued.
    fn take_up(self: &Arc<Self>, output: Output) {
        let Output { mut frames, disconnect, delay: _, parked, expiry } = output;
        for frame in frames.iter_mut().filter(|frame| !frame.is_counted()) {
            // Its request was counted itself and has given that back.
            let bytes = frame.memory();
            frame.hold(self.allowance.reserve_now(bytes));
        }
        self.outbox.push(frames);
        if let Some(id) = parked {
            dispatch::arm(&self.connection, id);
        }
        if disconnect {
            self.outbox.flush();
            self.stop.notify_one();
        }
        if let Some((id, after)) = expiry {
            // Weak: a timer must not keep a lost connection and all that waits on it.
            let connection = Arc::downgrade(&self.connection);
            self.runtime.spawn(async move {
                tokio::time::sleep(after).await;
                if let Some(connection) = connection.upgrade() {
                    connection.signal(Signal::Expire(id));
                }
            });
        }
    }

    /// Does what a job led to and sends its answers, after its delay.
    fn deliver(self: &Arc<Self>, output: Output) {
        if let Some(delay) = output.delay {
            let tasks = Arc::clone(self);
            self.runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                tasks.take_up(output);
                tasks.outbox.flush();
            });
        } else {
            self.take_up(output);
            self.outbox.flush();
        }
    }
}

/// Runs parked requests again.
async fn resume(mut signalled: mpsc::UnboundedReceiver<Signal>, tasks: &Arc<Tasks>) {
    while let Some(signal) = signalled.recv().await {
        if signal == Signal::Send {
            tasks.outbox.room().await; // what a client does not read must not pile up
            let Some(frame) = tasks.connection.take_posted() else { continue };
            tasks.outbox.push(vec![frame]);
            tasks.outbox.flush();
            continue;
        }
        if let Some(job) = dispatch::unpark(&tasks.server, &tasks.connection, signal) {
            tasks.hand_over(job, Some(signal), ());
        }
    }
}
