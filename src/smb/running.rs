//! Requests that are worked on away from the reader just now. One that takes long is told to its client by an interim response
//! (MS-SMB2 3.3.4.2), so that it does not give up: a CLOSE while a machine is brought to its hypervisor, a WRITE while a datastore's
//! connection is made again. A CANCEL that comes meanwhile is remembered, in case the request has to wait later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smb_proto::Header;

use super::session::Channel;

/// After this long a client is told that its request is being worked on. Clients give up after 20 s at the earliest.
pub const INTERIM_AFTER: Duration = Duration::from_secs(1);

/// What an interim response needs to know of its request.
pub struct Asked {
    /// The request's header.
    pub header: Header,
    /// Its tree, inherited in a compound.
    pub tree_id: u32,
    /// Whose it is.
    pub channel: Arc<Channel>,
    /// Whose key it was encrypted with.
    pub sealed_by: Option<Arc<Channel>>,
}

struct Entry {
    message_id: u64,
    since: Instant,
    /// `None` once the client has been told its AsyncId.
    untold: Option<Asked>,
    cancelled: bool,
}

/// How a request was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// The client knows its AsyncId.
    pub told: bool,
    /// The client has cancelled it meanwhile.
    pub cancelled: bool,
}

/// The requests of one connection, by AsyncId: as many as its threads work on.
#[derive(Default)]
pub struct Running(Mutex<Table>);

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// Somebody looks after those that take long.
    watched: bool,
}

impl Running {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request runs for the first time.
    pub fn enter(&self, async_id: u64, asked: Asked) {
        let message_id = asked.header.message_id;
        let entry = Entry { message_id, since: Instant::now(), untold: Some(asked), cancelled: false };
        self.table().entries.insert(async_id, entry);
    }

    /// A request that was parked, and so told, runs again.
    pub fn enter_again(&self, async_id: u64, message_id: u64, cancelled: bool) {
        let entry = Entry { message_id, since: Instant::now(), untold: None, cancelled };
        self.table().entries.insert(async_id, entry);
    }

    /// It does not run any more; from now on its client is told nothing by [`Running::tell`].
    pub fn leave(&self, async_id: u64) -> Left {
        let left = self.table().entries.remove(&async_id);
        left.map_or_else(Left::default, |entry| Left {
            told: entry.untold.is_none(),
            cancelled: entry.cancelled,
        })
    }

    /// It is about to be told by its own interim response: whether that was done already.
    pub fn claim(&self, async_id: u64) -> bool {
        self.table().entries.get_mut(&async_id).is_some_and(|entry| entry.untold.take().is_none())
    }

    /// Remembers a CANCEL for the request that `is_meant`, by AsyncId and MessageId.
    pub fn cancel(&self, is_meant: impl Fn(u64, u64) -> bool) {
        let mut table = self.table();
        let found = table.entries.iter_mut().find(|(id, entry)| is_meant(**id, entry.message_id));
        if let Some((_, entry)) = found {
            entry.cancelled = true; // if it has to wait, that wait is over at once
        }
    }

    /// Has `send` tell clients of all that has run for `after` or longer. Nothing leaves meanwhile, so what is queued here goes
    /// out before the request's answer.
    pub fn tell(&self, after: Duration, mut send: impl FnMut(u64, Asked)) {
        for (id, entry) in &mut self.table().entries {
            if entry.since.elapsed() >= after
                && let Some(asked) = entry.untold.take()
            {
                send(*id, asked);
            }
        }
    }

    /// Whether the caller is to look after what takes long: nobody else does.
    pub fn begin_watch(&self) -> bool {
        !std::mem::replace(&mut self.table().watched, true)
    }

    /// Whether whoever looks after it may stop: nothing is running, and the next request begins a new watch.
    pub fn end_watch(&self) -> bool {
        let mut table = self.table();
        table.watched = !table.entries.is_empty();
        !table.watched
    }
}
