//! Directory entries (MS-FSCC 2.4, the classes of QUERY_DIRECTORY), written into a bounded buffer.

use super::info::Basic;
use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::{self, Utf16};

/// FileInformationClass of QUERY_DIRECTORY.
#[allow(missing_docs)] // the names are those of the standard, without File and Information
pub mod class {
    pub const DIRECTORY: u8 = 1;
    pub const FULL_DIRECTORY: u8 = 2;
    pub const BOTH_DIRECTORY: u8 = 3;
    pub const NAMES: u8 = 12;
    pub const ID_BOTH_DIRECTORY: u8 = 37;
    pub const ID_FULL_DIRECTORY: u8 = 38;
    pub const ID_EXTD_DIRECTORY: u8 = 60;
    pub const ID_EXTD_BOTH_DIRECTORY: u8 = 63;
}

/// Bytes of the fixed ShortName field.
const SHORT_NAME_LEN: usize = 24;

/// What an entry reports; each class takes its part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    /// FileIndex: where a later query may start; 0 if not supported.
    pub index: u32,
    /// Times and attributes.
    pub basic: Basic,
    /// EndOfFile in bytes.
    pub end_of_file: u64,
    /// AllocationSize in bytes.
    pub allocation_size: u64,
    /// EaSize in bytes.
    pub ea_size: u32,
    /// ReparsePointTag, 0 for none.
    pub reparse_tag: u32,
    /// Identifies the file within its volume.
    pub file_id: u64,
    /// The name.
    pub name: &'a str,
    /// The 8.3 name; empty where there is none.
    pub short_name: &'a str,
}

/// Bytes of an entry before its name; `None` for a class that is not of a directory.
pub fn fixed_len(class: u8) -> Option<usize> {
    Some(match class {
        class::DIRECTORY => 64,
        class::FULL_DIRECTORY => 68,
        class::BOTH_DIRECTORY => 94,
        class::NAMES => 12,
        class::ID_BOTH_DIRECTORY => 104,
        class::ID_FULL_DIRECTORY => 80,
        class::ID_EXTD_DIRECTORY => 88,
        class::ID_EXTD_BOTH_DIRECTORY => 114,
        _ => return None,
    })
}

/// Sets the NextEntryOffset of the entry before, if any, to reach the end of `out`, and begins the next with its own, 0.
pub(super) fn link(out: &mut Vec<u8>, last: &mut Option<usize>) {
    let here = out.len();
    if let Some(last) = *last {
        out[last..last + 4].copy_from_slice(&((here - last) as u32).to_le_bytes());
    }
    *last = Some(here);
    out.put_u32(0);
}

/// Writes chained entries, 8-aligned, into at most `limit` bytes.
#[derive(Debug)]
pub struct Writer {
    class: u8,
    fixed: usize,
    limit: usize,
    out: Vec<u8>,
    last: Option<usize>,
}

impl Writer {
    /// An empty buffer for entries of `class`; `None` for a class that is not of a directory.
    pub fn new(class: u8, limit: usize) -> Option<Self> {
        Some(Self { class, fixed: fixed_len(class)?, limit, out: Vec::new(), last: None })
    }

    /// Appends an entry; false, with nothing changed, where it does not fit any more.
    pub fn push(&mut self, entry: &Entry<'_>) -> bool {
        let start = self.out.len().next_multiple_of(8);
        if start + self.fixed + utf16::len(entry.name) > self.limit {
            return false;
        }
        self.out.pad_to(0, 8);
        link(&mut self.out, &mut self.last);
        self.out.put_u32(entry.index);
        self.put_fields(entry);
        utf16::put(&mut self.out, entry.name);
        true
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The entries.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn put_fields(&mut self, entry: &Entry<'_>) {
        let out = &mut self.out;
        let name_len = utf16::len(entry.name) as u32;
        if self.class == class::NAMES {
            out.put_u32(name_len);
            return;
        }
        out.put_u64(entry.basic.creation_time);
        out.put_u64(entry.basic.last_access_time);
        out.put_u64(entry.basic.last_write_time);
        out.put_u64(entry.basic.change_time);
        out.put_u64(entry.end_of_file);
        out.put_u64(entry.allocation_size);
        out.put_u32(entry.basic.attributes);
        out.put_u32(name_len);
        if self.class == class::DIRECTORY {
            return;
        }
        out.put_u32(entry.ea_size);
        match self.class {
            class::BOTH_DIRECTORY => put_short_name(out, entry.short_name),
            class::ID_BOTH_DIRECTORY => {
                put_short_name(out, entry.short_name);
                out.put_u16(0);
                out.put_u64(entry.file_id);
            }
            class::ID_FULL_DIRECTORY => {
                out.put_u32(0);
                out.put_u64(entry.file_id);
            }
            class::ID_EXTD_DIRECTORY | class::ID_EXTD_BOTH_DIRECTORY => {
                out.put_u32(entry.reparse_tag);
                out.put_u64(entry.file_id);
                out.put_u64(0); // a FileId of 128 bits
                if self.class == class::ID_EXTD_BOTH_DIRECTORY {
                    put_short_name(out, entry.short_name);
                }
            }
            _ => {} // FULL_DIRECTORY
        }
    }
}

/// ShortNameLength, a reserved byte, and 24 bytes of name: whole characters only, the rest zero.
fn put_short_name(out: &mut Vec<u8>, name: &str) {
    let name = utf16::encode(name);
    let name = &name[..name.len().min(SHORT_NAME_LEN)];
    out.put_u8(name.len() as u8);
    out.put_u8(0);
    out.put_slice(name);
    out.put_zeros(SHORT_NAME_LEN - name.len());
}

/// Reads the names of a chain back, for tests and the bench client.
pub fn decode_names(class: u8, data: &[u8]) -> Result<Vec<Utf16<'_>>, DecodeError> {
    let invalid = |what, value: usize| DecodeError::Invalid { what, value: value as u64 };
    let fixed = fixed_len(class).ok_or(invalid("FileInformationClass", class.into()))?;
    let length_at = if class == class::NAMES { 8 } else { 60 };
    let mut names = Vec::new();
    let mut at = 0;
    while !data.is_empty() {
        let mut r = Reader::at(data, at, "directory entry");
        let next = r.u32()? as usize;
        r.skip(length_at - 4)?;
        let len = r.u32()? as usize;
        names.push(Utf16(r.slice(at + fixed, len)?));
        if next == 0 {
            break;
        }
        if next < fixed {
            return Err(invalid("NextEntryOffset", next));
        }
        at += next;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_chain_and_stop_at_the_limit() {
        for class in 0..=u8::MAX {
            let Some(fixed) = fixed_len(class) else { continue };
            let name = "file.vmdk";
            let entry = Entry { name, short_name: "FILE~1.VMDK12345", ..Entry::default() };
            let one = fixed + utf16::len(name);
            let mut writer = Writer::new(class, one.next_multiple_of(8) + one).unwrap();
            assert!(writer.push(&entry) && writer.push(&entry), "class {class}");
            assert!(!writer.push(&entry), "class {class}: the third does not fit");
            let data = writer.finish();
            assert_eq!(data.len(), one.next_multiple_of(8) + one);
            let names = decode_names(class, &data).unwrap();
            assert_eq!(names.iter().map(|n| n.lossy()).collect::<Vec<_>>(), [name, name]);
        }
    }
}
