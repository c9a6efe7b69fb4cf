//! Share modes: which opens of one file can stand beside each other (MS-FSA 2.1.5.1.2.2).
//!
//! Two opens agree if each one's access is among what the other shares. An open that neither reads, writes, executes nor
//! deletes (attributes, security) takes no part.

use smb_proto::fscc::access;
use smb_proto::msg::create::share_access;

/// One open's say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareMode {
    /// The access granted to it.
    pub access: u32,
    /// What it lets others do (`share_access`).
    pub share: u32,
}

/// Each kind of access and the share bit that allows it.
const RULES: [(u32, u32); 3] = [
    (access::READ_DATA | access::EXECUTE, share_access::READ),
    (access::WRITE_DATA | access::APPEND_DATA, share_access::WRITE),
    (access::DELETE, share_access::DELETE),
];

impl ShareMode {
    /// Whether this open takes part in share mode checks.
    pub fn counts(self) -> bool {
        RULES.iter().any(|(access, _)| self.access & access != 0)
    }

    /// Whether the two can't be open at once.
    pub fn conflicts(self, other: Self) -> bool {
        let barred = |user: Self, owner: Self| {
            RULES.iter().any(|(access, share)| user.access & access != 0 && owner.share & share == 0)
        };
        self.counts() && other.counts() && (barred(self, other) || barred(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(access: u32, share: u32) -> ShareMode {
        ShareMode { access, share }
    }

    #[test]
    fn each_access_needs_its_share_bit_on_both_sides() {
        for (access, share) in RULES {
            for bit in (0..32).map(|n| 1 << n).filter(|bit| access & bit != 0) {
                assert!(!mode(bit, share).conflicts(mode(bit, share)));
                assert!(mode(bit, 0).conflicts(mode(bit, share)));
                assert!(mode(bit, share).conflicts(mode(bit, 0)));
                assert!(
                    mode(bit, 7 & !share).conflicts(mode(access::READ_DATA, 7))
                        == (share == share_access::READ)
                );
            }
        }
    }

    #[test]
    fn conflict_is_mutual() {
        for a in 0..8u32 {
            for b in 0..8u32 {
                let left = mode(access::READ_DATA, a);
                let right = mode(access::WRITE_DATA | access::DELETE, b);
                assert_eq!(left.conflicts(right), right.conflicts(left));
            }
        }
    }

    #[test]
    fn looking_at_attributes_disturbs_nobody() {
        let look = mode(access::READ_ATTRIBUTES | access::SYNCHRONIZE | access::READ_CONTROL, 0);
        assert!(!look.conflicts(mode(access::ALL, 0)));
        assert!(!mode(access::ALL, 0).conflicts(look));
    }
}
