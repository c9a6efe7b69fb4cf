//! QUERY_DIRECTORY (MS-SMB2 2.2.33, 2.2.34). The entries' layouts are in `fscc::directory`.

use super::{FileId, body, buffer, decode_output, encode_output};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;
use crate::utf16::Utf16;

/// Start over, with the pattern given now.
pub const FLAG_RESTART_SCANS: u8 = 0x01;
/// Return one entry.
pub const FLAG_RETURN_SINGLE_ENTRY: u8 = 0x02;
/// Start at FileIndex.
pub const FLAG_INDEX_SPECIFIED: u8 = 0x04;
/// Start over, as if the directory had just been opened.
pub const FLAG_REOPEN: u8 = 0x10;

/// QUERY_DIRECTORY request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// FileInformationClass.
    pub info_class: u8,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Where to start, with [`FLAG_INDEX_SPECIFIED`].
    pub file_index: u32,
    /// The directory.
    pub file_id: FileId,
    /// Bytes that the answer may have.
    pub output_buffer_length: u32,
    /// The pattern.
    pub pattern: Utf16<'a>,
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 33, "QUERY_DIRECTORY request")?;
        let (info_class, flags) = (r.u8()?, r.u8()?);
        let file_index = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let (offset, len) = (r.u16()?, r.u16()?);
        let output_buffer_length = r.u32()?;
        let pattern = Utf16(buffer(&r, offset.into(), len.into())?);
        Ok(Self { info_class, flags, file_index, file_id, output_buffer_length, pattern })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(33);
        out.put_u8(self.info_class);
        out.put_u8(self.flags);
        out.put_u32(self.file_index);
        self.file_id.encode(out);
        out.put_u16(HEADER_LEN as u16 + 32);
        out.put_u16(self.pattern.0.len() as u16);
        out.put_u32(self.output_buffer_length);
        out.put_slice(if self.pattern.is_empty() { &[0] } else { self.pattern.0 });
    }
}

/// QUERY_DIRECTORY response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The chained entries.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        decode_output(message, "QUERY_DIRECTORY response").map(|data| Self { data })
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_output(out, self.data);
    }
}
