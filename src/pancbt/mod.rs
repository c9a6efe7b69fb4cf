//! PANCBT: the differential format. A file says which parts of a virtual disk changed between two change ids.
//!
//! The layout, all integers little-endian (docs/pancbt.md has it byte by byte):
//!
//! ```text
//! header, 256 bytes   magic, version, disk size, disk UUID, base and target change id, CRC-32C
//! record, 40 bytes    tag, flags, payload length, offset, length, payload CRC-32C, header CRC-32C; then its payload
//! …
//! END! record         counts of what came before and a SHA-256 that covers every header: truncation is always seen
//! ```
//!
//! Records come in any order and the last one wins. A record of an unknown tag is passed over unless its flags call it
//! critical. [`Parser`] takes the file front to back, [`Merger`] in whatever order a client writes it; both hand each
//! record on only after its checksum was found right. This module knows no SMB, no sessions and no datastores.

use thiserror::Error;

mod create;
mod merge;
mod parse;
#[cfg(test)]
mod tests;
mod write;

pub use create::{Area, create_from_areas, create_from_images, parse_areas};
pub use merge::Merger;
pub use parse::{Parser, Sink, Summary};
pub use write::Writer;

/// The first eight bytes: a transfer in text mode damages them.
pub const MAGIC: [u8; 8] = *b"PANCBT\r\n";
/// The version that this module writes and the only one that it reads.
pub const VERSION: u16 = 1;
/// Length of the file header in bytes.
pub const HEADER_LEN: usize = 256;
/// Length of a record's header in bytes.
pub const RECORD_LEN: usize = 40;
/// Length of the END! record's payload in bytes.
pub const END_LEN: usize = 64;
/// Room for a change id, in bytes of UTF-8. VMware's have about 52 characters.
pub const CHANGE_ID_LEN: usize = 96;
/// Longest payload of a record, in bytes: a reader holds one record until its checksum is found right.
pub const PAYLOAD_MAX: u64 = 1 << 20;
/// Largest virtual disk, in bytes: vSphere's own limit of 62 TiB, rounded up.
pub const DISK_MAX: u64 = 64 << 40;
/// Offsets and lengths of records are multiples of this, but for the end of the disk.
pub const SECTOR: u64 = 512;
/// Record flag: a reader that does not know the tag must refuse the file.
pub const FLAG_CRITICAL: u32 = 1;

/// A record's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub [u8; 4]);

impl Tag {
    /// The range holds the payload.
    pub const DATA: Self = Self(*b"DATA");
    /// The range reads as zeros.
    pub const ZERO: Self = Self(*b"ZERO");
    /// The last record.
    pub const END: Self = Self(*b"END!");
}

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the virtual disk in bytes.
    pub disk_size: u64,
    /// The disk's UUID; `None` where the maker did not know it.
    pub disk_uuid: Option<[u8; 16]>,
    /// The state that the changes apply to; empty where unknown.
    pub base: String,
    /// The state that they lead to; empty where unknown.
    pub target: String,
}

/// Why a differential can't be merged. Each is a sentence for the administrator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PancbtError {
    /// Not this format at all.
    #[error("this is not a PANCBT file: it does not begin with the format's mark")]
    NotPancbt,
    /// A later version.
    #[error("PANCBT version {0} is not known; this program reads version {VERSION}")]
    Version(u16),
    /// A checksum does not match.
    #[error("the file is corrupt: the checksum of {what} at byte {at} is wrong")]
    Corrupt {
        /// What it covers.
        what: &'static str,
        /// Where it starts, in bytes from the start of the file.
        at: u64,
    },
    /// A value that can't be.
    #[error("the file is malformed at byte {at}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from the start of the file.
        at: u64,
    },
    /// A critical record that this program does not know.
    #[error("the file needs a newer program: record '{tag}' at byte {at} is not known")]
    UnknownCritical {
        /// The tag.
        tag: String,
        /// Where, in bytes from the start of the file.
        at: u64,
    },
    /// It ends too early.
    #[error("the file is truncated: it ends at byte {at}, before its end record")]
    Truncated {
        /// Its length in bytes.
        at: u64,
    },
    /// A part that was merged already was written again with other contents.
    #[error(
        "byte {at} of the file was written again after it had been merged; copy the file again from its start"
    )]
    Rewritten {
        /// The offset in the file.
        at: u64,
    },
    /// A part of it was refused before, for this reason.
    #[error("{0}")]
    Refused(String),
    /// It belongs to another disk or another state of it.
    #[error("{0}")]
    WrongTarget(String),
    /// The disk, or the buffer for what is ahead, failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
