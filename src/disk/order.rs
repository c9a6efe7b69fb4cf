//! The order of overlapping operations: tickets, first come first served.
//!
//! An operation takes its ticket while the disk's state is locked, which fixes its place, and waits for its turn and does
//! its I/O without that lock. Operations that do not overlap never wait for each other.

use std::collections::VecDeque;
use std::ops::Range;

/// Ranges are compared by blocks of this many bytes, so that a driver that reads, changes and writes whole blocks is
/// never asked for two changes of one block at once.
const BLOCK: u64 = 4096;

/// What an operation does to its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads go together.
    Read,
    /// A write goes alone.
    Write,
}

/// The operations under way and waiting, oldest first. Their number is that of the threads inside the disk.
#[derive(Debug, Default)]
pub(super) struct Order {
    tickets: VecDeque<Ticket>,
    next: u64,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    range: Range<u64>,
    access: Access,
}

impl Order {
    /// Takes a place behind all that are there.
    pub(super) fn enter(&mut self, range: &Range<u64>, access: Access) -> u64 {
        let number = self.next;
        self.next += 1;
        let range = range.start - range.start % BLOCK..range.end.next_multiple_of(BLOCK);
        self.tickets.push_back(Ticket { number, range, access });
        number
    }

    /// Whether nothing older stands in the way of `number`.
    pub(super) fn is_first(&self, number: u64) -> bool {
        let Some(own) = self.tickets.iter().find(|ticket| ticket.number == number) else { return true };
        !self.tickets.iter().take_while(|older| older.number < number).any(|older| older.blocks(own))
    }

    /// Gives the place up.
    pub(super) fn leave(&mut self, number: u64) {
        self.tickets.retain(|ticket| ticket.number != number);
    }
}

impl Ticket {
    fn blocks(&self, other: &Self) -> bool {
        (self.access == Access::Write || other.access == Access::Write)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_writes_go_in_order_of_arrival() {
        let mut order = Order::default();
        let first = order.enter(&(0..10_000), Access::Write);
        let apart = order.enter(&(20_000..30_000), Access::Write);
        let second = order.enter(&(9_000..21_000), Access::Write);
        let behind = order.enter(&(9_000..9_001), Access::Write);
        assert!(order.is_first(first) && order.is_first(apart));
        assert!(!order.is_first(second) && !order.is_first(behind));
        order.leave(first);
        assert!(!order.is_first(second), "still overlaps the one apart");
        order.leave(apart);
        assert!(order.is_first(second) && !order.is_first(behind));
    }

    #[test]
    fn neighbours_in_one_block_are_apart_and_reads_go_together() {
        let mut order = Order::default();
        let one = order.enter(&(0..512), Access::Read);
        let two = order.enter(&(0..512), Access::Read);
        let write = order.enter(&(512..1024), Access::Write);
        assert!(order.is_first(one) && order.is_first(two) && !order.is_first(write));
        order.leave(one);
        order.leave(two);
        assert!(order.is_first(write));
    }
}
