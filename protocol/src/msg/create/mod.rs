//! CREATE (MS-SMB2 2.2.13, 2.2.14). Its contexts are in [`context`].

pub mod context;

use super::{FileId, body, buffer};
use crate::codec::{DecodeError, Put};
use crate::fscc::info::NetworkOpen;
use crate::header::HEADER_LEN;
use crate::utf16::Utf16;
use context::Contexts;

/// Oplock levels (RequestedOplockLevel, OplockLevel).
pub mod oplock {
    /// No oplock.
    pub const NONE: u8 = 0x00;
    /// Level II: reads are cached.
    pub const LEVEL_II: u8 = 0x01;
    /// Exclusive: reads and writes are cached.
    pub const EXCLUSIVE: u8 = 0x08;
    /// Batch: opens are cached too.
    pub const BATCH: u8 = 0x09;
    /// A lease, described in a context.
    pub const LEASE: u8 = 0xFF;
}

/// CreateDisposition.
pub mod disposition {
    /// Replace if it exists, create otherwise.
    pub const SUPERSEDE: u32 = 0;
    /// Only if it exists.
    pub const OPEN: u32 = 1;
    /// Only if it does not exist.
    pub const CREATE: u32 = 2;
    /// Open or create.
    pub const OPEN_IF: u32 = 3;
    /// Truncate; only if it exists.
    pub const OVERWRITE: u32 = 4;
    /// Truncate or create.
    pub const OVERWRITE_IF: u32 = 5;
}

/// CreateOptions.
#[allow(missing_docs)] // the names are those of the standard, without FILE_
pub mod options {
    pub const DIRECTORY_FILE: u32 = 0x0000_0001;
    pub const WRITE_THROUGH: u32 = 0x0000_0002;
    pub const SEQUENTIAL_ONLY: u32 = 0x0000_0004;
    pub const NO_INTERMEDIATE_BUFFERING: u32 = 0x0000_0008;
    pub const SYNCHRONOUS_IO_ALERT: u32 = 0x0000_0010;
    pub const SYNCHRONOUS_IO_NONALERT: u32 = 0x0000_0020;
    pub const NON_DIRECTORY_FILE: u32 = 0x0000_0040;
    pub const COMPLETE_IF_OPLOCKED: u32 = 0x0000_0100;
    pub const NO_EA_KNOWLEDGE: u32 = 0x0000_0200;
    pub const RANDOM_ACCESS: u32 = 0x0000_0800;
    pub const DELETE_ON_CLOSE: u32 = 0x0000_1000;
    pub const OPEN_BY_FILE_ID: u32 = 0x0000_2000;
    pub const OPEN_FOR_BACKUP_INTENT: u32 = 0x0000_4000;
    pub const NO_COMPRESSION: u32 = 0x0000_8000;
    pub const OPEN_REMOTE_INSTANCE: u32 = 0x0000_0400;
    pub const OPEN_REQUIRING_OPLOCK: u32 = 0x0001_0000;
    pub const DISALLOW_EXCLUSIVE: u32 = 0x0002_0000;
    pub const RESERVE_OPFILTER: u32 = 0x0010_0000;
    pub const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
    pub const OPEN_NO_RECALL: u32 = 0x0040_0000;
    pub const OPEN_FOR_FREE_SPACE_QUERY: u32 = 0x0080_0000;
}

/// ShareAccess.
pub mod share_access {
    /// Others may read.
    pub const READ: u32 = 1;
    /// Others may write.
    pub const WRITE: u32 = 2;
    /// Others may delete or rename.
    pub const DELETE: u32 = 4;
}

/// CreateAction.
pub mod action {
    /// An existing file was replaced.
    pub const SUPERSEDED: u32 = 0;
    /// An existing file was opened.
    pub const OPENED: u32 = 1;
    /// A file was created.
    pub const CREATED: u32 = 2;
    /// An existing file was truncated.
    pub const OVERWRITTEN: u32 = 3;
}

/// CREATE request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// RequestedOplockLevel, see [`oplock`].
    pub oplock_level: u8,
    /// ImpersonationLevel, 0 to 3; higher is an error to be answered.
    pub impersonation_level: u32,
    /// DesiredAccess.
    pub desired_access: u32,
    /// FileAttributes of a file that is created.
    pub file_attributes: u32,
    /// See [`share_access`].
    pub share_access: u32,
    /// See [`disposition`].
    pub disposition: u32,
    /// See [`options`].
    pub options: u32,
    /// Path within the share, backslashes between components; empty for its root.
    pub name: Utf16<'a>,
    /// The contexts, their chain checked.
    pub contexts: Contexts<'a>,
}

impl<'a> Request<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 57, "CREATE request")?;
        r.skip(1)?; // SecurityFlags
        let oplock_level = r.u8()?;
        let impersonation_level = r.u32()?;
        r.skip(16)?; // SmbCreateFlags, Reserved
        let (desired_access, file_attributes, share_access) = (r.u32()?, r.u32()?, r.u32()?);
        let (disposition, options) = (r.u32()?, r.u32()?);
        let (name_offset, name_len) = (r.u16()?, r.u16()?);
        let (contexts_offset, contexts_len) = (r.u32()?, r.u32()?);
        let name = Utf16(buffer(&r, name_offset.into(), name_len.into())?);
        let contexts = Contexts::decode(buffer(&r, contexts_offset as usize, contexts_len as usize)?)?;
        Ok(Self {
            oplock_level,
            impersonation_level,
            desired_access,
            file_attributes,
            share_access,
            disposition,
            options,
            name,
            contexts,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        const FIXED: usize = HEADER_LEN + 56;
        let contexts = self.contexts.as_bytes();
        out.put_u16(57);
        out.put_u8(0);
        out.put_u8(self.oplock_level);
        out.put_u32(self.impersonation_level);
        out.put_zeros(16);
        out.put_u32(self.desired_access);
        out.put_u32(self.file_attributes);
        out.put_u32(self.share_access);
        out.put_u32(self.disposition);
        out.put_u32(self.options);
        out.put_u16(FIXED as u16);
        out.put_u16(self.name.0.len() as u16);
        let offset = (FIXED + self.name.0.len()).next_multiple_of(8);
        out.put_u32(if contexts.is_empty() { 0 } else { offset as u32 });
        out.put_u32(contexts.len() as u32);
        out.put_slice(self.name.0);
        if !contexts.is_empty() {
            out.pad_to(0, 8);
            out.put_slice(contexts);
        } else if self.name.is_empty() {
            out.put_u8(0); // the buffer has at least one byte
        }
    }
}

/// CREATE response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response<'a> {
    /// The oplock granted, see [`oplock`].
    pub oplock_level: u8,
    /// 1 if a component of the path is a reparse point (3.x).
    pub flags: u8,
    /// See [`action`].
    pub create_action: u32,
    /// Its times, sizes and attributes.
    pub file: NetworkOpen,
    /// The open.
    pub file_id: FileId,
    /// Contexts, as [`context::Writer`] made them; may be empty.
    pub contexts: Contexts<'a>,
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 89, "CREATE response")?;
        let (oplock_level, flags) = (r.u8()?, r.u8()?);
        let create_action = r.u32()?;
        let file = NetworkOpen::decode(&mut r)?;
        r.skip(4)?;
        let file_id = FileId::decode(&mut r)?;
        let (offset, len) = (r.u32()?, r.u32()?);
        Ok(Self {
            oplock_level,
            flags,
            create_action,
            file,
            file_id,
            contexts: Contexts::decode(buffer(&r, offset as usize, len as usize)?)?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let contexts = self.contexts.as_bytes();
        out.put_u16(89);
        out.put_u8(self.oplock_level);
        out.put_u8(self.flags);
        out.put_u32(self.create_action);
        self.file.encode(out);
        out.put_u32(0);
        self.file_id.encode(out);
        // 64 + 88 is a multiple of 8, as the contexts' offset must be.
        out.put_u32(if contexts.is_empty() { 0 } else { HEADER_LEN as u32 + 88 });
        out.put_u32(contexts.len() as u32);
        out.put_slice(contexts);
    }
}
