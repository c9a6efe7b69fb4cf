//! Failed logins, by address and by account: how long the next answer is held back, so that guessing is slow however many
//! connections it uses. Knows no clock: the caller says what time it is.
//!
//! Right passwords are never held back or refused: nobody can lock an account by guessing. What is remembered is bounded and
//! fades; where the table is full, what was failed longest ago is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// What the first failures cost, as Windows Server 2025 does.
const DELAY_MIN: Duration = Duration::from_secs(2);
/// What they cost at most: a client's time-out is longer.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// Failures that are not punished further: a mistyped password, a second try.
const FREE: u32 = 3;
/// Seconds after which one failure is forgiven.
const FORGIVEN_SECONDS: u64 = 30;
/// Addresses and accounts remembered, each.
const REMEMBERED_MAX: usize = 4096;
/// Failures counted of one address or account: past that the delay has long been the longest.
const COUNTED_MAX: u32 = 1000;

#[derive(Debug, Clone, Copy)]
struct Record {
    count: u32,
    seconds: u64,
}

/// The failures of one kind of culprit.
#[derive(Debug)]
struct Table<K>(HashMap<K, Record>);

impl<K: std::hash::Hash + Eq + Clone> Table<K> {
    /// Counts a failure; how many there are now, those that were forgiven taken off.
    fn fail(&mut self, key: K, now: u64) -> u32 {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.forget(now);
        }
        let record = self.0.entry(key).or_insert(Record { count: 0, seconds: now });
        record.count = (faded(*record, now) + 1).min(COUNTED_MAX);
        record.seconds = now;
        record.count
    }

    /// Makes room: what has faded goes, else the oldest.
    fn forget(&mut self, now: u64) {
        self.0.retain(|_, record| faded(*record, now) > 0);
        if self.0.len() >= REMEMBERED_MAX
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, record)| record.seconds).map(|(key, _)| key.clone())
        {
            self.0.remove(&oldest);
        }
    }
}

fn faded(record: Record, now: u64) -> u32 {
    let forgiven = now.saturating_sub(record.seconds) / FORGIVEN_SECONDS;
    record.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
}

/// All failures.
#[derive(Debug)]
pub struct Guesses {
    addresses: Table<IpAddr>,
    accounts: Table<String>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { addresses: Table(HashMap::new()), accounts: Table(HashMap::new()) }
    }
}

impl Guesses {
    /// A login has failed: how long its answer is held back. `now` in seconds, of any clock that does not go back.
    pub fn failed(&mut self, address: Option<IpAddr>, account: &str, now: u64) -> Duration {
        let by_address = address.map_or(0, |address| self.addresses.fail(address.to_canonical(), now));
        let by_account = self.accounts.fail(account.to_lowercase(), now);
        let more = by_address.max(by_account).saturating_sub(FREE);
        (DELAY_MIN + Duration::from_secs(more.into())).min(DELAY_MAX)
    }

    /// A login has succeeded: its address and account begin anew.
    pub fn succeeded(&mut self, address: Option<IpAddr>, account: &str) {
        if let Some(address) = address {
            self.addresses.0.remove(&address.to_canonical());
        }
        self.accounts.0.remove(&account.to_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn guessing_gets_slower_by_address_and_by_account() {
        let mut guesses = Guesses::default();
        let delays: Vec<_> = (0..20).map(|_| guesses.failed(address(1), "alice", 100).as_secs()).collect();
        assert_eq!((delays[0], delays[2], delays[3], delays[19]), (2, 2, 3, 10));
        assert_eq!(guesses.failed(address(2), "ALICE", 100).as_secs(), 10, "the same account from elsewhere");
        assert_eq!(
            guesses.failed(address(1), "bob", 100).as_secs(),
            10,
            "another account from the same address"
        );
        assert_eq!(guesses.failed(address(3), "carol", 100).as_secs(), 2, "nothing to do with them");
    }

    #[test]
    fn time_and_a_right_password_forgive() {
        let mut guesses = Guesses::default();
        (0..20).for_each(|_| {
            guesses.failed(address(1), "alice", 100);
        });
        assert_eq!(guesses.failed(address(1), "alice", 100 + 17 * FORGIVEN_SECONDS).as_secs(), 3);
        assert_eq!(guesses.failed(address(1), "alice", 100 + 100 * FORGIVEN_SECONDS).as_secs(), 2);
        (0..20).for_each(|_| {
            guesses.failed(address(1), "alice", 100_000);
        });
        guesses.succeeded(address(1), "Alice");
        assert_eq!(guesses.failed(address(1), "alice", 100_000).as_secs(), 2);
    }

    #[test]
    fn a_flood_is_not_remembered_without_end() {
        let mut guesses = Guesses::default();
        for number in 0..2 * REMEMBERED_MAX as u32 {
            guesses.failed(address(number), &number.to_string(), number.into());
        }
        assert!(guesses.addresses.0.len() <= REMEMBERED_MAX && guesses.accounts.0.len() <= REMEMBERED_MAX);
        (0..2 * COUNTED_MAX).for_each(|_| {
            guesses.failed(address(7), "alice", 9_000);
        });
        assert_eq!(guesses.failed(address(7), "alice", 9_000), DELAY_MAX);
    }
}
