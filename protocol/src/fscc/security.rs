//! Security descriptors in self-relative form (MS-DTYP 2.4.6), with their SIDs, ACLs and ACEs. Every count and size is
//! checked against the bytes that are there.

use std::fmt;

use crate::codec::{DecodeError, Put, Reader};

/// Parts of a descriptor that a request asks for or sets (MS-SMB2 2.2.37, AdditionalInformation).
#[allow(missing_docs)] // the names are those of the standard, without _SECURITY_INFORMATION
pub mod part {
    pub const OWNER: u32 = 0x01;
    pub const GROUP: u32 = 0x02;
    pub const DACL: u32 = 0x04;
    pub const SACL: u32 = 0x08;
    pub const LABEL: u32 = 0x10;
}

/// Control bit: the DACL is there (a DACL that is there and null grants everything).
pub const CONTROL_DACL_PRESENT: u16 = 0x0004;
/// Control bit of a request: propagate by automatic inheritance.
pub const CONTROL_DACL_AUTO_INHERIT_REQ: u16 = 0x0100;
/// Control bit: the DACL takes no entries from its parent.
pub const CONTROL_DACL_PROTECTED: u16 = 0x1000;
/// Control bit: the DACL was inherited.
pub const CONTROL_DACL_AUTO_INHERITED: u16 = 0x0400;
/// Control bit: the descriptor is self-relative.
pub const CONTROL_SELF_RELATIVE: u16 = 0x8000;

/// ACE that grants.
pub const ACE_ACCESS_ALLOWED: u8 = 0;
/// ACE that denies.
pub const ACE_ACCESS_DENIED: u8 = 1;

/// A SID has at most this many sub-authorities (MS-DTYP 2.4.2).
const MAX_SUB_AUTHORITIES: usize = 15;
const DESCRIPTOR_LEN: usize = 20;
const ACL_HEAD_LEN: usize = 8;
const ACL_REVISION: u8 = 2;

/// A security identifier (MS-DTYP 2.4.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sid {
    /// IdentifierAuthority, big-endian.
    pub authority: [u8; 6],
    /// SubAuthority, at most 15.
    pub sub_authorities: Vec<u32>,
}

impl Sid {
    /// A SID of the NT authority, `S-1-5-…`; sub-authorities past the fifteenth are dropped, as no SID has them.
    pub fn nt(sub_authorities: &[u32]) -> Self {
        let count = sub_authorities.len().min(MAX_SUB_AUTHORITIES);
        Self { authority: [0, 0, 0, 0, 0, 5], sub_authorities: sub_authorities[..count].to_vec() }
    }

    /// Everyone, `S-1-1-0`.
    pub fn everyone() -> Self {
        Self { authority: [0, 0, 0, 0, 0, 1], sub_authorities: vec![0] }
    }

    /// Reads a SID.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (revision, count) = (r.u8()?, usize::from(r.u8()?));
        if revision != 1 || count > MAX_SUB_AUTHORITIES {
            return Err(DecodeError::Invalid {
                what: "SID",
                value: (count << 8) as u64 | u64::from(revision),
            });
        }
        let authority = r.array()?;
        let sub_authorities = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
        Ok(Self { authority, sub_authorities })
    }

    /// Appends the SID.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(1);
        out.put_u8(self.sub_authorities.len() as u8);
        out.put_slice(&self.authority);
        self.sub_authorities.iter().for_each(|sub| out.put_u32(*sub));
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        write!(f, "S-1-{authority}")?;
        self.sub_authorities.iter().try_for_each(|sub| write!(f, "-{sub}"))
    }
}

/// An access control entry (MS-DTYP 2.4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ace {
    /// Grants or denies: [`ACE_ACCESS_ALLOWED`], [`ACE_ACCESS_DENIED`].
    Access {
        /// AceType.
        kind: u8,
        /// AceFlags: inheritance.
        flags: u8,
        /// The access meant.
        mask: u32,
        /// Whose access.
        sid: Sid,
    },
    /// Any other type, kept as it came.
    Other {
        /// AceType.
        kind: u8,
        /// AceFlags.
        flags: u8,
        /// What follows the ACE's header.
        data: Vec<u8>,
    },
}

impl Ace {
    /// Grants `mask` to `sid`.
    pub fn allow(mask: u32, sid: Sid) -> Self {
        Self::Access { kind: ACE_ACCESS_ALLOWED, flags: 0, mask, sid }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, flags, size) = (r.u8()?, r.u8()?, usize::from(r.u16()?));
        let rest = size.checked_sub(4).ok_or(DecodeError::Invalid { what: "AceSize", value: size as u64 })?;
        let data = r.bytes(rest)?;
        if kind != ACE_ACCESS_ALLOWED && kind != ACE_ACCESS_DENIED {
            return Ok(Self::Other { kind, flags, data: data.to_vec() });
        }
        let mut inner = Reader::new(data, "ACE");
        Ok(Self::Access { kind, flags, mask: inner.u32()?, sid: Sid::decode(&mut inner)? })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        let (kind, flags) = match self {
            Self::Access { kind, flags, mask, sid } => {
                data.put_u32(*mask);
                sid.encode(&mut data);
                (*kind, *flags)
            }
            Self::Other { kind, flags, data: other } => {
                data.put_slice(other);
                (*kind, *flags)
            }
        };
        out.put_u8(kind);
        out.put_u8(flags);
        out.put_u16(data.len() as u16 + 4);
        out.put_slice(&data);
    }
}

/// An access control list (MS-DTYP 2.4.5), within the AclSize that it states.
fn decode_acl(data: &[u8], offset: usize) -> Result<Vec<Ace>, DecodeError> {
    let mut head = Reader::at(data, offset, "ACL");
    head.skip(2)?;
    let (size, count) = (usize::from(head.u16()?), head.u16()?);
    let mut r = Reader::at(head.slice(offset, size)?, ACL_HEAD_LEN, "ACL");
    let mut aces = Vec::new(); // grows with what is there
    for _ in 0..count {
        aces.push(Ace::decode(&mut r)?);
    }
    Ok(aces)
}

fn encode_acl(aces: &[Ace], out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u8(ACL_REVISION);
    out.put_u8(0);
    out.put_u16(0);
    out.put_u16(aces.len() as u16);
    out.put_u16(0);
    for ace in aces {
        ace.encode(out);
    }
    let size = (out.len() - start) as u16;
    out[start + 2..start + 4].copy_from_slice(&size.to_le_bytes());
}

/// A security descriptor; a system ACL is neither kept nor sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityDescriptor {
    /// Control bits; [`CONTROL_SELF_RELATIVE`] and [`CONTROL_DACL_PRESENT`] follow from the content when encoded.
    pub control: u16,
    /// The owner.
    pub owner: Option<Sid>,
    /// The group.
    pub group: Option<Sid>,
    /// The DACL; `None` where it is absent or null.
    pub dacl: Option<Vec<Ace>>,
}

impl SecurityDescriptor {
    /// Decodes a self-relative descriptor.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "SECURITY_DESCRIPTOR");
        let revision = r.u8()?;
        r.skip(1)?;
        let control = r.u16()?;
        if revision != 1 {
            return Err(DecodeError::Invalid {
                what: "security descriptor's Revision",
                value: revision.into(),
            });
        }
        let (owner, group) = (r.u32()? as usize, r.u32()? as usize);
        r.skip(4)?; // OffsetSacl
        let dacl = r.u32()? as usize;
        for offset in [owner, group, dacl] {
            if offset != 0 && offset < DESCRIPTOR_LEN {
                return Err(DecodeError::Invalid {
                    what: "security descriptor's offset",
                    value: offset as u64,
                });
            }
        }
        let sid = |offset: usize| match offset {
            0 => Ok(None),
            _ => Sid::decode(&mut Reader::at(data, offset, "SID")).map(Some),
        };
        let dacl = match dacl {
            0 => None,
            _ if control & CONTROL_DACL_PRESENT == 0 => None,
            offset => Some(decode_acl(data, offset)?),
        };
        Ok(Self { control, owner: sid(owner)?, group: sid(group)?, dacl })
    }

    /// Appends it in self-relative form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut control = self.control | CONTROL_SELF_RELATIVE;
        if self.dacl.is_some() {
            control |= CONTROL_DACL_PRESENT;
        }
        out.put_u8(1);
        out.put_u8(0);
        out.put_u16(control);
        out.put_zeros(16);
        let set = |out: &mut Vec<u8>, field: usize| {
            let offset = (out.len() - start) as u32;
            out[start + field..start + field + 4].copy_from_slice(&offset.to_le_bytes());
        };
        if let Some(owner) = &self.owner {
            set(out, 4);
            owner.encode(out);
        }
        if let Some(group) = &self.group {
            set(out, 8);
            group.encode(out);
        }
        if let Some(dacl) = &self.dacl {
            set(out, 16);
            encode_acl(dacl, out);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> SecurityDescriptor {
        SecurityDescriptor {
            control: CONTROL_SELF_RELATIVE | CONTROL_DACL_PRESENT,
            owner: Some(Sid::nt(&[21, 1, 2, 3, 1000])),
            group: Some(Sid::nt(&[32, 544])),
            dacl: Some(vec![
                Ace::allow(0x001F_01FF, Sid::everyone()),
                Ace::Other { kind: 17, flags: 3, data: vec![1, 2, 3, 4] },
            ]),
        }
    }

    #[test]
    fn a_descriptor_survives_both_ways() {
        let mut wire = Vec::new();
        sample().encode(&mut wire);
        assert_eq!(SecurityDescriptor::decode(&wire).unwrap(), sample());
        assert_eq!(Sid::nt(&[32, 544]).to_string(), "S-1-5-32-544");
    }

    #[test]
    fn no_truncation_or_changed_byte_panics() {
        let mut wire = Vec::new();
        sample().encode(&mut wire);
        for len in 0..wire.len() {
            assert!(SecurityDescriptor::decode(&wire[..len]).is_err(), "cut to {len}");
        }
        for at in 0..wire.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut changed = wire.clone();
                changed[at] = value;
                let _ = SecurityDescriptor::decode(&changed);
            }
        }
    }
}
