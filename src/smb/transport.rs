//! Sockets: accepts connections, reads frames into pooled buffers, has them worked on off the async threads, and writes
//! the answers. All protocol decisions are in [`super::dispatch`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smb_proto::frame::{FRAME_HEADER_LEN, decode_length};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::buffer::Buffer;
use super::connection::{Connection, Signal};
use super::dispatch::{self, Job, Output};
use super::server::{PAYLOAD_BYTES_MAX, Server};

/// Connections at once: file descriptors and memory for each are set aside by the operating system's defaults.
pub const CONNECTIONS_MAX: usize = 512;
/// The longest frame: the largest payload, its headers and a compound's other parts.
const FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (64 << 10);
/// The longest frame before a login: a token with its SPNEGO around it.
const FRAME_BYTES_BEFORE_LOGIN_MAX: usize = 128 << 10;
/// Data requests of one connection that are worked on at once: covers a disk's latency, bounds buffers to 64 MiB.
const BULK_PER_CONNECTION_MAX: usize = 8;
/// Answers that wait for a slow reader; past that its requests wait.
const ANSWERS_QUEUED_MAX: usize = 16;
/// A metadata request that takes longer does not hold up those behind it.
const IN_ORDER_MAX: Duration = Duration::from_millis(50);
/// A client must have logged in by then.
const LOGIN_MAX: Duration = Duration::from_secs(30);
/// A session that says nothing for this long has lost its client: Windows sends an ECHO every minute.
const IDLE_MAX: Duration = Duration::from_mins(15);
/// A frame that was begun arrives within this time.
const FRAME_MAX: Duration = Duration::from_mins(1);

/// 100 ns since 1601-01-01 UTC (MS-DTYP 2.3.3).
fn now() -> u64 {
    const UNIX_EPOCH_SECONDS: u64 = 11_644_473_600;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (UNIX_EPOCH_SECONDS + since.as_secs()) * 10_000_000 + u64::from(since.subsec_nanos() / 100)
}

/// Serves until `shutdown` becomes true.
pub async fn serve(listener: TcpListener, server: Arc<Server>, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, "refused: {CONNECTIONS_MAX} connections are open");
            continue;
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
#[derive(Clone)]
struct Tasks {
    server: Arc<Server>,
    connection: Arc<Connection>,
    answers: mpsc::Sender<Buffer>,
    stop: Arc<tokio::sync::Notify>,
}

async fn connection(stream: TcpStream, server: Arc<Server>, peer: String) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer, "TCP_NODELAY: {error}");
    }
    let (reader, writer) = stream.into_split();
    let (signals, signalled) = mpsc::unbounded_channel();
    let (answers, queue) = mpsc::channel(ANSWERS_QUEUED_MAX);
    let connection = Arc::new(Connection::new(peer.into(), signals));
    let stop = Arc::new(tokio::sync::Notify::new());
    let tasks = Tasks { server, connection, answers, stop };
    let cleanup = Cleanup(tasks.clone());
    tokio::select! {
        () = read(reader, tasks.clone()) => {}
        () = write(writer, queue) => {}
        () = resume(signalled, tasks.clone()) => {}
        () = tasks.stop.notified() => {}
    }
    drop(cleanup);
}

/// Ends the connection's sessions, also where its task is dropped at shutdown.
struct Cleanup(Tasks);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for session in self.0.connection.drain_sessions() {
            self.0.server.remove_session(session.id);
        }
    }
}

/// Reads frames. Those that move data run beside each other; all others in order, unless one takes too long.
async fn read(mut reader: OwnedReadHalf, tasks: Tasks) {
    let bulk = Arc::new(Semaphore::new(BULK_PER_CONNECTION_MAX));
    let started = tokio::time::Instant::now();
    loop {
        let logged_in = tasks.connection.has_session();
        let patience = if logged_in { IDLE_MAX } else { LOGIN_MAX.saturating_sub(started.elapsed()) };
        let mut head = [0; FRAME_HEADER_LEN];
        if !matches!(timeout(patience, reader.read_exact(&mut head)).await, Ok(Ok(_))) {
            return;
        }
        let longest = if logged_in { FRAME_BYTES_MAX } else { FRAME_BYTES_BEFORE_LOGIN_MAX };
        let Ok(length) = decode_length(head, longest) else { return };
        let Ok(place) = Arc::clone(&bulk).acquire_owned().await else { return };
        let mut frame = tasks.server.pool.take(length + 16);
        let filled = timeout(FRAME_MAX, reader.read_exact(&mut frame.bytes_mut()[..length])).await;
        if !matches!(filled, Ok(Ok(_))) {
            return;
        }
        let Ok(job) = Job::new(&tasks.connection, frame) else { return };
        let is_bulk = job.is_bulk();
        let work = tokio::spawn(work(tasks.clone(), job, None, Some(place)));
        if !is_bulk {
            let wait = if logged_in { IN_ORDER_MAX } else { LOGIN_MAX };
            let _ = timeout(wait, work).await; // too slow: it goes on by itself
        }
    }
}

/// Runs a job on the blocking pool and queues its answers. A panic in it costs the connection.
async fn work(
    tasks: Tasks,
    job: Job,
    signal: Option<Signal>,
    place: Option<tokio::sync::OwnedSemaphorePermit>,
) {
    let (server, connection) = (Arc::clone(&tasks.server), Arc::clone(&tasks.connection));
    let done =
        tokio::task::spawn_blocking(move || dispatch::run(&server, &connection, job, signal, now())).await;
    let Output { frames, disconnect, delay, expiry } = done.unwrap_or_else(|error| {
        tracing::error!(peer = %tasks.connection.peer, "a request failed inside the server: {error}");
        Output { disconnect: true, ..Output::default() }
    });
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    for frame in frames {
        if tasks.answers.send(frame).await.is_err() {
            return;
        }
    }
    drop(place);
    if disconnect {
        tasks.stop.notify_one();
    }
    if let Some((id, after)) = expiry {
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            tasks.connection.signal(Signal::Expire(id));
        });
    }
}

/// Runs parked requests again.
async fn resume(mut signalled: mpsc::UnboundedReceiver<Signal>, tasks: Tasks) {
    while let Some(signal) = signalled.recv().await {
        if let Some(job) = dispatch::unpark(&tasks.server, &tasks.connection, signal) {
            tokio::spawn(work(tasks.clone(), job, Some(signal), None));
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Buffer>) {
    while let Some(frame) = queue.recv().await {
        if writer.write_all(frame.bytes()).await.is_err() {
            return;
        }
    }
}
