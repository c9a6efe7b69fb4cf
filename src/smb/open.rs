//! One open (MS-SMB2 3.3.1.10): what a CREATE made, until its CLOSE. [`super::open_table`] has them all.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smb_proto::Status;
use smb_proto::msg::FileId;
use smb_proto::msg::change_notify::filter;

use super::changes::Untold;
use super::channel_sequence::ChannelSequence;
use super::connection::Connection;
use super::durable::{Life, Owner};
use super::file_entry::FileEntry;
use super::lock::Sequences;
use super::oplock::{Asker, LeaseKey};
use super::pattern::Pattern;
use super::server::ShareEntry;
use super::share::{CreateAction, DirEntry, File, Listing};

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
    /// Where it belongs.
    pub(super) home: Home,
    /// Its lease.
    pub lease: Option<LeaseKey>,
    /// The lease of its directory, which its own changes don't break.
    pub parent_lease: Option<LeaseKey>,
    /// Whose it is.
    pub owner: Owner,
    /// The share that it is on.
    pub share: Arc<ShareEntry>,
    /// What the CREATE did.
    pub action: CreateAction,
    /// How long it outlives its connection.
    pub life: Mutex<Life>,
    /// No request has named it yet: the CREATE's answer may have been lost, and the CREATE may come again.
    pub fresh: AtomicBool,
    /// Its channel sequence and requests under way.
    pub sequence: Arc<ChannelSequence>,
    /// GrantedAccess.
    pub granted: u32,
    /// CreateOptions.
    pub options: u32,
    /// What the share opened.
    pub file: Arc<dyn File>,
    /// What it shares with other opens of the file, or of the named stream.
    pub entry: Arc<FileEntry>,
    /// Of a named stream: what it shares with the opens of its file.
    pub base: Option<Arc<FileEntry>>,
    /// FILE_DELETE_ON_CLOSE was asked for.
    pub delete_on_close: bool,
    /// CurrentByteOffset: kept for FilePositionInformation only, so each READ moves it without a mutex.
    pub position: AtomicU64,
    /// Changing state.
    pub state: Mutex<OpenState>,
    /// What watchers are still to be told.
    pub untold: Untold,
    /// Directory listing; apart from `state`, since reading a directory may take long.
    pub enumeration: Mutex<Enumeration>,
    pub(super) closed: AtomicBool,
}

/// Takes a mutex; what it guards is valid between any two statements, so a panic elsewhere spoils nothing.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The session, tree and connection of an open: a reconnected one gets new ones.
pub(super) struct Home {
    pub(super) session_id: AtomicU64,
    pub(super) tree_id: AtomicU32,
    pub(super) connection: Mutex<Weak<Connection>>,
}

impl Open {
    /// The session that it belongs to; 0 while it belongs to none.
    pub fn session_id(&self) -> u64 {
        self.home.session_id.load(Ordering::Acquire)
    }

    /// The tree that it belongs to.
    pub fn tree_id(&self) -> u32 {
        self.home.tree_id.load(Ordering::Acquire)
    }

    /// The connection that it was made on, if that is still there.
    pub fn connection(&self) -> Option<Arc<Connection>> {
        locked(&self.home.connection).upgrade()
    }

    /// How its file's oplocks know it.
    pub fn asker(&self) -> Asker {
        Asker { open: self.id.volatile, lease: self.lease }
    }

    /// ACCESS_DENIED unless any of `wanted` was granted.
    pub fn require(&self, wanted: u32) -> Result<(), Status> {
        if self.granted & wanted == 0 { Err(Status::ACCESS_DENIED) } else { Ok(()) }
    }

    /// The bit of CompletionFilter that names of its kind have (MS-SMB2 2.2.35).
    pub fn name_filter(&self) -> u32 {
        if self.file.is_directory() { filter::DIR_NAME } else { filter::FILE_NAME }
    }

    /// Whether it was closed; a parked request finds out so.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
