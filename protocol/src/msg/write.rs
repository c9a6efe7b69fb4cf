//! WRITE (MS-SMB2 2.2.21, 2.2.22). The payload stays where it was received: a slice and its offset in the message.

use super::{FileId, body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// Flag (2.1): the data must be on stable storage before the response.
pub const FLAG_WRITE_THROUGH: u32 = 0x0000_0001;
/// Flag (3.0.2): bypass caches.
pub const FLAG_WRITE_UNBUFFERED: u32 = 0x0000_0002;

/// WRITE request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where to write, in bytes.
    pub offset: u64,
    /// The open.
    pub file_id: FileId,
    /// 0, or how RDMA is to be used.
    pub channel: u32,
    /// Bytes the client will write after these; a hint.
    pub remaining_bytes: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// Where the payload begins in the message; 0 when it is empty.
    pub data_offset: usize,
    /// The payload.
    pub data: &'a [u8],
    /// RDMA descriptors; empty where `channel` is 0.
    pub channel_info: &'a [u8],
}

impl<'a> Request<'a> {
    /// A WRITE as it usually comes: no channel, no flags, nothing announced behind it.
    pub fn new(file_id: FileId, offset: u64, data: &'a [u8]) -> Self {
        Self {
            offset,
            file_id,
            channel: 0,
            remaining_bytes: 0,
            flags: 0,
            data_offset: 0,
            data,
            channel_info: &[],
        }
    }

    /// Decodes the message. An empty payload may have any DataOffset, and the fields of a channel count only with one:
    /// real clients leave both unset.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 49, "WRITE request")?;
        let data_offset = usize::from(r.u16()?);
        let len = r.u32()? as usize;
        let offset = r.u64()?;
        let file_id = FileId::decode(&mut r)?;
        let (channel, remaining_bytes) = (r.u32()?, r.u32()?);
        let (info_offset, info_len) = (r.u16()?, r.u16()?);
        let flags = r.u32()?;
        let data = buffer(&r, data_offset, len)?;
        let info_len = if channel == 0 { 0 } else { info_len };
        let channel_info = buffer(&r, info_offset.into(), info_len.into())?;
        let data_offset = if len == 0 { 0 } else { data_offset };
        Ok(Self { offset, file_id, channel, remaining_bytes, flags, data_offset, data, channel_info })
    }

    /// Appends the body and the payload; channels are not sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(49);
        out.put_u16(HEADER_LEN as u16 + 48);
        out.put_u32(self.data.len() as u32);
        out.put_u64(self.offset);
        self.file_id.encode(out);
        out.put_u32(0);
        out.put_u32(self.remaining_bytes);
        out.put_u32(0); // WriteChannelInfoOffset, WriteChannelInfoLength
        out.put_u32(self.flags);
        out.put_slice(if self.data.is_empty() { &[0] } else { self.data });
    }
}

/// WRITE response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Bytes written.
    pub count: u32,
}

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 17, "WRITE response")?;
        r.skip(2)?;
        Ok(Self { count: r.u32()? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(17);
        out.put_u16(0);
        out.put_u32(self.count);
        out.put_zeros(8); // Remaining, WriteChannelInfo*: reserved
    }
}
