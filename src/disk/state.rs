//! What is known of a disk while it is imported: bookkeeping under [`super::ImportDisk`]'s lock, never during I/O.

use std::io;
use std::ops::Range;
use std::time::Instant;

use super::error::DiskError;
use super::extent_map::{ExtentMap, Rounding};
use super::hold::Hold;
use super::intent::{Announced, DiskMap};
use super::order::Order;
use super::statistics::{Recent, Statistics};

pub(super) struct State {
    pub(super) order: Order,
    pub(super) hold: Hold,
    /// What may read as other than zeros. Includes writes under way.
    pub(super) written: ExtentMap,
    /// What the client sent and the driver accepted.
    pub(super) received: ExtentMap,
    /// What could not be written and was not sent again since.
    pub(super) lost: ExtentMap,
    /// What went to the driver since the last flush.
    pub(super) unflushed: ExtentMap,
    /// Flushes that failed, ever.
    pub(super) failed_flushes: u64,
    pub(super) announced: Announced,
    pub(super) end_of_file: u64,
    pub(super) declared_end: Option<u64>,
    pub(super) statistics: Statistics,
    pub(super) recent: Recent,
    /// When something last went to the driver.
    pub(super) last_outgoing: Instant,
    /// Changed since the last checkpoint.
    pub(super) dirty: bool,
    /// The first failure to write held data since it was last reported.
    pub(super) late: Option<(io::ErrorKind, String)>,
}

impl State {
    /// A write reaches so far.
    pub(super) fn reach(&mut self, end: u64) {
        self.end_of_file = self.end_of_file.max(end);
    }

    /// A range is as the client wants it, or may be anything: then all of it must come again, because of the parts that
    /// may have gone through none is known to have. A flush that failed meanwhile may have dropped it: `failed_flushes` is how many
    /// had when it began.
    pub(super) fn settle(&mut self, failed_flushes: u64, range: &Range<u64>, done: bool) {
        self.dirty = true;
        if done && failed_flushes == self.failed_flushes {
            self.received.insert(range.clone());
            self.lost.remove(range.clone());
        } else {
            self.lose(range);
        }
    }

    /// A range must come again, and counts as written until it has.
    pub(super) fn lose(&mut self, range: &Range<u64>) {
        self.dirty = true;
        self.received.remove(range.clone());
        self.written.insert(range.clone());
        self.lost.insert(range.clone());
    }

    /// The driver could not make durable what went to it since the last flush, and may have dropped it: Linux reports a
    /// failed write-back once and then calls the pages clean, so that the next flush would succeed without them.
    pub(super) fn fail_flush(&mut self, flushing: &ExtentMap) {
        self.failed_flushes += 1;
        let since = std::mem::replace(&mut self.unflushed, ExtentMap::new(Rounding::Outward));
        for range in flushing.to_ranges().iter().chain(&since.to_ranges()) {
            self.lose(range);
        }
    }

    /// The failure to write held data, told once.
    pub(super) fn report_late(&mut self) -> Result<(), DiskError> {
        self.late.take().map_or(Ok(()), |(kind, message)| Err(DiskError::Late { kind, message }))
    }

    pub(super) fn note_incoming(&mut self, bytes: u64) {
        let now = Instant::now();
        self.statistics.note_incoming(bytes, now);
        self.recent.note(bytes, now);
    }

    pub(super) fn note_outgoing(&mut self, bytes: u64) {
        self.statistics.note_outgoing(bytes);
        self.last_outgoing = Instant::now();
    }

    /// What is held has not arrived, nor what it will take the place of.
    pub(super) fn map(&self, epoch: u64) -> DiskMap {
        let mut received = ExtentMap::from_ranges(Rounding::Inward, self.received.to_ranges());
        let whole = 0..received.end();
        self.hold.pieces(whole).for_each(|(at, bytes)| received.remove(at..at + bytes.len() as u64));
        DiskMap {
            epoch,
            received: received.to_ranges(),
            written: self.written.to_ranges(),
            lost: self.lost.to_ranges(),
            end_of_file: self.end_of_file,
            declared_end: self.declared_end,
        }
    }
}
