//! What must be durable before a write may be (behaviour.md section 3, rule 10).
//!
//! Before the first write into a region the log is told that the region may be written; after a crash everything in such
//! a region counts as written. A checkpoint, taken when the disk has been flushed, replaces those coarse intents by the
//! exact map. Epochs tell which intents a checkpoint replaces: it carries the epoch that began when its map was taken,
//! and only intents of older epochs are covered by it.

use std::io;
use std::ops::Range;

use super::extent_map::{ExtentMap, Rounding};
use super::writer::Completion;

/// Bytes of a region: coarse enough that a sequential restore announces one seldom, fine enough that a crash leaves little
/// in doubt.
pub const REGION: u64 = 64 * 1024 * 1024;

/// Regions announced at once from the first that is needed: a sequential writer waits for the log once per 512 MiB.
pub const LOOK_AHEAD: u64 = 8;

/// Regions that may be written from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The epoch in which they were announced.
    pub epoch: u64,
    /// The first, in units of [`REGION`].
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Region {
    /// The bytes, within a disk of `size`.
    #[must_use]
    pub fn bytes(&self, size: u64) -> Range<u64> {
        let start = self.first.saturating_mul(REGION).min(size);
        start..self.first.saturating_add(self.count).saturating_mul(REGION).min(size)
    }
}

/// What is known of a disk at one moment, as it outlives a crash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskMap {
    /// Intents of this epoch and later ones are not covered by the map.
    pub epoch: u64,
    /// What the client sent and the driver made durable, ascending.
    pub received: Vec<Range<u64>>,
    /// What may read as other than zeros, ascending.
    pub written: Vec<Range<u64>>,
    /// What was lost: writes that failed, or that a crash left in doubt.
    pub lost: Vec<Range<u64>>,
    /// End of file.
    pub end_of_file: u64,
    /// End of file that the client set itself, as opposed to one that a write reached.
    pub declared_end: Option<u64>,
}

impl DiskMap {
    /// Applies what a crash leaves in doubt: everything in regions announced since the map was taken counts as written
    /// (it must not be skipped) and as lost (it must be sent again). `size` is the disk's, in bytes.
    #[must_use]
    pub fn after_crash(mut self, regions: &[Region], size: u64) -> Self {
        let mut written = ExtentMap::from_ranges(Rounding::Outward, self.written.iter().cloned());
        let mut lost = ExtentMap::from_ranges(Rounding::Outward, self.lost.iter().cloned());
        let mut received = ExtentMap::from_ranges(Rounding::Inward, self.received.iter().cloned());
        for region in regions {
            if region.epoch >= self.epoch {
                written.insert(region.bytes(size));
                lost.insert(region.bytes(size));
                received.remove(region.bytes(size));
            }
        }
        self.epoch = regions.iter().map(|region| region.epoch).fold(self.epoch, u64::max).saturating_add(1);
        self.written = written.to_ranges();
        self.lost = lost.to_ranges();
        self.received = received.to_ranges();
        self
    }

    /// Whether a disk of `size` with that map has everything (behaviour.md section 3, rule 7).
    #[must_use]
    pub fn completion(&self, size: u64) -> Completion {
        let mut missing = ExtentMap::from_ranges(Rounding::Outward, self.lost.iter().cloned());
        if self.declared_end != Some(size) {
            let received = ExtentMap::from_ranges(Rounding::Inward, self.received.iter().cloned());
            for gap in received.gaps(0..size) {
                missing.insert(gap);
            }
        }
        match missing.to_ranges().first() {
            None => Completion::Complete,
            Some(range) => Completion::Incomplete { missing: missing.bytes(), first: range.start },
        }
    }

    /// How far a disk with that map is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let written = ExtentMap::from_ranges(Rounding::Outward, self.written.iter().cloned());
        Progress::of(&self.received, &written)
    }
}

/// How far a disk is, by its map: true after a restart as well, and whatever was sent twice. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Of the disk, what has arrived.
    pub received: u64,
    /// Of that, what was written to the datastore and may hold data.
    pub written: u64,
    /// Of that, zeros that did not have to be written.
    pub skipped: u64,
}

impl Progress {
    pub(super) fn of(received: &[Range<u64>], written: &ExtentMap) -> Self {
        let bytes = |range: Range<u64>| range.end - range.start;
        let all = received.iter().cloned().map(bytes).sum();
        let data = received.iter().flat_map(|range| written.intersections(range.clone())).map(bytes).sum();
        Self { received: all, written: data, skipped: all - data }
    }
}

/// Where intents and maps go; the journal implements it for each disk.
pub trait IntentLog: Send + Sync {
    /// These regions may be written once it returns: durable by then.
    fn announce(&self, region: Region) -> io::Result<()>;
    /// The map holds, the disk having been flushed. Durable when it returns.
    fn checkpoint(&self, map: &DiskMap) -> io::Result<()>;
}

/// The regions that were announced in the present epoch.
#[derive(Debug)]
pub(super) struct Announced {
    epoch: u64,
    regions: ExtentMap,
}

impl Announced {
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch, regions: ExtentMap::new(Rounding::Inward) }
    }

    /// The present epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What must be announced before `range` may be written, with the look-ahead, on a disk of `size`.
    pub(super) fn missing(&self, range: &Range<u64>, size: u64) -> Option<Region> {
        let needed = range.start / REGION..range.end.div_ceil(REGION);
        let first = self.regions.gaps(needed.clone()).next()?.start;
        let end = needed.end.max((first + LOOK_AHEAD).min(size.div_ceil(REGION)));
        Some(Region { epoch: self.epoch, first, count: end - first })
    }

    /// The region is durable. One of an older epoch says nothing about this one.
    pub(super) fn add(&mut self, region: Region) {
        if region.epoch == self.epoch {
            self.regions.insert(region.first..region.first + region.count);
        }
    }

    /// Begins the next epoch, in which nothing is announced; returns it.
    pub(super) fn advance(&mut self) -> u64 {
        self.epoch += 1;
        self.regions = ExtentMap::new(Rounding::Inward);
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
    use super::*;

    #[test]
    fn looks_ahead_within_the_disk() {
        let mut announced = Announced::new(3);
        let size = 20 * REGION + 1;
        let first = announced.missing(&(5..6), size).unwrap();
        assert_eq!(first, Region { epoch: 3, first: 0, count: LOOK_AHEAD });
        announced.add(first);
        assert_eq!(announced.missing(&(0..LOOK_AHEAD * REGION), size), None);
        let last = announced.missing(&(19 * REGION..20 * REGION + 1), size).unwrap();
        assert_eq!((last.first, last.count), (19, 2));
        assert_eq!(announced.advance(), 4);
        announced.add(first);
        assert!(announced.missing(&(0..1), size).is_some(), "an older epoch does not count");
    }

    #[test]
    fn doubt_covers_only_later_epochs() {
        let map = DiskMap {
            epoch: 2,
            received: vec![0..4 * REGION],
            written: vec![0..10],
            end_of_file: 4 * REGION,
            ..DiskMap::default()
        };
        let regions = [Region { epoch: 1, first: 0, count: 1 }, Region { epoch: 2, first: 3, count: 9 }];
        let map = map.after_crash(&regions, 5 * REGION);
        assert_eq!(map.written, [0..10, 3 * REGION..5 * REGION]);
        assert_eq!(map.lost, [3 * REGION..5 * REGION]);
        assert_eq!(map.received, [0..3 * REGION]);
        assert_eq!(map.epoch, 3);
    }
}
