//! OPLOCK_BREAK: notification, acknowledgement and response (MS-SMB2 2.2.23 to 2.2.25), for oplocks and for leases.

use super::{FileId, body};
use crate::codec::{DecodeError, Put, Reader};
use crate::header::HEADER_LEN;

/// Lease break flag: the client must acknowledge.
pub const LEASE_BREAK_ACK_REQUIRED: u32 = 0x01;

const OPLOCK_SIZE: u16 = 24;
const LEASE_SIZE: u16 = 36;
const LEASE_NOTIFICATION_SIZE: u16 = 44;

/// The oplock form, the same in all three roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oplock {
    /// The level broken to, or acknowledged; see [`super::create::oplock`].
    pub level: u8,
    /// The open.
    pub file_id: FileId,
}

/// The lease form of an acknowledgement and of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Reserved.
    pub flags: u32,
    /// The lease.
    pub key: [u8; 16],
    /// The state acknowledged.
    pub state: u32,
}

/// OPLOCK_BREAK acknowledgement, told apart by its StructureSize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Of an oplock (2.2.24.1).
    Oplock(Oplock),
    /// Of a lease (2.2.24.2).
    Lease(Lease),
}

/// OPLOCK_BREAK response (2.2.25): the same layouts.
pub type Response = Request;

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::at(message, HEADER_LEN, "OPLOCK_BREAK");
        match r.u16()? {
            OPLOCK_SIZE => {
                let level = r.u8()?;
                r.skip(5)?;
                Ok(Self::Oplock(Oplock { level, file_id: FileId::decode(&mut r)? }))
            }
            LEASE_SIZE => {
                r.skip(2)?;
                let lease = Lease { flags: r.u32()?, key: r.array()?, state: r.u32()? };
                r.skip(8)?; // LeaseDuration
                Ok(Self::Lease(lease))
            }
            size => Err(DecodeError::Invalid { what: "OPLOCK_BREAK StructureSize", value: size.into() }),
        }
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Oplock(oplock) => oplock.encode(out),
            Self::Lease(lease) => {
                out.put_u16(LEASE_SIZE);
                out.put_u16(0);
                out.put_u32(lease.flags);
                out.put_slice(&lease.key);
                out.put_u32(lease.state);
                out.put_u64(0);
            }
        }
    }
}

impl Oplock {
    /// Appends the body: also of a notification (2.2.23.1).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(OPLOCK_SIZE);
        out.put_u8(self.level);
        out.put_zeros(5);
        self.file_id.encode(out);
    }
}

/// The lease break notification (2.2.23.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseNotification {
    /// The epoch after this break; 0 for a version 1 lease.
    pub new_epoch: u16,
    /// [`LEASE_BREAK_ACK_REQUIRED`] or nothing.
    pub flags: u32,
    /// The lease.
    pub key: [u8; 16],
    /// What the client holds.
    pub current_state: u32,
    /// What it may keep.
    pub new_state: u32,
}

impl LeaseNotification {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, LEASE_NOTIFICATION_SIZE, "lease break notification")?;
        let notification = Self {
            new_epoch: r.u16()?,
            flags: r.u32()?,
            key: r.array()?,
            current_state: r.u32()?,
            new_state: r.u32()?,
        };
        r.skip(12)?;
        Ok(notification)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(LEASE_NOTIFICATION_SIZE);
        out.put_u16(self.new_epoch);
        out.put_u32(self.flags);
        out.put_slice(&self.key);
        out.put_u32(self.current_state);
        out.put_u32(self.new_state);
        out.put_zeros(12); // BreakReason, AccessMaskHint, ShareMaskHint: reserved
    }
}
