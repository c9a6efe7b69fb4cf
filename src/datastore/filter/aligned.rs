//! For drivers that take whole blocks only: reads, changes and writes the blocks at the ends of what is not aligned.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::super::Disk;

/// A disk that takes any range, over one that takes multiples of a block. The inner disk's size must be such a multiple.
pub struct Aligned {
    inner: Box<dyn Disk>,
    block: u64,
    /// Held while a block is changed in part: two changes of one block would lose the first. Writes of whole blocks need
    /// no lock, because the caller never writes overlapping ranges at the same time.
    changing: Mutex<()>,
}

/// A range as its unaligned start, whole blocks, and unaligned end.
struct Parts {
    head: u64,
    body: u64,
    tail: u64,
}

impl Aligned {
    /// `block` is in bytes, a power of two.
    pub fn new(inner: Box<dyn Disk>, block: u64) -> io::Result<Self> {
        if !block.is_power_of_two() || !inner.size().is_multiple_of(block) {
            let message = format!("a disk of {} bytes is not one of {block}-byte blocks", inner.size());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self { inner, block, changing: Mutex::new(()) })
    }

    fn parts(&self, offset: u64, length: u64) -> Parts {
        let head = (offset.next_multiple_of(self.block) - offset).min(length);
        let tail = (length - head) % self.block;
        Parts { head, body: length - head - tail, tail }
    }

    /// Changes part of one block.
    fn change(&self, offset: u64, length: u64, data: Option<&[u8]>) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset - offset % self.block;
        let inside = (offset - start) as usize..(offset - start + length) as usize;
        let mut block = vec![0; self.block as usize];
        self.inner.read_at(&mut block, start)?;
        match data {
            Some(data) => block[inside].copy_from_slice(data),
            None => block[inside].fill(0),
        }
        self.inner.write_at(&block, start)
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= self.inner.size());
        end.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Disk for Aligned {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buffer.len() as u64)?;
        let start = offset - offset % self.block;
        let end = (offset + buffer.len() as u64).next_multiple_of(self.block);
        if (start, end) == (offset, offset + buffer.len() as u64) {
            return self.inner.read_at(buffer, offset);
        }
        let mut blocks = vec![0; (end - start) as usize];
        self.inner.read_at(&mut blocks, start)?;
        let inside = (offset - start) as usize;
        buffer.copy_from_slice(&blocks[inside..inside + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        let Parts { head, body, tail } = self.parts(offset, data.len() as u64);
        let (first, rest) = data.split_at(head as usize);
        let (whole, last) = rest.split_at(body as usize);
        self.change(offset, head, Some(first))?;
        if body > 0 {
            self.inner.write_at(whole, offset + head)?;
        }
        self.change(offset + head + body, tail, Some(last))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        let Parts { head, body, tail } = self.parts(offset, length);
        self.change(offset, head, None)?;
        if body > 0 {
            self.inner.zero(offset + head, body)?;
        }
        self.change(offset + head + body, tail, None)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.inner.keep_alive()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn release(&self) -> io::Result<()> {
        self.inner.release()
    }

    fn fresh_reads_zero(&self) -> bool {
        self.inner.fresh_reads_zero()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::memory::MemoryDisk;
    use proptest::prelude::*;

    const BLOCK: u64 = 16;
    const SIZE: usize = 160;

    /// Refuses what is not aligned, as O_DIRECT does.
    struct Strict(MemoryDisk);

    impl Strict {
        fn check(offset: u64, length: u64) -> io::Result<()> {
            let aligned = offset.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK) && length > 0;
            if aligned { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
        }
    }

    impl Disk for Strict {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            Self::check(offset, buffer.len() as u64)?;
            self.0.read_at(buffer, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            Self::check(offset, data.len() as u64)?;
            self.0.write_at(data, offset)
        }
        fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
            Self::check(offset, length)?;
            self.0.zero(offset, length)
        }
        fn flush(&self) -> io::Result<()> {
            self.0.flush()
        }
        fn allocated(&self) -> io::Result<u64> {
            self.0.allocated()
        }
    }

    proptest! {
        #[test]
        fn any_range_as_on_a_disk_without_blocks(
            steps in prop::collection::vec((0..SIZE, 0..60usize, any::<Option<u8>>()), 0..30),
        ) {
            let memory = MemoryDisk::filled(SIZE, 9);
            let disk = Aligned::new(Box::new(Strict(memory.clone())), BLOCK).unwrap();
            let mut model = vec![9; SIZE];
            for (start, length, byte) in steps {
                let length = length.min(SIZE - start);
                match byte {
                    Some(byte) => disk.write_at(&vec![byte; length], start as u64).unwrap(),
                    None => disk.zero(start as u64, length as u64).unwrap(),
                }
                model[start..start + length].fill(byte.unwrap_or(0));
                let mut read = vec![1; length];
                if length > 0 {
                    disk.read_at(&mut read, start as u64).unwrap();
                }
                prop_assert_eq!(&read[..], &model[start..start + length]);
            }
            prop_assert_eq!(memory.contents(), model);
        }
    }

    #[test]
    fn a_size_of_broken_blocks_and_a_range_outside_are_refused() {
        assert!(Aligned::new(Box::new(MemoryDisk::new(100)), BLOCK).is_err());
        let disk = Aligned::new(Box::new(MemoryDisk::new(SIZE)), BLOCK).unwrap();
        assert!(disk.write_at(&[1], SIZE as u64).is_err() && disk.zero(u64::MAX, 2).is_err());
    }
}
