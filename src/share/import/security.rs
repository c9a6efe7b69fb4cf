//! Security descriptors on the import share: NetBackup writes those of the backup and looks whether they stuck, so they are
//! kept and shown again; nothing is decided by them. They last as long as the service runs, as a session is a restore's.

use smb_proto::fscc::security::{Ace, CONTROL_DACL_PRESENT, SecurityDescriptor, Sid, part};

use super::ALL;

/// Bytes of a descriptor that is kept: an ACL of a hundred entries. Larger ones are accepted and the last one stays.
const KEPT_MAX: usize = 4096;

/// What a file has that none was written to.
fn everyone() -> SecurityDescriptor {
    SecurityDescriptor {
        owner: Some(Sid::everyone()),
        group: Some(Sid::everyone()),
        dacl: Some(vec![Ace::allow(ALL, Sid::everyone())]),
        control: CONTROL_DACL_PRESENT,
    }
}

fn decoded(kept: &[u8]) -> SecurityDescriptor {
    SecurityDescriptor::decode(kept).unwrap_or_else(|_| everyone())
}

/// The parts asked for (MS-SMB2 2.2.37) of what is kept; empty bytes are none.
pub(super) fn shown(kept: &[u8], parts: u32) -> Vec<u8> {
    let whole = decoded(kept);
    let dacl = parts & part::DACL != 0;
    let asked = SecurityDescriptor {
        owner: whole.owner.filter(|_| parts & part::OWNER != 0),
        group: whole.group.filter(|_| parts & part::GROUP != 0),
        dacl: whole.dacl.filter(|_| dacl),
        control: if dacl { whole.control } else { 0 },
    };
    let mut out = Vec::new();
    asked.encode(&mut out);
    out
}

/// What is kept once the named parts of `given` were written; `None` where it stays as it is: `given` can't be read, or is
/// too large to keep.
pub(super) fn replaced(kept: &[u8], parts: u32, given: &[u8]) -> Option<Vec<u8>> {
    let given = SecurityDescriptor::decode(given).ok()?;
    let mut whole = decoded(kept);
    if parts & part::OWNER != 0 {
        whole.owner = given.owner;
    }
    if parts & part::GROUP != 0 {
        whole.group = given.group;
    }
    if parts & part::DACL != 0 {
        (whole.dacl, whole.control) = (given.dacl, given.control | CONTROL_DACL_PRESENT);
    }
    let mut out = Vec::new();
    whole.encode(&mut out);
    (out.len() <= KEPT_MAX).then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn encoded(descriptor: &SecurityDescriptor) -> Vec<u8> {
        let mut out = Vec::new();
        descriptor.encode(&mut out);
        out
    }

    #[test]
    fn parts_are_kept_and_shown_each_on_its_own() {
        let administrators = Sid::nt(&[32, 544]);
        let given = SecurityDescriptor {
            owner: Some(administrators.clone()),
            group: Some(administrators.clone()),
            dacl: Some(vec![Ace::allow(0x0012_00A9, administrators.clone())]),
            control: 0,
        };
        let kept = replaced(&[], part::OWNER | part::DACL, &encoded(&given)).unwrap();
        let shown_again = decoded(&shown(&kept, part::OWNER | part::GROUP | part::DACL));
        assert_eq!((shown_again.owner, shown_again.dacl), (given.owner.clone(), given.dacl.clone()));
        assert_eq!(shown_again.group, Some(Sid::everyone()), "that part was not written");
        let owner_only = SecurityDescriptor::decode(&shown(&kept, part::OWNER)).unwrap();
        assert_eq!((owner_only.owner, owner_only.group, owner_only.dacl), (given.owner.clone(), None, None));
    }

    #[test]
    fn what_can_t_be_kept_leaves_the_last_one() {
        let many = vec![Ace::allow(1, Sid::nt(&[32, 544])); 300];
        let large = SecurityDescriptor { dacl: Some(many), ..everyone() };
        assert_eq!(replaced(&[], part::DACL, &encoded(&large)), None);
        assert_eq!(replaced(&[], part::DACL, b"nonsense"), None);
        assert_eq!(decoded(&shown(&[], 7)).dacl, everyone().dacl);
    }
}
