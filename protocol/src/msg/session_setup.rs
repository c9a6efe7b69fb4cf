//! SESSION_SETUP (MS-SMB2 2.2.5, 2.2.6): one leg of the authentication.

use super::{body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;

/// Request flag: this connection joins an existing session as a further channel.
pub const FLAG_BINDING: u8 = 0x01;
/// Response flag: the session is a guest's.
pub const SESSION_IS_GUEST: u16 = 0x0001;
/// Response flag: the session is anonymous.
pub const SESSION_IS_NULL: u16 = 0x0002;
/// Response flag: the server requires encryption on this session.
pub const SESSION_ENCRYPT_DATA: u16 = 0x0004;

/// SESSION_SETUP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// [`FLAG_BINDING`] or nothing.
    pub flags: u8,
    /// Whether the client signs (1) or requires signing (2).
    pub security_mode: u8,
    /// Client's capabilities, of which only DFS (1) has a meaning.
    pub capabilities: u32,
    /// Channel, reserved.
    pub channel: u32,
    /// A session of the same client that its new session replaces; 0 for none.
    pub previous_session_id: u64,
    /// The SPNEGO (or raw NTLMSSP) token.
    pub security_buffer: &'a [u8],
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 25, "SESSION_SETUP request")?;
        let (flags, security_mode) = (r.u8()?, r.u8()?);
        let (capabilities, channel) = (r.u32()?, r.u32()?);
        let (offset, len) = (r.u16()?, r.u16()?);
        let previous_session_id = r.u64()?;
        let security_buffer = buffer(&r, offset.into(), len.into())?;
        Ok(Self { flags, security_mode, capabilities, channel, previous_session_id, security_buffer })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(25);
        out.put_u8(self.flags);
        out.put_u8(self.security_mode);
        out.put_u32(self.capabilities);
        out.put_u32(self.channel);
        out.put_u16(HEADER_LEN as u16 + 24);
        out.put_u16(self.security_buffer.len() as u16);
        out.put_u64(self.previous_session_id);
        out.put_slice(self.security_buffer);
    }
}

/// SESSION_SETUP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// `SESSION_*` bits.
    pub session_flags: u16,
    /// The answering token.
    pub security_buffer: &'a [u8],
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 9, "SESSION_SETUP response")?;
        let session_flags = r.u16()?;
        let (offset, len) = (r.u16()?, r.u16()?);
        Ok(Self { session_flags, security_buffer: buffer(&r, offset.into(), len.into())? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(9);
        out.put_u16(self.session_flags);
        out.put_u16(HEADER_LEN as u16 + 8);
        out.put_u16(self.security_buffer.len() as u16);
        out.put_slice(self.security_buffer);
    }
}
