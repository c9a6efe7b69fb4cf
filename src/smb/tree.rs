//! A tree connect: one session's use of one share (MS-SMB2 3.3.1.9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smb_proto::Status;

use super::server::ShareEntry;

/// A session's connection to a share.
pub struct Tree {
    /// TreeId, unique within its session and never 0.
    pub id: u32,
    /// The session it belongs to.
    pub session_id: u64,
    /// What it leads to.
    pub entry: Arc<ShareEntry>,
    /// The access that this user has at most (MaximalAccess of the response).
    pub maximal_access: u32,
    /// Its calls may take long: they must not hold up what comes behind them.
    pub is_slow: bool,
    gone: AtomicBool,
}

impl Tree {
    /// A tree of `session_id` on `entry`.
    pub fn new(id: u32, session_id: u64, entry: Arc<ShareEntry>, maximal_access: u32) -> Self {
        let is_slow = entry.share.traits().is_slow;
        Self { id, session_id, entry, maximal_access, is_slow, gone: AtomicBool::new(false) }
    }

    /// Marks it disconnected. Requests in flight see it at their next look and fail instead of making new opens.
    pub fn disconnect(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// STATUS_NETWORK_NAME_DELETED once it was disconnected.
    pub fn check(&self) -> Result<(), Status> {
        if self.gone.load(Ordering::Acquire) { Err(Status::NETWORK_NAME_DELETED) } else { Ok(()) }
    }
}
