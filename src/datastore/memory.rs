//! A disk in memory for tests, with a cache that a crash loses: what was not flushed survives in part.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Disk;

/// Cloning gives another handle of the same disk.
#[derive(Debug, Clone)]
pub(crate) struct MemoryDisk(Arc<Mutex<Content>>);

#[derive(Debug)]
struct Content {
    /// As reads see it.
    now: Vec<u8>,
    /// As of the last flush.
    durable: Vec<u8>,
    /// What came since, in order: offset and bytes.
    unflushed: Vec<(usize, Vec<u8>)>,
    keep_alives: u64,
    /// Sizes of the writes that arrived.
    writes: Vec<usize>,
}

impl MemoryDisk {
    pub(crate) fn new(size: usize) -> Self {
        Self::filled(size, 0)
    }

    /// A disk that does not read as zeros.
    pub(crate) fn filled(size: usize, byte: u8) -> Self {
        let bytes = vec![byte; size];
        Self(Arc::new(Mutex::new(Content {
            now: bytes.clone(),
            durable: bytes,
            unflushed: Vec::new(),
            keep_alives: 0,
            writes: Vec::new(),
        })))
    }

    /// The power goes: of the operations since the last flush, those survive of which `survives` says so.
    pub(crate) fn crash(&self, mut survives: impl FnMut() -> bool) {
        let mut guard = self.lock();
        let content = &mut *guard;
        for (offset, bytes) in content.unflushed.drain(..) {
            if survives() {
                content.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
        content.now.clone_from(&content.durable);
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.lock().now.clone()
    }

    pub(crate) fn keep_alives(&self) -> u64 {
        self.lock().keep_alives
    }

    /// Sizes of the writes so far, in order.
    pub(crate) fn writes(&self) -> Vec<usize> {
        self.lock().writes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let mut content = self.lock();
        let offset = offset as usize;
        match content.now.get_mut(offset..offset + bytes.len()) {
            Some(place) => place.copy_from_slice(&bytes),
            None => return Err(io::ErrorKind::InvalidInput.into()),
        }
        content.unflushed.push((offset, bytes));
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.lock().now.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        match self.lock().now.get(offset..offset + buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset, data.to_vec())?;
        self.lock().writes.push(data.len());
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.change(offset, vec![0; length as usize])
    }

    fn flush(&self) -> io::Result<()> {
        let mut content = self.lock();
        content.durable = content.now.clone();
        content.unflushed.clear();
        Ok(())
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.lock().keep_alives += 1;
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64)
    }
}
