//! The ERROR response (MS-SMB2 2.2.2): what a failed request of any command is answered with.

use super::body;
use crate::codec::{DecodeError, Put};

/// ERROR response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response<'a> {
    /// How many error contexts (3.1.1) `data` holds.
    pub context_count: u8,
    /// ErrorData; empty for nearly every status.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 9, "ERROR response")?;
        let context_count = r.u8()?;
        r.skip(1)?;
        let len = r.u32()?;
        Ok(Self { context_count, data: r.bytes(len as usize)? })
    }

    /// Appends the body; an empty ErrorData is one byte on the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(9);
        out.put_u8(self.context_count);
        out.put_u8(0);
        out.put_u32(self.data.len() as u32);
        out.put_slice(if self.data.is_empty() { &[0] } else { self.data });
    }
}
