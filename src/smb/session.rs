//! An authenticated session (MS-SMB2 3.3.1.8) and its channels (3.3.1.14). One that is still being authenticated is another
//! type, kept by its connection: nothing can be asked of a session that does not exist yet.
//!
//! A session lives as long as one of its channels. Its end is one step under the mutex of its channels: a channel that is
//! bound at the same moment is either ended with the others or refused, never forgotten.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use smb_proto::Status;
use smb_proto::crypto::sign::{Sender, SigningKey};

use super::connection::{Connection, Negotiated};
use super::keys::Keys;
use super::server::ShareEntry;
use super::share::Caller;
use super::tree::Tree;

/// Trees that one session may have: far above what any client opens, low enough that a loop can't eat the memory.
pub const TREES_MAX: usize = 1024;
/// Channels of one session: as Windows has it.
pub const CHANNELS_MAX: usize = 32;

/// A user's authenticated session.
pub struct Session {
    /// SessionId, unique in the server and never 0.
    pub id: u64,
    /// What its first connection negotiated: a channel must have the same.
    pub negotiated: Negotiated,
    /// What encrypts, and what signs where a channel has no key of its own.
    pub keys: Keys,
    /// Requests must be signed.
    pub signing_required: bool,
    /// Requests must be encrypted.
    pub encrypt: bool,
    caller: RwLock<Arc<Caller>>,
    trees: Mutex<HashMap<u32, Arc<Tree>>>,
    next_tree: AtomicU32,
    channels: Mutex<Vec<Weak<Connection>>>,
    gone: AtomicBool,
}

/// What a session is made of.
pub struct NewSession {
    /// SessionId.
    pub id: u64,
    /// What its connection negotiated.
    pub negotiated: Negotiated,
    /// Who it is.
    pub caller: Caller,
    /// Its keys.
    pub keys: Keys,
    /// Requests must be signed.
    pub signing_required: bool,
    /// Requests must be encrypted.
    pub encrypt: bool,
}

impl Session {
    /// A session that has just been authenticated, without channels yet.
    pub fn new(new: NewSession) -> Self {
        Self {
            id: new.id,
            negotiated: new.negotiated,
            keys: new.keys,
            signing_required: new.signing_required,
            encrypt: new.encrypt,
            caller: RwLock::new(Arc::new(new.caller)),
            trees: Mutex::default(),
            next_tree: AtomicU32::new(1),
            channels: Mutex::default(),
            gone: AtomicBool::new(false),
        }
    }

    fn trees(&self) -> MutexGuard<'_, HashMap<u32, Arc<Tree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it is and where from: of the last authentication.
    pub fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.caller.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The user has authenticated again (3.3.5.5.3), perhaps as another: gives the trees that the new one may not use, taken
    /// out already. Their opens are the caller's to close.
    pub fn reauthenticate(&self, caller: Caller) -> Vec<Arc<Tree>> {
        let mut trees = self.trees();
        let lost: Vec<_> =
            trees.values().filter(|tree| !tree.entry.admits(&caller.user)).map(Arc::clone).collect();
        for tree in &lost {
            trees.remove(&tree.id);
            tree.disconnect();
        }
        *self.caller.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(caller);
        lost
    }

    /// Makes `connection` one of its channels, with a signing key of its own or (its first one) the session's. Refused once
    /// the session or the connection has ended.
    pub fn add_channel(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        signing: Option<SigningKey>,
    ) -> Result<Arc<Channel>, Status> {
        let mut channels = self.channels();
        self.check()?;
        if channels.len() >= CHANNELS_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let channel = Arc::new(Channel { session: Arc::clone(self), signing });
        connection.add_session(Arc::clone(&channel))?;
        channels.push(Arc::downgrade(connection));
        Ok(channel)
    }

    /// The connections of its channels.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.channels().iter().filter_map(Weak::upgrade).collect()
    }

    /// A connection is lost; `true` where it was the last channel, so that the session has to end.
    pub fn remove_channel(&self, connection: &Connection) -> bool {
        let mut channels = self.channels();
        channels.retain(|channel| !std::ptr::eq(channel.as_ptr(), connection));
        channels.is_empty()
    }

    /// Connects to a share.
    pub fn connect(&self, entry: Arc<ShareEntry>, maximal_access: u32) -> Result<Arc<Tree>, Status> {
        let mut trees = self.trees();
        self.check()?;
        // Under the same mutex as a re-authentication's look at the trees.
        if !entry.admits(&self.caller().user) {
            return Err(Status::ACCESS_DENIED);
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

    /// Ends it on all its channels: no tree can be made or used afterwards, no channel bound. The second call finds it gone
    /// already and returns `false`.
    pub fn end(&self) -> bool {
        let channels = {
            let mut channels = self.channels();
            if self.gone.swap(true, Ordering::AcqRel) {
                return false;
            }
            std::mem::take(&mut *channels)
        };
        for connection in channels.iter().filter_map(Weak::upgrade) {
            connection.remove_session(self.id);
        }
        self.trees().drain().for_each(|(_, tree)| tree.disconnect());
        true
    }

    /// STATUS_USER_SESSION_DELETED once it has ended.
    pub fn check(&self) -> Result<(), Status> {
        if self.gone.load(Ordering::Acquire) { Err(Status::USER_SESSION_DELETED) } else { Ok(()) }
    }
}

/// One connection's share in a session.
pub struct Channel {
    /// The session.
    pub session: Arc<Session>,
    /// Channel.SigningKey, where it is not the session's own.
    signing: Option<SigningKey>,
}

impl Channel {
    /// What stands for a session on a connection that is only about to be bound to it: signed by the session's key (3.3.5.5).
    pub fn unbound(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self { session, signing: None })
    }

    fn key(&self) -> &SigningKey {
        self.signing.as_ref().unwrap_or_else(|| self.session.keys.signing())
    }

    /// Signs a response.
    pub fn sign(&self, message: &mut [u8]) {
        self.key().sign(message, Sender::Server);
    }

    /// Whether a request carries this channel's signature.
    pub fn verify(&self, message: &mut [u8]) -> bool {
        self.key().verify(message, Sender::Client)
    }
}

impl Deref for Channel {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use smb_proto::msg::ioctl::validate_negotiate;
    use tokio::sync::mpsc;

    use super::*;

    fn negotiated() -> Negotiated {
        let offered = validate_negotiate::Request {
            capabilities: 0,
            client_guid: [0; 16],
            security_mode: 1,
            dialects: Vec::new(),
        };
        let answered = validate_negotiate::Response {
            capabilities: 0,
            server_guid: [0; 16],
            security_mode: 1,
            dialect: 0x0311,
        };
        Negotiated { offered, answered, dialect: 0x0311, cipher: 0, signing: 1 }
    }

    pub(crate) fn session(id: u64) -> Arc<Session> {
        let keys = Keys::derive(&[1; 16], &negotiated(), &[0; 64]).unwrap();
        let caller = Caller { user: "a".into(), peer: "p".into() };
        let (signing_required, encrypt) = (false, false);
        let negotiated = negotiated();
        Arc::new(Session::new(NewSession { id, negotiated, caller, keys, signing_required, encrypt }))
    }

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new("p".into(), mpsc::unbounded_channel().0))
    }

    #[test]
    fn a_session_lives_as_long_as_one_of_its_channels() {
        let (session, first, second) = (session(1), connection(), connection());
        session.add_channel(&first, None).unwrap();
        session.add_channel(&second, None).unwrap();
        assert!(!session.remove_channel(&first));
        assert!(session.remove_channel(&second));
    }

    #[test]
    fn the_end_takes_it_from_every_connection_and_no_channel_can_follow() {
        let (session, first, second) = (session(1), connection(), connection());
        session.add_channel(&first, None).unwrap();
        session.add_channel(&second, None).unwrap();
        assert!(session.end() && !session.end());
        assert!(!first.has_session() && !second.has_session());
        assert_eq!(session.add_channel(&connection(), None).err(), Some(Status::USER_SESSION_DELETED));
    }

    #[test]
    fn a_connection_that_is_lost_takes_no_session_any_more() {
        let (session, lost) = (session(1), connection());
        lost.drain_sessions();
        assert_eq!(session.add_channel(&lost, None).err(), Some(Status::USER_SESSION_DELETED));
        assert!(session.remove_channel(&lost), "nothing was left behind");
    }

    #[test]
    fn channels_bound_while_the_session_ends_are_ended_or_refused() {
        for _ in 0..200 {
            let session = session(1);
            let connections: Vec<_> = (0..4).map(|_| connection()).collect();
            std::thread::scope(|scope| {
                for connection in &connections {
                    let session = &session;
                    scope.spawn(move || session.add_channel(connection, None));
                }
                scope.spawn(|| session.end());
            });
            assert!(connections.iter().all(|connection| !connection.has_session()));
        }
    }

    #[test]
    fn channels_are_bounded() {
        let session = session(1);
        let connections: Vec<_> = (0..=CHANNELS_MAX).map(|_| connection()).collect();
        let refused = connections.iter().filter(|connection| session.add_channel(connection, None).is_err());
        assert_eq!(refused.count(), 1);
    }
}
