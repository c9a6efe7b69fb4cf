//! LOCK (MS-SMB2 2.2.26, 2.2.27).

use super::{FileId, body};
use crate::codec::{DecodeError, Put, Reader};

/// The range may be read by others.
pub const FLAG_SHARED: u32 = 0x01;
/// Nobody else may touch the range.
pub const FLAG_EXCLUSIVE: u32 = 0x02;
/// Release the range.
pub const FLAG_UNLOCK: u32 = 0x04;
/// Fail at once where the range can't be had, instead of waiting.
pub const FLAG_FAIL_IMMEDIATELY: u32 = 0x10;

const ELEMENT_LEN: usize = 24;

/// SMB2_LOCK_ELEMENT (MS-SMB2 2.2.26.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// `FLAG_*` bits.
    pub flags: u32,
}

/// LOCK request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// LockSequenceNumber in the low 4 bits, LockSequenceIndex in the other 28; reserved in 2.0.2.
    pub lock_sequence: u32,
    /// The open.
    pub file_id: FileId,
    /// At least one range.
    pub locks: Vec<Element>,
}

impl Request {
    /// Decodes the message. A LockCount of 0 is refused (MS-SMB2 3.3.5.14).
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 48, "LOCK request")?;
        let count = usize::from(r.u16()?);
        let lock_sequence = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        if count == 0 {
            return Err(DecodeError::Invalid { what: "LockCount", value: 0 });
        }
        let mut elements = Reader::new(r.bytes(count * ELEMENT_LEN)?, "lock elements");
        let mut locks = Vec::with_capacity(count); // its bytes are in the message
        for _ in 0..count {
            locks.push(Element { offset: elements.u64()?, length: elements.u64()?, flags: elements.u32()? });
            elements.skip(4)?;
        }
        Ok(Self { lock_sequence, file_id, locks })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(48);
        out.put_u16(self.locks.len() as u16);
        out.put_u32(self.lock_sequence);
        self.file_id.encode(out);
        for lock in &self.locks {
            out.put_u64(lock.offset);
            out.put_u64(lock.length);
            out.put_u32(lock.flags);
            out.put_u32(0);
        }
    }
}

without_fields!(
    /// LOCK response.
    Response = "LOCK response"
);
