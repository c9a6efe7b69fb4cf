//! Large writes of one file take turns: the kernel writes one at a time into a file's pages, and has the others wait for it with a busy
//! processor.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Writes of this many bytes and more wait for each other.
const BYTES_MIN: usize = 1 << 20;

/// Whose turn it is with one file.
#[derive(Debug, Default)]
pub struct Turns(Mutex<()>);

impl Turns {
    /// Waits for the turn of a write of so many bytes, which lasts until what it gives is dropped.
    pub fn wait(&self, bytes: usize) -> Option<MutexGuard<'_, ()>> {
        (bytes >= BYTES_MIN).then(|| self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
