//! TREE_CONNECT (MS-SMB2 2.2.9, 2.2.10).

use super::{body, buffer};
use crate::codec::{DecodeError, Put};
use crate::header::HEADER_LEN;
use crate::utf16::Utf16;

/// Request flag (3.1.1): the tree is for a cluster's reconnect.
pub const FLAG_CLUSTER_RECONNECT: u16 = 0x0001;
/// Request flag (3.1.1): redirection to the owner node is understood.
pub const FLAG_REDIRECT_TO_OWNER: u16 = 0x0002;
/// Request flag (3.1.1): contexts stand before the path. The path's offset still counts from the header.
pub const FLAG_EXTENSION_PRESENT: u16 = 0x0004;

/// ShareType of a disk share.
pub const SHARE_TYPE_DISK: u8 = 1;
/// ShareType of IPC$.
pub const SHARE_TYPE_PIPE: u8 = 2;
/// ShareType of a printer.
pub const SHARE_TYPE_PRINT: u8 = 3;

/// ShareFlags: clients must not cache files offline.
pub const SHARE_FLAG_NO_CACHING: u32 = 0x0000_0030;
/// ShareFlags: every request to the share must be encrypted.
pub const SHARE_FLAG_ENCRYPT_DATA: u32 = 0x0000_8000;
/// ShareFlags: the server compresses this share's replies.
pub const SHARE_FLAG_COMPRESS_DATA: u32 = 0x0010_0000;

/// Capabilities: the share is in a DFS tree.
pub const SHARE_CAP_DFS: u32 = 0x0000_0008;
/// Capabilities: persistent handles.
pub const SHARE_CAP_CONTINUOUS_AVAILABILITY: u32 = 0x0000_0010;

/// TREE_CONNECT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// `FLAG_*` bits; reserved before 3.1.1.
    pub flags: u16,
    /// `\\server\share`.
    pub path: Utf16<'a>,
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 9, "TREE_CONNECT request")?;
        let (flags, offset, len) = (r.u16()?, r.u16()?, r.u16()?);
        Ok(Self { flags, path: Utf16(buffer(&r, offset.into(), len.into())?) })
    }

    /// Appends the body; extensions are not sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(9);
        out.put_u16(self.flags);
        out.put_u16(HEADER_LEN as u16 + 8);
        out.put_u16(self.path.0.len() as u16);
        out.put_slice(self.path.0);
    }
}

/// TREE_CONNECT response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// `SHARE_TYPE_*`.
    pub share_type: u8,
    /// `SHARE_FLAG_*` bits.
    pub share_flags: u32,
    /// `SHARE_CAP_*` bits.
    pub capabilities: u32,
    /// The access that this user has to the share at most.
    pub maximal_access: u32,
}

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 16, "TREE_CONNECT response")?;
        let share_type = r.u8()?;
        r.skip(1)?;
        Ok(Self { share_type, share_flags: r.u32()?, capabilities: r.u32()?, maximal_access: r.u32()? })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(16);
        out.put_u8(self.share_type);
        out.put_u8(0);
        out.put_u32(self.share_flags);
        out.put_u32(self.capabilities);
        out.put_u32(self.maximal_access);
    }
}
