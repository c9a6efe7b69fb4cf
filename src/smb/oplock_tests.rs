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
fn a_directorys_lease_is_had_again_whatever_was_asked_for() {
    let now = Instant::now();
    let directory = Circumstances { directory: true, ..Circumstances::default() };
    let mut file = Oplocks::default();
    assert_eq!(file.grant(1, wanted(1, RWH), directory).state, RH, "nothing is written to it");
    assert_eq!(file.change_entries(None, now).len(), 1);
    assert_eq!(file.acknowledge_lease(key(1), 0, now), Ok(None));
    let again = file.grant(2, wanted(1, RWH), directory);
    assert_eq!((again.state, again.epoch), (RH, Some(10)));
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
    assert_eq!(file.evict(lease(1), true, now), Verdict::default());
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
    let verdict = file.evict(plain(2), false, now);
    assert_eq!((verdict.wait, verdict.breaks[0].to), (true, R));
    assert!(file.evict(plain(2), false, now).wait);
    file.acknowledge_lease(key(1), R, now).unwrap();
    assert_eq!(file.evict(plain(2), false, now), Verdict::default());
    let mut file = Oplocks::default();
    file.grant(1, Wanted::Oplock(oplock::BATCH), Circumstances::default());
    assert_eq!(file.evict(plain(2), false, now), Verdict::default());
    assert_eq!(file.evict(plain(2), true, now).breaks[0].to, R);
}

/// A generator of numbers, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What must hold of a file at any time: whoever caches writes is alone, or is being told to stop.
fn check_invariants(file: &Oplocks, seed: u64) {
    let writers = || file.holds.iter().filter(|hold| hold.state & LEASE_WRITE != 0);
    assert!(writers().count() <= 1, "two writers, seed {seed}");
    for writer in writers() {
        let others = file.holds.iter().filter(|hold| hold.holder != writer.holder && hold.state != 0).count();
        assert!(others == 0 || writer.breaking.is_some(), "a writer has company, seed {seed}: {file:?}");
    }
    for hold in &file.holds {
        let allowed = hold.state == 0 || hold.state & LEASE_READ != 0;
        assert!(allowed && !hold.opens.is_empty(), "seed {seed}: {file:?}");
        if let Some(breaking) = &hold.breaking {
            assert!(
                breaking.told & !hold.state == 0 && breaking.required & !breaking.told == 0,
                "seed {seed}"
            );
        }
    }
}

#[test]
fn any_order_of_opens_writes_and_answers_keeps_the_invariants() {
    for seed in 1..400 {
        let (mut random, now) = (Random(seed * 0x9E37_79B9), Instant::now());
        let (mut file, mut open) = (Oplocks::default(), Vec::<Asker>::new());
        for number in 0..60 {
            let lease = (random.below(2) == 0).then(|| key(random.below(3) as u8));
            match random.below(8) {
                0..=3 => {
                    let asker = Asker { open: number, lease };
                    let overwrites = random.below(4) == 0;
                    if file.open(asker, Opening { overwrites, ..opening() }, now).wait {
                        continue; // parked: it is asked again later, as another number
                    }
                    let others = open.iter().any(|other| lease.is_none() || other.lease != lease);
                    let wanted = match lease {
                        Some(key) => Wanted::Lease { key, state: random.below(8) as u32, epoch: None },
                        None => Wanted::Oplock([0, 1, 8, 9][random.below(4) as usize]),
                    };
                    let locked = random.below(8) == 0;
                    file.grant(
                        number,
                        wanted,
                        Circumstances { others, locked, directory: random.below(4) == 0 },
                    );
                    open.push(asker);
                }
                4 if !open.is_empty() => {
                    let gone = open.swap_remove(random.below(open.len() as u64) as usize);
                    file.release(gone.open);
                }
                5 if !open.is_empty() => {
                    let writer = open[random.below(open.len() as u64) as usize];
                    file.change(writer, now);
                }
                6 => {
                    let told: Vec<_> = file.holds.iter().filter(|hold| hold.breaking.is_some()).collect();
                    let Some((holder, to)) =
                        told.first().map(|hold| (hold.holder, hold.breaking.as_ref().map_or(0, |b| b.told)))
                    else {
                        continue;
                    };
                    match holder {
                        Holder::Open(open) => drop(file.acknowledge_oplock(open, level_of(to))),
                        Holder::Lease(key) => drop(file.acknowledge_lease(key, to, now)),
                    }
                }
                _ => drop(file.evict(plain(u64::MAX), random.below(2) == 0, now)),
            }
            check_invariants(&file, seed);
        }
        // When every break is over, nobody waits any more for an open that shares.
        file.expire(now + BREAK_MAX);
        let again = Opening { again: true, ..opening() };
        let verdict = file.open(plain(1000), again, now);
        file.expire(now + BREAK_MAX);
        assert!(!verdict.wait || !file.open(plain(1000), again, now).wait, "seed {seed}: {file:?}");
    }
}
