//! READ (MS-SMB2 2.2.19, 2.2.20). The response's payload lies in a buffer of its own: only the fixed part is encoded here.

use super::{FileId, body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// Request flag (3.0.2): bypass caches.
pub const FLAG_READ_UNBUFFERED: u8 = 0x01;
/// Request flag (3.1.1): the reply may be compressed.
pub const FLAG_REQUEST_COMPRESSED: u8 = 0x02;
/// Channel: no RDMA.
pub const CHANNEL_NONE: u32 = 0;
/// Bytes of the response's fixed part.
pub const RESPONSE_FIXED_LEN: usize = 16;
/// Where the payload of a response begins that follows its fixed part directly.
pub const RESPONSE_DATA_OFFSET: u8 = (HEADER_LEN + RESPONSE_FIXED_LEN) as u8;

/// READ request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where the client would like the payload to begin; a hint.
    pub padding: u8,
    /// `FLAG_*` bits; reserved before 3.0.2.
    pub flags: u8,
    /// Bytes to read at most.
    pub length: u32,
    /// Where to begin, in bytes.
    pub offset: u64,
    /// The open.
    pub file_id: FileId,
    /// Fewer bytes than this are an end of file.
    pub minimum_count: u32,
    /// [`CHANNEL_NONE`], or how RDMA is to be used.
    pub channel: u32,
    /// Bytes the client will read after these; a hint.
    pub remaining_bytes: u32,
    /// RDMA descriptors; empty where `channel` is [`CHANNEL_NONE`].
    pub channel_info: &'a [u8],
}

impl<'a> Request<'a> {
    /// A READ as it usually comes: no channel, no flags, whatever there is.
    pub fn new(file_id: FileId, offset: u64, length: u32) -> Self {
        Self {
            padding: 0,
            flags: 0,
            length,
            offset,
            file_id,
            minimum_count: 0,
            channel: 0,
            remaining_bytes: 0,
            channel_info: &[],
        }
    }

    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 49, "READ request")?;
        let (padding, flags) = (r.u8()?, r.u8()?);
        let (length, offset) = (r.u32()?, r.u64()?);
        let file_id = FileId::decode(&mut r)?;
        let (minimum_count, channel, remaining_bytes) = (r.u32()?, r.u32()?, r.u32()?);
        let (info_offset, info_len) = (r.u16()?, r.u16()?);
        // Clients leave rubbish here when they use no channel.
        let info_len = if channel == CHANNEL_NONE { 0 } else { info_len };
        let channel_info = buffer(&r, info_offset.into(), info_len.into())?;
        Ok(Self {
            padding,
            flags,
            length,
            offset,
            file_id,
            minimum_count,
            channel,
            remaining_bytes,
            channel_info,
        })
    }

    /// Appends the body, with the one byte of buffer that the standard demands of an empty one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(49);
        out.put_u8(self.padding);
        out.put_u8(self.flags);
        out.put_u32(self.length);
        out.put_u64(self.offset);
        self.file_id.encode(out);
        out.put_u32(self.minimum_count);
        out.put_u32(self.channel);
        out.put_u32(self.remaining_bytes);
        let info = self.channel_info;
        out.put_u16(if info.is_empty() { 0 } else { HEADER_LEN as u16 + 48 });
        out.put_u16(info.len() as u16);
        out.put_slice(if info.is_empty() { &[0] } else { info });
    }
}

/// Appends the fixed part of a response whose payload of `len` bytes will follow at `data_offset` from the header's start:
/// [`RESPONSE_DATA_OFFSET`] where it follows directly. MS-SMB2 2.2.20 gives the offset one byte.
pub fn encode_response(out: &mut Vec<u8>, data_offset: u8, len: u32) {
    out.put_u16(17);
    out.put_u8(data_offset);
    out.put_u8(0);
    out.put_u32(len);
    out.put_u32(0); // DataRemaining: only with RDMA
    out.put_u32(0);
}

/// READ response, payload borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// What was read.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 17, "READ response")?;
        let offset = r.u8()?;
        r.skip(1)?;
        let len = r.u32()?;
        r.skip(8)?;
        Ok(Self { data: buffer(&r, offset.into(), len as usize)? })
    }

    /// Appends the body with its payload copied: for small reads, pipes and tests.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_response(out, RESPONSE_DATA_OFFSET, self.data.len() as u32);
        out.put_slice(self.data);
    }
}
