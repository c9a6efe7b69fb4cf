//! Information about a file (MS-FSCC 2.4), as QUERY_INFO returns it. What clients set is in [`super::set`].

use crate::codec::{DecodeError, Put, Reader};
use crate::utf16;

/// FileInformationClass (MS-FSCC 2.4).
#[allow(missing_docs)] // the names are those of the standard, without File and Information
pub mod class {
    pub const BASIC: u8 = 4;
    pub const STANDARD: u8 = 5;
    pub const INTERNAL: u8 = 6;
    pub const EA: u8 = 7;
    pub const ACCESS: u8 = 8;
    pub const NAME: u8 = 9;
    pub const RENAME: u8 = 10;
    pub const LINK: u8 = 11;
    pub const DISPOSITION: u8 = 13;
    pub const POSITION: u8 = 14;
    pub const FULL_EA: u8 = 15;
    pub const MODE: u8 = 16;
    pub const ALIGNMENT: u8 = 17;
    pub const ALL: u8 = 18;
    pub const ALLOCATION: u8 = 19;
    pub const END_OF_FILE: u8 = 20;
    pub const ALTERNATE_NAME: u8 = 21;
    pub const STREAM: u8 = 22;
    pub const PIPE: u8 = 23;
    pub const PIPE_LOCAL: u8 = 24;
    pub const COMPRESSION: u8 = 28;
    pub const NETWORK_OPEN: u8 = 34;
    pub const ATTRIBUTE_TAG: u8 = 35;
    pub const VALID_DATA_LENGTH: u8 = 39;
    pub const SHORT_NAME: u8 = 40;
    pub const NORMALIZED_NAME: u8 = 48;
    pub const ID: u8 = 59;
    pub const DISPOSITION_EX: u8 = 64;
    pub const RENAME_EX: u8 = 65;
    pub const LINK_EX: u8 = 72;
}

/// FileBasicInformation (2.4.7), to query and to set. Times are in 100 ns since 1601; when set, 0 leaves a time as it is, -1
/// stops and -2 resumes its automatic updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Basic {
    /// CreationTime.
    pub creation_time: u64,
    /// LastAccessTime.
    pub last_access_time: u64,
    /// LastWriteTime.
    pub last_write_time: u64,
    /// ChangeTime.
    pub change_time: u64,
    /// FileAttributes; when set, 0 leaves them.
    pub attributes: u32,
}

impl Basic {
    /// Decodes the 40 bytes; the last 4 are reserved and may be missing.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "FileBasicInformation");
        let times = Self::decode_times(&mut r)?;
        Ok(Self { attributes: r.u32()?, ..times })
    }

    fn decode_times(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            creation_time: r.u64()?,
            last_access_time: r.u64()?,
            last_write_time: r.u64()?,
            change_time: r.u64()?,
            attributes: 0,
        })
    }

    /// Appends the 40 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_times(out);
        out.put_u32(self.attributes);
        out.put_u32(0);
    }

    fn encode_times(&self, out: &mut Vec<u8>) {
        out.put_u64(self.creation_time);
        out.put_u64(self.last_access_time);
        out.put_u64(self.last_write_time);
        out.put_u64(self.change_time);
    }
}

/// FileNetworkOpenInformation (2.4.29) without its reserved end: what a CREATE and, if asked, a CLOSE tell of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkOpen {
    /// Times and attributes.
    pub basic: Basic,
    /// AllocationSize in bytes.
    pub allocation_size: u64,
    /// EndOfFile in bytes.
    pub end_of_file: u64,
}

impl NetworkOpen {
    /// Decodes the 52 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let basic = Basic::decode_times(r)?;
        let (allocation_size, end_of_file) = (r.u64()?, r.u64()?);
        Ok(Self { basic: Basic { attributes: r.u32()?, ..basic }, allocation_size, end_of_file })
    }

    /// Appends the 52 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.basic.encode_times(out);
        out.put_u64(self.allocation_size);
        out.put_u64(self.end_of_file);
        out.put_u32(self.basic.attributes);
    }
}

/// What the query classes report, gathered once by a handler; [`encode`] lays out the part that a class wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileInfo<'a> {
    /// Times and attributes.
    pub basic: Basic,
    /// AllocationSize in bytes.
    pub allocation_size: u64,
    /// EndOfFile in bytes.
    pub end_of_file: u64,
    /// NumberOfLinks.
    pub links: u32,
    /// Will be deleted when the last open is closed.
    pub delete_pending: bool,
    /// Is a directory.
    pub directory: bool,
    /// Identifies the file within its volume.
    pub file_id: u64,
    /// Identifies the volume.
    pub volume_serial: u64,
    /// Length of the extended attributes, in bytes.
    pub ea_size: u32,
    /// AccessFlags of the open that asks.
    pub access: u32,
    /// CurrentByteOffset of the open.
    pub position: u64,
    /// Mode of the open (2.4.26).
    pub mode: u32,
    /// ReparseTag, 0 for none.
    pub reparse_tag: u32,
    /// The path within the share; [`encode`] adds the leading backslash where a class has one.
    pub name: &'a str,
    /// The 8.3 name; empty where there is none.
    pub short_name: &'a str,
}

/// How many bytes of room a class needs at least, the structure as Windows pads it: less than that is STATUS_INFO_LENGTH_MISMATCH (MS-SMB2 3.3.5.20.1),
/// a longer answer than the room STATUS_BUFFER_OVERFLOW. `None` for a class that cannot be queried here.
pub fn min_len(class: u8) -> Option<usize> {
    Some(match class {
        class::BASIC => 40,
        class::STANDARD | class::ID => 24,
        class::INTERNAL
        | class::POSITION
        | class::ATTRIBUTE_TAG
        | class::NAME
        | class::ALTERNATE_NAME
        | class::NORMALIZED_NAME => 8,
        class::EA | class::ACCESS | class::MODE | class::ALIGNMENT => 4,
        class::ALL => 104,
        class::COMPRESSION => 16,
        class::NETWORK_OPEN => 56,
        class::STREAM => super::stream::FIXED_LEN + 8,
        _ => return None,
    })
}

/// Appends the answer to `class`; false (and nothing appended) for a class that is not made from a [`FileInfo`].
pub fn encode(class: u8, info: &FileInfo<'_>, out: &mut Vec<u8>) -> bool {
    match class {
        class::BASIC => info.basic.encode(out),
        class::STANDARD => encode_standard(info, out),
        class::INTERNAL => out.put_u64(info.file_id),
        class::EA => out.put_u32(info.ea_size),
        class::ACCESS => out.put_u32(info.access),
        class::POSITION => out.put_u64(info.position),
        class::MODE => out.put_u32(info.mode),
        class::ALIGNMENT => out.put_u32(0), // FILE_BYTE_ALIGNMENT
        class::NAME => encode_name(&rooted(info.name), out),
        class::NORMALIZED_NAME => encode_name(info.name, out),
        class::ALTERNATE_NAME => encode_name(info.short_name, out),
        class::ALL => encode_all(info, out),
        class::NETWORK_OPEN => {
            let (allocation_size, end_of_file) = (info.allocation_size, info.end_of_file);
            NetworkOpen { basic: info.basic, allocation_size, end_of_file }.encode(out);
            out.put_u32(0);
        }
        class::ATTRIBUTE_TAG => {
            out.put_u32(info.basic.attributes);
            out.put_u32(info.reparse_tag);
        }
        class::COMPRESSION => {
            out.put_u64(info.end_of_file); // CompressedFileSize
            out.put_zeros(8); // COMPRESSION_FORMAT_NONE, no shifts
        }
        class::ID => {
            out.put_u64(info.volume_serial);
            out.put_u64(info.file_id);
            out.put_u64(0); // a FileId of 128 bits
        }
        _ => return false,
    }
    true
}

fn rooted(name: &str) -> String {
    format!("\\{}", name.trim_start_matches('\\'))
}

fn encode_standard(info: &FileInfo<'_>, out: &mut Vec<u8>) {
    out.put_u64(info.allocation_size);
    out.put_u64(info.end_of_file);
    out.put_u32(info.links);
    out.put_u8(info.delete_pending.into());
    out.put_u8(info.directory.into());
    out.put_u16(0);
}

/// FileAllInformation (2.4.2): eight of the others in a row, the name last.
fn encode_all(info: &FileInfo<'_>, out: &mut Vec<u8>) {
    for part in [
        class::BASIC,
        class::STANDARD,
        class::INTERNAL,
        class::EA,
        class::ACCESS,
        class::POSITION,
        class::MODE,
        class::ALIGNMENT,
        class::NAME,
    ] {
        encode(part, info, out);
    }
}

/// FILE_NAME_INFORMATION (2.1.7): the name after its length.
fn encode_name(name: &str, out: &mut Vec<u8>) {
    out.put_u32(utf16::len(name) as u32);
    utf16::put(out, name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_as_long_as_it_says() {
        let info = FileInfo { name: "a", short_name: "A", ..FileInfo::default() };
        for class in 0..=u8::MAX {
            let mut out = Vec::new();
            if encode(class, &info, &mut out) {
                let least = min_len(class).unwrap_or(usize::MAX);
                let named = matches!(class, class::NAME | class::ALTERNATE_NAME | class::NORMALIZED_NAME);
                assert!(
                    out.len() + usize::from(named) * 2 >= least,
                    "class {class}: {} < {least}",
                    out.len()
                );
            } else {
                assert!(out.is_empty());
            }
        }
    }
}
