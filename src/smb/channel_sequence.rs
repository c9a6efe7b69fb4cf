//! ChannelSequence (MS-SMB2 3.3.5.2.10): a client that lost a channel numbers its requests anew; what it had sent before may
//! still be on its way, and must not change the file after what it sends again.
//!
//! Per open: the number, the requests under way with it, and those with older numbers; packed into one word, so that READ and
//! WRITE take no mutex for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smb_proto::Status;

/// Bits of each count: far more than requests can be under way.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    sequence: u16,
    current: u64,
    earlier: u64,
}

impl State {
    fn unpack(word: u64) -> Self {
        let sequence = (word >> (2 * COUNT_BITS)) as u16;
        Self { sequence, current: word & COUNT_MASK, earlier: word >> COUNT_BITS & COUNT_MASK }
    }

    fn pack(self) -> u64 {
        u64::from(self.sequence) << (2 * COUNT_BITS)
            | (self.earlier & COUNT_MASK) << COUNT_BITS
            | self.current & COUNT_MASK
    }

    /// The state with one request more; `None` for one that is not counted: it is old, or repeats what may still be done.
    fn begin(self, sequence: u16, replay: bool) -> Option<Self> {
        let ahead = sequence.wrapping_sub(self.sequence);
        if ahead > 0x7FFF || (replay && self.earlier > 0) {
            return None;
        }
        if ahead == 0 {
            return Some(Self { current: self.current + 1, ..self });
        }
        Some(Self { sequence, current: 1, earlier: self.earlier + self.current })
    }

    /// The state with one request less, which had begun under `sequence`.
    fn end(self, sequence: u16) -> Self {
        if sequence == self.sequence {
            Self { current: self.current.saturating_sub(1), ..self }
        } else {
            Self { earlier: self.earlier.saturating_sub(1), ..self }
        }
    }
}

/// One open's sequence and requests under way.
#[derive(Debug, Default)]
pub struct ChannelSequence(AtomicU64);

/// A request under way; it counts until it is dropped.
#[derive(Debug)]
pub struct Outstanding {
    of: Arc<ChannelSequence>,
    sequence: u16,
}

impl ChannelSequence {
    /// Counts a request that carries `sequence`. One that `modifies` and comes too late, or `replay`s what is still under way,
    /// is FILE_NOT_AVAILABLE: the client sends it again.
    pub fn begin(
        self: &Arc<Self>,
        sequence: u16,
        replay: bool,
        modifies: bool,
    ) -> Result<Option<Outstanding>, Status> {
        let step = |word| State::unpack(word).begin(sequence, replay).map(State::pack);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
            Ok(_) => Ok(Some(Outstanding { of: Arc::clone(self), sequence })),
            Err(_) if modifies => Err(Status::FILE_NOT_AVAILABLE),
            Err(_) => Ok(None),
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        let step = |word| Some(State::unpack(word).end(self.sequence).pack());
        let _ = self.of.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, step); // always `Some`
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn old_numbers_change_nothing_any_more() {
        let open = Arc::new(ChannelSequence::default());
        let first = open.begin(0, false, true).unwrap();
        assert!(open.begin(1, false, true).unwrap().is_some());
        assert_eq!(open.begin(0, false, true).err(), Some(Status::FILE_NOT_AVAILABLE));
        assert!(open.begin(0, false, false).unwrap().is_none(), "one that only reads goes on");
        drop(first);
        assert!(open.begin(0x8001, false, true).is_err(), "too far ahead is behind");
        assert!(open.begin(0x8000, false, true).is_ok() && open.begin(0xFFFF, false, true).is_ok());
        assert!(open.begin(0, false, true).is_ok(), "it wraps");
    }

    #[test]
    fn a_replay_waits_for_what_was_under_way() {
        let open = Arc::new(ChannelSequence::default());
        let first = open.begin(0, false, true).unwrap();
        let second = open.begin(1, true, true).unwrap();
        assert!(second.is_some(), "the first replay learns of it only by the count");
        assert_eq!(open.begin(1, true, true).err(), Some(Status::FILE_NOT_AVAILABLE));
        assert!(open.begin(1, false, true).unwrap().is_some(), "what is new goes on");
        drop(first);
        assert!(open.begin(1, true, true).unwrap().is_some());
        drop(second);
        assert_eq!(
            State::unpack(open.0.load(Ordering::Relaxed)),
            State { sequence: 1, current: 0, earlier: 0 }
        );
    }
}
