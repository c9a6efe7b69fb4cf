//! Bytes on their way to one disk, or to all disks of a session: a datastore that is slow must not be asked for more at once
//! than it is worth, and one restore must not take the turns of all others.

use std::sync::{Condvar, Mutex, PoisonError};

/// A bound of bytes in flight. Who comes when it is full waits; one that is larger than all of it goes alone.
#[derive(Debug)]
pub(super) struct Flow {
    bytes_max: u64,
    held: Mutex<u64>,
    left: Condvar,
}

/// Bytes that are in flight until this is dropped.
pub(super) struct InFlight<'a>(&'a Flow, u64);

impl Flow {
    /// At most `bytes_max` at once.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: Mutex::new(0), left: Condvar::new() }
    }

    /// Waits until `bytes` may go.
    pub(super) fn enter(&self, bytes: u64) -> InFlight<'_> {
        let bytes = bytes.min(self.bytes_max);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while *held > self.bytes_max - bytes {
            held = self.left.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held += bytes;
        InFlight(self, bytes)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        *self.0.held.lock().unwrap_or_else(PoisonError::into_inner) -= self.1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_bound_and_everything_gets_through() {
        let flow = Flow::new(100);
        let (now, most, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for number in 0..20 {
                let (flow, now, most, done) = (&flow, &now, &most, &done);
                scope.spawn(move || {
                    for step in 0..20 {
                        let bytes = 1 + (number * 7 + step * 13) % 150; // some larger than the bound
                        let _in_flight = flow.enter(bytes);
                        let counted = bytes.min(100);
                        most.fetch_max(now.fetch_add(counted, Ordering::SeqCst) + counted, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(counted, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 400);
        assert!(most.into_inner() <= 100);
    }
}
