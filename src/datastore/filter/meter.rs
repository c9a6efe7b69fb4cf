//! Counts and times what goes through a disk, for the status page and metrics.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::Disk;

/// What went through since the start. Shared by any number of disks.
#[derive(Debug, Default)]
pub struct Counts {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    zeroed_bytes: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
    busy_nanoseconds: AtomicU64,
}

/// [`Counts`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountsSnapshot {
    /// Reads that succeeded.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Bytes zeroed.
    pub zeroed_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Time spent in the driver, summed over threads.
    pub busy: Duration,
}

impl Counts {
    /// The numbers now. Each is right; together they may be of slightly different moments.
    pub fn snapshot(&self) -> CountsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CountsSnapshot {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            written_bytes: get(&self.written_bytes),
            zeroed_bytes: get(&self.zeroed_bytes),
            flushes: get(&self.flushes),
            errors: get(&self.errors),
            busy: Duration::from_nanos(get(&self.busy_nanoseconds)),
        }
    }

    fn time<T>(
        &self,
        count: Option<&AtomicU64>,
        bytes: Option<(&AtomicU64, u64)>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let start = Instant::now();
        let result = operation();
        let busy = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.busy_nanoseconds.fetch_add(busy, Ordering::Relaxed);
        if result.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return result;
        }
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((total, amount)) = bytes {
            total.fetch_add(amount, Ordering::Relaxed);
        }
        result
    }
}

/// A metered disk.
pub struct Meter {
    inner: Box<dyn Disk>,
    counts: Arc<Counts>,
}

impl Meter {
    /// Meters `inner` into `counts`.
    pub fn new(inner: Box<dyn Disk>, counts: Arc<Counts>) -> Self {
        Self { inner, counts }
    }
}

impl Disk for Meter {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let counts = &self.counts;
        let bytes = (&counts.read_bytes, buffer.len() as u64);
        counts.time(Some(&counts.reads), Some(bytes), || self.inner.read_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let counts = &self.counts;
        let bytes = (&counts.written_bytes, data.len() as u64);
        counts.time(Some(&counts.writes), Some(bytes), || self.inner.write_at(data, offset))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let bytes = (&self.counts.zeroed_bytes, length);
        self.counts.time(None, Some(bytes), || self.inner.zero(offset, length))
    }

    fn flush(&self) -> io::Result<()> {
        self.counts.time(Some(&self.counts.flushes), None, || self.inner.flush())
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.counts.time(None, None, || self.inner.keep_alive())
    }

    fn release(&self) -> io::Result<()> {
        self.inner.release()
    }

    fn fresh_reads_zero(&self) -> bool {
        self.inner.fresh_reads_zero()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::memory::MemoryDisk;

    #[test]
    fn counts_what_succeeded_and_errors_apart() {
        let counts = Arc::new(Counts::default());
        let disk = Meter::new(Box::new(MemoryDisk::new(4096)), Arc::clone(&counts));
        disk.write_at(&[1; 100], 0).unwrap();
        disk.write_at(&[1; 100], 4000).unwrap_err();
        disk.zero(0, 50).unwrap();
        disk.read_at(&mut [0; 10], 0).unwrap();
        disk.flush().unwrap();
        let expected = CountsSnapshot {
            reads: 1,
            read_bytes: 10,
            writes: 1,
            written_bytes: 100,
            zeroed_bytes: 50,
            flushes: 1,
            errors: 1,
            busy: counts.snapshot().busy,
        };
        assert_eq!(counts.snapshot(), expected);
    }
}
