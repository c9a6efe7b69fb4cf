//! The numbers of the `stats:` line of import.log (behaviour.md section 5). Bytes and times; whoever prints them rounds.

use std::time::{Duration, Instant};

/// What went through a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Bytes that came in.
    pub total: u64,
    /// Bytes passed to the driver: data, and zeros over what had been written.
    pub written: u64,
    /// Bytes of zeros skipped because the disk was known to read as zeros there.
    pub skipped: u64,
    /// Writes that came in.
    pub incoming: u64,
    /// Writes that went to the driver.
    pub outgoing: u64,
    /// Keep-alives sent while nothing else went out.
    pub keep_alives: u64,
    /// When the first write came in.
    pub first_write: Option<Instant>,
    /// When the disk was last closed; `None` while it has been written since.
    pub closed: Option<Instant>,
}

impl Statistics {
    /// From the first write to the close, or to now. Zero where nothing was written.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let Some(first) = self.first_write else { return Duration::ZERO };
        self.closed.unwrap_or_else(Instant::now).saturating_duration_since(first)
    }

    /// Bytes per second that came in, over [`Statistics::elapsed`]. Taken over at least a millisecond, so that a tiny file
    /// does not claim an absurd rate.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let milliseconds = self.elapsed().as_millis().max(1);
        u64::try_from(u128::from(self.total) * 1000 / milliseconds).unwrap_or(u64::MAX)
    }

    /// Average bytes of a write that came in, 0 without one.
    #[must_use]
    pub fn average_incoming(&self) -> u64 {
        self.total.checked_div(self.incoming).unwrap_or(0)
    }

    /// Average bytes of a write that went out, 0 without one.
    #[must_use]
    pub fn average_outgoing(&self) -> u64 {
        self.written.checked_div(self.outgoing).unwrap_or(0)
    }

    /// A write after a close begins to count anew: a `stats:` line tells of one copy, not of all since the start.
    pub(super) fn note_incoming(&mut self, bytes: u64, now: Instant) {
        if self.closed.is_some() {
            *self = Self::default();
        }
        self.total += bytes;
        self.incoming += 1;
        self.first_write.get_or_insert(now);
    }

    pub(super) fn note_outgoing(&mut self, bytes: u64) {
        self.written += bytes;
        self.outgoing += 1;
    }
}

/// Seconds over which the present rate is taken: long enough to even out a client's bursts, short enough that a stall
/// shows.
const RECENT_SECONDS: usize = 8;

/// What came in during the last seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recent {
    begun: Option<Instant>,
    /// Bytes of each of the last seconds, in a ring.
    seconds: [u64; RECENT_SECONDS],
    /// The second, since `begun`, up to which the ring is filled.
    last: u64,
}

impl Recent {
    fn advance(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(*self.begun.get_or_insert(now));
        let second = since.as_secs().max(self.last);
        for passed in (self.last + 1..=second).take(RECENT_SECONDS) {
            self.seconds[(passed % RECENT_SECONDS as u64) as usize] = 0;
        }
        if second - self.last > RECENT_SECONDS as u64 {
            self.seconds = [0; RECENT_SECONDS];
        }
        self.last = second;
        since
    }

    pub(super) fn note(&mut self, bytes: u64, now: Instant) {
        self.advance(now);
        self.seconds[(self.last % RECENT_SECONDS as u64) as usize] += bytes;
    }

    /// Bytes a second. A transfer that has just begun is measured over what it has had, at least a second.
    pub(super) fn rate(mut self, now: Instant) -> u64 {
        let since = self.advance(now);
        let whole = Duration::from_secs(RECENT_SECONDS as u64 - 1)
            + Duration::from_nanos(u64::from(since.subsec_nanos()));
        let milliseconds = since.min(whole).as_millis().max(1000);
        let sum: u64 = self.seconds.iter().sum();
        u64::try_from(u128::from(sum) * 1000 / milliseconds).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_rate() {
        assert_eq!((Statistics::default().average_outgoing(), Statistics::default().rate()), (0, 0));
        let start = Instant::now();
        let statistics = Statistics {
            total: 1 << 30,
            incoming: 1 << 21,
            first_write: Some(start),
            closed: Some(start + Duration::from_secs(66)),
            ..Statistics::default()
        };
        assert_eq!(statistics.average_incoming(), 512);
        assert_eq!(statistics.rate() / 1024, 15887, "the sample's rate");
    }

    #[test]
    fn the_present_rate_follows_and_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recent = Recent::default();
        assert_eq!(recent.rate(start), 0);
        for tenth in 0..100 {
            recent.note(1000, at(tenth * 100));
        }
        let rate = recent.rate(at(9900));
        assert!((9_500..=10_500).contains(&rate), "{rate}");
        assert!(recent.rate(at(14_000)) < rate, "it falls while nothing comes");
        assert_eq!(recent.rate(at(18_000)), 0);
        assert_eq!(recent.rate(at(1_000_000)), 0);
        recent.note(5000, at(1_000_000));
        assert!(recent.rate(at(1_000_100)) > 0);
    }

    #[test]
    fn a_write_after_a_close_counts_anew() {
        let start = Instant::now();
        let mut statistics =
            Statistics { total: 77, incoming: 1, closed: Some(start), ..Statistics::default() };
        statistics.note_incoming(5, start);
        assert_eq!((statistics.total, statistics.incoming, statistics.closed), (5, 1, None));
    }
}
