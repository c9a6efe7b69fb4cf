//! Byte-range locks of one file (MS-SMB2 3.3.5.14, MS-FSA 2.1.5.8 and 2.1.4.10), and the table of lock sequences that lets
//! a client repeat a LOCK after it lost its connection.
//!
//! Pure: who waits, and how, is the handler's matter.

use smb_proto::Status;
use smb_proto::msg::lock::{Element, FLAG_EXCLUSIVE, FLAG_FAIL_IMMEDIATELY, FLAG_SHARED, FLAG_UNLOCK};

/// Most locks on one file: far more than a database or Office holds, and a scan of them still takes microseconds.
pub const LOCKS_PER_FILE_MAX: usize = 4096;
/// Most elements of one LOCK request (3.3.5.14 lets an implementation choose; Windows' is of this order).
pub const ELEMENTS_MAX: usize = 512;
/// Entries of Open.LockSequenceArray (3.3.1.10).
const SEQUENCES: usize = 64;

/// A range of bytes, from `offset` on; its end may be 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    offset: u64,
    length: u64,
}

impl Range {
    /// INVALID_LOCK_RANGE where the range would wrap around.
    pub fn new(offset: u64, length: u64) -> Result<Self, Status> {
        if length > 0 && offset.checked_add(length - 1).is_none() {
            return Err(Status::INVALID_LOCK_RANGE);
        }
        Ok(Self { offset, length })
    }

    fn end(self) -> u128 {
        u128::from(self.offset) + u128::from(self.length)
    }

    /// Whether they share a byte. A range of no length lies between two bytes: it meets one that has bytes on both sides of it
    /// (MS-FSA 2.1.4.10).
    fn meets(self, other: Self) -> bool {
        u128::from(self.offset) < other.end() && u128::from(other.offset) < self.end()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lock {
    range: Range,
    exclusive: bool,
    owner: u64,
}

/// What one LOCK request asks for, its flags checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Take all of these, or none: range and whether it is exclusive.
    Lock {
        /// The ranges.
        ranges: Vec<(Range, bool)>,
        /// Whether to wait for them.
        wait: bool,
    },
    /// Release these one by one, until one is not held or is no unlock at all: what was released before stays so
    /// (3.3.5.14.1).
    Unlock(Vec<Result<Range, Status>>),
}

impl Wish {
    /// Checks flags and ranges (3.3.5.14): the first element says whether all lock or all unlock; only a single lock may
    /// wait.
    pub fn new(elements: &[Element]) -> Result<Self, Status> {
        let first = elements.first().ok_or(Status::INVALID_PARAMETER)?;
        if elements.len() > ELEMENTS_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        if first.flags & FLAG_UNLOCK != 0 {
            let range = |element: &Element| match element.flags {
                FLAG_UNLOCK => Range::new(element.offset, element.length),
                _ => Err(Status::INVALID_PARAMETER),
            };
            return Ok(Self::Unlock(elements.iter().map(range).collect()));
        }
        let mut wait = false;
        let mut ranges = Vec::with_capacity(elements.len());
        for element in elements {
            let exclusive = match element.flags & !FLAG_FAIL_IMMEDIATELY {
                FLAG_SHARED => false,
                FLAG_EXCLUSIVE => true,
                _ => return Err(Status::INVALID_PARAMETER),
            };
            let waits = element.flags & FLAG_FAIL_IMMEDIATELY == 0;
            if waits && elements.len() > 1 {
                return Err(Status::INVALID_PARAMETER);
            }
            wait |= waits;
            ranges.push((Range::new(element.offset, element.length)?, exclusive));
        }
        Ok(Self::Lock { ranges, wait })
    }
}

/// The locks held on one file.
#[derive(Debug, Default)]
pub struct LockList {
    locks: Vec<Lock>,
}

impl LockList {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.locks.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// Takes all of `ranges` for `owner`, or none: LOCK_NOT_GRANTED.
    pub fn lock(&mut self, owner: u64, ranges: &[(Range, bool)]) -> Result<(), Status> {
        let before = self.locks.len();
        for (range, exclusive) in ranges.iter().copied() {
            let new = Lock { range, exclusive, owner };
            let status = match () {
                () if self.locks.iter().any(|held| bars(*held, new)) => Status::LOCK_NOT_GRANTED,
                () if self.locks.len() >= LOCKS_PER_FILE_MAX => Status::INSUFFICIENT_RESOURCES,
                () => {
                    self.locks.push(new);
                    continue;
                }
            };
            self.locks.truncate(before);
            return Err(status);
        }
        Ok(())
    }

    /// Releases `owner`'s lock of exactly this range; an exclusive one before a shared one on top of it. RANGE_NOT_LOCKED if
    /// there is none.
    pub fn unlock(&mut self, owner: u64, range: Range) -> Result<(), Status> {
        let held = |exclusive: bool| {
            let wanted = Lock { range, exclusive, owner };
            self.locks.iter().position(|lock| *lock == wanted)
        };
        let at = held(true).or_else(|| held(false)).ok_or(Status::RANGE_NOT_LOCKED)?;
        self.locks.remove(at);
        Ok(())
    }

    /// Whether `owner` holds any.
    pub fn any_of(&self, owner: u64) -> bool {
        self.locks.iter().any(|lock| lock.owner == owner)
    }

    /// Releases everything that `owner` holds; whether there was anything.
    pub fn release(&mut self, owner: u64) -> bool {
        let before = self.locks.len();
        self.locks.retain(|lock| lock.owner != owner);
        before != self.locks.len()
    }

    /// Whether `owner` may read (or `write`) `length` bytes at `offset`: FILE_LOCK_CONFLICT (MS-FSA 2.1.5.3, 2.1.5.4).
    pub fn check(&self, owner: u64, offset: u64, length: u64, write: bool) -> Result<(), Status> {
        let range = Range { offset, length };
        let bars = |held: &Lock| {
            let own = held.owner == owner;
            // A shared lock keeps everybody from writing, its owner too.
            let barred = if write { !own || !held.exclusive } else { !own && held.exclusive };
            barred && held.range.meets(range)
        };
        if length > 0 && self.locks.iter().any(bars) {
            return Err(Status::FILE_LOCK_CONFLICT);
        }
        Ok(())
    }
}

/// Whether `held` keeps `new` from being granted. A shared lock may lie on an exclusive one of the same open; an exclusive
/// one on nothing, not even its own.
fn bars(held: Lock, new: Lock) -> bool {
    let compatible = match (held.exclusive, new.exclusive) {
        (false, false) => true,
        (true, false) => held.owner == new.owner,
        (_, true) => false,
    };
    !compatible && held.range.meets(new.range)
}

/// Open.LockSequenceArray (3.3.1.10): the last sequence number seen per bucket.
#[derive(Debug)]
pub struct Sequences([Option<u8>; SEQUENCES]);

impl Default for Sequences {
    fn default() -> Self {
        Self([None; SEQUENCES])
    }
}

impl Sequences {
    /// LockSequenceIndex and LockSequenceNumber (2.2.26); `None` for an index that is not checked.
    fn split(sequence: u32) -> Option<(usize, u8)> {
        let index = (sequence >> 4) as usize;
        (1..=SEQUENCES).contains(&index).then(|| (index - 1, (sequence & 0xF) as u8))
    }

    /// Whether this LOCK was already done; if not, its bucket is emptied until it is (3.3.5.14).
    pub fn is_replay(&mut self, sequence: u32) -> bool {
        let Some((index, number)) = Self::split(sequence) else { return false };
        let replay = self.0[index] == Some(number);
        if !replay {
            self.0[index] = None;
        }
        replay
    }

    /// Remembers a LOCK that succeeded.
    pub fn done(&mut self, sequence: u32) {
        if let Some((index, number)) = Self::split(sequence) {
            self.0[index] = Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(offset: u64, length: u64) -> Range {
        Range::new(offset, length).unwrap()
    }

    fn element(flags: u32) -> Element {
        Element { offset: 0, length: 1, flags }
    }

    #[test]
    fn exclusive_bars_all_and_shared_bars_exclusive() {
        let mut list = LockList::default();
        list.lock(1, &[(range(0, 10), true)]).unwrap();
        assert_eq!(list.lock(2, &[(range(9, 1), false)]), Err(Status::LOCK_NOT_GRANTED));
        assert_eq!(list.lock(1, &[(range(0, 1), true)]), Err(Status::LOCK_NOT_GRANTED));
        list.lock(1, &[(range(0, 1), false)]).unwrap();
        list.lock(2, &[(range(10, 5), false)]).unwrap();
        list.lock(1, &[(range(10, 5), false)]).unwrap();
        assert_eq!(list.lock(2, &[(range(12, 1), true)]), Err(Status::LOCK_NOT_GRANTED));
    }

    #[test]
    fn a_request_takes_all_or_nothing() {
        let mut list = LockList::default();
        list.lock(1, &[(range(100, 1), true)]).unwrap();
        assert!(list.lock(2, &[(range(0, 1), true), (range(100, 1), true)]).is_err());
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn empty_ranges_meet_what_surrounds_them() {
        let mut list = LockList::default();
        list.lock(1, &[(range(10, 10), true)]).unwrap();
        for (offset, free) in [(9, true), (10, true), (11, false), (19, false), (20, true)] {
            assert_eq!(list.lock(2, &[(range(offset, 0), true)]).is_ok(), free, "{offset}");
        }
        list.lock(3, &[(range(20, 0), true)]).unwrap();
    }

    #[test]
    fn the_last_byte_can_be_locked_and_nothing_wraps() {
        assert_eq!(Range::new(u64::MAX, 2), Err(Status::INVALID_LOCK_RANGE));
        let mut list = LockList::default();
        list.lock(1, &[(range(u64::MAX, 1), true)]).unwrap();
        assert!(list.lock(2, &[(range(1, u64::MAX), true)]).is_err());
        list.lock(2, &[(range(0, u64::MAX), true)]).unwrap();
    }

    #[test]
    fn unlock_needs_the_same_range_and_owner() {
        let mut list = LockList::default();
        list.lock(1, &[(range(0, 10), false)]).unwrap();
        assert_eq!(list.unlock(1, range(0, 9)), Err(Status::RANGE_NOT_LOCKED));
        assert_eq!(list.unlock(2, range(0, 10)), Err(Status::RANGE_NOT_LOCKED));
        list.unlock(1, range(0, 10)).unwrap();
        assert!(list.is_empty());
    }

    #[test]
    fn reads_and_writes_heed_locks() {
        let mut list = LockList::default();
        list.lock(1, &[(range(0, 10), true), (range(20, 10), false)]).unwrap();
        assert!(list.check(1, 0, 10, true).is_ok());
        assert_eq!(list.check(2, 9, 5, false), Err(Status::FILE_LOCK_CONFLICT));
        assert!(list.check(2, 20, 5, false).is_ok());
        assert_eq!(list.check(1, 25, 1, true), Err(Status::FILE_LOCK_CONFLICT));
        assert!(list.check(2, 5, 0, true).is_ok());
        assert!(list.release(1));
        assert!(list.check(2, 0, 30, true).is_ok());
    }

    #[test]
    fn flags_are_checked_before_anything_is_locked() {
        let fails = |elements: &[Element]| Wish::new(elements).unwrap_err();
        assert_eq!(fails(&[]), Status::INVALID_PARAMETER);
        assert_eq!(fails(&[element(FLAG_SHARED | FLAG_EXCLUSIVE)]), Status::INVALID_PARAMETER);
        assert_eq!(fails(&[element(FLAG_SHARED), element(FLAG_SHARED)]), Status::INVALID_PARAMETER);
        assert!(matches!(Wish::new(&[element(FLAG_EXCLUSIVE)]).unwrap(), Wish::Lock { wait: true, .. }));
    }

    #[test]
    fn an_unlock_stops_where_it_goes_wrong_and_keeps_what_it_did() {
        let wrong = Err(Status::INVALID_PARAMETER);
        let of = |elements: &[Element]| match Wish::new(elements).unwrap() {
            Wish::Unlock(ranges) => ranges,
            Wish::Lock { .. } => panic!("a lock"),
        };
        assert_eq!(of(&[element(FLAG_UNLOCK | FLAG_FAIL_IMMEDIATELY)]), [wrong]);
        assert_eq!(of(&[element(FLAG_UNLOCK), element(FLAG_SHARED)]), [Ok(range(0, 1)), wrong]);
    }

    #[test]
    fn bounds_hold() {
        let mut list = LockList::default();
        for n in 0..LOCKS_PER_FILE_MAX as u64 {
            list.lock(1, &[(range(n, 1), true)]).unwrap();
        }
        let one_more = list.lock(1, &[(range(1 << 40, 1), true)]);
        assert_eq!(one_more, Err(Status::INSUFFICIENT_RESOURCES));
    }

    #[test]
    fn sequences_recognise_a_repeated_request() {
        let mut sequences = Sequences::default();
        let first = 1 << 4 | 3;
        assert!(!sequences.is_replay(first));
        sequences.done(first);
        assert!(sequences.is_replay(first));
        assert!(!sequences.is_replay(1 << 4 | 4));
        assert!(!sequences.is_replay(first));
        sequences.done(7); // index 0 is never checked
        assert!(!sequences.is_replay(7));
    }
}
