//! CLOSE (MS-SMB2 2.2.15, 2.2.16).

use super::{FileId, body};
use crate::codec::{DecodeError, Put};

/// Flag of both: the response carries the file's attributes.
pub const FLAG_POSTQUERY_ATTRIB: u16 = 0x0001;

/// CLOSE request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// [`FLAG_POSTQUERY_ATTRIB`] or nothing.
    pub flags: u16,
    /// The open to close.
    pub file_id: FileId,
}

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 24, "CLOSE request")?;
        let flags = r.u16()?;
        r.skip(4)?;
        Ok(Self { flags, file_id: FileId::decode(&mut r)? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(24);
        out.put_u16(self.flags);
        out.put_u32(0);
        self.file_id.encode(out);
    }
}

/// CLOSE response. Without [`FLAG_POSTQUERY_ATTRIB`] everything is 0: `Response::default()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response {
    /// [`FLAG_POSTQUERY_ATTRIB`] if the rest is valid.
    pub flags: u16,
    /// CreationTime, in 100 ns since 1601.
    pub creation_time: u64,
    /// LastAccessTime.
    pub last_access_time: u64,
    /// LastWriteTime.
    pub last_write_time: u64,
    /// ChangeTime.
    pub change_time: u64,
    /// AllocationSize in bytes.
    pub allocation_size: u64,
    /// EndOfFile in bytes.
    pub end_of_file: u64,
    /// FileAttributes.
    pub file_attributes: u32,
}

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 60, "CLOSE response")?;
        let flags = r.u16()?;
        r.skip(4)?;
        Ok(Self {
            flags,
            creation_time: r.u64()?,
            last_access_time: r.u64()?,
            last_write_time: r.u64()?,
            change_time: r.u64()?,
            allocation_size: r.u64()?,
            end_of_file: r.u64()?,
            file_attributes: r.u32()?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(60);
        out.put_u16(self.flags);
        out.put_u32(0);
        out.put_u64(self.creation_time);
        out.put_u64(self.last_access_time);
        out.put_u64(self.last_write_time);
        out.put_u64(self.change_time);
        out.put_u64(self.allocation_size);
        out.put_u64(self.end_of_file);
        out.put_u32(self.file_attributes);
    }
}
