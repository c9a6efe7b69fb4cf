//! Message ids and credits (MS-SMB2 3.3.1.1, 3.3.1.2, 3.3.5.2.3): which requests a client may send, each id once.
//!
//! The window is a bitmap over the ids that are granted and not used up. It begins at the lowest id still unused, so a client that
//! leaves a hole open gets no further than [`WINDOW_MAX`] ids past it: that bounds the memory.

use std::collections::VecDeque;

use thiserror::Error;

/// Most ids between the oldest unused one and the newest granted one: 8 requests of 8 MiB (128 credits each) eight times over, as
/// Windows and Samba grant.
pub const WINDOW_MAX: usize = 8192;
/// What one credit pays for, in bytes of payload (MS-SMB2 3.1.5.2).
pub const CREDIT_BYTES: u32 = 65536;

/// Why a message id was refused. MS-SMB2 3.3.5.2.3 wants the connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WindowError {
    /// Not granted, or granted and used before.
    #[error("message id {id} with charge {charge} is outside the window or was used before")]
    Id {
        /// The first id.
        id: u64,
        /// How many it stands for.
        charge: u16,
    },
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    /// The lowest id that may still come.
    low: u64,
    /// For `low + n`: whether it was used.
    used: VecDeque<bool>,
    /// An SMB1 NEGOTIATE was answered, and nothing came since.
    smb1: bool,
}

impl Default for Window {
    /// A new connection has one credit: id 0.
    fn default() -> Self {
        Self { low: 0, used: VecDeque::from([false]), smb1: false }
    }
}

impl Window {
    /// Takes the ids `id .. id + charge` out of the window. A charge of 0 counts as 1.
    pub fn take(&mut self, id: u64, charge: u16) -> Result<(), WindowError> {
        if std::mem::take(&mut self.smb1) && id == 1 {
            self.used[0] = true;
        }
        let refused = WindowError::Id { id, charge };
        let first = id.checked_sub(self.low).and_then(|n| usize::try_from(n).ok()).ok_or(refused)?;
        let count = usize::from(charge.max(1));
        let end = first.checked_add(count).filter(|&end| end <= self.used.len()).ok_or(refused)?;
        if self.used.range(first..end).any(|&used| used) {
            return Err(refused);
        }
        self.used.range_mut(first..end).for_each(|used| *used = true);
        while self.used.front() == Some(&true) {
            self.used.pop_front();
            self.low += 1;
        }
        Ok(())
    }

    /// An SMB1 NEGOTIATE was answered (MS-SMB2 3.3.5.3): it stands for number 0, so that clients go on with 1. Some begin again at 0.
    pub fn begin_after_smb1(&mut self) {
        *self = Self { low: 0, used: VecDeque::from([false, false]), smb1: true };
    }

    /// Grants what was asked for, at least one, so that a client never runs dry; never more than the window has room for.
    pub fn grant(&mut self, wanted: u16) -> u16 {
        let room = WINDOW_MAX.saturating_sub(self.used.len());
        let granted = usize::from(wanted.max(1)).min(room);
        self.used.extend(std::iter::repeat_n(false, granted));
        granted as u16 // at most WINDOW_MAX
    }

    /// Credits that the client has left.
    pub fn available(&self) -> usize {
        self.used.iter().filter(|&&used| !used).count()
    }
}

/// The charge that a payload of `bytes` needs (MS-SMB2 3.3.5.2.5).
pub fn charge_for(bytes: u32) -> u16 {
    if bytes == 0 { 1 } else { (1 + (bytes - 1) / CREDIT_BYTES) as u16 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_good_once_and_only_when_granted() {
        let mut window = Window::default();
        assert!(window.take(1, 1).is_err());
        window.take(0, 0).unwrap();
        assert!(window.take(0, 1).is_err());
        assert_eq!(window.grant(10), 10);
        window.take(5, 4).unwrap();
        assert!(window.take(4, 2).is_err());
        assert!(window.take(10, 2).is_err());
        assert!(window.take(u64::MAX, u16::MAX).is_err());
        window.take(10, 1).unwrap();
        assert_eq!(window.available(), 5);
    }

    #[test]
    fn an_open_hole_bounds_the_window() {
        let mut window = Window::default();
        assert_eq!(window.grant(u16::MAX), 8191);
        for id in 1..WINDOW_MAX as u64 {
            window.take(id, 1).unwrap();
        }
        assert_eq!(window.grant(100), 0);
        window.take(0, 1).unwrap();
        assert_eq!(window.grant(100), 100);
    }

    #[test]
    fn smb1_uses_the_first_number_or_none() {
        for first in [0, 1] {
            let mut window = Window::default();
            window.begin_after_smb1();
            window.take(first, 0).unwrap();
            assert!(window.take(first, 0).is_err(), "{first} was used");
            assert_eq!(window.grant(u16::MAX), 8191 + first as u16, "no hole is left behind");
        }
    }

    #[test]
    fn charges_of_the_standard() {
        assert_eq!([0, 1, 65536, 65537, 8 << 20].map(charge_for), [1, 1, 1, 2, 128]);
        assert_eq!(charge_for(u32::MAX), 0, "65,536 credits do not fit a charge; no size limit allows it");
    }

    proptest! {
        #[test]
        fn no_id_is_taken_twice(steps in proptest::collection::vec((0u64..300, 0u16..5, 0u16..40), 0..300)) {
            let (mut window, mut taken, mut granted) = (Window::default(), HashSet::new(), 1u64);
            for (id, charge, wanted) in steps {
                if window.take(id, charge).is_ok() {
                    for one in id..id + u64::from(charge.max(1)) {
                        prop_assert!(one < granted, "{one} was never granted");
                        prop_assert!(taken.insert(one), "{one} was taken twice");
                    }
                    granted += u64::from(window.grant(wanted));
                }
                prop_assert_eq!(window.available() as u64, granted - taken.len() as u64);
            }
        }
    }
}
