//! What the clients of one file may cache: oplocks and leases (MS-SMB2 3.3.1.12, 3.3.1.13; MS-FSA 2.1.4.12, 2.1.5.18), who
//! must give up what before somebody else goes on, and their acknowledgements.
//!
//! Pure: told who asks, what for and when, it answers with the breaks to send and whether to wait. An oplock is held by one
//! open, a lease by all opens that a client made under its key; both are the same three bits: level II is READ, exclusive READ
//! and WRITE, batch all of them.

use std::time::{Duration, Instant};

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::create::context::{LEASE_HANDLE, LEASE_READ, LEASE_WRITE};
use smb_proto::msg::create::oplock;

/// How long a client may take to acknowledge a break: as Windows has it.
pub const BREAK_MAX: Duration = Duration::from_secs(35);

/// Access that disturbs no oplock (MS-FSA 2.1.4.12): an open that only looks at attributes.
const LOOKING: u32 = access::READ_ATTRIBUTES | access::WRITE_ATTRIBUTES | access::SYNCHRONIZE;
/// Access that disturbs no lease.
const LOOKING_AT_LEASED: u32 = LOOKING | access::READ_CONTROL;

/// A lease's key, unique with its client's ClientGuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    /// ClientGuid.
    pub client: [u8; 16],
    /// LeaseKey.
    pub key: [u8; 16],
}

/// Who asks: an open, and the lease that it belongs to or asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The open's volatile FileId.
    pub open: u64,
    /// Its lease.
    pub lease: Option<LeaseKey>,
}

/// Who holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An open, by an oplock.
    Open(u64),
    /// The opens of a lease.
    Lease(LeaseKey),
}

/// A notification to send (MS-SMB2 3.3.4.6, 3.3.4.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// Who is told.
    pub holder: Holder,
    /// The opens that hold it: on any one's connection.
    pub opens: Vec<u64>,
    /// What the client has.
    pub from: u32,
    /// What it may keep.
    pub to: u32,
    /// NewEpoch; 0 in version 1.
    pub epoch: u16,
    /// Whether it must acknowledge.
    pub acknowledge: bool,
}

/// What an open that is about to be made means to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The access that it uses, what its disposition needs included.
    pub access: u32,
    /// It empties or replaces the file.
    pub overwrites: bool,
    /// Another open's share mode stands against it: only giving up its handle would help.
    pub violates: bool,
    /// It has waited before.
    pub again: bool,
}

/// What has to happen before an operation goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Notifications to send.
    pub breaks: Vec<Break>,
    /// Whether to wait until a break is acknowledged, or a holder is gone.
    pub wait: bool,
}

/// What is asked for with an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// An oplock of that level (`create::oplock`).
    Oplock(u8),
    /// A lease.
    Lease {
        /// Its key.
        key: LeaseKey,
        /// State bits.
        state: u32,
        /// The client's epoch, in version 2.
        epoch: Option<u16>,
    },
}

/// What else is known of the file when something is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Circumstances {
    /// Other opens do more than look at attributes.
    pub others: bool,
    /// It has byte-range locks.
    pub locked: bool,
    /// It is a directory: nothing is written to it.
    pub directory: bool,
}

/// What was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// State bits.
    pub state: u32,
    /// The epoch of a lease of version 2. A lease keeps the version that it was first asked for in.
    pub epoch: Option<u16>,
    /// The lease is being broken.
    pub breaking: bool,
}

#[derive(Debug)]
struct Breaking {
    /// What the client was told that it may keep.
    told: u32,
    /// What it may keep in the end: less, where another break came meanwhile.
    required: u32,
    since: Instant,
}

#[derive(Debug)]
struct Hold {
    holder: Holder,
    state: u32,
    breaking: Option<Breaking>,
    epoch: Option<u16>,
    opens: Vec<u64>,
}

impl Hold {
    fn is_lease(&self) -> bool {
        matches!(self.holder, Holder::Lease(_))
    }

    fn is_of(&self, asker: Asker) -> bool {
        match self.holder {
            Holder::Open(open) => open == asker.open,
            Holder::Lease(key) => asker.lease == Some(key),
        }
    }

    /// Has it break to `to`; the notification, if there is one to send.
    fn break_to(&mut self, to: u32, now: Instant) -> Option<Break> {
        let to = to & self.state;
        if let Some(breaking) = &mut self.breaking {
            breaking.required &= to; // the client hears of it when it has acknowledged what it was told
            return None;
        }
        if to == self.state {
            return None;
        }
        let acknowledge = self.state != LEASE_READ;
        self.epoch = self.epoch.map(|epoch| epoch.wrapping_add(1));
        let notification = self.notification(to, acknowledge);
        if acknowledge {
            self.breaking = Some(Breaking { told: to, required: to, since: now });
        } else {
            self.state = 0;
        }
        Some(notification)
    }

    fn notification(&self, to: u32, acknowledge: bool) -> Break {
        Break {
            holder: self.holder,
            opens: self.opens.clone(),
            from: self.state,
            to,
            epoch: self.epoch.unwrap_or(0),
            acknowledge,
        }
    }
}

/// The oplocks and leases of one file.
#[derive(Debug, Default)]
pub struct Oplocks {
    holds: Vec<Hold>,
}

impl Oplocks {
    /// How many hold something, or held it before it was broken.
    pub fn len(&self) -> usize {
        self.holds.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// What an open holds: of its lease, or by itself.
    pub fn state_of(&self, asker: Asker) -> u32 {
        self.holds.iter().find(|hold| hold.is_of(asker)).map_or(0, |hold| hold.state)
    }

    /// What an open holds, as it is told when the open is had back.
    pub fn granted_to(&self, asker: Asker) -> Granted {
        let hold = self.holds.iter().find(|hold| hold.is_of(asker));
        let nothing = Granted { state: 0, epoch: None, breaking: false };
        hold.map_or(nothing, |hold| Granted {
            state: hold.state,
            epoch: hold.epoch,
            breaking: hold.breaking.is_some(),
        })
    }

    /// An open is about to be made (MS-FSA 2.1.5.1.2.2): breaks writers' caches, or handles' where a share mode stands against
    /// it, or all caches of what it overwrites.
    pub fn open(&mut self, asker: Asker, opening: Opening, now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        if opening.access & !LOOKING == 0 {
            return verdict;
        }
        let mask = if opening.violates { LEASE_HANDLE } else { LEASE_WRITE };
        let empties = opening.overwrites && !opening.violates;
        for hold in &mut self.holds {
            let leased = hold.is_lease();
            if hold.is_of(asker) || (leased && opening.access & !LOOKING_AT_LEASED == 0) {
                continue;
            }
            let mut to = if empties { 0 } else { hold.state & !mask };
            if hold.state & !to == 0 {
                verdict.wait |= hold.breaking.is_some();
                continue;
            }
            if !leased {
                to &= LEASE_READ; // an oplock has no other level below
            }
            verdict.wait |= hold.state & mask != 0 || (hold.breaking.is_some() && opening.again);
            verdict.breaks.extend(hold.break_to(to, now));
        }
        verdict
    }

    /// Data changed, or is about to be locked (MS-FSA 2.1.5.4, 2.1.5.8, 2.1.5.15.4): whoever reads from a cache must stop.
    /// The file's changer is told too where it holds level II; a lease's own opens are not. Nobody waits for this.
    pub fn change(&mut self, asker: Asker, now: Instant) -> Vec<Break> {
        let readers = self.holds.iter_mut().filter(|hold| {
            let own = hold.is_of(asker) && (hold.is_lease() || hold.state != LEASE_READ);
            hold.state & LEASE_READ != 0 && !own
        });
        readers.filter_map(|hold| hold.break_to(0, now)).collect()
    }

    /// A directory's entries changed: whoever has listed it must list it again, but for the lease that the changer says is its
    /// parent's. Nobody waits for this.
    pub fn change_entries(&mut self, parent: Option<LeaseKey>, now: Instant) -> Vec<Break> {
        let own = |hold: &Hold| parent.is_some_and(|parent| hold.holder == Holder::Lease(parent));
        self.holds.iter_mut().filter(|hold| !own(hold)).filter_map(|hold| hold.break_to(0, now)).collect()
    }

    /// Others' handles are in the way of a rename or a deletion (MS-FSA 2.1.5.15.3, 2.1.5.15.11): they must close what they only
    /// keep open. Of the file itself only leases are asked, as Windows does; `batch` asks batch oplocks too: of what is
    /// replaced, or lies below what is renamed.
    pub fn evict(&mut self, asker: Asker, batch: bool, now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        for hold in self.holds.iter_mut().filter(|hold| (batch || hold.is_lease()) && !hold.is_of(asker)) {
            if hold.state & LEASE_HANDLE != 0 {
                let kept = if hold.is_lease() { hold.state & !LEASE_HANDLE } else { LEASE_READ };
                verdict.wait = true;
                verdict.breaks.extend(hold.break_to(kept, now));
            }
        }
        verdict
    }

    /// Grants what can be granted of `wanted` to an open that was made (MS-SMB2 3.3.5.9, 3.3.5.9.8, 3.3.5.9.11).
    pub fn grant(&mut self, open: u64, wanted: Wanted, file: Circumstances) -> Granted {
        let (lease, mut requested) = match wanted {
            Wanted::Oplock(level) => (None, of_level(level)),
            Wanted::Lease { key, state, .. } => (Some(key), state),
        };
        if file.directory {
            requested &= !LEASE_WRITE;
        }
        let asker = Asker { open, lease };
        let mut granted = requested & (LEASE_READ | LEASE_HANDLE | LEASE_WRITE);
        let others = || self.holds.iter().filter(|hold| !hold.is_of(asker));
        if file.locked {
            granted &= !(LEASE_READ | LEASE_HANDLE);
        }
        if others().any(|hold| hold.state & LEASE_WRITE != 0) {
            granted = 0; // who only looks has broken nothing, and may not read what another caches for writing
        }
        if file.others || others().next().is_some() {
            granted &= !LEASE_WRITE;
        }
        match lease {
            // A handle kept open is of no use beside one that would break by an open.
            Some(_) if others().any(|hold| !hold.is_lease()) => granted &= !LEASE_HANDLE,
            None if others().any(|hold| hold.is_lease() && hold.state & LEASE_HANDLE != 0) => granted = 0,
            _ => {}
        }
        if granted & LEASE_READ == 0 {
            granted = 0; // nobody keeps what it writes without keeping what it reads
        }
        match wanted {
            Wanted::Oplock(_) => self.grant_oplock(open, granted),
            Wanted::Lease { key, epoch, .. } => self.grant_lease(open, key, (requested, granted), epoch),
        }
    }

    fn grant_oplock(&mut self, open: u64, granted: u32) -> Granted {
        let state = of_level(level_of(granted));
        if state != 0 {
            let holder = Holder::Open(open);
            self.holds.push(Hold { holder, state, breaking: None, epoch: None, opens: vec![open] });
        }
        Granted { state, epoch: None, breaking: false }
    }

    fn grant_lease(
        &mut self,
        open: u64,
        key: LeaseKey,
        (requested, granted): (u32, u32),
        epoch: Option<u16>,
    ) -> Granted {
        let holder = Holder::Lease(key);
        let Some(hold) = self.holds.iter_mut().find(|hold| hold.holder == holder) else {
            let epoch = epoch.map(|epoch| epoch.wrapping_add(u16::from(granted != 0)));
            self.holds.push(Hold { holder, state: granted, breaking: None, epoch, opens: vec![open] });
            return Granted { state: granted, epoch, breaking: false };
        };
        hold.opens.push(open);
        // A lease grows by a request for more of all that it has, if all of that can be granted; it never shrinks so.
        let grows = hold.state & requested == hold.state && granted == requested && granted != hold.state;
        if grows && hold.breaking.is_none() {
            hold.state = granted;
            hold.epoch = hold.epoch.map(|epoch| epoch.wrapping_add(1));
        }
        let breaking = hold.breaking.is_some();
        Granted { state: hold.state, epoch: hold.epoch, breaking }
    }

    /// An oplock's break is acknowledged (MS-SMB2 3.3.5.22.1): gives the level that stays.
    pub fn acknowledge_oplock(&mut self, open: u64, level: u8) -> Result<u8, Status> {
        let at = self.holds.iter().position(|hold| hold.holder == Holder::Open(open));
        let at = at.filter(|at| self.holds[*at].breaking.is_some()).ok_or(Status::INVALID_OPLOCK_PROTOCOL)?;
        let told = self.holds[at].breaking.take().map_or(0, |breaking| breaking.told);
        let state = of_level(level) & told;
        if state == 0 {
            self.holds.remove(at);
        } else {
            self.holds[at].state = state;
        }
        match level {
            oplock::NONE | oplock::LEVEL_II => Ok(level_of(state)),
            _ => Err(Status::INVALID_OPLOCK_PROTOCOL),
        }
    }

    /// A lease's break is acknowledged (MS-SMB2 3.3.5.22.2): gives the next break, where it did not go far enough.
    pub fn acknowledge_lease(
        &mut self,
        key: LeaseKey,
        state: u32,
        now: Instant,
    ) -> Result<Option<Break>, Status> {
        let hold = self.holds.iter_mut().find(|hold| hold.holder == Holder::Lease(key));
        let hold = hold.ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
        let Some(breaking) = &mut hold.breaking else { return Err(Status::UNSUCCESSFUL) };
        if state & !breaking.told != 0 {
            return Err(Status::REQUEST_NOT_ACCEPTED);
        }
        let required = breaking.required;
        hold.state = state;
        if state & !required == 0 {
            hold.breaking = None;
            return Ok(None);
        }
        if state & (LEASE_WRITE | LEASE_HANDLE) == 0 {
            let last = hold.notification(required, false);
            (hold.state, hold.breaking) = (0, None);
            return Ok(Some(last));
        }
        // In steps: what is only read goes last.
        let told = required | (state & LEASE_READ);
        hold.breaking = Some(Breaking { told, required, since: now });
        Ok(Some(hold.notification(told, true)))
    }

    /// Ends the breaks that nobody has acknowledged in time: nothing is left to their holders (MS-SMB2 3.3.6.1, 3.3.6.4). Whether
    /// there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for hold in &mut self.holds {
            if hold.breaking.as_ref().is_some_and(|breaking| now - breaking.since >= BREAK_MAX) {
                (hold.state, hold.breaking, any) = (0, None, true);
            }
        }
        self.holds.retain(|hold| hold.is_lease() || hold.state != 0);
        any
    }

    /// Whether that break is still to be acknowledged.
    pub fn is_awaited(&self, sent: &Break) -> bool {
        let told = |hold: &Hold| hold.breaking.as_ref().is_some_and(|breaking| breaking.told == sent.to);
        self.holds.iter().any(|hold| hold.holder == sent.holder && told(hold))
    }

    /// The opens of each hold whose break is to be acknowledged.
    pub fn breaking(&self) -> impl Iterator<Item = &[u64]> {
        self.holds.iter().filter(|hold| hold.breaking.is_some()).map(|hold| hold.opens.as_slice())
    }

    /// When the first break runs out of time.
    pub fn next_expiry(&self) -> Option<Instant> {
        let since =
            self.holds.iter().filter_map(|hold| hold.breaking.as_ref()).map(|breaking| breaking.since);
        since.min().map(|since| since + BREAK_MAX)
    }

    /// An open is gone, and with its last one its lease: gives the key that is free again. Whether anything changed is in the
    /// first field.
    pub fn release(&mut self, open: u64) -> (bool, Option<LeaseKey>) {
        let Some(at) = self.holds.iter().position(|hold| hold.opens.contains(&open)) else {
            return (false, None);
        };
        self.holds[at].opens.retain(|other| *other != open);
        if !self.holds[at].opens.is_empty() {
            return (true, None);
        }
        match self.holds.remove(at).holder {
            Holder::Lease(key) => (true, Some(key)),
            Holder::Open(_) => (true, None),
        }
    }
}

/// The state bits of an oplock level.
pub fn of_level(level: u8) -> u32 {
    match level {
        oplock::LEVEL_II => LEASE_READ,
        oplock::EXCLUSIVE => LEASE_READ | LEASE_WRITE,
        oplock::BATCH => LEASE_READ | LEASE_WRITE | LEASE_HANDLE,
        _ => 0,
    }
}

/// The highest level within state bits.
pub fn level_of(state: u32) -> u8 {
    match (state & LEASE_READ != 0, state & LEASE_WRITE != 0, state & LEASE_HANDLE != 0) {
        (true, true, true) => oplock::BATCH,
        (true, true, false) => oplock::EXCLUSIVE,
        (true, false, _) => oplock::LEVEL_II,
        (false, ..) => oplock::NONE,
    }
}

#[cfg(test)]
#[path = "oplock_tests.rs"]
mod tests;
