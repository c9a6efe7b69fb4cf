//! SET_INFO (MS-SMB2 2.2.39, 2.2.40). The information's layouts are in `fscc`; InfoType is that of [`super::query_info`].

use super::{FileId, body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// SET_INFO request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// See [`super::query_info::info_type`].
    pub info_type: u8,
    /// The class within it.
    pub info_class: u8,
    /// Parts of a security descriptor.
    pub additional_information: u32,
    /// The open.
    pub file_id: FileId,
    /// The information.
    pub data: &'a [u8],
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 33, "SET_INFO request")?;
        let (info_type, info_class) = (r.u8()?, r.u8()?);
        let (len, offset) = (r.u32()?, r.u16()?);
        r.skip(2)?;
        let additional_information = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let data = buffer(&r, offset.into(), len as usize)?;
        Ok(Self { info_type, info_class, additional_information, file_id, data })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(33);
        out.put_u8(self.info_type);
        out.put_u8(self.info_class);
        out.put_u32(self.data.len() as u32);
        out.put_u16(HEADER_LEN as u16 + 32);
        out.put_u16(0);
        out.put_u32(self.additional_information);
        self.file_id.encode(out);
        out.put_slice(if self.data.is_empty() { &[0] } else { self.data });
    }
}

/// SET_INFO response: StructureSize 2 and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response;

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        body(message, 2, "SET_INFO response").map(|_| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(2);
    }
}
