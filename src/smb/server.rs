//! What all connections share: settings, sessions, and who waits for what.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use smb_proto::Status;
use smb_proto::msg::negotiate::{DIALECT_202, DIALECT_311};

use super::audit::{Overwrites, Refusals};
use super::breaks::Leasers;
use super::buffer::Pool;
use super::connection::Connection;
use super::dispatch;
use super::guessing::Guesses;
use super::limits::{Budget, Door, Limits};
use super::notify::NotifyTable;
use super::open_table::OpenTable;
use super::request::WakeKey;
use super::session::Session;
use super::share::Share;
use super::unheard::Unheard;

/// Largest payload of a READ, WRITE or transaction in bytes: what Windows negotiates at most.
pub const PAYLOAD_BYTES_MAX: u32 = 8 << 20;
/// Sessions in the whole server: above any site's number of clients, low enough that a flood ends in a status.
pub const SESSIONS_MAX: usize = 10_000;

/// When traffic is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Off,
    /// If the client wants it.
    Desired,
    /// Always; what comes in the clear is refused.
    Required,
}

/// The accounts.
pub trait Users: Send + Sync {
    /// The account's NT hash; names are compared without case.
    fn nt_hash(&self, account: &str) -> Option<[u8; 16]>;
}

/// What kind of share a tree connect reports (MS-SMB2 2.2.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// Files.
    Disk,
    /// Named pipes: IPC$.
    Pipe,
}

/// A share under its name.
pub struct ShareEntry {
    /// As clients see it; compared without case.
    pub name: String,
    /// Shown beside it.
    pub comment: String,
    /// Files or pipes.
    pub kind: ShareKind,
    /// What answers.
    pub share: Arc<dyn Share>,
    /// Whether this share is reached encrypted only.
    pub encrypt: bool,
    /// Accounts that may connect, lower case; empty means every account.
    pub users: Vec<String>,
}

impl ShareEntry {
    /// Whether that account may connect.
    pub fn admits(&self, user: &str) -> bool {
        self.users.is_empty() || self.users.contains(&user.to_lowercase())
    }
}

/// How the server is to be.
pub struct Settings {
    /// NetBIOS name, shown to clients.
    pub name: String,
    /// ServerGuid: stable over restarts.
    pub guid: [u8; 16],
    /// Oldest dialect spoken.
    pub min_dialect: u16,
    /// Newest dialect spoken.
    pub max_dialect: u16,
    /// Whether unsigned sessions are refused.
    pub signing_required: bool,
    /// When traffic is encrypted.
    pub encryption: Encryption,
    /// Whether clients may open several connections for a session, and to which addresses besides the one that they have
    /// reached already.
    pub multichannel: Option<Vec<IpAddr>>,
    /// What clients may take.
    pub limits: Limits,
    /// The shares, IPC$ among them.
    pub shares: Vec<Arc<ShareEntry>>,
    /// The accounts.
    pub users: Arc<dyn Users>,
}

impl Settings {
    /// Every dialect, encryption where a client wants it, one connection a session.
    pub fn new(users: Arc<dyn Users>, shares: Vec<Arc<ShareEntry>>) -> Self {
        Self {
            name: "IMPORTFS".into(),
            guid: [0; 16],
            min_dialect: DIALECT_202,
            max_dialect: DIALECT_311,
            signing_required: false,
            encryption: Encryption::Desired,
            multichannel: None,
            limits: Limits::default(),
            shares,
            users,
        }
    }
}

/// A request that waits, found again by connection and AsyncId.
struct Waiter {
    connection: Weak<Connection>,
    async_id: u64,
}

/// The tables of one server.
pub struct Server {
    /// How it was set up.
    pub settings: Settings,
    /// Frame buffers.
    pub pool: Arc<Pool>,
    /// Connections.
    pub door: Arc<Door>,
    /// Bytes in flight.
    pub budget: Budget,
    /// Failed logins.
    pub guesses: Mutex<Guesses>,
    /// Their lines in the audit log.
    pub refusals: Refusals,
    /// Overwritten files there.
    pub overwrites: Overwrites,
    /// Every open file.
    pub opens: OpenTable,
    /// Who watches which directory.
    pub notify: NotifyTable,
    /// Where lease breaks go.
    pub leasers: Leasers,
    /// Whom breaks may not have reached.
    pub unheard: Unheard,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    waiters: Mutex<HashMap<WakeKey, Vec<Waiter>>>,
    /// Counts wake-ups, so that one between a handler's decision to wait and its registration is not lost.
    wakes: AtomicU64,
    next_id: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server without connections.
    pub fn new(settings: Settings) -> Arc<Self> {
        let server = Arc::new(Self {
            door: Arc::default(),
            guesses: Mutex::default(),
            refusals: Refusals::default(),
            overwrites: Overwrites::default(),
            budget: Budget::new(settings.limits.bytes_in_flight),
            settings,
            pool: Pool::new(),
            opens: OpenTable::default(),
            notify: NotifyTable::default(),
            leasers: Leasers::default(),
            unheard: Unheard::default(),
            sessions: Mutex::default(),
            waiters: Mutex::default(),
            wakes: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        });
        server.observe_shares();
        server
    }

    /// A number that was not given out before: SessionIds, AsyncIds, volatile FileIds.
    pub fn unique_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The share of that name, without regard to case.
    pub fn share(&self, name: &str) -> Option<&Arc<ShareEntry>> {
        self.settings.shares.iter().find(|entry| entry.name.to_lowercase() == name.to_lowercase())
    }

    /// Enters an authenticated session.
    pub fn add_session(&self, session: Arc<Session>) -> Result<(), Status> {
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= SESSIONS_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        sessions.insert(session.id, session);
        Ok(())
    }

    /// The session of that id, whichever connection it belongs to.
    pub fn session(&self, id: u64) -> Option<Arc<Session>> {
        lock(&self.sessions).get(&id).cloned()
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// A connection is lost: its sessions lose a channel, and end with their last one (MS-SMB2 3.3.7.1).
    pub fn connection_lost(&self, connection: &Connection) {
        for channel in connection.drain_sessions() {
            if channel.remove_channel(connection) {
                self.remove_session(channel.id);
            }
        }
        for (id, job) in dispatch::abandon(self, connection) {
            let heir = job.session_id().and_then(|id| self.session(id)?.connections().into_iter().next());
            if let Some(heir) = heir {
                dispatch::adopt(&heir, id, job);
            }
        }
        self.send_breaks_again(connection);
    }

    /// Takes a session out and ends it on all its channels.
    pub fn remove_session(&self, id: u64) -> Option<Arc<Session>> {
        let session = lock(&self.sessions).remove(&id)?;
        session.end();
        self.close_opens(id, None);
        Some(session)
    }

    /// Closes what a session, or one of its trees, has left open, and wakes who waited for those files. What is durable waits
    /// for its client to come back, unless only its tree has ended (MS-SMB2 3.3.5.6, 3.3.5.8, 3.3.7.1).
    pub fn close_opens(&self, session_id: u64, tree_id: Option<u32>) {
        for open in self.opens.of(session_id, tree_id) {
            if tree_id.is_none() && self.opens.leave(&open) {
                self.wake(&WakeKey::File(open.entry.key.clone()));
                self.wake(&WakeKey::Open(open.id.volatile)); // its watch is over: its connection may go on
            } else {
                self.close_open(&open);
            }
            self.end_unanswerable(&open.entry);
        }
    }

    /// Closes the opens whose clients did not come back in time.
    pub fn scavenge(&self, now: Instant) {
        for open in self.opens.overdue(now) {
            tracing::info!(file = ?open.file.path().components, user = %open.owner.user, "a durable open's client did not come back");
            self.close_open(&open);
        }
    }

    /// The count of wake-ups: read before a handler runs, given to [`Server::wait`] if it wants to wait.
    pub fn wake_count(&self) -> u64 {
        self.wakes.load(Ordering::Acquire)
    }

    /// Registers a parked request. `false` where something was woken since `seen`: run the handler again instead.
    pub fn wait(&self, key: WakeKey, connection: &Arc<Connection>, async_id: u64, seen: u64) -> bool {
        let mut waiters = lock(&self.waiters);
        if self.wake_count() != seen {
            return false;
        }
        waiters.entry(key).or_default().push(Waiter { connection: Arc::downgrade(connection), async_id });
        true
    }

    /// Runs the requests again that wait for `key`, in the order in which they came.
    pub fn wake(&self, key: &WakeKey) {
        let woken = {
            let mut waiters = lock(&self.waiters);
            self.wakes.fetch_add(1, Ordering::AcqRel);
            waiters.remove(key).unwrap_or_default()
        };
        for waiter in woken {
            if let Some(connection) = waiter.connection.upgrade() {
                connection.wake(waiter.async_id);
            }
        }
    }

    /// Forgets a request that no longer waits (cancelled, or its connection is gone).
    pub fn forget(&self, key: &WakeKey, async_id: u64) {
        let mut waiters = lock(&self.waiters);
        if let Some(list) = waiters.get_mut(key) {
            list.retain(|waiter| waiter.async_id != async_id);
            if list.is_empty() {
                waiters.remove(key);
            }
        }
    }
    /// How many requests wait for something, on all connections.
    pub fn waiting(&self) -> usize {
        lock(&self.waiters).values().map(Vec::len).sum()
    }
}
