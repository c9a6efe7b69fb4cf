//! CHANGE_NOTIFY (MS-SMB2 2.2.35, 2.2.36).

use super::{FileId, body, decode_output, encode_output};
use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::{self, Utf16};

/// Flag: watch the directories below too.
pub const FLAG_WATCH_TREE: u16 = 0x0001;

/// CompletionFilter.
#[allow(missing_docs)] // the names are those of the standard, without FILE_NOTIFY_CHANGE_
pub mod filter {
    pub const FILE_NAME: u32 = 0x001;
    pub const DIR_NAME: u32 = 0x002;
    pub const ATTRIBUTES: u32 = 0x004;
    pub const SIZE: u32 = 0x008;
    pub const LAST_WRITE: u32 = 0x010;
    pub const LAST_ACCESS: u32 = 0x020;
    pub const CREATION: u32 = 0x040;
    pub const EA: u32 = 0x080;
    pub const SECURITY: u32 = 0x100;
    pub const STREAM_NAME: u32 = 0x200;
    pub const STREAM_SIZE: u32 = 0x400;
    pub const STREAM_WRITE: u32 = 0x800;
}

/// Action of FILE_NOTIFY_INFORMATION (MS-FSCC 2.7.1).
#[allow(missing_docs)]
pub mod action {
    pub const ADDED: u32 = 1;
    pub const REMOVED: u32 = 2;
    pub const MODIFIED: u32 = 3;
    pub const RENAMED_OLD_NAME: u32 = 4;
    pub const RENAMED_NEW_NAME: u32 = 5;
    pub const ADDED_STREAM: u32 = 6;
    pub const REMOVED_STREAM: u32 = 7;
    pub const MODIFIED_STREAM: u32 = 8;
}

/// CHANGE_NOTIFY request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// [`FLAG_WATCH_TREE`] or nothing.
    pub flags: u16,
    /// Bytes that the answer may have.
    pub output_buffer_length: u32,
    /// The directory.
    pub file_id: FileId,
    /// See [`filter`].
    pub completion_filter: u32,
}

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 32, "CHANGE_NOTIFY request")?;
        let (flags, output_buffer_length) = (r.u16()?, r.u32()?);
        Ok(Self {
            flags,
            output_buffer_length,
            file_id: FileId::decode(&mut r)?,
            completion_filter: r.u32()?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(32);
        out.put_u16(self.flags);
        out.put_u32(self.output_buffer_length);
        self.file_id.encode(out);
        out.put_u32(self.completion_filter);
        out.put_u32(0);
    }
}

/// CHANGE_NOTIFY response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// Chained FILE_NOTIFY_INFORMATION.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        decode_output(message, "CHANGE_NOTIFY response").map(|data| Self { data })
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_output(out, self.data);
    }
}

/// FILE_NOTIFY_INFORMATION of `events` (action, path relative to the directory), chained at multiples of 4; `None` where they
/// do not fit into `limit` bytes: the client is then told to enumerate (STATUS_NOTIFY_ENUM_DIR).
pub fn encode_events<'e>(events: impl IntoIterator<Item = (u32, &'e str)>, limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut last = None;
    for (action, name) in events {
        out.pad_to(0, 4);
        if let Some(last) = last {
            let next = (out.len() - last) as u32;
            out[last..last + 4].copy_from_slice(&next.to_le_bytes());
        }
        last = Some(out.len());
        out.put_u32(0);
        out.put_u32(action);
        out.put_u32(utf16::len(name) as u32);
        utf16::put(&mut out, name);
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}

/// Reads such a chain back: action and name of each event.
pub fn decode_events(data: &[u8]) -> Result<Vec<(u32, Utf16<'_>)>, DecodeError> {
    let mut events = Vec::new();
    let mut at = 0;
    while !data.is_empty() {
        let mut r = Reader::at(data, at, "FILE_NOTIFY_INFORMATION");
        let (next, action, len) = (r.u32()? as usize, r.u32()?, r.u32()? as usize);
        events.push((action, Utf16(r.bytes(len)?)));
        if next == 0 {
            break;
        }
        if next < 12 {
            return Err(DecodeError::Invalid { what: "NextEntryOffset", value: next as u64 });
        }
        at += next;
    }
    Ok(events)
}
