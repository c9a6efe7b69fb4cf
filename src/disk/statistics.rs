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

    pub(super) fn note_incoming(&mut self, bytes: u64) {
        self.total += bytes;
        self.incoming += 1;
        self.closed = None;
        self.first_write.get_or_insert_with(Instant::now);
    }

    pub(super) fn note_outgoing(&mut self, bytes: u64) {
        self.written += bytes;
        self.outgoing += 1;
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
}
