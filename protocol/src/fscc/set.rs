//! What SET_INFO carries (MS-FSCC 2.4), decoded into one value that a handler matches on.

use super::info::{Basic, class};
use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::Utf16;

/// Flag of FileDispositionInformationEx (2.4.12): delete; without it, don't.
pub const DISPOSITION_DELETE: u32 = 0x01;
/// Flag of the same: take the name away at once, though opens remain.
pub const DISPOSITION_POSIX_SEMANTICS: u32 = 0x02;
/// Flag of the same: delete a read-only file too.
pub const DISPOSITION_IGNORE_READONLY: u32 = 0x10;
/// Flag of FileRenameInformationEx and FileLinkInformationEx: replace an existing target.
pub const RENAME_REPLACE_IF_EXISTS: u32 = 0x01;
/// Flag of the same: replace it though it is open.
pub const RENAME_POSIX_SEMANTICS: u32 = 0x02;

/// New name of a file: FileRenameInformation (2.4.42.2), FileLinkInformation (2.4.27) and their Ex forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// `RENAME_*` flags; the older form's ReplaceIfExists is [`RENAME_REPLACE_IF_EXISTS`].
    pub flags: u32,
    /// RootDirectory; must be 0 over a network.
    pub root_directory: u64,
    /// The new path within the share.
    pub name: Utf16<'a>,
}

impl<'a> Target<'a> {
    fn decode(data: &'a [u8], extended: bool) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "FileRenameInformation");
        let flags = if extended { r.u32()? } else { u32::from(r.u8()? != 0) };
        r.skip(8 - r.position())?;
        let root_directory = r.u64()?;
        let len = r.u32()? as usize;
        Ok(Self { flags, root_directory, name: Utf16(r.bytes(len)?) })
    }

    /// Appends it, in the older or the Ex form; the same layout but for the flags' width.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.flags);
        out.put_u32(0);
        out.put_u64(self.root_directory);
        out.put_u32(self.name.0.len() as u32);
        out.put_slice(self.name.0);
    }
}

/// A change to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set<'a> {
    /// Times and attributes (2.4.7).
    Basic(Basic),
    /// Rename (2.4.42).
    Rename(Target<'a>),
    /// Hard link (2.4.27).
    Link(Target<'a>),
    /// `DISPOSITION_*` flags (2.4.11, 2.4.12).
    Disposition(u32),
    /// CurrentByteOffset (2.4.40).
    Position(u64),
    /// Mode (2.4.31).
    Mode(u32),
    /// AllocationSize in bytes (2.4.4).
    Allocation(u64),
    /// EndOfFile in bytes (2.4.13).
    EndOfFile(u64),
    /// ValidDataLength in bytes (2.4.49).
    ValidDataLength(u64),
    /// Extended attributes (2.4.16), for [`super::ea::decode`].
    FullEa(&'a [u8]),
    /// A class that this decoder does not know: STATUS_INVALID_INFO_CLASS or STATUS_NOT_SUPPORTED.
    Unknown(u8),
}

impl<'a> Set<'a> {
    /// Decodes `data` of `class`. Too short a buffer is an error: STATUS_INFO_LENGTH_MISMATCH (MS-SMB2 3.3.5.21.1).
    pub fn decode(class: u8, data: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "SET_INFO buffer");
        Ok(match class {
            class::BASIC => Self::Basic(Basic::decode(data)?),
            class::RENAME => Self::Rename(Target::decode(data, false)?),
            class::RENAME_EX => Self::Rename(Target::decode(data, true)?),
            class::LINK => Self::Link(Target::decode(data, false)?),
            class::LINK_EX => Self::Link(Target::decode(data, true)?),
            class::DISPOSITION => Self::Disposition(u32::from(r.u8()? != 0)),
            class::DISPOSITION_EX => Self::Disposition(r.u32()?),
            class::POSITION => Self::Position(r.u64()?),
            class::MODE => Self::Mode(r.u32()?),
            class::ALLOCATION => Self::Allocation(r.u64()?),
            class::END_OF_FILE => Self::EndOfFile(r.u64()?),
            class::VALID_DATA_LENGTH => Self::ValidDataLength(r.u64()?),
            class::FULL_EA => Self::FullEa(data),
            other => Self::Unknown(other),
        })
    }
}
