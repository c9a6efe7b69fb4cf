//! IOCTL (MS-SMB2 2.2.31, 2.2.32). The control codes and their structures are in `fscc::fsctl`, except the one that belongs
//! to the protocol itself: [`validate_negotiate`].

pub mod validate_negotiate;

use super::{FileId, body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// Flag: the code is an FSCTL; without it the request is refused (MS-SMB2 3.3.5.15).
pub const FLAG_IS_FSCTL: u32 = 0x0000_0001;

/// IOCTL request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The control code.
    pub ctl_code: u32,
    /// The open, or [`FileId::ANY`].
    pub file_id: FileId,
    /// Bytes of input that may come back.
    pub max_input_response: u32,
    /// Bytes of output that may come back.
    pub max_output_response: u32,
    /// [`FLAG_IS_FSCTL`].
    pub flags: u32,
    /// The input.
    pub input: &'a [u8],
}

impl<'a> Request<'a> {
    /// An FSCTL that takes at most `room` bytes of output.
    pub fn fsctl(file_id: FileId, ctl_code: u32, input: &'a [u8], room: u32) -> Self {
        let (max_input_response, flags) = (0, FLAG_IS_FSCTL);
        Self { ctl_code, file_id, max_input_response, max_output_response: room, flags, input }
    }

    /// Decodes the message. The output buffer of a request is reserved and not looked at.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 57, "IOCTL request")?;
        r.skip(2)?;
        let ctl_code = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let (input_offset, input_count) = (r.u32()?, r.u32()?);
        let max_input_response = r.u32()?;
        r.skip(8)?; // OutputOffset, OutputCount
        let max_output_response = r.u32()?;
        let flags = r.u32()?;
        r.skip(4)?;
        let input = buffer(&r, input_offset as usize, input_count as usize)?;
        Ok(Self { ctl_code, file_id, max_input_response, max_output_response, flags, input })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(57);
        out.put_u16(0);
        out.put_u32(self.ctl_code);
        self.file_id.encode(out);
        out.put_u32(if self.input.is_empty() { 0 } else { HEADER_LEN as u32 + 56 });
        out.put_u32(self.input.len() as u32);
        out.put_u32(self.max_input_response);
        out.put_u32(0);
        out.put_u32(0);
        out.put_u32(self.max_output_response);
        out.put_u32(self.flags);
        out.put_u32(0);
        out.put_slice(if self.input.is_empty() { &[0] } else { self.input });
    }
}

/// IOCTL response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The control code of the request.
    pub ctl_code: u32,
    /// The open of the request.
    pub file_id: FileId,
    /// The output; no input is sent back.
    pub output: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 49, "IOCTL response")?;
        r.skip(2)?;
        let ctl_code = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        r.skip(8)?; // InputOffset, InputCount
        let (offset, count) = (r.u32()?, r.u32()?);
        r.skip(8)?;
        Ok(Self { ctl_code, file_id, output: buffer(&r, offset as usize, count as usize)? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        const BUFFER: u32 = HEADER_LEN as u32 + 48;
        out.put_u16(49);
        out.put_u16(0);
        out.put_u32(self.ctl_code);
        self.file_id.encode(out);
        out.put_u32(BUFFER);
        out.put_u32(0);
        out.put_u32(BUFFER); // Windows and Samba set it even for no output; the kernel's client checks it
        out.put_u32(self.output.len() as u32);
        out.put_u32(0);
        out.put_u32(0);
        out.put_slice(self.output);
    }
}
