//! What can go wrong with a disk, in words for its administrator.

use std::io;

/// Why an operation on a disk failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A write or a size beyond the size that the CFG gives the disk.
    #[error("{end} is past the end of the disk ({size} bytes as the CFG says)")]
    BeyondEnd {
        /// Where it would have ended, in bytes.
        end: u64,
        /// The disk's size, in bytes.
        size: u64,
    },
    /// The datastore failed.
    #[error("the datastore: {0}")]
    Datastore(#[source] io::Error),
    /// The journal failed, so that nothing may be written.
    #[error("the journal: {0}")]
    Journal(#[source] io::Error),
    /// Data that had been accepted could not be written afterwards.
    #[error("data that was held could not be written to the datastore: {message}")]
    Late {
        /// The kind of the datastore's error.
        kind: io::ErrorKind,
        /// Its text.
        message: String,
    },
}

impl DiskError {
    /// The kind of the error beneath, such as [`io::ErrorKind::StorageFull`].
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::BeyondEnd { .. } => io::ErrorKind::FileTooLarge,
            Self::Datastore(error) | Self::Journal(error) => error.kind(),
            Self::Late { kind, .. } => *kind,
        }
    }
}
