//! QUERY_INFO (MS-SMB2 2.2.37, 2.2.38). The information's layouts are in `fscc`.

use super::{FileId, body, buffer, decode_output, encode_output};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// InfoType of QUERY_INFO and SET_INFO.
pub mod info_type {
    /// A file's information, FileInfoClass of MS-FSCC 2.4.
    pub const FILE: u8 = 1;
    /// The volume's information, FsInfoClass of MS-FSCC 2.5.
    pub const FILESYSTEM: u8 = 2;
    /// The security descriptor; AdditionalInformation says which parts.
    pub const SECURITY: u8 = 3;
    /// Quotas.
    pub const QUOTA: u8 = 4;
}

/// Flag for FileFullEaInformation: start over.
pub const FLAG_RESTART_SCAN: u32 = 0x1;
/// Flag for FileFullEaInformation: one entry.
pub const FLAG_RETURN_SINGLE_ENTRY: u32 = 0x2;
/// Flag for FileFullEaInformation: start at the index in AdditionalInformation.
pub const FLAG_INDEX_SPECIFIED: u32 = 0x4;

/// QUERY_INFO request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// See [`info_type`].
    pub info_type: u8,
    /// The class within it.
    pub info_class: u8,
    /// Bytes that the answer may have.
    pub output_buffer_length: u32,
    /// Parts of a security descriptor, or an index of extended attributes.
    pub additional_information: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// The open.
    pub file_id: FileId,
    /// Names of extended attributes, or quotas asked for.
    pub input: &'a [u8],
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 41, "QUERY_INFO request")?;
        let (info_type, info_class) = (r.u8()?, r.u8()?);
        let output_buffer_length = r.u32()?;
        let offset = r.u16()?;
        r.skip(2)?;
        let len = r.u32()?;
        let (additional_information, flags) = (r.u32()?, r.u32()?);
        let file_id = FileId::decode(&mut r)?;
        let input = buffer(&r, offset.into(), len as usize)?;
        Ok(Self {
            info_type,
            info_class,
            output_buffer_length,
            additional_information,
            flags,
            file_id,
            input,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(41);
        out.put_u8(self.info_type);
        out.put_u8(self.info_class);
        out.put_u32(self.output_buffer_length);
        out.put_u16(if self.input.is_empty() { 0 } else { HEADER_LEN as u16 + 40 });
        out.put_u16(0);
        out.put_u32(self.input.len() as u32);
        out.put_u32(self.additional_information);
        out.put_u32(self.flags);
        self.file_id.encode(out);
        out.put_slice(if self.input.is_empty() { &[0] } else { self.input });
    }
}

/// QUERY_INFO response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The information.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        decode_output(message, "QUERY_INFO response").map(|data| Self { data })
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_output(out, self.data);
    }
}
