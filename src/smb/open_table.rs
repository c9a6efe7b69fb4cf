//! The table of opens (MS-SMB2 3.3.1.10), of the files that they are of, and of leases (3.3.1.11).
//!
//! The maps are sharded, and each file's state has its own mutex, so that READ and WRITE on different files never wait for one
//! another; without locks and caches on a file they take no mutex of it at all. Lock order: a shard of files, then a file's
//! state, then the leases.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Instant;

use smb_proto::Status;
use smb_proto::msg::FileId;
use smb_proto::msg::create::oplock;

use super::app_instance::AppInstances;
use super::audit;
use super::changes::{Untold, share_id};
use super::connection::Connection;
use super::directory_lease::LeasedDirectories;
use super::durable::{AWAY_MAX, Guids, Owner};
use super::file_entry::FileEntry;
use super::gate::{Gate, Intent};
use super::name;
use super::open::{Home, Open, locked};
use super::oplock::{Asker, Granted, LeaseKey, Wanted};
use super::server::ShareEntry;
use super::share::{CreateAction, File, FileKey, SharePath};
use super::share_mode::ShareMode;

/// Opens of one session: what Windows' own clients stay far below, and the most that `smb2.maxfid` asks for.
pub const OPENS_PER_SESSION_MAX: usize = 65_536;
/// Opens in the whole server: about a gigabyte of tables and descriptors at worst.
pub const OPENS_MAX: usize = 1 << 20;
/// Shards of each map: a few times the cores of a big machine.
const SHARDS: usize = 64;

type FileShard = Mutex<HashMap<FileKey, Arc<FileEntry>>>;
type OpenShard = RwLock<HashMap<u64, Arc<Open>>>;

/// All opens of a server.
pub struct OpenTable {
    files: Vec<FileShard>,
    opens: Vec<OpenShard>,
    per_session: Mutex<HashMap<u64, usize>>,
    count: AtomicUsize,
    leases: Mutex<HashMap<LeaseKey, Arc<FileEntry>>>,
    /// Directories that are leased.
    pub directories: LeasedDirectories,
    /// Opens whose clients are away.
    away: Mutex<HashSet<u64>>,
    /// CREATEs of version 2.
    pub guids: Arc<Guids>,
    /// CREATEs of applications that fail over.
    pub apps: AppInstances,
    next: AtomicU64,
    hasher: RandomState,
}

impl Default for OpenTable {
    fn default() -> Self {
        Self {
            files: (0..SHARDS).map(|_| FileShard::default()).collect(),
            opens: (0..SHARDS).map(|_| OpenShard::default()).collect(),
            per_session: Mutex::default(),
            count: AtomicUsize::new(0),
            leases: Mutex::default(),
            directories: LeasedDirectories::default(),
            away: Mutex::default(),
            guids: Arc::default(),
            apps: AppInstances::default(),
            next: AtomicU64::new(1),
            hasher: RandomState::new(),
        }
    }
}

/// What [`OpenTable::insert`] makes an open of.
pub struct NewOpen {
    /// The tree.
    pub tree_id: u32,
    /// The connection.
    pub connection: Weak<Connection>,
    /// The oplock or lease that is asked for.
    pub wanted: Wanted,
    /// The lease of its directory.
    pub parent_lease: Option<LeaseKey>,
    /// Whose it is.
    pub owner: Owner,
    /// The share.
    pub share: Arc<ShareEntry>,
    /// What the CREATE did.
    pub action: CreateAction,
    /// GrantedAccess.
    pub granted: u32,
    /// CreateOptions.
    pub options: u32,
    /// FILE_DELETE_ON_CLOSE.
    pub delete_on_close: bool,
    /// The file.
    pub file: Arc<dyn File>,
}

impl OpenTable {
    pub(super) fn file_shard(&self, key: &FileKey) -> MutexGuard<'_, HashMap<FileKey, Arc<FileEntry>>> {
        locked(&self.files[self.hasher.hash_one(key) as usize % SHARDS])
    }

    fn open_shard(&self, id: u64) -> &OpenShard {
        &self.opens[id as usize % SHARDS]
    }

    /// The open of that FileId within a session and tree; FILE_CLOSED where there is none (MS-SMB2 3.3.5.2.7).
    pub fn get(&self, id: FileId, session_id: u64, tree_id: u32) -> Result<Arc<Open>, Status> {
        let shard = self.open_shard(id.volatile).read().unwrap_or_else(PoisonError::into_inner);
        let open = shard.get(&id.volatile).ok_or(Status::FILE_CLOSED)?;
        if open.id != id || open.session_id() != session_id || open.tree_id() != tree_id {
            return Err(Status::FILE_CLOSED);
        }
        Ok(Arc::clone(open))
    }

    /// The open of that volatile FileId, whosever it is.
    pub fn by_id(&self, volatile: u64) -> Option<Arc<Open>> {
        self.open_shard(volatile).read().unwrap_or_else(PoisonError::into_inner).get(&volatile).cloned()
    }

    /// A gate for an open that `session_id` is about to make.
    pub fn gate(&self, session_id: u64, intent: Intent) -> Result<Gate<'_>, Status> {
        self.reserve(session_id)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Gate {
            table: self,
            session_id,
            id,
            intent,
            entry: None,
            base: None,
            breaks: Vec::new(),
            waits_for: None,
        })
    }

    /// Whether the key is that of a lease on another file.
    pub(super) fn is_leased_elsewhere(&self, lease: LeaseKey, key: &FileKey) -> bool {
        locked(&self.leases).get(&lease).is_some_and(|entry| entry.key != *key)
    }

    /// The file that is leased under that key.
    pub fn leased(&self, lease: LeaseKey) -> Option<Arc<FileEntry>> {
        locked(&self.leases).get(&lease).cloned()
    }

    fn reserve(&self, session_id: u64) -> Result<(), Status> {
        let mut per_session = locked(&self.per_session);
        let own = per_session.entry(session_id).or_default();
        if *own >= OPENS_PER_SESSION_MAX || self.count.load(Ordering::Relaxed) >= OPENS_MAX {
            return Err(Status::TOO_MANY_OPENED_FILES);
        }
        *own += 1;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn unreserve(&self, session_id: u64) {
        let mut per_session = locked(&self.per_session);
        if let Some(own) = per_session.get_mut(&session_id) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                per_session.remove(&session_id);
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes an open of what the share opened through `gate`, and grants it what it wants and may have.
    pub fn insert(&self, mut gate: Gate<'_>, new: NewOpen) -> Result<(Arc<Open>, Granted), Status> {
        let entry = gate.entry.clone().ok_or(Status::INTERNAL_ERROR)?;
        // Some files nobody may cache; directories only by leases of version 2.
        let directory = new.file.is_directory();
        let leased = matches!(new.wanted, Wanted::Lease { epoch: Some(_), .. });
        let cacheable = !new.file.is_uncached()
            && (!directory
                || leased
                    && self.directories.enter(
                        share_id(&new.share),
                        &new.file.path().components,
                        gate.id,
                        &entry,
                    ));
        let asker = Asker { open: gate.id, lease: gate.intent.lease.filter(|_| cacheable) };
        let overwritten = matches!(new.action, CreateAction::Overwritten | CreateAction::Superseded);
        let wanted = if cacheable { new.wanted } else { Wanted::Oplock(oplock::NONE) };
        // Held until the open can be found: nothing may break what nobody can be told of.
        let mut guard = entry.lock();
        if let Some(lease) = asker.lease {
            let mut leases = locked(&self.leases);
            // Of two files that ask for one key at once, one comes here second.
            if leases.get(&lease).is_some_and(|other| other.key != entry.key) {
                self.directories.remove(gate.id);
                return Err(Status::INVALID_PARAMETER);
            }
            leases.insert(lease, Arc::clone(&entry));
        }
        let granted = guard.grant(asker, wanted, overwritten, directory);
        let open = Arc::new(Open {
            id: FileId { persistent: gate.id, volatile: gate.id },
            home: Home {
                session_id: AtomicU64::new(gate.session_id),
                tree_id: AtomicU32::new(new.tree_id),
                connection: Mutex::new(new.connection),
            },
            lease: asker.lease,
            parent_lease: new.parent_lease,
            owner: new.owner,
            share: new.share,
            action: new.action,
            life: Mutex::default(),
            fresh: AtomicBool::new(true),
            sequence: Arc::default(),
            granted: new.granted,
            options: new.options,
            file: new.file,
            entry: Arc::clone(&entry),
            base: gate.base.take(), // as `entry`
            delete_on_close: new.delete_on_close,
            position: AtomicU64::new(0),
            state: Mutex::default(),
            untold: Untold::default(),
            enumeration: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        self.apps.enter(&open.owner, gate.id);
        gate.entry = None; // the open holds the share mode from here on
        gate.breaks = Vec::new();
        let mut shard = self.open_shard(gate.id).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(gate.id, Arc::clone(&open));
        drop(shard);
        drop(guard);
        gate.waits_for = None;
        std::mem::forget(gate); // its place in the counts is the open's now
        Ok((open, granted))
    }

    /// Closes an open: locks are released, the last close deletes what is marked (MS-FSA 2.1.5.5). `clean`: a client asked
    /// for it. The first error is the answer. A second close of the same open finds it closed.
    pub fn close(&self, open: &Arc<Open>, clean: bool) -> Result<(), Status> {
        if open.closed.swap(true, Ordering::AcqRel) {
            return Err(Status::FILE_CLOSED);
        }
        let id = open.id.volatile;
        self.open_shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        locked(&self.away).remove(&id);
        self.guids.remove(&open.owner, id);
        self.apps.remove(&open.owner, id);
        self.directories.remove(id);
        locked(&open.enumeration).listing = None;
        let delete = {
            let mut guard = open.entry.lock();
            let (delete, lease) = guard.close(id, open.delete_on_close);
            if let Some(lease) = lease {
                locked(&self.leases).remove(&lease);
            }
            delete
        };
        let closed = open.file.close(clean);
        // The share mode goes last: until the file is gone, an open of its name meets DELETE_PENDING.
        let deleted = if delete { open.file.delete() } else { Ok(()) };
        if delete {
            audit::deleted(open.session_id(), &name::display(&open.file.path()), deleted);
        }
        if delete && deleted.is_ok() {
            open.entry.set_deleted();
        }
        let deleted = deleted.or_else(stays);
        self.release(&open.entry, id);
        let base_deleted = self.leave_base(open);
        self.unreserve(open.session_id());
        closed.and(deleted).and(base_deleted)
    }

    /// A stream's open leaves its file, which goes with it where it was only kept by that.
    fn leave_base(&self, open: &Open) -> Result<(), Status> {
        let Some(base) = &open.base else { return Ok(()) };
        let id = open.id.volatile;
        let (delete, _) = base.lock().close(id, false);
        let deleted = if delete { open.file.delete_base() } else { Ok(()) };
        if delete && deleted.is_ok() {
            base.set_deleted();
        }
        self.release(base, id);
        deleted.or_else(stays)
    }

    pub(super) fn release(&self, entry: &Arc<FileEntry>, id: u64) {
        let mut files = self.file_shard(&entry.key);
        if entry.lock().leave(id) {
            files.remove(&entry.key);
        }
    }

    /// An open loses its session: whether it waits for its client. Otherwise it is to be closed.
    pub fn leave(&self, open: &Arc<Open>) -> bool {
        let guarded = open.entry.is_guarded_by(open.asker());
        let mut life = locked(&open.life);
        let Some(wait) = life.keeps(guarded).filter(|_| !open.is_closed()) else {
            return false;
        };
        {
            let mut away = locked(&self.away);
            if away.len() >= AWAY_MAX {
                return false;
            }
            away.insert(open.id.volatile);
        }
        life.away = Some(Instant::now() + wait);
        if !guarded {
            self.uncache(open); // a resilient one: what is broken meanwhile, nobody would hear of
        }
        self.move_to(open, 0, 0, Weak::new());
        true
    }

    /// An open stays without its oplock or its part in a lease.
    pub(super) fn uncache(&self, open: &Open) {
        let free = open.entry.lock().uncache(open.id.volatile);
        if let Some(lease) = free {
            locked(&self.leases).remove(&lease);
        }
    }

    /// Gives an open that waits for its client to a new session.
    pub fn take_back(
        &self,
        open: &Arc<Open>,
        session_id: u64,
        tree_id: u32,
        connection: Weak<Connection>,
    ) -> Result<(), Status> {
        let mut life = locked(&open.life);
        if life.away.is_none() || open.is_closed() {
            return Err(Status::OBJECT_NAME_NOT_FOUND);
        }
        if locked(&self.per_session).get(&session_id).is_some_and(|own| *own >= OPENS_PER_SESSION_MAX) {
            return Err(Status::TOO_MANY_OPENED_FILES);
        }
        life.away = None;
        locked(&self.away).remove(&open.id.volatile);
        self.move_to(open, session_id, tree_id, connection);
        Ok(())
    }

    /// The opens whose clients did not come back in time; nobody can have them back any more, and they are to be closed.
    pub fn overdue(&self, now: Instant) -> Vec<Arc<Open>> {
        let ids: Vec<_> = locked(&self.away).iter().copied().collect();
        let opens = ids.into_iter().filter_map(|id| self.by_id(id));
        opens.filter(|open| locked(&open.life).away.take_if(|until| *until <= now).is_some()).collect()
    }

    /// Counts an open to another session.
    fn move_to(&self, open: &Open, session_id: u64, tree_id: u32, connection: Weak<Connection>) {
        *locked(&open.home.connection) = connection;
        open.home.tree_id.store(tree_id, Ordering::Release);
        let before = open.home.session_id.swap(session_id, Ordering::AcqRel);
        let mut per_session = locked(&self.per_session);
        *per_session.entry(session_id).or_default() += 1;
        if let Some(own) = per_session.get_mut(&before) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                per_session.remove(&before);
            }
        }
    }

    /// The opens of a session, or of one of its trees.
    pub fn of(&self, session_id: u64, tree_id: Option<u32>) -> Vec<Arc<Open>> {
        self.select(|open| {
            open.session_id() == session_id && tree_id.is_none_or(|tree_id| open.tree_id() == tree_id)
        })
    }

    /// Every open that `which` picks. For teardown and renames of directories: it walks the whole table.
    pub fn select(&self, which: impl Fn(&Open) -> bool) -> Vec<Arc<Open>> {
        let mut found = Vec::new();
        for shard in &self.opens {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            found.extend(shard.values().filter(|open| which(open)).cloned());
        }
        found
    }

    /// What is open below a directory of a share.
    pub fn below(&self, share: &Arc<ShareEntry>, directory: &SharePath) -> Vec<Arc<Open>> {
        let depth = directory.components.len();
        let below = |open: &Open| {
            if !Arc::ptr_eq(&open.share, share) {
                return false; // another's paths, though it may lie on the same disk
            }
            let path = open.file.path();
            path.components.len() > depth && path.components.starts_with(&directory.components)
        };
        self.select(below)
    }

    /// A file that is open, or on its way.
    pub fn entry(&self, key: &FileKey) -> Option<Arc<FileEntry>> {
        self.file_shard(key).get(key).cloned()
    }

    /// Whether an open of that file could not stand beside `mode`.
    pub fn bars(&self, key: &FileKey, mode: ShareMode) -> bool {
        let entry = self.file_shard(key).get(key).cloned();
        entry.is_some_and(|entry| entry.conflicts(0, mode))
    }

    /// How many opens there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A directory that is not empty by now stays, and its close is no failure (MS-FSA 2.1.5.5).
fn stays(status: Status) -> Result<(), Status> {
    if status == Status::DIRECTORY_NOT_EMPTY { Ok(()) } else { Err(status) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use smb_proto::fscc::access;

    use super::*;
    use crate::smb::share::{OpenGate, Refusal};

    fn share(share: u32) -> Intent {
        Intent { share, ..Intent::default() }
    }

    fn key(file: u64) -> FileKey {
        FileKey { volume: 1, file, stream: String::new() }
    }

    #[test]
    fn a_gate_holds_its_share_mode_until_it_is_dropped() {
        let table = OpenTable::default();
        let mut first = table.gate(1, share(0)).unwrap();
        first.admit(&key(1), true, access::READ_DATA).unwrap();
        let mut second = table.gate(1, share(7)).unwrap();
        let refused = second.admit(&key(1), true, access::READ_DATA).unwrap_err();
        assert_eq!(refused, Refusal::Status(Status::SHARING_VIOLATION));
        second.admit(&key(2), true, access::READ_DATA).unwrap();
        drop(first);
        assert!(table.entry(&key(1)).is_none());
        let mut third = table.gate(1, share(7)).unwrap();
        third.admit(&key(1), true, access::READ_DATA).unwrap();
        drop((second, third));
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_marked_for_deletion_cannot_be_opened() {
        let table = OpenTable::default();
        let mut first = table.gate(1, share(7)).unwrap();
        first.admit(&key(1), true, access::DELETE).unwrap();
        first.entry.as_ref().unwrap().set_delete_pending(true);
        let refused =
            table.gate(1, share(7)).unwrap().admit(&key(1), true, access::READ_ATTRIBUTES).unwrap_err();
        assert_eq!(refused, Refusal::Status(Status::DELETE_PENDING));
    }

    #[test]
    fn opens_of_a_session_are_bounded() {
        let table = OpenTable::default();
        locked(&table.per_session).insert(1, OPENS_PER_SESSION_MAX);
        assert_eq!(table.gate(1, share(7)).err(), Some(Status::TOO_MANY_OPENED_FILES));
        assert!(table.gate(2, share(7)).is_ok());
    }
}
