//! Worker threads that read grains from the disk and compress them. Worker n of N makes batches n, n + N, n + 2N …, each
//! into a queue of its own, and the stream takes from the queues in turn: the order needs no sorting, and what is made
//! ahead is bounded by the queues.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::layout::{GRAIN_BYTES, GRAIN_HEADER, SECTOR};
use crate::datastore::Disk;
use crate::datastore::zeros::is_zero;

/// Grains of a batch, 1 MiB: long reads, and queues that few wake-ups pass. It divides the grains of a table, so that no
/// batch lies in two.
const BATCH_GRAINS: u64 = 16;
/// Batches that each worker may be ahead of the stream.
const AHEAD: usize = 4;
/// What a grain takes at most: stored in two blocks of 5 bytes, 2 bytes header, 4 of checksum (RFC 1950, 1951).
const STORED_BYTES: usize = GRAIN_BYTES as usize + 16;

/// Compressed grains, ready for the stream.
pub(super) struct Batch {
    /// Number of each grain, and where in `bytes` its record begins. Zero grains are left out.
    pub(super) grains: Vec<(u64, usize)>,
    /// The records, each of whole sectors.
    pub(super) bytes: Vec<u8>,
    /// Bytes of the disk that it stands for.
    pub(super) read: u64,
}

/// The batches, in order.
pub(super) struct Grains {
    queues: Vec<Receiver<io::Result<Batch>>>,
    workers: Vec<JoinHandle<()>>,
    next: u64,
    batches: u64,
}

/// Ranges of bytes as ranges of grain numbers, those that meet joined.
pub(super) fn grain_runs(allocated: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in allocated {
        let run = range.start / GRAIN_BYTES..range.end.div_ceil(GRAIN_BYTES);
        match runs.last_mut() {
            Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
            _ => runs.push(run),
        }
    }
    runs
}

/// The grain numbers of each batch: aligned, so that none lies in two tables.
fn batches(runs: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> + '_ {
    runs.iter().flat_map(|run| {
        let first = run.start / BATCH_GRAINS;
        let last = run.end.div_ceil(BATCH_GRAINS);
        (first..last)
            .map(|batch| (batch * BATCH_GRAINS).max(run.start)..((batch + 1) * BATCH_GRAINS).min(run.end))
    })
}

impl Grains {
    /// Starts the workers.
    pub(super) fn start(
        disk: &Arc<dyn Disk>,
        runs: &Arc<Vec<Range<u64>>>,
        level: u32,
        threads: usize,
    ) -> io::Result<Self> {
        let mut grains = Self { queues: Vec::new(), workers: Vec::new(), next: 0, batches: 0 };
        grains.batches = batches(runs).count() as u64;
        for number in 0..threads {
            let (queue, receiver) = sync_channel(AHEAD);
            let (disk, runs) = (Arc::clone(disk), Arc::clone(runs));
            let work = move || {
                let mut worker = Worker::new(disk, level);
                for range in batches(&runs).skip(number).step_by(threads) {
                    let made = worker.make(range);
                    let failed = made.is_err();
                    if !hand_over(&queue, made) || failed {
                        return;
                    }
                }
            };
            let spawned = std::thread::Builder::new().name(format!("deflate-{number}")).spawn(work);
            grains.queues.push(receiver);
            grains.workers.push(spawned?);
        }
        Ok(grains)
    }
}

/// Whether the stream still wants it.
fn hand_over(queue: &SyncSender<io::Result<Batch>>, batch: io::Result<Batch>) -> bool {
    queue.send(batch).is_ok()
}

impl Iterator for Grains {
    type Item = io::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.batches {
            return None;
        }
        let queue = &self.queues[(self.next % self.queues.len() as u64) as usize];
        self.next += 1;
        // A worker that ended early panicked; what it did is in the log.
        Some(queue.recv().unwrap_or_else(|_| Err(io::Error::other("a thread that compresses has ended"))))
    }
}

impl Drop for Grains {
    fn drop(&mut self) {
        self.queues.clear(); // Whoever waits to hand something over wakes up.
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // A panic has been told where its batch was missed.
        }
    }
}

/// One thread's tools.
struct Worker {
    disk: Arc<dyn Disk>,
    compress: Compress,
    stored: Compress,
    grains: Vec<u8>,
}

impl Worker {
    fn new(disk: Arc<dyn Disk>, level: u32) -> Self {
        Self {
            disk,
            compress: Compress::new(Compression::new(level), true),
            stored: Compress::new(Compression::none(), true),
            grains: vec![0; (BATCH_GRAINS * GRAIN_BYTES) as usize],
        }
    }

    /// Reads and compresses grains of those numbers.
    fn make(&mut self, numbers: Range<u64>) -> io::Result<Batch> {
        let start = numbers.start * GRAIN_BYTES;
        let end = (numbers.end * GRAIN_BYTES).min(self.disk.size());
        let length = (end - start) as usize;
        self.disk.read_at(&mut self.grains[..length], start)?;
        // A disk's last grain may reach past its end; there it is zero.
        let whole = ((numbers.end - numbers.start) * GRAIN_BYTES) as usize;
        self.grains[length..whole].fill(0);
        let mut batch = Batch { grains: Vec::new(), bytes: Vec::new(), read: whole as u64 };
        for (number, grain) in numbers.zip(self.grains[..whole].chunks_exact(GRAIN_BYTES as usize)) {
            if is_zero(grain) {
                continue;
            }
            let place = batch.bytes.len();
            batch.grains.push((number, place));
            let lba = number * (GRAIN_BYTES / SECTOR);
            batch.bytes.extend_from_slice(&lba.to_le_bytes());
            batch.bytes.extend_from_slice(&[0; GRAIN_HEADER - 8]);
            let data = place + GRAIN_HEADER;
            let fits = deflate(&mut self.compress, grain, &mut batch.bytes, GRAIN_BYTES as usize)?;
            if !fits {
                batch.bytes.truncate(data);
                if !deflate(&mut self.stored, grain, &mut batch.bytes, STORED_BYTES)? {
                    return Err(io::Error::other("a stored grain is larger than zlib's format says"));
                }
            }
            let size = (batch.bytes.len() - data) as u32;
            batch.bytes[data - 4..data].copy_from_slice(&size.to_le_bytes());
            batch.bytes.resize(batch.bytes.len().next_multiple_of(SECTOR as usize), 0);
        }
        Ok(batch)
    }
}

/// Appends `data` compressed, in at most `limit` bytes; whether it fitted. What does not is left half there.
fn deflate(tool: &mut Compress, data: &[u8], out: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    tool.reset();
    let start = out.len();
    out.resize(start + limit, 0);
    let status = tool.compress(data, &mut out[start..], FlushCompress::Finish).map_err(io::Error::other)?;
    out.truncate(start + tool.total_out() as usize);
    Ok(status == Status::StreamEnd)
}
