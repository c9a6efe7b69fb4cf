//! Keeps a remote end alive while nothing is asked of it: a client that pauses for a tape change must not cost the lease.
//!
//! While zeros are skipped the engine keeps the driver alive itself, because it counts those; this filter covers the
//! pauses in which nobody calls at all.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::Disk;

/// A disk with a thread that calls [`Disk::keep_alive`] whenever nothing else was called for an interval.
pub struct KeepAlive {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inner: Box<dyn Disk>,
    interval: Duration,
    sent: AtomicU64,
    pulse: Mutex<Pulse>,
    changed: Condvar,
}

struct Pulse {
    last: Instant,
    stop: bool,
}

impl KeepAlive {
    /// Keeps `inner` alive at `interval`.
    pub fn new(inner: Box<dyn Disk>, interval: Duration) -> io::Result<Self> {
        let pulse = Mutex::new(Pulse { last: Instant::now(), stop: false });
        let shared =
            Arc::new(Shared { inner, interval, sent: AtomicU64::new(0), pulse, changed: Condvar::new() });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("disk-keep-alive".into()).spawn(move || own.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How many it sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.shared.pulse.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // It panics only where the driver does, which has been reported then.
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        while !pulse.stop {
            let idle = pulse.last.elapsed();
            if let Some(rest) = self.interval.checked_sub(idle).filter(|rest| !rest.is_zero()) {
                pulse = self.changed.wait_timeout(pulse, rest).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            drop(pulse);
            match self.inner.keep_alive() {
                Ok(()) => {
                    self.sent.fetch_add(1, Ordering::Relaxed);
                }
                // The next operation meets the same trouble and reports it where somebody waits for the answer.
                Err(error) => tracing::warn!(%error, "a disk could not be kept alive"),
            }
            self.touch();
            pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn touch(&self) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).last = Instant::now();
    }
}

impl Disk for KeepAlive {
    fn size(&self) -> u64 {
        self.shared.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.shared.touch();
        self.shared.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.shared.touch();
        self.shared.inner.write_at(data, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.shared.touch();
        self.shared.inner.zero(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.shared.touch();
        self.shared.inner.flush()
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.shared.touch();
        self.shared.inner.keep_alive()
    }

    fn release(&self) -> io::Result<()> {
        self.shared.inner.release()
    }

    fn fresh_reads_zero(&self) -> bool {
        self.shared.inner.fresh_reads_zero()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.shared.inner.allocated()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::memory::MemoryDisk;

    #[test]
    fn an_idle_disk_is_kept_alive_and_dropping_stops_it() {
        let memory = MemoryDisk::new(4096);
        let disk = KeepAlive::new(Box::new(memory.clone()), Duration::from_millis(5)).unwrap();
        let patience = Instant::now() + Duration::from_secs(10);
        while disk.sent() < 2 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(disk.sent() >= 2);
        drop(disk);
        let sent = memory.keep_alives();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(memory.keep_alives(), sent);
    }
}
