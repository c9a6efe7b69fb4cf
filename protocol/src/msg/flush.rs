//! FLUSH (MS-SMB2 2.2.17, 2.2.18).

use super::{FileId, body};
use crate::codec::{DecodeError, Put};

/// FLUSH request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The open to flush.
    pub file_id: FileId,
}

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 24, "FLUSH request")?;
        r.skip(6)?;
        Ok(Self { file_id: FileId::decode(&mut r)? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(24);
        out.put_u16(0);
        out.put_u32(0);
        self.file_id.encode(out);
    }
}

without_fields!(
    /// FLUSH response.
    Response = "FLUSH response"
);
