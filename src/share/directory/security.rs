//! Security descriptors: kept self-relative (MS-DTYP 2.4.6) in one extended attribute, with a default for files that have
//! none; the access check (MS-DTYP 2.5.3.2) and inheritance on create (MS-DTYP 2.5.3.4).

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use smb_proto::Status;

use super::errors::status;
use crate::smb::share::Caller;

/// The extended attribute that holds the descriptor.
const NAME: &str = "user.importfs.sd";
/// Longest descriptor: what an ACL's 16-bit size allows, and what extended attributes take (64 KiB on Linux).
const LENGTH_MAX: usize = 0xFFFF;

/// Parts, as in AdditionalInformation (MS-SMB2 2.2.37).
const OWNER: u32 = 1;
const GROUP: u32 = 2;
const DACL: u32 = 4;
const SACL: u32 = 8;

/// Control bits (MS-DTYP 2.4.6).
const DACL_PRESENT: u16 = 0x0004;
const SACL_PRESENT: u16 = 0x0010;
const DACL_AUTO_INHERITED: u16 = 0x0400;
const SELF_RELATIVE: u16 = 0x8000;
/// The bits that go with the DACL and the SACL; they are kept as set.
const DACL_CONTROL: u16 = 0x1508;
const SACL_CONTROL: u16 = 0x2A20;

/// ACE flags (MS-DTYP 2.4.4.1).
const OBJECT_INHERIT: u8 = 1;
const CONTAINER_INHERIT: u8 = 2;
const NO_PROPAGATE: u8 = 4;
const INHERIT_ONLY: u8 = 8;
const INHERITED: u8 = 0x10;

/// Access bits (MS-SMB2 2.2.13.1).
pub(super) const WRITE_DATA: u32 = 0x2;
pub(super) const APPEND_DATA: u32 = 0x4;
pub(super) const DELETE_CHILD: u32 = 0x40;
pub(super) const DELETE: u32 = 0x1_0000;
const READ_CONTROL: u32 = 0x2_0000;
const WRITE_DAC: u32 = 0x4_0000;
pub(super) const SYSTEM_SECURITY: u32 = 0x0100_0000;
pub(super) const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
/// FILE_ALL_ACCESS.
pub(super) const ALL: u32 = 0x1F_01FF;

/// S-1-1-0, everyone.
const EVERYONE: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
/// S-1-5-11, authenticated users.
const AUTHENTICATED: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 11, 0, 0, 0];
/// S-1-5-18, the system.
const LOCAL_SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// S-1-5-32-544, administrators: the owner of what has none, and every account of this server is one.
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
/// S-1-3-0, creator owner: a placeholder in inheritable ACEs.
const CREATOR_OWNER: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
/// S-1-3-1, creator group.
const CREATOR_GROUP: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0];

/// One entry of an ACL: only its frame is understood; what follows the SID is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ace {
    kind: u8,
    flags: u8,
    mask: u32,
    /// The SID, and what may follow it.
    body: Vec<u8>,
}

impl Ace {
    fn allow(flags: u8, mask: u32, sid: &[u8]) -> Self {
        Self { kind: 0, flags, mask, body: sid.to_vec() }
    }

    fn sid(&self) -> &[u8] {
        sid(&self.body).unwrap_or_default()
    }
}

/// A descriptor taken apart. A DACL that is present but null grants everything; an absent one does too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Descriptor {
    control: u16,
    owner: Option<Vec<u8>>,
    group: Option<Vec<u8>>,
    /// Kept as bytes: audit entries are not acted on.
    sacl: Option<Vec<u8>>,
    dacl: Option<Vec<Ace>>,
}

/// The SID at the start of `bytes`: revision, sub-authority count, authority (6 bytes), sub-authorities.
fn sid(bytes: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*bytes.get(1)?);
    (bytes[0] == 1 && count <= 15).then(|| bytes.get(..8 + 4 * count)).flatten()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The bytes of the ACL at `at` (MS-DTYP 2.4.5).
fn acl(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let size = usize::from(u16_at(bytes, at.checked_add(2)?)?);
    bytes.get(at..at + size).filter(|acl| acl.len() >= 8)
}

fn aces(acl: &[u8]) -> Option<Vec<Ace>> {
    let count = usize::from(u16_at(acl, 4)?);
    let mut rest = acl.get(8..)?;
    let mut aces = Vec::new();
    for _ in 0..count {
        let size = usize::from(u16_at(rest, 2)?);
        let ace = rest.get(..size).filter(|ace| ace.len() >= 8)?;
        aces.push(Ace { kind: ace[0], flags: ace[1], mask: u32_at(ace, 4)?, body: ace[8..].to_vec() });
        rest = &rest[size..];
    }
    Some(aces)
}

impl Descriptor {
    /// Parses a self-relative descriptor.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let offset = |at| u32_at(bytes, at).map(|value| value as usize);
        let sid_at = |at: usize| match offset(at)? {
            0 => Some(None),
            start => Some(Some(sid(bytes.get(start..)?)?.to_vec())),
        };
        let control = u16_at(bytes, 2)?;
        let acl_at = |at: usize, present: u16| match offset(at)? {
            0 => Some(None),
            _ if control & present == 0 => Some(None),
            start => Some(Some(acl(bytes, start)?)),
        };
        let dacl = match acl_at(16, DACL_PRESENT)? {
            Some(acl) => Some(aces(acl)?),
            None => None,
        };
        let sacl = acl_at(12, SACL_PRESENT)?.map(<[u8]>::to_vec);
        Some(Self { control, owner: sid_at(4)?, group: sid_at(8)?, sacl, dacl })
    }

    /// Encodes the parts asked for: owner, group, SACL, DACL in this order behind the 20-byte header.
    pub(super) fn encode(&self, parts: u32) -> Vec<u8> {
        let mut control = SELF_RELATIVE;
        let mut out = vec![0; 20];
        out[0] = 1;
        let mut put = |at: usize, bytes: Option<&[u8]>| {
            if let Some(bytes) = bytes {
                let start = out.len() as u32;
                out[at..at + 4].copy_from_slice(&start.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        };
        put(4, self.owner.as_deref().filter(|_| parts & OWNER != 0));
        put(8, self.group.as_deref().filter(|_| parts & GROUP != 0));
        if parts & SACL != 0 {
            control |= self.control & (SACL_CONTROL | SACL_PRESENT);
            put(12, self.sacl.as_deref());
        }
        if parts & DACL != 0 {
            control |= self.control & (DACL_CONTROL | DACL_PRESENT);
            put(16, self.dacl.as_deref().map(encode_acl).as_deref());
        }
        out[2..4].copy_from_slice(&control.to_le_bytes());
        out
    }

    /// What a file without a descriptor of its own has.
    pub(super) fn default_for_all() -> Self {
        let dacl = vec![Ace::allow(0, ALL, EVERYONE), Ace::allow(0, ALL, AUTHENTICATED)];
        Self::owned(Some(dacl))
    }

    fn owned(dacl: Option<Vec<Ace>>) -> Self {
        let owner = Some(ADMINISTRATORS.to_vec());
        Self { control: DACL_PRESENT, group: owner.clone(), owner, sacl: None, dacl }
    }

    /// The descriptor of an open file; the default where there is none, or none that can be read.
    pub(super) fn load(file: impl AsFd) -> Self {
        Self::stored(file).unwrap_or_else(Self::default_for_all)
    }

    /// The descriptor that was set on an open file.
    pub(super) fn stored(file: impl AsFd) -> Option<Self> {
        let mut buffer = vec![0; 1024];
        let length = match rustix::fs::fgetxattr(&file, NAME, &mut buffer[..]) {
            Err(Errno::RANGE) => {
                buffer.resize(LENGTH_MAX, 0);
                rustix::fs::fgetxattr(&file, NAME, &mut buffer[..]).ok()?
            }
            other => other.ok()?,
        };
        Self::decode(buffer.get(..length)?)
    }

    /// Keeps it.
    pub(super) fn store(&self, file: impl AsFd) -> Result<(), Status> {
        let bytes = self.encode(OWNER | GROUP | DACL | SACL);
        if bytes.len() > LENGTH_MAX {
            return Err(Status::INVALID_PARAMETER);
        }
        rustix::fs::fsetxattr(file, NAME, &bytes, XattrFlags::empty()).map_err(status)
    }

    /// Takes over the named parts of another (MS-FSA 2.1.5.17).
    pub(super) fn replace(&mut self, parts: u32, from: &Self) -> Result<(), Status> {
        if parts & OWNER != 0 {
            self.owner = Some(from.owner.clone().ok_or(Status::INVALID_PARAMETER)?);
        }
        if parts & GROUP != 0 {
            self.group.clone_from(&from.group);
        }
        if parts & DACL != 0 {
            let bits = DACL_CONTROL | DACL_PRESENT;
            self.control = self.control & !bits | from.control & bits;
            self.dacl.clone_from(&from.dacl);
            self.map_generic();
        }
        if parts & SACL != 0 {
            let bits = SACL_CONTROL | SACL_PRESENT;
            self.control = self.control & !bits | from.control & bits;
            self.sacl.clone_from(&from.sacl);
        }
        Ok(())
    }

    /// Generic bits become a file's own ones, except in what is only handed down.
    fn map_generic(&mut self) {
        for ace in self.dacl.iter_mut().flatten().filter(|ace| ace.flags & INHERIT_ONLY == 0) {
            ace.mask = map_generic(ace.mask);
        }
    }

    /// A new file's descriptor: the client's, completed; else what its directory hands down; else none of its own.
    pub(super) fn for_new(
        client: Option<&[u8]>,
        parent: Option<&Self>,
        directory: bool,
    ) -> Result<Option<Self>, Status> {
        if let Some(bytes) = client {
            let mut given = Self::decode(bytes).ok_or(Status::INVALID_PARAMETER)?;
            given.map_generic();
            given.owner.get_or_insert_with(|| ADMINISTRATORS.to_vec());
            given.group.get_or_insert_with(|| ADMINISTRATORS.to_vec());
            if given.control & DACL_PRESENT == 0 {
                let inherited = parent.and_then(|parent| parent.handed_down(directory));
                let default = inherited.unwrap_or_else(Self::default_for_all);
                given.control |= default.control;
                given.dacl = default.dacl;
            }
            return Ok(Some(given));
        }
        Ok(parent.and_then(|parent| parent.handed_down(directory)))
    }

    /// What a child gets from this directory's DACL; where nothing in it is inheritable, what Windows gives: all to
    /// the owner and the system.
    fn handed_down(&self, directory: bool) -> Option<Self> {
        let parent = self.dacl.as_ref()?;
        let mark = if self.control & DACL_AUTO_INHERITED != 0 { INHERITED } else { 0 };
        let mut dacl = Vec::new();
        for ace in parent {
            let goes = if directory { OBJECT_INHERIT | CONTAINER_INHERIT } else { OBJECT_INHERIT };
            let effective = ace.flags & if directory { CONTAINER_INHERIT } else { OBJECT_INHERIT } != 0;
            let propagates = directory && ace.flags & NO_PROPAGATE == 0;
            if ace.flags & goes == 0 || !(effective || propagates) {
                continue;
            }
            let placeholder = [CREATOR_OWNER, CREATOR_GROUP].contains(&ace.sid());
            let kept = if propagates { ace.flags & (OBJECT_INHERIT | CONTAINER_INHERIT) } else { 0 };
            if effective {
                let mut own = ace.clone();
                own.mask = map_generic(ace.mask);
                own.flags = kept | mark;
                if placeholder {
                    // The creator takes the placeholder's part here; what goes further down keeps the placeholder.
                    own.body = ADMINISTRATORS.to_vec();
                    own.flags = mark;
                }
                dacl.push(own);
            }
            if propagates && (placeholder || !effective) {
                dacl.push(Ace { flags: kept | INHERIT_ONLY | mark, ..ace.clone() });
            }
        }
        if dacl.is_empty() {
            dacl = vec![Ace::allow(0, ALL, ADMINISTRATORS), Ace::allow(0, ALL, LOCAL_SYSTEM)];
        }
        let mut child = Self::owned(Some(dacl));
        child.control |= self.control & DACL_AUTO_INHERITED;
        Some(child)
    }

    /// All that this descriptor allows `caller`.
    pub(super) fn allowed(&self, caller: &Caller) -> u32 {
        let account = account_sid(&caller.user);
        let is_caller =
            |sid: &[u8]| [EVERYONE, AUTHENTICATED, ADMINISTRATORS].contains(&sid) || sid == account;
        let Some(dacl) = &self.dacl else { return ALL };
        let (mut granted, mut denied) = (0, 0);
        for ace in dacl.iter().filter(|ace| ace.flags & INHERIT_ONLY == 0 && is_caller(ace.sid())) {
            match ace.kind {
                0 => granted |= map_generic(ace.mask) & !denied,
                1 => denied |= map_generic(ace.mask) & !granted,
                _ => {}
            }
        }
        // An owner can always look after his file (MS-DTYP 2.5.3.2).
        if self.owner.as_deref().is_some_and(is_caller) {
            granted |= READ_CONTROL | WRITE_DAC;
        }
        granted & ALL
    }
}

/// The access granted of what is desired, given all that is allowed; MAXIMUM_ALLOWED adds the rest of that.
pub(super) fn check(desired: u32, allowed: u32) -> Result<u32, Status> {
    if desired & SYSTEM_SECURITY != 0 {
        return Err(Status::PRIVILEGE_NOT_HELD);
    }
    let wanted = map_generic(desired & !MAXIMUM_ALLOWED);
    if wanted & !allowed != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(if desired & MAXIMUM_ALLOWED != 0 { allowed | wanted } else { wanted })
}

/// Generic rights as a file's (MS-SMB2 2.2.13.1.1).
fn map_generic(mask: u32) -> u32 {
    const GENERIC: [(u32, u32); 4] =
        [(0x8000_0000, 0x12_0089), (0x4000_0000, 0x12_0116), (0x2000_0000, 0x12_00A0), (0x1000_0000, ALL)];
    GENERIC
        .iter()
        .filter(|(bit, _)| mask & bit != 0)
        .fold(mask & 0x0FFF_FFFF, |mask, (_, rights)| mask | rights)
}

/// The SID of an account: S-1-5-21-x-y-z-1000 with x, y, z from a digest of its name, so that it needs no table.
fn account_sid(user: &str) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(super::lookup::fold(user).as_bytes());
    let mut sid = vec![1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
    sid.extend_from_slice(&digest[..12]);
    sid.extend_from_slice(&1000_u32.to_le_bytes());
    sid
}

fn encode_acl(aces: &[Ace]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 0, 0, 0];
    for ace in aces {
        out.extend_from_slice(&[ace.kind, ace.flags]);
        out.extend_from_slice(&((ace.body.len() + 8) as u16).to_le_bytes());
        out.extend_from_slice(&ace.mask.to_le_bytes());
        out.extend_from_slice(&ace.body);
    }
    let size = out.len() as u16;
    out[2..4].copy_from_slice(&size.to_le_bytes());
    out[4..6].copy_from_slice(&(aces.len() as u16).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn caller() -> Caller {
        Caller { user: "Import".into(), peer: "test".into() }
    }

    #[test]
    fn descriptors_survive_and_broken_ones_are_refused() {
        let whole = Descriptor::default_for_all();
        let bytes = whole.encode(OWNER | GROUP | DACL | SACL);
        let back = Descriptor::decode(&bytes).unwrap();
        assert_eq!(back.encode(15), bytes);
        assert_eq!(Descriptor::decode(&whole.encode(OWNER)).unwrap().dacl, None);
        for cut in 0..bytes.len() {
            assert!(Descriptor::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn denials_come_before_what_is_granted_later() {
        let mut descriptor = Descriptor::default_for_all();
        descriptor.owner = Some(LOCAL_SYSTEM.to_vec());
        let deny = Ace { kind: 1, ..Ace::allow(0, WRITE_DATA, &account_sid("IMPORT")) };
        descriptor.dacl.as_mut().unwrap().insert(0, deny);
        let allowed = descriptor.allowed(&caller());
        assert_eq!(allowed, ALL & !WRITE_DATA);
        assert_eq!(check(WRITE_DATA, allowed), Err(Status::ACCESS_DENIED));
        assert_eq!(check(MAXIMUM_ALLOWED, allowed), Ok(allowed));
        assert_eq!(check(SYSTEM_SECURITY, ALL), Err(Status::PRIVILEGE_NOT_HELD));
        descriptor.dacl = Some(Vec::new());
        assert_eq!(descriptor.allowed(&caller()), 0, "an empty DACL grants nothing");
        descriptor.dacl = None;
        assert_eq!(descriptor.allowed(&caller()), ALL, "a null DACL grants all");
    }

    #[test]
    fn inheritance_follows_the_flags() {
        let mut parent = Descriptor::default_for_all();
        parent.dacl = Some(vec![
            Ace::allow(OBJECT_INHERIT, 1, EVERYONE),
            Ace::allow(CONTAINER_INHERIT | NO_PROPAGATE, 2, EVERYONE),
            Ace::allow(0, 4, EVERYONE),
        ]);
        let file = Descriptor::for_new(None, Some(&parent), false).unwrap().unwrap().dacl.unwrap();
        assert_eq!(file, [Ace::allow(0, 1, EVERYONE)]);
        let directory = Descriptor::for_new(None, Some(&parent), true).unwrap().unwrap().dacl.unwrap();
        assert_eq!(
            directory,
            [Ace::allow(OBJECT_INHERIT | INHERIT_ONLY, 1, EVERYONE), Ace::allow(0, 2, EVERYONE)]
        );
        assert!(Descriptor::for_new(None, None, true).unwrap().is_none());
    }
}
