//! A connection's way out: whoever has an answer writes it, as far as the socket takes it at once; a task of the connection
//! writes the rest when the client reads again. So an answer usually leaves from the thread that made it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::buffer::Buffer;

/// Answers that wait for a slow reader; past that, or past a number of bytes, its requests wait.
const ANSWERS_QUEUED_MAX: usize = 16;
/// A client that takes nothing for this long is gone.
const SEND_MAX: Duration = Duration::from_mins(1);
/// Frames in one system call.
const FRAMES_AT_ONCE: usize = 16;

/// The answers of one connection on their way to the socket.
pub(super) struct Outbox {
    socket: OwnedWriteHalf,
    /// Bytes of memory from which on its requests wait.
    bytes_max: usize,
    queue: Mutex<Queue>,
    /// Something was left for the connection's task to write.
    left: Notify,
    /// The queue has become shorter.
    drained: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Buffer>,
    /// Bytes of memory that they take.
    bytes: usize,
    /// Bytes of the first frame that have gone out.
    sent: usize,
    /// Writing has failed: nothing more goes out.
    failed: bool,
}

impl Outbox {
    pub(super) fn new(socket: OwnedWriteHalf, bytes_max: usize) -> Self {
        Self { socket, bytes_max, queue: Mutex::default(), left: Notify::new(), drained: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues answers without writing them: more are about to follow. [`Outbox::flush`] must.
    pub(super) fn push(&self, frames: Vec<Buffer>) {
        let mut queue = self.lock();
        queue.bytes += frames.iter().map(Buffer::memory).sum::<usize>();
        queue.frames.extend(frames);
    }

    /// Writes as much of what is queued as the socket takes now.
    pub(super) fn flush(&self) {
        let mut queue = self.lock();
        if queue.failed {
            (queue.bytes, queue.sent) = (0, 0);
            queue.frames.clear();
            return;
        }
        match queue.write(&self.socket) {
            Ok(()) if queue.frames.is_empty() => {}
            Ok(()) => self.left.notify_one(),
            Err(_) => {
                queue.failed = true;
                self.left.notify_one();
            }
        }
    }

    /// Gives up what the client has not acknowledged and tells it so by a RST: an orderly end would wait behind that.
    pub(super) fn reset(&self) {
        self.lock().failed = true;
        if let Err(error) = rustix::net::connect_unspec(self.socket.as_ref()) {
            tracing::debug!("a connection is not reset: {error}"); // it ends when the socket is closed
        }
    }

    /// Waits until the client has read enough for another request to be taken.
    pub(super) async fn room(&self) {
        while self.is_full() {
            // What was only queued, as more was about to follow, must go out now: nothing follows while this waits.
            self.flush();
            if self.is_full() {
                self.drained.notified().await;
            }
        }
    }

    fn is_full(&self) -> bool {
        let queue = self.lock();
        queue.frames.len() >= ANSWERS_QUEUED_MAX || queue.bytes >= self.bytes_max
    }

    /// Writes what the socket did not take at once. Ends when the client is gone, or takes nothing for [`SEND_MAX`].
    pub(super) async fn run(&self) {
        loop {
            self.left.notified().await;
            loop {
                {
                    let mut queue = self.lock();
                    if queue.failed || queue.write(&self.socket).is_err() {
                        return;
                    }
                    self.drained.notify_one();
                    if queue.frames.is_empty() {
                        break;
                    }
                }
                if !matches!(timeout(SEND_MAX, self.socket.writable()).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
}

impl Queue {
    /// Writes until the queue is empty or the socket is full.
    fn write(&mut self, socket: &OwnedWriteHalf) -> io::Result<()> {
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); FRAMES_AT_ONCE];
            let mut skip = self.sent;
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(&frame.bytes()[skip..]);
                skip = 0;
                count += 1;
            }
            match socket.try_write_vectored(&slices[..count]) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        self.sent += written;
        while let Some(first) = self.frames.front() {
            let length = first.bytes().len();
            if self.sent < length {
                break;
            }
            self.sent -= length;
            self.bytes -= first.memory();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    fn send(outbox: &Outbox, byte: u8) {
        outbox.push(vec![Buffer::from_vec(vec![byte; 1 << 20])]);
        outbox.flush();
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn frames_larger_than_the_socket_takes_arrive_whole_and_in_order() {
        let (mut client, served) = pair().await;
        let (_reader, writer) = served.into_split();
        let outbox = Arc::new(Outbox::new(writer, usize::MAX));
        let task = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run().await }
        });
        for byte in 0..ANSWERS_QUEUED_MAX as u8 {
            send(&outbox, byte);
        }
        assert!(!outbox.lock().frames.is_empty(), "no socket buffer holds 16 MiB");
        let mut frame = vec![0; 1 << 20];
        for byte in 0..ANSWERS_QUEUED_MAX as u8 {
            client.read_exact(&mut frame).await.unwrap();
            assert!(frame.iter().all(|found| *found == byte), "frame {byte}");
        }
        outbox.room().await;
        task.abort();
    }

    #[tokio::test]
    async fn answers_that_nobody_flushed_are_not_waited_for() {
        let (_client, served) = pair().await;
        let (_reader, writer) = served.into_split();
        let outbox = Outbox::new(writer, usize::MAX);
        for byte in 0..ANSWERS_QUEUED_MAX as u8 {
            outbox.push(vec![Buffer::from_vec(vec![byte; 64])]);
        }
        timeout(Duration::from_secs(20), outbox.room()).await.unwrap();
        assert!(outbox.lock().frames.is_empty());
    }

    #[tokio::test]
    async fn few_large_answers_fill_it_too() {
        let (mut client, served) = pair().await;
        let (_reader, writer) = served.into_split();
        let outbox = Arc::new(Outbox::new(writer, 2 << 20));
        let mut sent = 0;
        // What the socket takes is not here any more: a few MiB.
        while !outbox.is_full() {
            send(&outbox, 7);
            sent += 1;
        }
        assert!(outbox.lock().frames.len() <= 3, "{} answers of 1 MiB", outbox.lock().frames.len());
        assert!(timeout(Duration::from_millis(50), outbox.room()).await.is_err(), "its requests wait");
        let task = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run().await }
        });
        outbox.flush();
        client.read_exact(&mut vec![0; sent << 20]).await.unwrap();
        timeout(Duration::from_secs(20), outbox.room()).await.unwrap();
        assert_eq!(outbox.lock().bytes, 0);
        task.abort();
    }

    #[tokio::test]
    async fn a_client_that_has_gone_ends_the_task() {
        let (client, served) = pair().await;
        let (_reader, writer) = served.into_split();
        let outbox = Outbox::new(writer, usize::MAX);
        drop(client);
        let sending = async {
            loop {
                send(&outbox, 0);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = async {
            tokio::select! {
                () = outbox.run() => {}
                () = sending => {}
            }
        };
        assert!(timeout(Duration::from_secs(20), ended).await.is_ok());
    }
}
