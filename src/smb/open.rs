//! The table of opens (MS-SMB2 3.3.1.10) and, per file that is open, what all its opens share: share modes, delete pending,
//! byte-range locks.
//!
//! Both maps are sharded, and each file's state has its own mutex, so that READ and WRITE on different files never wait for
//! one another; without locks on a file they take no mutex of it at all. Lock order: a shard of files, then a file's state.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::FileId;

use super::lock::{LockList, Sequences};
use super::pattern::Pattern;
use super::share::{DirEntry, File, FileKey, Listing, OpenGate, Refusal, SharePath};
use super::share_mode::ShareMode;

/// Opens of one session: what Windows' own clients stay far below, and the most that `smb2.maxfid` asks for.
pub const OPENS_PER_SESSION_MAX: usize = 65_536;
/// Opens in the whole server: about a gigabyte of tables and descriptors at worst.
pub const OPENS_MAX: usize = 1 << 20;
/// Shards of each map: a few times the cores of a big machine.
const SHARDS: usize = 64;

/// A position in a directory being listed.
#[derive(Default)]
pub struct Enumeration {
    /// The names, once the first query came.
    pub listing: Option<Box<dyn Listing>>,
    /// What they are matched against.
    pub pattern: Option<Pattern>,
    /// A name that did not fit the last answer.
    pub pending: Option<DirEntry>,
    /// Whether any name has matched since the scan began.
    pub found: bool,
}

/// What changes while a file is open.
#[derive(Default)]
pub struct OpenState {
    /// The mode set by FileModeInformation.
    pub mode: u32,
    /// LockSequenceArray.
    pub sequences: Sequences,
}

/// One open.
pub struct Open {
    /// Its FileId.
    pub id: FileId,
    /// The session that it belongs to.
    pub session_id: u64,
    /// The tree that it belongs to.
    pub tree_id: u32,
    /// GrantedAccess.
    pub granted: u32,
    /// CreateOptions.
    pub options: u32,
    /// What the share opened.
    pub file: Arc<dyn File>,
    /// What it shares with other opens of the file.
    pub entry: Arc<FileEntry>,
    /// FILE_DELETE_ON_CLOSE was asked for.
    pub delete_on_close: bool,
    /// CurrentByteOffset: kept for FilePositionInformation only, so each READ moves it without a mutex.
    pub position: AtomicU64,
    /// Changing state.
    pub state: Mutex<OpenState>,
    /// Directory listing; apart from `state`, since reading a directory may take long.
    pub enumeration: Mutex<Enumeration>,
    closed: AtomicBool,
}

/// Takes a mutex; what it guards is valid between any two statements, so a panic elsewhere spoils nothing.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    /// ACCESS_DENIED unless any of `wanted` was granted.
    pub fn require(&self, wanted: u32) -> Result<(), Status> {
        if self.granted & wanted == 0 { Err(Status::ACCESS_DENIED) } else { Ok(()) }
    }

    /// Whether it was closed; a parked request finds out so.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// What the opens of one file share.
pub struct FileEntry {
    /// The file.
    pub key: FileKey,
    state: Mutex<FileState>,
    locks_held: AtomicUsize,
}

#[derive(Default)]
struct FileState {
    uses: Vec<(u64, ShareMode)>,
    delete_pending: bool,
    locks: LockList,
}

impl FileEntry {
    /// Whether the file goes away with its last open.
    pub fn delete_pending(&self) -> bool {
        locked(&self.state).delete_pending
    }

    /// Marks the file for deletion, or takes the mark back.
    pub fn set_delete_pending(&self, pending: bool) {
        locked(&self.state).delete_pending = pending;
    }

    /// Whether an open but `id`'s could not stand beside `mode`.
    pub fn conflicts(&self, id: u64, mode: ShareMode) -> bool {
        locked(&self.state).uses.iter().any(|(other, held)| *other != id && held.conflicts(mode))
    }

    /// Works on the locks.
    pub fn with_locks<T>(&self, work: impl FnOnce(&mut LockList) -> T) -> T {
        let mut state = locked(&self.state);
        let result = work(&mut state.locks);
        self.locks_held.store(state.locks.len(), Ordering::Release);
        result
    }

    /// Whether the open may read or write there; no mutex where nothing is locked.
    pub fn check_io(&self, id: u64, offset: u64, length: u64, write: bool) -> Result<(), Status> {
        if self.locks_held.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        locked(&self.state).locks.check(id, offset, length, write)
    }
}

type FileShard = Mutex<HashMap<FileKey, Arc<FileEntry>>>;
type OpenShard = RwLock<HashMap<u64, Arc<Open>>>;

/// All opens of a server.
pub struct OpenTable {
    files: Vec<FileShard>,
    opens: Vec<OpenShard>,
    per_session: Mutex<HashMap<u64, usize>>,
    count: AtomicUsize,
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
            next: AtomicU64::new(1),
            hasher: RandomState::new(),
        }
    }
}

/// What [`OpenTable::insert`] makes an open of.
pub struct NewOpen {
    /// The session.
    pub session_id: u64,
    /// The tree.
    pub tree_id: u32,
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
    fn file_shard(&self, key: &FileKey) -> MutexGuard<'_, HashMap<FileKey, Arc<FileEntry>>> {
        locked(&self.files[self.hasher.hash_one(key) as usize % SHARDS])
    }

    fn open_shard(&self, id: u64) -> &OpenShard {
        &self.opens[id as usize % SHARDS]
    }

    /// The open of that FileId within a session and tree; FILE_CLOSED where there is none (MS-SMB2 3.3.5.2.7).
    pub fn get(&self, id: FileId, session_id: u64, tree_id: u32) -> Result<Arc<Open>, Status> {
        let shard = self.open_shard(id.volatile).read().unwrap_or_else(PoisonError::into_inner);
        let open = shard.get(&id.volatile).ok_or(Status::FILE_CLOSED)?;
        if open.id != id || open.session_id != session_id || open.tree_id != tree_id {
            return Err(Status::FILE_CLOSED);
        }
        Ok(Arc::clone(open))
    }

    /// A gate for an open that `session_id` is about to make, sharing `share`.
    pub fn gate(&self, session_id: u64, share: u32) -> Result<Gate<'_>, Status> {
        self.reserve(session_id)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Gate { table: self, session_id, id, share, entry: None })
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

    fn unreserve(&self, session_id: u64) {
        let mut per_session = locked(&self.per_session);
        if let Some(own) = per_session.get_mut(&session_id) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                per_session.remove(&session_id);
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes an open of what the share opened through `gate`.
    pub fn insert(&self, mut gate: Gate<'_>, new: NewOpen) -> Result<Arc<Open>, Status> {
        let entry = gate.entry.clone().ok_or(Status::INTERNAL_ERROR)?;
        let open = Arc::new(Open {
            id: FileId { persistent: gate.id, volatile: gate.id },
            session_id: new.session_id,
            tree_id: new.tree_id,
            granted: new.granted,
            options: new.options,
            file: new.file,
            entry,
            delete_on_close: new.delete_on_close,
            position: AtomicU64::new(0),
            state: Mutex::default(),
            enumeration: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        gate.entry = None; // the open holds the share mode from here on
        let mut shard = self.open_shard(gate.id).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(gate.id, Arc::clone(&open));
        drop(shard);
        std::mem::forget(gate); // its place in the counts is the open's now
        Ok(open)
    }

    /// Closes an open: locks are released, the last close deletes what is marked (MS-FSA 2.1.5.5). `clean`: a client asked
    /// for it. The first error is the answer. A second close of the same open finds it closed.
    pub fn close(&self, open: &Arc<Open>, clean: bool) -> Result<(), Status> {
        if open.closed.swap(true, Ordering::AcqRel) {
            return Err(Status::FILE_CLOSED);
        }
        let id = open.id.volatile;
        self.open_shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        locked(&open.enumeration).listing = None;
        let delete = {
            let mut state = locked(&open.entry.state);
            state.locks.release(id);
            open.entry.locks_held.store(state.locks.len(), Ordering::Release);
            state.delete_pending |= open.delete_on_close;
            // Of two that close at once, the later one here is the last: each gives its share mode up under this mutex,
            // and only the last keeps it, until the file is gone.
            let last = state.uses.iter().all(|(other, _)| *other == id);
            if !last {
                state.uses.retain(|(other, _)| *other != id);
            }
            state.delete_pending && last
        };
        let closed = open.file.close(clean);
        // The share mode goes last: until the file is gone, an open of its name meets DELETE_PENDING.
        let deleted = if delete { open.file.delete() } else { Ok(()) };
        self.release(&open.entry, id);
        self.unreserve(open.session_id);
        closed.and(deleted)
    }

    fn release(&self, entry: &Arc<FileEntry>, id: u64) {
        let mut files = self.file_shard(&entry.key);
        let mut state = locked(&entry.state);
        state.uses.retain(|(other, _)| *other != id);
        if state.uses.is_empty() {
            files.remove(&entry.key);
        }
    }

    /// Closes what a lost connection, a logoff or a tree disconnect leaves open: all of a session, or of one of its trees
    /// (MS-SMB2 3.3.5.6, 3.3.5.8, 3.3.7.1). Gives the opens, so that who waits for them can be woken.
    pub fn close_all(&self, session_id: u64, tree_id: Option<u32>, clean: bool) -> Vec<Arc<Open>> {
        let opens = self.select(|open| {
            open.session_id == session_id && tree_id.is_none_or(|tree_id| open.tree_id == tree_id)
        });
        for open in &opens {
            if let Err(status) = self.close(open, clean) {
                tracing::debug!(%status, file = ?open.file.path().components, "closing an open that was left");
            }
        }
        opens
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

    /// Whether anything below this directory is open: it can't be renamed then (MS-FSA 2.1.5.14.11).
    pub fn is_open_below(&self, volume: u64, directory: &SharePath) -> bool {
        let depth = directory.components.len();
        let below = |open: &Open| {
            let path = open.file.path();
            open.entry.key.volume == volume
                && path.components.len() > depth
                && path.components.starts_with(&directory.components)
        };
        !self.select(below).is_empty()
    }

    /// Whether a file is open at all, or on its way.
    pub fn is_open(&self, key: &FileKey) -> bool {
        self.file_shard(key).contains_key(key)
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

/// Admits one open: reserves its share mode before the share touches the file. Dropped unused, it takes that back.
pub struct Gate<'t> {
    table: &'t OpenTable,
    session_id: u64,
    id: u64,
    share: u32,
    entry: Option<Arc<FileEntry>>,
}

impl OpenGate for Gate<'_> {
    fn admit(&mut self, key: &FileKey, _existed: bool, granted: u32) -> Result<(), Refusal> {
        let mode = ShareMode { access: granted & access::ALL, share: self.share };
        let mut files = self.table.file_shard(key);
        let entry = files.entry(key.clone()).or_insert_with(|| {
            let (state, locks_held) = (Mutex::default(), AtomicUsize::new(0));
            Arc::new(FileEntry { key: key.clone(), state, locks_held })
        });
        let mut state = locked(&entry.state);
        if state.delete_pending {
            return Err(Status::DELETE_PENDING.into());
        }
        if state.uses.iter().any(|(_, held)| held.conflicts(mode)) {
            return Err(Status::SHARING_VIOLATION.into());
        }
        state.uses.push((self.id, mode));
        drop(state);
        self.entry = Some(Arc::clone(entry));
        Ok(())
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.table.release(&entry, self.id);
        }
        self.table.unreserve(self.session_id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(file: u64) -> FileKey {
        FileKey { volume: 1, file, stream: String::new() }
    }

    #[test]
    fn a_gate_holds_its_share_mode_until_it_is_dropped() {
        let table = OpenTable::default();
        let mut first = table.gate(1, 0).unwrap();
        first.admit(&key(1), true, access::READ_DATA).unwrap();
        let mut second = table.gate(1, 7).unwrap();
        let refused = second.admit(&key(1), true, access::READ_DATA).unwrap_err();
        assert_eq!(refused, Refusal::Status(Status::SHARING_VIOLATION));
        second.admit(&key(2), true, access::READ_DATA).unwrap();
        drop(first);
        assert!(!table.is_open(&key(1)));
        let mut third = table.gate(1, 7).unwrap();
        third.admit(&key(1), true, access::READ_DATA).unwrap();
        drop((second, third));
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_marked_for_deletion_cannot_be_opened() {
        let table = OpenTable::default();
        let mut first = table.gate(1, 7).unwrap();
        first.admit(&key(1), true, access::DELETE).unwrap();
        first.entry.as_ref().unwrap().set_delete_pending(true);
        let refused = table.gate(1, 7).unwrap().admit(&key(1), true, access::READ_ATTRIBUTES).unwrap_err();
        assert_eq!(refused, Refusal::Status(Status::DELETE_PENDING));
    }

    #[test]
    fn opens_of_a_session_are_bounded() {
        let table = OpenTable::default();
        locked(&table.per_session).insert(1, OPENS_PER_SESSION_MAX);
        assert_eq!(table.gate(1, 7).err(), Some(Status::TOO_MANY_OPENED_FILES));
        assert!(table.gate(2, 7).is_ok());
    }
}
