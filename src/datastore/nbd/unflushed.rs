//! What a server has acknowledged and not yet flushed: ranges and the checksums of what is in them, for looking after a lost
//! connection whether it is still there.

use std::collections::BTreeMap;

/// Bytes after which a flush is due: what is read back at most when a connection was lost.
const BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Entries after which one is due.
const ENTRIES_MAX: usize = 16 * 1024;

/// What a range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of this CRC-32C.
    Data(u32),
    /// Zeros.
    Zeros,
    /// It was found missing, and has not been written again since.
    Missing,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    length: u64,
    kind: Kind,
    /// Acknowledged before the last loss of a connection.
    doubtful: bool,
}

/// The ranges, by offset, disjoint.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
}

impl Unflushed {
    /// Notes a range that was acknowledged; `doubtful` where a connection was lost since it was sent.
    pub(super) fn note(&mut self, offset: u64, length: u64, kind: Kind, doubtful: bool) {
        if length == 0 {
            return;
        }
        self.cut(offset, offset + length);
        self.entries.insert(offset, Entry { length, kind, doubtful });
        self.bytes += length;
    }

    /// Whether a change of that range would leave a part of an entry whose checksum fits no more: then a flush comes first.
    pub(super) fn would_cut(&self, start: u64, end: u64) -> bool {
        let sticks_out = |at: u64, entry: &Entry| {
            matches!(entry.kind, Kind::Data(_)) && (at < start || at + entry.length > end)
        };
        let before = self.entries.range(..start).next_back();
        before.is_some_and(|(at, entry)| at + entry.length > start && sticks_out(*at, entry))
            || self.entries.range(start..end).any(|(at, entry)| sticks_out(*at, entry))
    }

    /// Takes a range out; what sticks out of it on either side stays, data (see [`Unflushed::would_cut`]) as missing.
    fn cut(&mut self, start: u64, end: u64) {
        let before = self.entries.range(..start).next_back().map(|(at, entry)| (*at, *entry));
        let overlapping: Vec<_> = before
            .into_iter()
            .filter(|(at, entry)| at + entry.length > start)
            .chain(self.entries.range(start..end).map(|(at, entry)| (*at, *entry)))
            .collect();
        for (at, entry) in overlapping {
            self.entries.remove(&at);
            self.bytes -= entry.length;
            let kind = if entry.kind == Kind::Zeros { Kind::Zeros } else { Kind::Missing };
            for (from, to) in [(at, start.min(at + entry.length)), (end.max(at), at + entry.length)] {
                if from < to {
                    self.entries.insert(from, Entry { length: to - from, kind, ..entry });
                    self.bytes += to - from;
                }
            }
        }
    }

    /// A connection was lost: all of it is in doubt.
    pub(super) fn lost(&mut self) {
        for entry in self.entries.values_mut() {
            entry.doubtful = true;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_due(&self) -> bool {
        self.bytes >= BYTES_MAX || self.entries.len() >= ENTRIES_MAX
    }

    /// Gives up what is missing: the first such range, offset and length, and how many bytes in all.
    pub(super) fn take_missing(&mut self) -> Option<(u64, u64, u64)> {
        let missing: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.kind == Kind::Missing)
            .map(|(at, entry)| (*at, entry.length))
            .collect();
        let (offset, length) = *missing.first()?;
        for (at, length) in &missing {
            self.entries.remove(at);
            self.bytes -= length;
        }
        Some((offset, length, missing.iter().map(|(_, length)| length).sum()))
    }

    /// All ranges so far, for a flush that covers them.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The flush did not come to pass: they wait for the next, in doubt. What was written meanwhile is newer.
    pub(super) fn put_back(&mut self, taken: Self) {
        let newer = std::mem::take(&mut self.entries);
        self.entries = taken.entries;
        self.bytes = taken.bytes;
        self.lost();
        for (offset, entry) in newer {
            self.note(offset, entry.length, entry.kind, entry.doubtful);
        }
    }

    /// Offset, length and kind of what is in doubt or missing.
    pub(super) fn doubtful(&self) -> impl Iterator<Item = (u64, u64, Kind)> + '_ {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.doubtful || entry.kind == Kind::Missing)
            .map(|(offset, entry)| (*offset, entry.length, entry.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_an_array(steps in prop::collection::vec((0..40u64, 1..20u64, 0..3u8), 0..40)) {
            // A step's number where its data lies whole, 0 for zeros, none where nothing or a cut piece is.
            let mut model = [None; 64];
            let mut unflushed = Unflushed::default();
            for (number, (offset, length, action)) in steps.iter().enumerate() {
                let (start, end) = (*offset, offset + length);
                let cuts = unflushed.entries.iter().any(|(at, entry)| {
                    matches!(entry.kind, Kind::Data(_)) && *at < end && at + entry.length > start
                        && (*at < start || at + entry.length > end)
                });
                prop_assert_eq!(unflushed.would_cut(start, end), cuts);
                let kind = if *action == 0 { Kind::Zeros } else { Kind::Data(number as u32 + 1) };
                unflushed.note(*offset, *length, kind, false);
                model[*offset as usize..(offset + length) as usize].fill(Some(kind));
            }
            let mut seen = 0;
            unflushed.lost();
            for (offset, length, kind) in unflushed.doubtful() {
                seen += length;
                for at in offset..offset + length {
                    match kind {
                        Kind::Missing => prop_assert!(matches!(model[at as usize], Some(Kind::Data(_)))),
                        kind => prop_assert_eq!(model[at as usize], Some(kind)),
                    }
                }
                if let Kind::Data(number) = kind {
                    prop_assert_eq!((offset, length), (steps[number as usize - 1].0, steps[number as usize - 1].1));
                }
            }
            prop_assert_eq!(seen, model.iter().filter(|at| at.is_some()).count() as u64);
            prop_assert_eq!(seen, unflushed.bytes);
        }
    }

    #[test]
    fn what_is_missing_is_told_once_unless_it_was_written_again() {
        let mut unflushed = Unflushed::default();
        unflushed.note(0, 10, Kind::Missing, true);
        unflushed.note(20, 10, Kind::Missing, true);
        unflushed.note(0, 10, Kind::Data(1), false);
        unflushed.note(25, 10, Kind::Zeros, false);
        assert_eq!(unflushed.take_missing(), Some((20, 5, 5)));
        assert_eq!(unflushed.take_missing(), None);
        assert_eq!(unflushed.bytes, 20);
    }

    #[test]
    fn what_is_put_back_is_in_doubt_and_older_than_what_came_meanwhile() {
        let mut unflushed = Unflushed::default();
        unflushed.note(0, 10, Kind::Data(1), false);
        unflushed.note(20, 10, Kind::Data(2), false);
        let taken = unflushed.take();
        unflushed.note(20, 10, Kind::Data(3), false);
        unflushed.put_back(taken);
        assert_eq!(unflushed.doubtful().collect::<Vec<_>>(), [(0, 10, Kind::Data(1))]);
        assert_eq!(unflushed.bytes, 20);
    }
}
