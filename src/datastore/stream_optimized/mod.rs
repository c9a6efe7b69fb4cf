//! Writes a disk as a streamOptimized VMDK: the form in which HttpNfcLease takes disks, written once from start to end
//! (VMware, Virtual Disk Format 5.0, 'Stream-Optimized Compressed Sparse Extents').
//!
//! ```text
//! sector 0    header: gdOffset is -1, the real one stands in the footer
//!        1    embedded descriptor
//!      128    grains in ascending order: u64 LBA, u32 size, zlib data, zeros up to a sector
//!             behind the grains of each 32 MiB that hold any: marker GT, their grain table (512 × u32 sector)
//!             marker GD, grain directory; marker footer, footer; marker end of stream
//! ```
//!
//! Grains that are all zero are left out, and grain tables of nothing but such grains too.
//!
//! - [`layout`]: the structures and their bytes
//! - [`deflate`]: worker threads that read, judge and compress grains, a bounded number ahead of the stream
//! - [`StreamOptimized`]: joins what they make, in order, as a [`Read`]
//!
//! Knows the [`Disk`] trait. The same disk and options give the same bytes, so a stream can be begun again, and its length
//! found by reading it to its end once.

mod deflate;
mod layout;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

pub use layout::Description;
use layout::{FIRST_GRAIN_SECTOR, GRAIN_BYTES, GRAINS_PER_TABLE, Marker, SECTOR};

use super::Disk;

/// zlib level unless configured: on disks, level 6 makes a few percent less at a quarter of the speed.
pub const LEVEL_DEFAULT: u32 = 1;
/// Highest zlib level.
pub const LEVEL_MAX: u32 = 9;
/// Most worker threads: beyond that the source is the bottleneck.
pub const THREADS_MAX: usize = 16;
/// Sectors of the whole stream: grain tables hold their places in 32 bits.
const STREAM_SECTORS_MAX: u64 = u32::MAX as u64;

/// How a stream is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// zlib level, 0 (stored) to [`LEVEL_MAX`].
    pub level: u32,
    /// Worker threads, at least 1; more than [`THREADS_MAX`] are not taken.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { level: LEVEL_DEFAULT, threads }
    }
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the disk's allocated ranges, rounded to grains.
    pub total: u64,
    /// Of those, how many are in what was read from the stream or is being read.
    pub done: u64,
    /// Bytes of the stream so far.
    pub stream: u64,
}

/// Told after each piece of the stream.
pub type OnProgress = Box<dyn FnMut(Progress) + Send>;

/// A streamOptimized VMDK as it is made. Reading it is what drives it; dropping it ends its threads.
pub struct StreamOptimized {
    grains: deflate::Grains,
    capacity_sectors: u64,
    description: Description,
    /// What is given out now, and how much of it has been.
    piece: Vec<u8>,
    given: usize,
    /// Sectors given out or in `piece`.
    sector: u64,
    /// The grain table being filled, and its number.
    table: Vec<u32>,
    table_number: u64,
    /// Sectors of the grain tables; 0 where there is none.
    directory: Vec<u32>,
    step: Step,
    progress: Progress,
    on_progress: Option<OnProgress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Head,
    Grains,
    Tail,
    Done,
    Failed,
}

impl StreamOptimized {
    /// A stream of `disk`, of which only `allocated` may hold other than zeros: ascending, disjoint ranges of bytes.
    ///
    /// Fails with [`io::ErrorKind::InvalidInput`] where the size is no multiple of 512 or the ranges are not as they should
    /// be.
    pub fn new(
        disk: &Arc<dyn Disk>,
        allocated: &[Range<u64>],
        description: Description,
        options: &Options,
    ) -> io::Result<Self> {
        let size = disk.size();
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return invalid(format!("a disk of {size} bytes is not one of whole sectors"));
        }
        let mut last = 0;
        for range in allocated {
            if range.start < last || range.start >= range.end || range.end > size {
                return invalid(format!("the range {range:?} of a disk of {size} bytes is out of order"));
            }
            last = range.end;
        }
        if options.level > LEVEL_MAX {
            return invalid(format!("there is no zlib level {}", options.level));
        }
        let runs = deflate::grain_runs(allocated);
        let total = runs.iter().map(|run| run.end - run.start).sum::<u64>() * GRAIN_BYTES;
        let tables = size.div_ceil(GRAIN_BYTES * GRAINS_PER_TABLE);
        let threads = options.threads.clamp(1, THREADS_MAX);
        Ok(Self {
            grains: deflate::Grains::start(disk, &Arc::new(runs), options.level, threads)?,
            capacity_sectors: size / SECTOR,
            description,
            piece: Vec::new(),
            given: 0,
            sector: 0,
            table: vec![0; GRAINS_PER_TABLE as usize],
            table_number: 0,
            directory: vec![0; tables as usize],
            step: Step::Head,
            progress: Progress { total, ..Progress::default() },
            on_progress: None,
        })
    }

    /// Has `on_progress` told after each piece.
    #[must_use]
    pub fn with_progress(mut self, on_progress: OnProgress) -> Self {
        self.on_progress = Some(on_progress);
        self
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Makes the next piece, an empty one at the end.
    fn advance(&mut self) -> io::Result<()> {
        self.piece.clear();
        self.given = 0;
        match self.step {
            Step::Head => {
                layout::put_head(&mut self.piece, self.capacity_sectors, &self.description)?;
                self.sector = FIRST_GRAIN_SECTOR;
                self.step = Step::Grains;
            }
            Step::Grains => match self.grains.next() {
                Some(batch) => self.put_batch(batch?)?,
                None => {
                    self.put_table()?;
                    self.step = Step::Tail;
                }
            },
            Step::Tail => {
                let directory_sector = self.sector + 1;
                layout::put_tail(&mut self.piece, &self.directory, self.capacity_sectors, directory_sector);
                self.sector += self.piece.len() as u64 / SECTOR;
                self.step = Step::Done;
            }
            Step::Done => {}
            Step::Failed => return Err(io::Error::other("the stream of the disk failed before")),
        }
        if self.sector > STREAM_SECTORS_MAX {
            let message = "the compressed disk is over 2 TiB, more than the format can hold";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.progress.stream = self.sector * SECTOR;
        if let Some(tell) = &mut self.on_progress {
            tell(self.progress);
        }
        Ok(())
    }

    /// Appends a batch's grains, behind the table of the grains before where that is full. A batch lies within one table.
    fn put_batch(&mut self, batch: deflate::Batch) -> io::Result<()> {
        self.progress.done += batch.read;
        let Some((first, _)) = batch.grains.first() else { return Ok(()) };
        let number = first / GRAINS_PER_TABLE;
        if number != self.table_number {
            self.put_table()?;
            self.table_number = number;
        }
        for (grain, place) in &batch.grains {
            let sector = self.sector + *place as u64 / SECTOR;
            self.table[(grain % GRAINS_PER_TABLE) as usize] = to_sector(sector)?;
        }
        self.sector += batch.bytes.len() as u64 / SECTOR;
        if self.piece.is_empty() {
            self.piece = batch.bytes;
        } else {
            self.piece.extend_from_slice(&batch.bytes);
        }
        Ok(())
    }

    /// Appends the grain table that was filled, if anything is in it, and empties it.
    fn put_table(&mut self) -> io::Result<()> {
        if self.table.iter().all(|sector| *sector == 0) {
            return Ok(());
        }
        let before = self.piece.len();
        layout::put_marked(&mut self.piece, Marker::GrainTable, &self.table);
        self.directory[self.table_number as usize] = to_sector(self.sector + 1)?;
        self.sector += (self.piece.len() - before) as u64 / SECTOR;
        self.table.fill(0);
        Ok(())
    }
}

fn to_sector(sector: u64) -> io::Result<u32> {
    u32::try_from(sector).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl Read for StreamOptimized {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() && self.step != Step::Done {
            if let Err(error) = self.advance() {
                self.step = Step::Failed;
                self.piece.clear();
                return Err(error);
            }
        }
        let length = buffer.len().min(self.piece.len() - self.given);
        buffer[..length].copy_from_slice(&self.piece[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}
