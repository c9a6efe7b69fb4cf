//! VALIDATE_NEGOTIATE_INFO (MS-SMB2 2.2.31.4, 2.2.32.6): the client repeats its NEGOTIATE, signed, so that nobody on the way
//! can have talked the two down to an older dialect. A mismatch ends the connection (3.3.5.15.12).

use crate::codec::{DecodeError, Put, Reader};

/// What the client says it sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Capabilities of its NEGOTIATE.
    pub capabilities: u32,
    /// ClientGuid of its NEGOTIATE.
    pub client_guid: [u8; 16],
    /// SecurityMode of its NEGOTIATE.
    pub security_mode: u16,
    /// Dialects of its NEGOTIATE.
    pub dialects: Vec<u16>,
}

impl Request {
    /// Decodes the IOCTL's input.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(input, "VALIDATE_NEGOTIATE_INFO");
        let capabilities = r.u32()?;
        let client_guid = r.array()?;
        let (security_mode, count) = (r.u16()?, r.u16()?);
        let dialects = r.bytes(usize::from(count) * 2)?;
        let dialects = dialects.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        Ok(Self { capabilities, client_guid, security_mode, dialects })
    }

    /// The IOCTL's input.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.dialects.len() * 2);
        out.put_u32(self.capabilities);
        out.put_slice(&self.client_guid);
        out.put_u16(self.security_mode);
        out.put_u16(self.dialects.len() as u16);
        self.dialects.iter().for_each(|dialect| out.put_u16(*dialect));
        out
    }
}

/// What the server says it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Capabilities of its NEGOTIATE response.
    pub capabilities: u32,
    /// ServerGuid.
    pub server_guid: [u8; 16],
    /// SecurityMode.
    pub security_mode: u16,
    /// The dialect chosen.
    pub dialect: u16,
}

impl Response {
    /// Decodes the IOCTL's output.
    pub fn decode(output: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(output, "VALIDATE_NEGOTIATE_INFO");
        Ok(Self {
            capabilities: r.u32()?,
            server_guid: r.array()?,
            security_mode: r.u16()?,
            dialect: r.u16()?,
        })
    }

    /// The IOCTL's output.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.put_u32(self.capabilities);
        out.put_slice(&self.server_guid);
        out.put_u16(self.security_mode);
        out.put_u16(self.dialect);
        out
    }
}
