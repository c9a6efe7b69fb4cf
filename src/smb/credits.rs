//! Credits: which MessageIds a client may use (MS-SMB2 3.3.1.1, 3.3.5.2.3).

use std::collections::VecDeque;

/// Credits that a client may hold: 8 requests of 8 MiB (128 credits each) eight times over, as Windows servers grant.
pub const CREDITS_MAX: usize = 8192;

/// The MessageIds that were granted: each may be used once.
#[derive(Debug)]
pub struct Window {
    low: u64,
    used: VecDeque<bool>,
    /// An SMB1 NEGOTIATE was answered, and nothing came since.
    smb1: bool,
}

impl Default for Window {
    /// A new connection may send one message, number 0.
    fn default() -> Self {
        Self { low: 0, used: VecDeque::from([false]), smb1: false }
    }
}

impl Window {
    /// Uses `charge` ids from `id` on; `false` where one is outside of the window or was used: the connection must end.
    #[must_use]
    pub fn consume(&mut self, id: u64, charge: u16) -> bool {
        if std::mem::take(&mut self.smb1) && id == 1 {
            self.used[0] = true;
        }
        let Some(start) = id.checked_sub(self.low).and_then(|start| usize::try_from(start).ok()) else {
            return false;
        };
        let Some(end) = start.checked_add(usize::from(charge.max(1))) else { return false };
        if end > self.used.len() || self.used.range(start..end).any(|used| *used) {
            return false;
        }
        self.used.range_mut(start..end).for_each(|used| *used = true);
        while self.used.front() == Some(&true) {
            self.used.pop_front();
            self.low += 1;
        }
        true
    }

    /// An SMB1 NEGOTIATE was answered (MS-SMB2 3.3.5.3): it stands for number 0, so that clients go on with 1. Some
    /// begin again at 0.
    pub fn begin_after_smb1(&mut self) {
        *self = Self { low: 0, used: VecDeque::from([false, false]), smb1: true };
    }

    /// Grants what was asked, at least one, as far as the window goes; the number granted.
    pub fn grant(&mut self, asked: u16) -> u16 {
        let room = CREDITS_MAX.saturating_sub(self.used.len());
        let granted = usize::from(asked.max(1)).min(room);
        self.used.extend(std::iter::repeat_n(false, granted));
        granted as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_good_once_and_only_if_granted() {
        let mut window = Window::default();
        assert!(!window.consume(1, 1), "never granted");
        assert!(window.consume(0, 0));
        assert!(!window.consume(0, 1), "used before");
        assert_eq!(window.grant(4), 4);
        assert!(window.consume(2, 2));
        assert!(!window.consume(1, 2), "overlaps one that was used");
        assert!(window.consume(1, 1) && window.consume(4, 1));
        assert!(!window.consume(u64::MAX, u16::MAX));
    }

    #[test]
    fn smb1_uses_the_first_number_or_none() {
        for first in [0, 1] {
            let mut window = Window::default();
            window.begin_after_smb1();
            assert!(window.consume(first, 0));
            assert!(!window.consume(first, 0), "{first} was used");
            assert_eq!(window.grant(u16::MAX), 8191 + first as u16, "no hole is left behind");
        }
    }

    #[test]
    fn the_window_has_an_end() {
        let mut window = Window::default();
        assert_eq!(window.grant(u16::MAX), 8191);
        assert_eq!(window.grant(1), 0);
    }
}
