//! What all opens of one file share while any of them lives (MS-FSA's Stream and Link): share modes, delete pending,
//! byte-range locks, oplocks and leases. One mutex per file; READ and WRITE take it only where there is something to check.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::create::context::{LEASE_HANDLE, LEASE_WRITE};
use smb_proto::msg::create::share_access;

use super::lock::LockList;
use super::open::locked;
use super::oplock::{Asker, Break, Circumstances, Granted, LeaseKey, Opening, Oplocks, Verdict, Wanted};
use super::share::FileKey;
use super::share_mode::ShareMode;

/// Access with which an open is no company to others' caches: it only looks at attributes.
const LOOKING: u32 = access::READ_ATTRIBUTES | access::WRITE_ATTRIBUTES | access::SYNCHRONIZE;

/// What the opens of one file share.
pub struct FileEntry {
    /// The file.
    pub key: FileKey,
    state: Mutex<FileState>,
    locks_held: AtomicUsize,
    /// Oplocks and leases held: 0 lets data requests pass without the mutex.
    holds: AtomicUsize,
    /// It was deleted, which nobody has told yet.
    deleted: AtomicBool,
}

/// One open's part in the file, from its admission on.
struct Use {
    asker: Asker,
    mode: ShareMode,
    /// It is of a named stream of the file: `mode` is the stream's.
    of_stream: bool,
}

impl Use {
    /// Whether an open of the file can't stand beside it. A stream's only bars the file's deletion, by not sharing it
    /// (MS-FSA 2.1.5.1.2).
    fn bars(&self, using: ShareMode) -> bool {
        if self.of_stream {
            using.access & access::DELETE != 0 && self.mode.share & share_access::DELETE == 0
        } else {
            self.mode.conflicts(using)
        }
    }
}

/// What is guarded by a file's mutex.
#[derive(Default)]
pub(super) struct FileState {
    uses: Vec<Use>,
    delete_pending: bool,
    locks: LockList,
    oplocks: Oplocks,
}

/// An open that asks to be admitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// Who.
    pub(super) asker: Asker,
    /// What it will hold.
    pub(super) mode: ShareMode,
    /// The access that its disposition needs besides.
    pub(super) needs: u32,
    /// It empties or replaces the file.
    pub(super) overwrites: bool,
    /// It will delete the file when it is closed.
    pub(super) deletes: bool,
    /// It has waited before.
    pub(super) again: bool,
}

impl FileEntry {
    /// A file that is about to be opened first.
    pub(super) fn new(key: FileKey) -> Self {
        let (state, locks_held, holds) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { key, state, locks_held, holds, deleted: AtomicBool::new(false) }
    }

    /// Takes the mutex.
    pub(super) fn lock(&self) -> Guard<'_> {
        Guard { entry: self, state: locked(&self.state) }
    }

    /// Whether the file goes away with its last open.
    pub fn delete_pending(&self) -> bool {
        self.lock().state.delete_pending
    }

    /// Marks the file for deletion, or takes the mark back.
    pub fn set_delete_pending(&self, pending: bool) {
        self.lock().state.delete_pending = pending;
    }

    /// The file was deleted at a close.
    pub fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Whether the file was deleted; told to one who asks.
    pub fn take_deleted(&self) -> bool {
        self.deleted.swap(false, Ordering::AcqRel)
    }

    /// Whether an open but `id`'s could not stand beside `mode`.
    pub fn conflicts(&self, id: u64, mode: ShareMode) -> bool {
        self.lock().state.uses.iter().any(|held| held.asker.open != id && held.bars(mode))
    }

    /// Whether any of the file's named streams is open: it keeps its name then.
    pub fn has_open_streams(&self) -> bool {
        self.lock().state.uses.iter().any(|held| held.of_stream)
    }

    /// Works on the locks.
    pub fn with_locks<T>(&self, work: impl FnOnce(&mut LockList) -> T) -> T {
        work(&mut self.lock().state.locks)
    }

    /// Whether the open may read or write there; no mutex where nothing is locked.
    pub fn check_io(&self, id: u64, offset: u64, length: u64, write: bool) -> Result<(), Status> {
        if self.locks_held.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.lock().state.locks.check(id, offset, length, write)
    }

    /// Data is about to change, or to be locked: the breaks to send. No mutex where nothing is cached.
    pub fn change(&self, asker: Asker) -> Vec<Break> {
        if self.holds.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.lock().state.oplocks.change(asker, Instant::now())
    }

    /// An entry of this directory changed, by an open under that parent's lease: the breaks to send.
    pub fn change_entries(&self, parent: Option<LeaseKey>) -> Vec<Break> {
        self.lock().state.oplocks.change_entries(parent, Instant::now())
    }

    /// The file is about to be renamed or deleted; `batch`: it is replaced, or its directory renamed.
    pub fn evict(&self, asker: Asker, batch: bool) -> Verdict {
        if self.holds.load(Ordering::Acquire) == 0 {
            return Verdict::default();
        }
        let mut guard = self.lock();
        let now = Instant::now();
        guard.state.oplocks.expire(now);
        guard.state.oplocks.evict(asker, batch, now)
    }

    /// Whether an open's cache guards the file while its client is away (MS-SMB2 3.3.7.1): a batch oplock or handle lease,
    /// unbroken, and for locks one that no other reader stands beside.
    pub fn is_guarded_by(&self, asker: Asker) -> bool {
        let guard = self.lock();
        let (held, locks) = (guard.state.oplocks.granted_to(asker), &guard.state.locks);
        held.state & LEASE_HANDLE != 0
            && !held.breaking
            && !guard.state.delete_pending
            && (held.state & LEASE_WRITE != 0 || !locks.any_of(asker.open))
    }

    /// Works on the oplocks.
    pub fn with_oplocks<T>(&self, work: impl FnOnce(&mut Oplocks) -> T) -> T {
        work(&mut self.lock().state.oplocks)
    }

    /// The opens of each hold whose break is to be acknowledged; no mutex where nothing is cached.
    pub(super) fn breaking(&self) -> Vec<Vec<u64>> {
        if self.holds.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.lock().state.oplocks.breaking().map(<[u64]>::to_vec).collect()
    }

    /// When the first break of this file runs out of time.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.lock().state.oplocks.next_expiry()
    }
}

/// A file whose mutex is held; counts what READ and WRITE look at when it is given back.
pub(super) struct Guard<'e> {
    entry: &'e FileEntry,
    state: MutexGuard<'e, FileState>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.entry.locks_held.store(self.state.locks.len(), Ordering::Release);
        self.entry.holds.store(self.state.oplocks.len(), Ordering::Release);
    }
}

impl Guard<'_> {
    /// Admits an open (MS-FSA 2.1.5.1.2): delete pending, share modes, others' caches. The breaks are to be sent in any case.
    pub(super) fn admit(&mut self, ask: Admission, breaks: &mut Vec<Break>) -> Result<Admitted, Status> {
        let state = &mut *self.state;
        if state.delete_pending {
            return Err(Status::DELETE_PENDING);
        }
        let now = Instant::now();
        state.oplocks.expire(now);
        let using = ShareMode { access: ask.mode.access | ask.needs, ..ask.mode };
        let violates = state.uses.iter().any(|held| held.bars(using));
        let opening =
            Opening { access: using.access, overwrites: ask.overwrites, violates, again: ask.again };
        let mut verdict = state.oplocks.open(ask.asker, opening, now);
        if ask.deletes && !verdict.wait {
            let evicted = state.oplocks.evict(ask.asker, false, now);
            verdict.wait |= evicted.wait;
            verdict.breaks.extend(evicted.breaks);
        }
        breaks.extend(verdict.breaks);
        match (verdict.wait, violates) {
            (true, _) => Ok(Admitted::Later),
            (false, true) => Err(Status::SHARING_VIOLATION),
            (false, false) => {
                state.uses.push(Use { asker: ask.asker, mode: ask.mode, of_stream: false });
                Ok(Admitted::Now)
            }
        }
    }

    /// Admits an open of one of the file's streams: it keeps the file from being deleted under it.
    pub(super) fn admit_stream(&mut self, asker: Asker, mode: ShareMode) -> Result<(), Status> {
        if self.state.delete_pending {
            return Err(Status::DELETE_PENDING);
        }
        self.state.uses.push(Use { asker, mode, of_stream: true });
        Ok(())
    }

    /// Grants what is wanted to an open that was admitted.
    pub(super) fn grant(
        &mut self,
        asker: Asker,
        wanted: Wanted,
        overwritten: bool,
        directory: bool,
    ) -> Granted {
        let state = &mut *self.state;
        let company = |held: &Use| {
            let same_lease = asker.lease.is_some() && held.asker.lease == asker.lease;
            held.asker.open != asker.open
                && !same_lease
                && !held.of_stream
                && held.mode.access & !LOOKING != 0
        };
        let file = Circumstances {
            others: state.uses.iter().any(company),
            locked: !overwritten && !state.locks.is_empty(),
            directory,
        };
        state.oplocks.grant(asker.open, wanted, file)
    }

    /// An open is closing: its locks and caches go, and its share mode unless it is the last. Gives whether the file is to be
    /// deleted, and the lease key that is free again.
    pub(super) fn close(&mut self, id: u64, delete: bool) -> (bool, Option<LeaseKey>) {
        let state = &mut *self.state;
        state.locks.release(id);
        let (_, lease) = state.oplocks.release(id);
        state.delete_pending |= delete;
        // Of two that close at once, the later one here is the last: each gives its share mode up under this mutex, and only
        // the last keeps it, until the file is gone.
        let last = state.uses.iter().all(|held| held.asker.open == id);
        if !last {
            state.uses.retain(|held| held.asker.open != id);
        }
        (state.delete_pending && last, lease)
    }

    /// An open gives up what it caches: gives the lease key that is free again.
    pub(super) fn uncache(&mut self, id: u64) -> Option<LeaseKey> {
        self.state.oplocks.release(id).1
    }

    /// Takes an open's share mode out; whether no open is left.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        self.state.uses.retain(|held| held.asker.open != id);
        self.state.uses.is_empty()
    }
}

/// How an admission went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// The share mode is held.
    Now,
    /// A break has to be acknowledged first.
    Later,
}
