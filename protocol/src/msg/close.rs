//! CLOSE (MS-SMB2 2.2.15, 2.2.16).

use super::{FileId, body};
use crate::codec::{DecodeError, Put};
use crate::fscc::info::NetworkOpen;

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
    /// Its times, sizes and attributes.
    pub file: NetworkOpen,
}

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 60, "CLOSE response")?;
        let flags = r.u16()?;
        r.skip(4)?;
        Ok(Self { flags, file: NetworkOpen::decode(&mut r)? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(60);
        out.put_u16(self.flags);
        out.put_u32(0);
        self.file.encode(out);
    }
}
