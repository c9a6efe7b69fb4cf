//! Security descriptors: kept self-relative (MS-DTYP 2.4.6) in one extended attribute, with a default for files that have
//! none; the access check (MS-DTYP 2.5.3.2) and inheritance on create (MS-DTYP 2.5.3.4). System ACLs are not kept.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use smb_proto::Status;
use smb_proto::fscc::security::{
    ACE_ACCESS_ALLOWED, Ace, CONTROL_DACL_AUTO_INHERIT_REQ, CONTROL_DACL_AUTO_INHERITED,
    CONTROL_DACL_PRESENT, CONTROL_DACL_PROTECTED, SecurityDescriptor, Sid, part,
};

use super::errors::status;
use crate::smb::share::Caller;

/// The extended attribute that holds the descriptor.
const NAME: &str = "user.importfs.sd";
/// Longest descriptor: what an ACL's 16-bit size allows, and what extended attributes take (64 KiB on Linux).
const LENGTH_MAX: usize = 0xFFFF;

/// Control bits that go with the DACL.
const DACL_CONTROL: u16 = CONTROL_DACL_PRESENT | CONTROL_DACL_AUTO_INHERITED | CONTROL_DACL_PROTECTED;

/// ACE flags (MS-DTYP 2.4.4.1).
const OBJECT_INHERIT: u8 = 1;
const CONTAINER_INHERIT: u8 = 2;
const NO_PROPAGATE: u8 = 4;
const INHERIT_ONLY: u8 = 8;
const INHERITED: u8 = 0x10;

/// Access bits (MS-SMB2 2.2.13.1).
pub(super) const LIST_DIRECTORY: u32 = 0x1;
pub(super) const WRITE_DATA: u32 = 0x2;
pub(super) const APPEND_DATA: u32 = 0x4;
pub(super) const DELETE_CHILD: u32 = 0x40;
pub(super) const READ_ATTRIBUTES: u32 = 0x80;
pub(super) const DELETE: u32 = 0x1_0000;
const READ_CONTROL: u32 = 0x2_0000;
const WRITE_DAC: u32 = 0x4_0000;
const SYSTEM_SECURITY: u32 = 0x0100_0000;
pub(super) const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
/// FILE_ALL_ACCESS.
pub(super) const ALL: u32 = 0x1F_01FF;

/// S-1-5-32-544, administrators: the owner of what has none, and every account of this server is one.
fn administrators() -> Sid {
    Sid::nt(&[32, 544])
}

/// S-1-3-0 and S-1-3-1, creator owner and creator group: placeholders in inheritable ACEs.
fn is_placeholder(sid: &Sid) -> bool {
    sid.authority == [0, 0, 0, 0, 0, 3] && matches!(sid.sub_authorities[..], [0 | 1])
}

/// S-1-3-4, owner rights: an entry for whoever owns the file; with one, the owner has what it says and no more.
fn owner_rights() -> Sid {
    Sid { authority: [0, 0, 0, 0, 0, 3], sub_authorities: vec![4] }
}

/// The SIDs that a caller is known by.
fn token(caller: &Caller) -> [Sid; 4] {
    let authenticated = Sid::nt(&[11]);
    [account_sid(&caller.user), Sid::everyone(), authenticated, administrators()]
}

/// The SID of an account: S-1-5-21-x-y-z-1000 with x, y, z from a digest of its name, so that it needs no table.
fn account_sid(user: &str) -> Sid {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(super::lookup::fold(user).as_bytes());
    let word = |at: usize| u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    Sid::nt(&[21, word(0), word(4), word(8), 1000])
}

/// A file's descriptor. A DACL that is absent or null grants everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor(SecurityDescriptor);

impl Descriptor {
    /// Parses a self-relative descriptor.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        SecurityDescriptor::decode(bytes).ok().map(Self)
    }

    /// Encodes the parts asked for.
    pub(super) fn encode(&self, parts: u32) -> Vec<u8> {
        let mut asked = SecurityDescriptor { control: 0, owner: None, group: None, dacl: None };
        if parts & part::OWNER != 0 {
            asked.owner.clone_from(&self.0.owner);
        }
        if parts & part::GROUP != 0 {
            asked.group.clone_from(&self.0.group);
        }
        if parts & part::DACL != 0 {
            asked.control = self.0.control & DACL_CONTROL;
            asked.dacl.clone_from(&self.0.dacl);
        }
        let mut out = Vec::new();
        asked.encode(&mut out);
        out
    }

    /// What a file without a descriptor of its own has.
    pub(super) fn default_for_all() -> Self {
        Self::owned(vec![Ace::allow(ALL, Sid::everyone()), Ace::allow(ALL, Sid::nt(&[11]))])
    }

    fn owned(dacl: Vec<Ace>) -> Self {
        let owner = Some(administrators());
        let control = CONTROL_DACL_PRESENT;
        Self(SecurityDescriptor { control, group: owner.clone(), owner, dacl: Some(dacl) })
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
        let bytes = self.encode(part::OWNER | part::GROUP | part::DACL);
        if bytes.len() > LENGTH_MAX {
            return Err(Status::INVALID_PARAMETER);
        }
        rustix::fs::fsetxattr(file, NAME, &bytes, XattrFlags::empty()).map_err(status)
    }

    /// Takes over the named parts of another (MS-FSA 2.1.5.17).
    pub(super) fn replace(&mut self, parts: u32, from: &Self) -> Result<(), Status> {
        if parts & part::OWNER != 0 {
            self.0.owner = Some(from.0.owner.clone().ok_or(Status::INVALID_PARAMETER)?);
        }
        if parts & part::GROUP != 0 {
            self.0.group.clone_from(&from.0.group);
        }
        if parts & part::DACL != 0 {
            // A descriptor without a DACL sets a null one.
            let mut control = from.0.control & DACL_CONTROL | CONTROL_DACL_PRESENT;
            // Inheritance is automatic only where the client asks for it (MS-DTYP 2.5.3.4.1).
            if from.0.control & CONTROL_DACL_AUTO_INHERIT_REQ == 0 {
                control &= !CONTROL_DACL_AUTO_INHERITED;
            }
            self.0.control = self.0.control & !DACL_CONTROL | control;
            self.0.dacl.clone_from(&from.0.dacl);
            self.map_generic();
        }
        Ok(())
    }

    /// Generic bits become a file's own ones, except in what is only handed down.
    fn map_generic(&mut self) {
        for ace in self.0.dacl.iter_mut().flatten() {
            if let Ace::Access { flags, mask, .. } = ace
                && *flags & INHERIT_ONLY == 0
            {
                *mask = map_generic(*mask);
            }
        }
    }

    /// A new file's descriptor: the client's, completed; else what its directory hands down; else none of its own.
    pub(super) fn for_new(
        client: Option<&[u8]>,
        parent: Option<&Self>,
        directory: bool,
    ) -> Result<Option<Self>, Status> {
        let inherited = parent.and_then(|parent| parent.handed_down(directory));
        let Some(bytes) = client else { return Ok(inherited) };
        let mut given = Self::decode(bytes).ok_or(Status::INVALID_PARAMETER)?;
        given.map_generic();
        given.0.owner.get_or_insert_with(administrators);
        given.0.group.get_or_insert_with(administrators);
        if given.0.control & CONTROL_DACL_PRESENT == 0 {
            let default = inherited.unwrap_or_else(Self::default_for_all);
            given.0.control |= default.0.control;
            given.0.dacl = default.0.dacl;
        }
        Ok(Some(given))
    }

    /// What a child gets from this directory's DACL; where nothing in it is inheritable, what Windows gives: all to
    /// the owner and the system.
    fn handed_down(&self, directory: bool) -> Option<Self> {
        let automatic = self.0.control & CONTROL_DACL_AUTO_INHERITED;
        let mark = if automatic == 0 { 0 } else { INHERITED };
        let mut dacl = Vec::new();
        for ace in self.0.dacl.as_ref()? {
            if let Ace::Access { kind, flags, mask, sid } = ace {
                hand_down((*kind, *flags, *mask, sid), directory, mark, &mut dacl);
            }
        }
        if dacl.is_empty() {
            dacl = vec![Ace::allow(ALL, administrators()), Ace::allow(ALL, Sid::nt(&[18]))];
        }
        let mut child = Self::owned(dacl);
        child.0.control |= automatic;
        Some(child)
    }

    /// All that this descriptor allows `caller`.
    pub(super) fn allowed(&self, caller: &Caller) -> u32 {
        let Some(dacl) = &self.0.dacl else { return ALL };
        let token = token(caller);
        let owns = self.0.owner.as_ref().is_some_and(|owner| token.contains(owner));
        let (mut granted, mut denied, mut ruled) = (0, 0, false);
        for ace in dacl {
            let for_owner = matches!(ace, Ace::Access { flags, sid, .. } if flags & INHERIT_ONLY == 0 && *sid == owner_rights());
            ruled |= for_owner;
            match ace {
                Ace::Access { flags, sid, .. }
                    if flags & INHERIT_ONLY != 0 || !(token.contains(sid) || for_owner && owns) => {}
                Ace::Access { kind: ACE_ACCESS_ALLOWED, mask, .. } => granted |= map_generic(*mask) & !denied,
                Ace::Access { mask, .. } => denied |= map_generic(*mask) & !granted,
                Ace::Other { .. } => {}
            }
        }
        // An owner can look after his file, unless it says what owners may (MS-DTYP 2.5.3.2).
        if owns && !ruled {
            granted |= READ_CONTROL | WRITE_DAC;
        }
        granted & ALL
    }
}

/// Appends what one ACE of a directory gives a child: an entry that works there, one that only goes further down, both or
/// neither.
fn hand_down(ace: (u8, u8, u32, &Sid), directory: bool, mark: u8, dacl: &mut Vec<Ace>) {
    let (kind, flags, mask, sid) = ace;
    let effective = flags & if directory { CONTAINER_INHERIT } else { OBJECT_INHERIT } != 0;
    let kept =
        if directory && flags & NO_PROPAGATE == 0 { flags & (OBJECT_INHERIT | CONTAINER_INHERIT) } else { 0 };
    let placeholder = is_placeholder(sid);
    if effective {
        // The creator takes a placeholder's part here; what goes further down keeps the placeholder.
        let (flags, sid) = if placeholder { (mark, administrators()) } else { (kept | mark, sid.clone()) };
        dacl.push(Ace::Access { kind, flags, mask: map_generic(mask), sid });
    }
    if kept != 0 && (placeholder || !effective) {
        dacl.push(Ace::Access { kind, flags: kept | INHERIT_ONLY | mark, mask, sid: sid.clone() });
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn caller() -> Caller {
        Caller { user: "Import".into(), peer: "test".into() }
    }

    fn ace(flags: u8, mask: u32) -> Ace {
        Ace::Access { kind: ACE_ACCESS_ALLOWED, flags, mask, sid: Sid::everyone() }
    }

    #[test]
    fn descriptors_survive_and_broken_ones_are_refused() {
        let whole = Descriptor::default_for_all();
        let bytes = whole.encode(part::OWNER | part::GROUP | part::DACL);
        let back = Descriptor::decode(&bytes).unwrap();
        assert_eq!(back.encode(15), bytes);
        assert_eq!(Descriptor::decode(&whole.encode(part::OWNER)).unwrap().0.dacl, None);
        for cut in 0..bytes.len() {
            assert!(Descriptor::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn denials_come_before_what_is_granted_later() {
        let mut descriptor = Descriptor::default_for_all();
        descriptor.0.owner = Some(Sid::nt(&[18]));
        let deny = Ace::Access { kind: 1, flags: 0, mask: WRITE_DATA, sid: account_sid("IMPORT") };
        descriptor.0.dacl.as_mut().unwrap().insert(0, deny);
        let allowed = descriptor.allowed(&caller());
        assert_eq!(allowed, ALL & !WRITE_DATA);
        assert_eq!(check(WRITE_DATA, allowed), Err(Status::ACCESS_DENIED));
        assert_eq!(check(MAXIMUM_ALLOWED, allowed), Ok(allowed));
        assert_eq!(check(SYSTEM_SECURITY, ALL), Err(Status::PRIVILEGE_NOT_HELD));
        descriptor.0.dacl = Some(Vec::new());
        assert_eq!(descriptor.allowed(&caller()), 0, "an empty DACL grants nothing");
        descriptor.0.dacl = None;
        assert_eq!(descriptor.allowed(&caller()), ALL, "a null DACL grants all");
    }

    #[test]
    fn owner_rights_say_what_the_owner_may() {
        let mut descriptor = Descriptor::default_for_all();
        let rights = |kind, mask| Ace::Access { kind, flags: 0, mask, sid: owner_rights() };
        descriptor.0.dacl = Some(vec![rights(ACE_ACCESS_ALLOWED, WRITE_DATA)]);
        assert_eq!(descriptor.allowed(&caller()), WRITE_DATA, "not even to read the descriptor");
        descriptor.0.owner = Some(Sid::nt(&[18]));
        assert_eq!(descriptor.allowed(&caller()), 0, "another's file");
    }

    #[test]
    fn a_dacl_that_is_not_there_is_a_null_one_and_inherits_only_when_asked() {
        let mut kept = Descriptor::default_for_all();
        let mut new = Descriptor(SecurityDescriptor::default());
        new.0.control = CONTROL_DACL_AUTO_INHERITED;
        kept.replace(part::DACL, &new).unwrap();
        assert_eq!((kept.0.dacl.clone(), kept.0.control), (None, CONTROL_DACL_PRESENT));
        new.0.control |= CONTROL_DACL_AUTO_INHERIT_REQ;
        kept.replace(part::DACL, &new).unwrap();
        assert_eq!(kept.0.control, CONTROL_DACL_PRESENT | CONTROL_DACL_AUTO_INHERITED);
    }

    #[test]
    fn inheritance_follows_the_flags() {
        let mut parent = Descriptor::default_for_all();
        parent.0.dacl =
            Some(vec![ace(OBJECT_INHERIT, 1), ace(CONTAINER_INHERIT | NO_PROPAGATE, 2), ace(0, 4)]);
        let file = Descriptor::for_new(None, Some(&parent), false).unwrap().unwrap().0.dacl.unwrap();
        assert_eq!(file, [ace(0, 1)]);
        let directory = Descriptor::for_new(None, Some(&parent), true).unwrap().unwrap().0.dacl.unwrap();
        assert_eq!(directory, [ace(OBJECT_INHERIT | INHERIT_ONLY, 1), ace(0, 2)]);
        assert!(Descriptor::for_new(None, None, true).unwrap().is_none());
    }
}
