//! Frame buffers: recycled, initialised once, bounded.
//!
//! A frame of 8 MiB costs a few hundred microseconds to zero and twice that in page faults; so buffers go back to a pool
//! by size class and are handed out as they are. What a handler leaves unwritten is never sent: a buffer knows which of
//! its bytes were filled ([`Buffer::set_payload_len`]).

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use super::limits::Reserved;

/// Room in front of a READ's payload for everything that precedes it on the wire: frame length (4), transform header
/// (52), SMB2 header (64) and the response's fixed part (16). One buffer, one write, nothing copied.
pub const HEADROOM: usize = 4 + 52 + 64 + 16;

/// The size classes in bytes: a request without data, the usual 64 KiB of old clients, 1 MiB of most, the maximum, and steps
/// of two between: no buffer is twice as large as what is in it. Each has room for the headers beside its payload.
const CLASSES: [usize; 8] = [
    4 << 10,
    (64 << 10) + 1024,
    (256 << 10) + 1024,
    (512 << 10) + 1024,
    (1 << 20) + 1024,
    (2 << 20) + 1024,
    (4 << 20) + 1024,
    (8 << 20) + 1024,
];

/// Bytes that all classes together may keep idle: enough for a few busy connections at depth 8, little beside the machine.
const IDLE_BYTES_MAX: usize = 48 << 20;

/// Buffers from this size on are pages of their own.
const PAGES_MIN: usize = 128 << 10;

/// Bytes of memory that a buffer for `len` bytes takes.
pub fn size_of(len: usize) -> usize {
    CLASSES.iter().copied().find(|size| *size >= len).unwrap_or(len)
}

/// The recycled buffers of one server.
#[derive(Debug, Default)]
pub struct Pool {
    idle: [Mutex<Vec<Memory>>; CLASSES.len()],
    /// Bytes of all that is in `idle`.
    idle_bytes: AtomicUsize,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A buffer whose [`Buffer::bytes_mut`] has `len` bytes, their contents left from earlier use.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let class = CLASSES.iter().position(|size| *size >= len);
        let recycled = class.and_then(|class| self.lock(class).pop());
        if let Some(recycled) = &recycled {
            self.idle_bytes.fetch_sub(recycled.len(), Ordering::Relaxed);
        }
        let bytes = recycled.unwrap_or_else(|| Memory::new(class.map_or(len, |class| CLASSES[class])));
        Buffer { bytes, start: 0, end: len, pool: Some(Arc::clone(self)), reserved: None }
    }

    /// A buffer for a READ's payload of at most `len` bytes, behind [`HEADROOM`].
    pub fn take_payload(self: &Arc<Self>, len: usize) -> Buffer {
        let mut buffer = self.take(HEADROOM + len);
        buffer.start = HEADROOM;
        buffer
    }

    fn lock(&self, class: usize) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        self.idle[class].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: Memory) {
        let Some(class) = CLASSES.iter().position(|size| *size == bytes.len()) else { return };
        // Counted first, so that two at once can't both be the last that fits.
        if self.idle_bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() <= IDLE_BYTES_MAX {
            self.lock(class).push(bytes);
        } else {
            self.idle_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

/// Where a buffer's bytes are. Large ones are pages of their own: a general-purpose allocator keeps what is given back in the
/// arena of each thread that ever asked, several times what is in use (docs/decisions/040-bytes-in-flight.md).
#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

impl Memory {
    fn new(len: usize) -> Self {
        if len < PAGES_MIN {
            return Self::Heap(vec![0; len]);
        }
        // Out of address space or mappings: the allocator may still have room.
        MmapMut::map_anon(len).map_or_else(|_| Self::Heap(vec![0; len]), Self::Pages)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pages(bytes) => bytes,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pages(bytes) => bytes,
        }
    }
}

/// Bytes of a frame, given back to their pool when dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Memory,
    start: usize,
    end: usize,
    pool: Option<Arc<Pool>>,
    /// The bytes of the budget that it stands for.
    reserved: Option<Reserved>,
}

impl Buffer {
    /// Keeps bytes of the budget reserved for as long as this buffer lives.
    pub fn hold(&mut self, reserved: Option<Reserved>) {
        self.reserved = reserved;
    }

    /// Whether it stands for bytes of the budget.
    pub fn is_counted(&self) -> bool {
        self.reserved.is_some()
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that belong to no pool.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { start: 0, end: bytes.len(), bytes: Memory::Heap(bytes), pool: None, reserved: None }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// What is in it, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Keeps the first `len` bytes, at most those it has: what a short read has filled.
    pub fn set_payload_len(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Bytes free in front of its contents.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Moves the start `by` bytes back over the headroom; `None` where there is not that much.
    #[must_use]
    pub fn prepend(&mut self, by: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(by)?; // unchanged where it does not fit
        Some(&mut self.bytes[self.start..self.start + by])
    }

    /// Drops the first `by` bytes: a transform header that has been dealt with.
    pub fn advance(&mut self, by: usize) {
        self.start = (self.start + by).min(self.end);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_shows_only_its_own_length() {
        let pool = Pool::new();
        let mut first = pool.take(100);
        first.bytes_mut().fill(0xAA);
        let address = first.bytes().as_ptr();
        drop(first);
        let second = pool.take(10);
        assert_eq!((second.bytes().as_ptr(), second.bytes().len()), (address, 10));
    }

    #[test]
    fn headers_go_in_front_of_a_payload_without_moving_it() {
        let pool = Pool::new();
        let mut buffer = pool.take_payload(5000);
        buffer.bytes_mut()[..3].copy_from_slice(b"abc");
        buffer.set_payload_len(3);
        buffer.prepend(2).unwrap().copy_from_slice(b"xy");
        assert_eq!(buffer.bytes(), b"xyabc");
        assert!(buffer.prepend(HEADROOM).is_none());
    }

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let pool = Pool::new();
        for len in [8 << 20, 1 << 20, 4 << 20] {
            let held: Vec<_> = (0..50).map(|_| pool.take(len)).collect();
            drop(held);
        }
        let idle: usize = (0..CLASSES.len()).map(|class| pool.lock(class).len() * CLASSES[class]).sum();
        assert_eq!(pool.idle_bytes.load(Ordering::Relaxed), idle);
        assert!(idle <= IDLE_BYTES_MAX && idle > IDLE_BYTES_MAX - CLASSES[CLASSES.len() - 1], "{idle}");
    }
}
