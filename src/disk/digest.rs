//! The digest of a disk's contents, for whoever wants to compare it with the source after a restore.
//!
//! Taken by reading back, because writes arrive in any order and over each other. What was skipped is not read from the
//! driver, so that a thin disk costs little more than hashing its zeros.

use std::fmt::Write as _;

use sha2::{Digest, Sha256, Sha512};

use super::{DiskError, ImportDisk};

/// Bytes read at a time.
const CHUNK: usize = 1024 * 1024;

/// Which digest (FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// Its name, as `sha256sum` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of everything up to the end of file, in hexadecimal. What other threads write meanwhile may or may not be
    /// in it.
    pub fn of(self, disk: &ImportDisk) -> Result<String, DiskError> {
        match self {
            Self::Sha256 => hash::<Sha256>(disk),
            Self::Sha512 => hash::<Sha512>(disk),
        }
    }
}

fn hash<D: Digest>(disk: &ImportDisk) -> Result<String, DiskError> {
    let mut hash = D::new();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = disk.read_at(&mut buffer, offset)?;
        if length == 0 {
            break;
        }
        hash.update(&buffer[..length]);
        offset += length as u64;
    }
    Ok(hexadecimal(&hash.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // a String takes all
    }
    text
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
        let expected = hexadecimal(&Sha256::digest(&image));
        assert_eq!(
            Algorithm::Sha256.of(&disk).unwrap(),
            expected,
            "the second megabyte never came and is zero"
        );
        assert_eq!(Algorithm::Sha512.of(&disk).unwrap(), hexadecimal(&Sha512::digest(&image)));
    }
}
