//! The digest of a disk's contents, for whoever wants to compare it with the source after a restore.
//!
//! Taken by reading back, because writes arrive in any order and over each other. What was skipped is not read from the
//! driver, so that a thin disk costs little more than hashing its zeros.

use sha2::{Digest, Sha256};

use super::{DiskError, ImportDisk};

/// Bytes read at a time.
const CHUNK: usize = 1024 * 1024;

/// SHA-256 of everything up to the end of file. What other threads write meanwhile may or may not be in it.
pub fn sha256(disk: &ImportDisk) -> Result<[u8; 32], DiskError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = disk.read_at(&mut buffer, offset)?;
        if length == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..length]);
        offset += length as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::memory::MemoryDisk;
    use crate::disk::Options;

    #[test]
    fn is_that_of_the_bytes_whatever_the_order() {
        let disk = ImportDisk::new(Box::new(MemoryDisk::new(3 * CHUNK)), Options::default());
        let mut image = vec![0; 2 * CHUNK + 300];
        image[2 * CHUNK..].fill(4);
        image[100_000..400_000].fill(9);
        disk.write_at(&image[2 * CHUNK..], 2 * CHUNK as u64).unwrap();
        disk.write_at(&image[..CHUNK], 0).unwrap();
        let expected: [u8; 32] = Sha256::digest(&image).into();
        assert_eq!(sha256(&disk).unwrap(), expected, "the second megabyte never came and is zero");
    }
}
