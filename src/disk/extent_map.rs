//! A set of byte ranges, coalesced, of bounded size.
//!
//! Its memory is bounded by giving up precision: over [`MAX_EXTENTS`] entries it is rounded to a coarser grain, to the side
//! on which a mistake does no harm ([`Rounding`]).

use std::collections::BTreeMap;
use std::ops::Range;

/// Entries of a map before it becomes coarser. About 3 MiB of memory; a disk written in megabytes needs a handful, one
/// whose every second 64 KiB grain holds data has that many per 8 GiB and is then tracked by coarser grains.
pub const MAX_EXTENTS: usize = 64 * 1024;

/// The grain that the first loss of precision rounds to; doubled until half of the entries are gone.
const FIRST_COARSE_GRAIN: u64 = 64 * 1024;

/// To which side a map errs when it becomes coarser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Ranges grow: for what was written, where doubtful means written.
    Outward,
    /// Ranges shrink: for what was received, where doubtful means missing.
    Inward,
}

/// A set of byte ranges. Operations are O(log n), plus the entries that they swallow or return.
#[derive(Debug, Clone)]
pub struct ExtentMap {
    /// Start to end. Disjoint, not adjacent, none empty.
    extents: BTreeMap<u64, u64>,
    rounding: Rounding,
    max_extents: usize,
    exact: bool,
}

/// Equal are maps that hold the same bytes.
impl PartialEq for ExtentMap {
    fn eq(&self, other: &Self) -> bool {
        self.extents == other.extents
    }
}

impl ExtentMap {
    /// An empty map.
    #[must_use]
    pub fn new(rounding: Rounding) -> Self {
        Self::with_limit(rounding, MAX_EXTENTS)
    }

    /// An empty map that holds at most `max_extents` entries (at least 2).
    #[must_use]
    pub fn with_limit(rounding: Rounding, max_extents: usize) -> Self {
        Self { extents: BTreeMap::new(), rounding, max_extents: max_extents.max(2), exact: true }
    }

    /// A map of ranges as [`ExtentMap::to_ranges`] gave them; any order and overlaps are accepted.
    #[must_use]
    pub fn from_ranges(rounding: Rounding, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut map = Self::new(rounding);
        for range in ranges {
            map.insert(range);
        }
        map
    }

    /// All ranges, ascending, as they are serialised.
    #[must_use]
    pub fn to_ranges(&self) -> Vec<Range<u64>> {
        self.extents.iter().map(|(start, end)| *start..*end).collect()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Whether it never had to round.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// Bytes in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|(start, end)| end - start).sum()
    }

    /// The end of the last range, 0 without one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.extents.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.extents.range(..=start).next_back() {
            if before_end >= end {
                return;
            }
            if before_end >= start {
                start = before;
            }
        }
        // What begins inside or right behind is swallowed; the last of them may reach further.
        while let Some((&inner, &inner_end)) = self.extents.range(start..=end).next() {
            self.extents.remove(&inner);
            end = end.max(inner_end);
        }
        self.extents.insert(start, end);
        if self.extents.len() > self.max_extents {
            self.coarsen();
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&before, &before_end)) = self.extents.range(..range.start).next_back()
            && before_end > range.start
        {
            self.extents.insert(before, range.start);
            if before_end > range.end {
                self.extents.insert(range.end, before_end);
            }
        }
        while let Some((&inner, &inner_end)) = self.extents.range(range.clone()).next() {
            self.extents.remove(&inner);
            if inner_end > range.end {
                self.extents.insert(range.end, inner_end);
            }
        }
        if self.extents.len() > self.max_extents {
            self.coarsen();
        }
    }

    /// Whether any byte of `range` is in it.
    #[must_use]
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        self.intersections(range.clone()).next().is_some()
    }

    /// Whether all bytes of `range` are in it. True for an empty range.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self.extents.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }

    /// The parts of `range` that are in it, ascending.
    pub fn intersections(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let Range { start, end } = range;
        let before = self.extents.range(..start).next_back().filter(|(_, before_end)| **before_end > start);
        let inside = if start < end { Some(self.extents.range(start..end)) } else { None };
        before
            .into_iter()
            .chain(inside.into_iter().flatten())
            .map(move |(from, to)| (*from).max(start)..(*to).min(end))
            .filter(|part| !part.is_empty())
    }

    /// The parts of `range` that are not in it, ascending.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = range.end;
        let mut position = range.start;
        self.intersections(range)
            .chain(std::iter::once(end..end))
            .map(move |part| {
                let gap = position..part.start;
                position = part.end;
                gap
            })
            .filter(|gap| !gap.is_empty())
    }

    /// Rounds to ever coarser grains until at most half of the permitted entries are left, so that the O(n) work is paid
    /// for by the insertions in between.
    fn coarsen(&mut self) {
        self.exact = false;
        let mut grain = FIRST_COARSE_GRAIN;
        while self.extents.len() > self.max_extents / 2 {
            let mut rounded: BTreeMap<u64, u64> = BTreeMap::new();
            for (&start, &end) in &self.extents {
                let (start, end) = match self.rounding {
                    Rounding::Outward => {
                        (start - start % grain, end.checked_next_multiple_of(grain).unwrap_or(u64::MAX))
                    }
                    Rounding::Inward => {
                        (start.checked_next_multiple_of(grain).unwrap_or(u64::MAX), end - end % grain)
                    }
                };
                if start >= end {
                    continue;
                }
                match rounded.last_entry() {
                    Some(mut last) if *last.get() >= start => {
                        last.insert(end);
                    }
                    _ => {
                        rounded.insert(start, end);
                    }
                }
            }
            self.extents = rounded;
            grain = grain.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: u64 = 96;

    fn well_formed(map: &ExtentMap) -> bool {
        let ranges = map.to_ranges();
        ranges.iter().all(|range| range.start < range.end)
            && ranges.windows(2).all(|pair| pair[0].end < pair[1].start)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_bytes(
            steps in prop::collection::vec((any::<bool>(), 0..SPACE, 0..24u64), 0..60),
            query in (0..SPACE, 0..40u64),
        ) {
            let mut map = ExtentMap::new(Rounding::Outward);
            let mut model = [false; 200];
            for (add, start, length) in steps {
                let range = start..start + length;
                model[start as usize..(start + length) as usize].fill(add);
                if add { map.insert(range) } else { map.remove(range) }
                prop_assert!(well_formed(&map));
            }
            let members = map.to_ranges().into_iter().flatten().collect::<Vec<_>>();
            let expected = (0..200u64).filter(|at| model[*at as usize]).collect::<Vec<_>>();
            prop_assert_eq!(&members, &expected);
            prop_assert_eq!(map.bytes(), expected.len() as u64);
            prop_assert_eq!(map.end(), expected.last().map_or(0, |last| last + 1));

            let range = query.0..query.0 + query.1;
            let inside = map.intersections(range.clone()).flatten().collect::<Vec<_>>();
            let outside = map.gaps(range.clone()).flatten().collect::<Vec<_>>();
            let (in_model, out_of_model): (Vec<u64>, Vec<u64>) = range.clone().partition(|at| model[*at as usize]);
            prop_assert_eq!(map.covers(&range), out_of_model.is_empty());
            prop_assert_eq!(map.intersects(&range), !in_model.is_empty());
            prop_assert_eq!(inside, in_model);
            prop_assert_eq!(outside, out_of_model);
            prop_assert_eq!(ExtentMap::from_ranges(Rounding::Outward, map.to_ranges()), map);
        }

        #[test]
        fn a_full_map_errs_to_its_side(
            starts in prop::collection::vec(0..1u64 << 26, 1..80),
            outward in any::<bool>(),
        ) {
            let rounding = if outward { Rounding::Outward } else { Rounding::Inward };
            let mut map = ExtentMap::with_limit(rounding, 8);
            let mut exact = ExtentMap::new(rounding);
            for start in starts {
                map.insert(start..start + 100_000);
                exact.insert(start..start + 100_000);
                prop_assert!(map.to_ranges().len() <= 8 && well_formed(&map));
            }
            let (larger, smaller) = if outward { (&map, &exact) } else { (&exact, &map) };
            prop_assert!(smaller.to_ranges().iter().all(|range| larger.covers(range)));
        }
    }
}
