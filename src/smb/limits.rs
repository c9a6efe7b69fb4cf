//! What clients may take of this machine: connections (in all and by address), sessions, time and bytes before a login, and
//! the bytes of large frames that are in flight over all connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit of a budget stands for: small enough to be exact, large enough that 32 bits count any budget.
const UNIT: usize = 1024;
/// Frames and payloads up to this length are not counted: each connection has a few of them at most.
pub const UNCOUNTED_MAX: usize = 16 << 10;
/// What one connection may hold of the whole budget, as a fraction: a client that stops reading starves no other.
const CONNECTION_SHARE: usize = 4;

/// The limits, all configurable (`[limits]`).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once. Each is a descriptor and some ten KiB.
    pub connections: usize,
    /// Connections at once from one address: a backup server's many streams, not a flood.
    pub connections_per_address: usize,
    /// Sessions of one connection: a terminal server's users; more is a flood.
    pub sessions_per_connection: usize,
    /// A client must have logged in by then.
    pub login_time: Duration,
    /// What it may have sent by then, in bytes: a few tokens, one of them with a large Kerberos ticket.
    pub login_bytes: u64,
    /// A session that says nothing for this long has lost its client: Windows sends an ECHO every minute.
    pub idle_time: Duration,
    /// A frame that was begun arrives within this time.
    pub frame_time: Duration,
    /// Bytes of large frames and answers in memory at once, over all connections.
    pub bytes_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            sessions_per_connection: 256,
            login_time: Duration::from_secs(30),
            login_bytes: 1 << 20,
            idle_time: Duration::from_mins(15),
            frame_time: Duration::from_mins(1),
            bytes_in_flight: 128 << 20,
        }
    }
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are too many in all.
    #[error("{0} connections are open (limits.connections)")]
    Connections(usize),
    /// There are too many from that address.
    #[error("{0} connections from that address are open (limits.connections-per-address)")]
    Address(usize),
}

/// Counts connections.
#[derive(Debug, Default)]
pub struct Door {
    inside: Mutex<HashMap<IpAddr, usize>>,
}

impl Door {
    /// Lets a connection in; it has left when its place is dropped.
    pub fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Result<Place, Full> {
        let address = address.to_canonical();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.values().sum::<usize>() >= limits.connections {
            return Err(Full::Connections(limits.connections));
        }
        let here = inside.get(&address).copied().unwrap_or_default();
        if here >= limits.connections_per_address {
            return Err(Full::Address(limits.connections_per_address));
        }
        inside.insert(address, here + 1);
        Ok(Place { door: Arc::clone(self), address })
    }
}

/// A connection's place.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inside.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

/// Bytes in flight over all connections.
#[derive(Debug)]
pub struct Budget {
    whole: Arc<Semaphore>,
    units: usize,
}

/// One connection's part of the budget.
#[derive(Debug)]
pub struct Allowance {
    whole: Arc<Semaphore>,
    own: Arc<Semaphore>,
    units: usize,
}

/// Bytes that are accounted for until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    _own: OwnedSemaphorePermit,
    _whole: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { whole: Arc::new(Semaphore::new(units)), units }
    }

    /// The part that one connection may use.
    pub fn allowance(&self) -> Allowance {
        let units = (self.units / CONNECTION_SHARE).max(1);
        Allowance { whole: Arc::clone(&self.whole), own: Arc::new(Semaphore::new(units)), units }
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> usize {
        self.whole.available_permits() * UNIT
    }
}

impl Allowance {
    /// Bytes that one connection may hold.
    pub fn bytes(&self) -> usize {
        self.units * UNIT
    }

    /// Accounts for bytes that are held already, where there are so many left: nobody waits for what has happened.
    pub fn reserve_now(&self, bytes: usize) -> Option<Reserved> {
        if bytes <= UNCOUNTED_MAX {
            return None;
        }
        let units = bytes.div_ceil(UNIT).min(self.units) as u32; // the units of a budget fit 32 bits
        let own = Arc::clone(&self.own).try_acquire_many_owned(units).ok()?;
        let whole = Arc::clone(&self.whole).try_acquire_many_owned(units).ok()?;
        Some(Reserved { _own: own, _whole: whole })
    }

    /// Waits until `bytes` may be held; at once, and without any accounting, where they are few. What is more than a
    /// connection's whole part takes all of that.
    pub async fn reserve(&self, bytes: usize) -> Option<Reserved> {
        if bytes <= UNCOUNTED_MAX {
            return None;
        }
        let units = bytes.div_ceil(UNIT).min(self.units) as u32; // the units of a budget fit 32 bits
        // First its own part, then the whole: in this order everywhere, so that nobody waits in a circle. Neither semaphore
        // is ever closed.
        let own = Arc::clone(&self.own).acquire_many_owned(units).await.ok()?;
        let whole = Arc::clone(&self.whole).acquire_many_owned(units).await.ok()?;
        Some(Reserved { _own: own, _whole: whole })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let door = Arc::new(Door::default());
        let limits = Limits { connections: 3, connections_per_address: 2, ..Limits::default() };
        let first = door.enter(address(1), &limits).unwrap();
        let _second = door.enter(address(1), &limits).unwrap();
        assert_eq!(door.enter(address(1), &limits).unwrap_err(), Full::Address(2));
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(door.enter(mapped, &limits).unwrap_err(), Full::Address(2), "the same address in IPv6");
        let _third = door.enter(address(2), &limits).unwrap();
        assert_eq!(door.enter(address(3), &limits).unwrap_err(), Full::Connections(3));
        drop(first);
        assert!(door.enter(address(1), &limits).is_ok());
    }

    #[test]
    fn nobody_is_remembered_who_has_left() {
        let door = Arc::new(Door::default());
        (0..100).for_each(|last| drop(door.enter(address(last), &Limits::default())));
        assert!(door.inside.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn bytes_are_waited_for_and_one_connection_never_gets_all() {
        let budget = Budget::new(1 << 20);
        let greedy = budget.allowance();
        let first = greedy.reserve(200 << 10).await.unwrap();
        let more = greedy.reserve(100 << 10);
        assert!(tokio::time::timeout(Duration::from_millis(20), more).await.is_err(), "past its quarter");
        let other = budget.allowance();
        let second = other.reserve(256 << 10).await.unwrap();
        assert_eq!(budget.free(), (1 << 20) - (456 << 10));
        drop(first);
        assert!(greedy.reserve(8 << 20).await.is_some(), "more than there is takes its whole part");
        assert!(other.reserve(UNCOUNTED_MAX).await.is_none());
        drop(second);
        assert_eq!(budget.free(), 1 << 20);
        let held = greedy.reserve_now(200 << 10).unwrap();
        assert_eq!(budget.free(), (1 << 20) - (200 << 10));
        assert!(greedy.reserve_now(100 << 10).is_none(), "past its quarter");
        drop(held);
        assert_eq!(budget.free(), 1 << 20);
    }
}
