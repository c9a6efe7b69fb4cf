//! What a TCP connection carries: the direct TCP header (MS-SMB2 2.1), and what kind of message follows it, including the
//! one SMB1 message that an SMB2 server answers (3.3.5.3).

use crate::codec::{DecodeError, Put, Reader};
use crate::header;

/// Length of the direct TCP header.
pub const FRAME_HEADER_LEN: usize = 4;
/// The longest message that a frame's 24-bit length can announce. Servers bound theirs by MaxWriteSize and overhead.
pub const MAX_FRAME_LEN: usize = 0x00FF_FFFF;
/// Begins an encrypted message (MS-SMB2 2.2.41).
pub const TRANSFORM_PROTOCOL_ID: [u8; 4] = *b"\xfdSMB";
/// Begins a compressed message (MS-SMB2 2.2.42).
pub const COMPRESSION_PROTOCOL_ID: [u8; 4] = *b"\xfcSMB";
/// Begins an SMB1 message (MS-CIFS 2.2.3.1).
pub const SMB1_PROTOCOL_ID: [u8; 4] = *b"\xffSMB";

const SMB1_HEADER_LEN: usize = 32;
const SMB1_COM_NEGOTIATE: u8 = 0x72;
const SMB1_DIALECT: u8 = 0x02;

/// The length that a direct TCP header announces: its first byte must be zero, and the length at most `max`, the bound that the
/// receiver has set itself, so that no buffer is ever made for more.
pub fn decode_length(head: [u8; FRAME_HEADER_LEN], max: usize) -> Result<usize, DecodeError> {
    let value = u32::from_be_bytes(head);
    let len = value as usize;
    if len > MAX_FRAME_LEN || len > max {
        return Err(DecodeError::Invalid { what: "direct TCP header", value: value.into() });
    }
    Ok(len)
}

/// The header of a message of `len` bytes; refuses one that 24 bits cannot announce.
pub fn encode_length(len: usize) -> Result<[u8; FRAME_HEADER_LEN], DecodeError> {
    if len > MAX_FRAME_LEN {
        return Err(DecodeError::Invalid { what: "direct TCP header", value: len as u64 });
    }
    Ok((len as u32).to_be_bytes())
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One SMB2 message or a compound.
    Plain,
    /// An encrypted message.
    Transform,
    /// A compressed message.
    Compressed,
    /// An SMB1 message.
    Smb1,
}

impl Kind {
    /// Tells by the first four bytes.
    pub fn of(frame: &[u8]) -> Result<Self, DecodeError> {
        match Reader::new(frame, "ProtocolId").array()? {
            header::PROTOCOL_ID => Ok(Self::Plain),
            TRANSFORM_PROTOCOL_ID => Ok(Self::Transform),
            COMPRESSION_PROTOCOL_ID => Ok(Self::Compressed),
            SMB1_PROTOCOL_ID => Ok(Self::Smb1),
            other => {
                Err(DecodeError::Invalid { what: "ProtocolId", value: u32::from_le_bytes(other).into() })
            }
        }
    }
}

/// What an SMB1 NEGOTIATE (MS-CIFS 2.2.4.52.1) offers an SMB2 server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Smb1Negotiate {
    /// `SMB 2.002` is among its dialects.
    pub smb2_002: bool,
    /// `SMB 2.???` is among its dialects: the client speaks 2.1 or later and will negotiate again.
    pub smb2_wildcard: bool,
}

impl Smb1Negotiate {
    /// Decodes the message; any other SMB1 command is refused.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(message, "SMB1 NEGOTIATE");
        let protocol: [u8; 4] = r.array()?;
        let command = r.u8()?;
        if protocol != SMB1_PROTOCOL_ID || command != SMB1_COM_NEGOTIATE {
            return Err(DecodeError::Invalid { what: "SMB1 command", value: command.into() });
        }
        r.skip(SMB1_HEADER_LEN - 5)?;
        let word_count = r.u8()?;
        r.skip(usize::from(word_count) * 2)?;
        let byte_count = r.u16()?;
        let mut found = Self::default();
        for dialect in r.bytes(byte_count.into())?.split(|byte| *byte == 0) {
            match dialect.split_first() {
                Some((&SMB1_DIALECT, b"SMB 2.002")) => found.smb2_002 = true,
                Some((&SMB1_DIALECT, b"SMB 2.???")) => found.smb2_wildcard = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// A message offering these dialects after `NT LM 0.12`, as a client begins that still speaks SMB1.
    pub fn encode(&self) -> Vec<u8> {
        let mut dialects = b"\x02NT LM 0.12\0".to_vec();
        if self.smb2_002 {
            dialects.put_slice(b"\x02SMB 2.002\0");
        }
        if self.smb2_wildcard {
            dialects.put_slice(b"\x02SMB 2.???\0");
        }
        let mut out = SMB1_PROTOCOL_ID.to_vec();
        out.put_u8(SMB1_COM_NEGOTIATE);
        out.put_zeros(SMB1_HEADER_LEN - 5);
        out.put_u8(0);
        out.put_u16(dialects.len() as u16);
        out.put_slice(&dialects);
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_are_24_bits_and_within_the_receivers_bound() {
        assert_eq!(decode_length([0, 1, 0, 2], MAX_FRAME_LEN).unwrap(), 65538);
        assert!(decode_length([0, 1, 0, 2], 65537).is_err());
        assert!(decode_length([0x81, 0, 0, 0], MAX_FRAME_LEN).is_err());
        assert_eq!(encode_length(65538).unwrap(), [0, 1, 0, 2]);
        assert!(encode_length(MAX_FRAME_LEN + 1).is_err());
    }

    #[test]
    fn an_smb1_negotiate_tells_which_smb2_it_offers() {
        for (smb2_002, smb2_wildcard) in [(true, true), (true, false), (false, true), (false, false)] {
            let negotiate = Smb1Negotiate { smb2_002, smb2_wildcard };
            let message = negotiate.encode();
            assert_eq!(Kind::of(&message).unwrap(), Kind::Smb1);
            assert_eq!(Smb1Negotiate::decode(&message).unwrap(), negotiate);
            assert!(Smb1Negotiate::decode(&message[..message.len() - 1]).is_err());
        }
    }
}
