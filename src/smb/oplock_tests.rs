//! The rules of caching, without sockets or clocks.
#![allow(clippy::unwrap_used)]

use super::*;

const R: u32 = LEASE_READ;
const RH: u32 = LEASE_READ | LEASE_HANDLE;
const RW: u32 = LEASE_READ | LEASE_WRITE;
const RWH: u32 = RW | LEASE_HANDLE;

fn key(n: u8) -> LeaseKey {
    LeaseKey { client: [1; 16], key: [n; 16] }
}

fn lease(n: u8) -> Asker {
    Asker { open: n.into(), lease: Some(key(n)) }
}

fn plain(open: u64) -> Asker {
    Asker { open, lease: None }
}

fn opening() -> Opening {
    Opening { access: access::READ_DATA, overwrites: false, violates: false, again: false }
}

fn wanted(n: u8, state: u32) -> Wanted {
    Wanted::Lease { key: key(n), state, epoch: Some(7) }
}

/// A file with one lease.
fn leased(state: u32) -> Oplocks {
    let mut file = Oplocks::default();
    assert_eq!(file.grant(1, wanted(1, state), Circumstances::default()).state, state);
    file
}

#[test]
fn a_second_opener_breaks_the_writer_and_waits_for_it() {
    let now = Instant::now();
    let mut file = leased(RWH);
    let verdict = file.open(lease(2), opening(), now);
    assert!(verdict.wait);
    let told = &verdict.breaks[0];
    assert_eq!((told.from, told.to, told.acknowledge, told.epoch), (RWH, RH, true, 9));
    let again = Opening { again: true, ..opening() };
    assert_eq!(file.open(lease(2), again, now), Verdict { breaks: Vec::new(), wait: true });
    assert_eq!(file.acknowledge_lease(key(1), RH, now), Ok(None));
    assert_eq!(file.open(lease(2), again, now), Verdict::default());
    assert_eq!(file.grant(2, wanted(2, RWH), Circumstances::default()).state, RH);
}

#[test]
fn who_only_looks_breaks_nothing() {
    let now = Instant::now();
    let look = Opening { access: access::READ_ATTRIBUTES | access::SYNCHRONIZE, ..opening() };
    let control = Opening { access: access::READ_CONTROL, ..opening() };
    assert_eq!(leased(RWH).open(plain(2), look, now), Verdict::default());
    assert_eq!(leased(RWH).open(plain(2), control, now), Verdict::default());
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::BATCH), Circumstances::default());
    assert_eq!(file.open(plain(2), look, now), Verdict::default());
    assert_eq!(file.grant(2, Wanted::Oplock(oplock::LEVEL_II), Circumstances::default()).state, 0);
    assert!(file.open(plain(2), control, now).wait, "an oplock breaks");
}

#[test]
fn a_lease_never_breaks_for_its_own_opens() {
    let now = Instant::now();
    let mut file = leased(RWH);
    let over = Opening { overwrites: true, ..opening() };
    assert_eq!(file.open(Asker { open: 9, ..lease(1) }, over, now), Verdict::default());
    assert!(file.change(lease(1), now).is_empty());
    assert_eq!(file.evict(lease(1), now), Verdict::default());
}

#[test]
fn an_overwrite_leaves_nothing_and_waits_for_writers_only() {
    let now = Instant::now();
    let over = Opening { overwrites: true, ..opening() };
    for (state, wait) in [(R, false), (RH, false), (RW, true), (RWH, true)] {
        let verdict = leased(state).open(plain(2), over, now);
        assert_eq!((verdict.wait, verdict.breaks[0].to), (wait, 0), "{state}");
    }
}

#[test]
fn a_share_mode_conflict_asks_for_the_handle() {
    let now = Instant::now();
    let violates = Opening { violates: true, ..opening() };
    let verdict = leased(RWH).open(plain(2), violates, now);
    assert_eq!((verdict.wait, verdict.breaks[0].to), (true, RW));
    assert_eq!(leased(RW).open(plain(2), violates, now), Verdict::default(), "nothing to wait for");
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::BATCH), Circumstances::default());
    assert_eq!(file.open(plain(2), violates, now).breaks[0].to, R, "a batch oplock goes to level II");
}

#[test]
fn a_write_takes_the_readers_caches_without_waiting() {
    let now = Instant::now();
    let mut file = leased(R);
    file.grant(
        2,
        Wanted::Oplock(oplock::LEVEL_II),
        Circumstances { others: true, ..Circumstances::default() },
    );
    let breaks = file.change(plain(2), now);
    assert_eq!(breaks.iter().map(|b| (b.to, b.acknowledge)).collect::<Vec<_>>(), [(0, false), (0, false)]);
    assert!(file.change(plain(2), now).is_empty());
    // One who writes from its own exclusive oplock keeps it.
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::EXCLUSIVE), Circumstances::default());
    assert!(file.change(plain(1), now).is_empty());
    let mut file = leased(RH);
    assert!(file.change(plain(2), now)[0].acknowledge, "a handle kept open has to be closed");
}

#[test]
fn grants_depend_on_who_else_is_there() {
    let alone = Circumstances::default();
    let grant = |state, file| Oplocks::default().grant(1, wanted(1, state), file).state;
    for (asked, given) in [
        (R, R),
        (LEASE_HANDLE, 0),
        (LEASE_WRITE, 0),
        (RH, RH),
        (RW, RW),
        (LEASE_HANDLE | LEASE_WRITE, 0),
        (RWH, RWH),
    ] {
        assert_eq!(grant(asked, alone), given);
    }
    assert_eq!(grant(RWH, Circumstances { others: true, ..alone }), RH);
    assert_eq!(grant(RWH, Circumstances { locked: true, ..alone }), 0);
    let oplock = |level, file| level_of(Oplocks::default().grant(1, Wanted::Oplock(level), file).state);
    assert_eq!(oplock(oplock::BATCH, alone), oplock::BATCH);
    assert_eq!(oplock(oplock::BATCH, Circumstances { others: true, ..alone }), oplock::LEVEL_II);
    let mut file = leased(RH);
    assert_eq!(file.grant(2, Wanted::Oplock(oplock::LEVEL_II), alone).state, 0, "beside a handle lease");
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::LEVEL_II), alone);
    assert_eq!(file.grant(2, wanted(2, RH), alone).state, R, "beside an oplock");
}

#[test]
fn a_lease_grows_by_asking_for_more_and_never_shrinks() {
    let alone = Circumstances::default();
    let mut file = leased(RH);
    assert_eq!(file.grant(2, wanted(1, RW), alone).state, RH);
    let grown = file.grant(3, wanted(1, RWH), alone);
    assert_eq!((grown.state, grown.epoch), (RWH, Some(9)));
    let kept = file.grant(4, wanted(1, R), alone);
    assert_eq!((kept.state, kept.epoch), (RWH, Some(9)));
    for open in [2, 3, 4] {
        assert_eq!(file.release(open), (true, None));
    }
    assert_eq!(file.release(1), (true, Some(key(1))));
    assert!(file.is_empty());
}

#[test]
fn a_break_during_a_break_goes_in_steps() {
    let now = Instant::now();
    let mut file = leased(RWH);
    assert_eq!(file.open(plain(2), opening(), now).breaks[0].to, RH);
    let over = Opening { overwrites: true, ..opening() };
    assert!(file.open(plain(3), over, now).breaks.is_empty(), "told once");
    let next = file.acknowledge_lease(key(1), RH, now).unwrap().unwrap();
    assert_eq!((next.from, next.to, next.acknowledge), (RH, R, true));
    let last = file.acknowledge_lease(key(1), R, now).unwrap().unwrap();
    assert_eq!((last.from, last.to, last.acknowledge), (R, 0, false));
    assert_eq!(file.state_of(lease(1)), 0);
    assert_eq!(file.acknowledge_lease(key(1), 0, now), Err(Status::UNSUCCESSFUL));
}

#[test]
fn acknowledgements_are_checked() {
    let now = Instant::now();
    let mut file = leased(RWH);
    assert_eq!(file.acknowledge_lease(key(1), R, now), Err(Status::UNSUCCESSFUL), "nothing is breaking");
    assert_eq!(file.acknowledge_lease(key(2), R, now), Err(Status::OBJECT_NAME_NOT_FOUND));
    file.open(plain(2), opening(), now);
    assert_eq!(file.acknowledge_lease(key(1), RWH, now), Err(Status::REQUEST_NOT_ACCEPTED));
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::BATCH), Circumstances::default());
    assert_eq!(file.acknowledge_oplock(1, oplock::NONE), Err(Status::INVALID_OPLOCK_PROTOCOL));
    file.open(plain(2), opening(), now);
    assert_eq!(file.acknowledge_oplock(1, oplock::LEVEL_II), Ok(oplock::LEVEL_II));
    assert_eq!(file.state_of(plain(1)), R);
}

#[test]
fn who_does_not_acknowledge_has_nothing_left() {
    let now = Instant::now();
    let mut file = leased(RWH);
    file.open(plain(2), opening(), now);
    assert_eq!(file.next_expiry(), Some(now + BREAK_MAX));
    assert!(!file.expire(now + (BREAK_MAX / 35) * 34));
    assert!(file.expire(now + BREAK_MAX));
    assert_eq!(file.state_of(lease(1)), 0);
    assert_eq!(file.open(plain(2), Opening { again: true, ..opening() }, now), Verdict::default());
    assert_eq!(file.acknowledge_lease(key(1), RH, now), Err(Status::UNSUCCESSFUL), "too late");
}

#[test]
fn a_rename_or_deletion_waits_for_others_handles() {
    let now = Instant::now();
    let mut file = leased(RH);
    let verdict = file.evict(plain(2), now);
    assert_eq!((verdict.wait, verdict.breaks[0].to), (true, R));
    assert!(file.evict(plain(2), now).wait);
    file.acknowledge_lease(key(1), R, now).unwrap();
    assert_eq!(file.evict(plain(2), now), Verdict::default());
}
