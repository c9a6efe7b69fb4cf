//! Zero detection: whether bytes are all zero, and which grains of a buffer are.
//!
//! A grain is the unit by which zeros are skipped. Its boundaries lie on the disk, not in the buffer, so that two clients
//! that cut the same disk differently skip the same ranges.

use std::ops::Range;

pub use crate::datastore::zeros::is_zero;

/// Bytes of a grain unless configured: large enough not to shred writes, small enough to keep thin disks thin.
pub const GRAIN: u64 = 64 * 1024;

/// A stretch of a buffer that is all zero or is to be treated as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Every byte is zero.
    pub zero: bool,
    /// Where in the buffer.
    pub range: Range<usize>,
}

/// Cuts `data`, which is meant for `offset` on the disk, into maximal runs of zero and data grains, in order and without
/// gaps. A grain of which only a part lies in the buffer is judged by that part.
///
/// `grain` is in bytes; 0 is taken as 1.
pub fn runs(data: &[u8], offset: u64, grain: u64) -> Runs<'_> {
    Runs { data, offset, grain: grain.max(1), position: 0, ahead: None }
}

/// Iterator of [`runs`].
#[derive(Debug)]
pub struct Runs<'a> {
    data: &'a [u8],
    offset: u64,
    grain: u64,
    position: usize,
    /// The grain behind the last run, already scanned: end and whether it is zero. No byte is scanned twice.
    ahead: Option<(usize, bool)>,
}

impl Runs<'_> {
    /// End and kind of the grain that starts at `position`.
    fn judge(&self, position: usize) -> (usize, bool) {
        let inside = (self.offset + position as u64) % self.grain;
        let length = usize::try_from(self.grain - inside).unwrap_or(usize::MAX);
        let end = position.saturating_add(length).min(self.data.len());
        (end, is_zero(&self.data[position..end]))
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.position;
        if start == self.data.len() {
            return None;
        }
        let (mut end, zero) = self.ahead.take().unwrap_or_else(|| self.judge(start));
        while end < self.data.len() {
            let grain = self.judge(end);
            if grain.1 != zero {
                self.ahead = Some(grain);
                break;
            }
            end = grain.0;
        }
        self.position = end;
        Some(Run { zero, range: start..end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grains_lie_on_the_disk() {
        let mut data = vec![0; 20];
        data[3] = 1;
        // Offset 6 with grain 8: grains of the buffer are 0..2, 2..10, 10..18, 18..20.
        let found: Vec<_> = runs(&data, 6, 8).collect();
        let expected =
            [(true, 0..2), (false, 2..10), (true, 10..20)].map(|(zero, range)| Run { zero, range });
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn runs_cover_alternate_and_never_call_data_zero(
            bytes in prop::collection::vec(prop_oneof![9 => Just(0u8), 1 => any::<u8>()], 0..400),
            offset in 0u64..100,
            grain in 1u64..40,
        ) {
            let mut position = 0;
            let mut last = None;
            for run in runs(&bytes, offset, grain) {
                prop_assert_eq!(run.range.start, position);
                prop_assert!(run.range.end > position);
                prop_assert_ne!(last, Some(run.zero));
                prop_assert_eq!(run.zero && bytes[run.range.clone()].iter().any(|b| *b != 0), false);
                position = run.range.end;
                last = Some(run.zero);
            }
            prop_assert_eq!(position, bytes.len());
        }
    }
}
