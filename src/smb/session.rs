//! An authenticated session (MS-SMB2 3.3.1.8). One that is still being authenticated is another type, kept by its
//! connection: nothing can be asked of a session that does not exist yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smb_proto::Status;

use super::keys::Keys;
use super::server::ShareEntry;
use super::share::Caller;
use super::tree::Tree;

/// Trees that one session may have: far above what any client opens, low enough that a loop can't eat the memory.
pub const TREES_MAX: usize = 1024;

/// A user's authenticated session.
pub struct Session {
    /// SessionId, unique in the server and never 0.
    pub id: u64,
    /// Who it is and where from.
    pub caller: Caller,
    /// What signs and encrypts.
    pub keys: Keys,
    /// Requests must be signed.
    pub signing_required: bool,
    /// Requests must be encrypted.
    pub encrypt: bool,
    trees: Mutex<HashMap<u32, Arc<Tree>>>,
    next_tree: AtomicU32,
    gone: AtomicBool,
}

impl Session {
    /// A session that has just been authenticated.
    pub fn new(id: u64, caller: Caller, keys: Keys, signing_required: bool, encrypt: bool) -> Self {
        Self {
            id,
            caller,
            keys,
            signing_required,
            encrypt,
            trees: Mutex::default(),
            next_tree: AtomicU32::new(1),
            gone: AtomicBool::new(false),
        }
    }

    fn trees(&self) -> MutexGuard<'_, HashMap<u32, Arc<Tree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a share.
    pub fn connect(&self, entry: Arc<ShareEntry>, maximal_access: u32) -> Result<Arc<Tree>, Status> {
        let mut trees = self.trees();
        if self.gone.load(Ordering::Acquire) {
            return Err(Status::USER_SESSION_DELETED);
        }
        if trees.len() >= TREES_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let id = loop {
            let id = self.next_tree.fetch_add(1, Ordering::Relaxed);
            if id != 0 && id != u32::MAX && !trees.contains_key(&id) {
                break id;
            }
        };
        let tree = Arc::new(Tree::new(id, self.id, entry, maximal_access));
        trees.insert(id, Arc::clone(&tree));
        Ok(tree)
    }

    /// The tree of that id; STATUS_NETWORK_NAME_DELETED where there is none (MS-SMB2 3.3.5.2.11).
    pub fn tree(&self, id: u32) -> Result<Arc<Tree>, Status> {
        self.trees().get(&id).cloned().ok_or(Status::NETWORK_NAME_DELETED)
    }

    /// Takes a tree out; its opens are the caller's to close.
    pub fn disconnect(&self, id: u32) -> Result<Arc<Tree>, Status> {
        let tree = self.trees().remove(&id).ok_or(Status::NETWORK_NAME_DELETED)?;
        tree.disconnect();
        Ok(tree)
    }

    /// Ends it: no tree can be made or used afterwards. The second call finds it gone already and returns `false`.
    pub fn end(&self) -> bool {
        let mut trees = self.trees();
        let first = !self.gone.swap(true, Ordering::AcqRel);
        trees.drain().for_each(|(_, tree)| tree.disconnect());
        first
    }

    /// STATUS_USER_SESSION_DELETED once it has ended.
    pub fn check(&self) -> Result<(), Status> {
        if self.gone.load(Ordering::Acquire) { Err(Status::USER_SESSION_DELETED) } else { Ok(()) }
    }
}
