//! One connection (MS-SMB2 3.3.1.7): what was negotiated, its sessions, and the requests that wait on it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smb_proto::Status;
use smb_proto::conn::window::Window;
use smb_proto::msg::ioctl::validate_negotiate;
use tokio::sync::{Notify, mpsc};

use super::buffer::Buffer;
use super::commands::session_setup::Login;
use super::job::Job;
use super::limits::Limits;
use super::oplock::Break;
use super::running::Running;
use super::session::Channel;
use smb_proto::crypto::preauth::PreauthHash;

/// Requests that may wait at once on one connection: notifies of a few hundred Explorer windows; more is a flood.
pub const PARKED_MAX: usize = 512;
/// Notifications that wait for a slow reader: more breaks than that, and it does not cache any more.
pub const NOTIFICATIONS_MAX: usize = 256;

/// What NEGOTIATE settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// What the client sent, repeated in VALIDATE_NEGOTIATE_INFO.
    pub offered: validate_negotiate::Request,
    /// What was answered.
    pub answered: validate_negotiate::Response,
    /// The dialect.
    pub dialect: u16,
    /// The cipher, 0 for none.
    pub cipher: u16,
    /// The signing algorithm.
    pub signing: u16,
}

/// A parked request is run again, or cancelled, by its AsyncId.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// What it waits for may have come.
    Wake(u64),
    /// The client has cancelled it.
    Cancel(u64),
    /// Its time is over.
    Expire(u64),
    /// Frames wait to be sent that answer no request.
    Send,
}

/// One client's connection.
pub struct Connection {
    /// The client's address, for logs.
    pub peer: Arc<str>,
    /// The address that the client has reached, where it is known.
    pub local: OnceLock<IpAddr>,
    /// The inode of its socket, if it has one.
    pub socket: OnceLock<u64>,
    /// Ends it at once: its client can't be reached over it.
    pub cut: Notify,
    /// Set once by NEGOTIATE.
    pub negotiated: OnceLock<Negotiated>,
    /// Which MessageIds may come.
    pub window: Mutex<Window>,
    /// The hash over NEGOTIATE and its answer.
    pub preauth: Mutex<PreauthHash>,
    /// Most sessions, and most logins under way.
    pub sessions_max: usize,
    /// Logins under way, by their SessionId.
    pub logins: Mutex<HashMap<u64, Login>>,
    /// Requests that wait, by AsyncId; at most [`PARKED_MAX`].
    pub parked: Mutex<HashMap<u64, Job>>,
    /// Requests that are worked on away from the reader. Locked within `parked`, so that one that is parked, or runs again, is always
    /// in one of the two.
    pub running: Running,
    /// Its channels by SessionId; `None` once the connection is lost: a login that ends later must leave nothing behind.
    sessions: Mutex<Option<HashMap<u64, Arc<Channel>>>>,
    signals: mpsc::UnboundedSender<Signal>,
    posted: Mutex<VecDeque<Buffer>>,
    /// The latest breaks that were sent here and are to be acknowledged: sent again elsewhere should this connection be lost.
    told: Mutex<VecDeque<Break>>,
}

impl Connection {
    /// A connection whose parked requests are run by whoever reads the other end of `signals`. That channel is
    /// bounded by [`PARKED_MAX`]: a parked request is signalled and then no longer parked.
    pub fn new(peer: Arc<str>, signals: mpsc::UnboundedSender<Signal>) -> Self {
        Self {
            peer,
            local: OnceLock::new(),
            socket: OnceLock::new(),
            cut: Notify::new(),
            negotiated: OnceLock::new(),
            window: Mutex::default(),
            preauth: Mutex::default(),
            sessions_max: Limits::default().sessions_per_connection,
            logins: Mutex::default(),
            parked: Mutex::default(),
            running: Running::default(),
            sessions: Mutex::new(Some(HashMap::new())),
            signals,
            posted: Mutex::default(),
            told: Mutex::default(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Option<HashMap<u64, Arc<Channel>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a parked request run again.
    pub fn wake(&self, async_id: u64) {
        // The receiver is gone only with the connection, and then nobody waits any more.
        let _ = self.signals.send(Signal::Wake(async_id));
    }

    /// Sends a signal to whoever runs the parked requests.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal); // as in `wake`
    }

    /// Queues a frame that answers no request. `false` where it can't be sent: the connection is closing, or does not read.
    pub fn post(&self, frame: Buffer) -> bool {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.sessions().is_none();
        if lost || posted.len() >= NOTIFICATIONS_MAX || self.signals.send(Signal::Send).is_err() {
            return false;
        }
        posted.push_back(frame);
        true
    }

    /// Remembers a break that was sent here; of [`NOTIFICATIONS_MAX`], the oldest goes.
    pub fn remember(&self, sent: Break) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= NOTIFICATIONS_MAX {
            told.pop_front();
        }
        told.push_back(sent);
    }

    /// The breaks that were sent here, acknowledged or not.
    pub fn told(&self) -> Vec<Break> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes them out.
    pub fn take_told(&self) -> VecDeque<Break> {
        std::mem::take(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next frame that waits to be sent: one for each [`Signal::Send`].
    pub fn take_posted(&self) -> Option<Buffer> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The dialect, 0 before NEGOTIATE.
    pub fn dialect(&self) -> u16 {
        self.negotiated.get().map_or(0, |negotiated| negotiated.dialect)
    }

    /// The ClientGuid, zero before NEGOTIATE and for clients of 2.0.2.
    pub fn client_guid(&self) -> [u8; 16] {
        self.negotiated.get().map_or([0; 16], |negotiated| negotiated.offered.client_guid)
    }

    /// Enters a session that was authenticated or bound here; only [`super::session::Session::add_channel`] calls it.
    pub fn add_session(&self, channel: Arc<Channel>) -> Result<(), Status> {
        let mut sessions = self.sessions();
        let sessions = sessions.as_mut().ok_or(Status::USER_SESSION_DELETED)?;
        if sessions.len() >= self.sessions_max {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        sessions.insert(channel.id, channel);
        Ok(())
    }

    /// The session of that id; STATUS_USER_SESSION_DELETED where this connection has none (MS-SMB2 3.3.5.2.9).
    pub fn session(&self, id: u64) -> Result<Arc<Channel>, Status> {
        let found = self.sessions().as_ref().and_then(|sessions| sessions.get(&id).cloned());
        let channel = found.ok_or(Status::USER_SESSION_DELETED)?;
        channel.check()?;
        Ok(channel)
    }

    /// Whether anyone is logged in here.
    pub fn has_session(&self) -> bool {
        self.sessions().as_ref().is_some_and(|sessions| !sessions.is_empty())
    }

    /// Takes a session out.
    pub fn remove_session(&self, id: u64) -> Option<Arc<Channel>> {
        self.sessions().as_mut()?.remove(&id)
    }

    /// Takes all sessions out: the connection is lost, and no session can be entered any more.
    pub fn drain_sessions(&self) -> Vec<Arc<Channel>> {
        self.sessions().take().into_iter().flat_map(HashMap::into_values).collect()
    }

    /// FSCTL_VALIDATE_NEGOTIATE_INFO (MS-SMB2 3.3.5.15.12): the answer, or `None` where what the client says it sent is
    /// not what arrived; the connection is then to be cut without an answer.
    pub fn validate_negotiate(&self, input: &validate_negotiate::Request) -> Option<Vec<u8>> {
        let negotiated = self.negotiated.get()?;
        (negotiated.offered == *input).then(|| negotiated.answered.encode())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_negotiate_that_was_changed_on_the_way_is_noticed() {
        let (signals, _received) = mpsc::unbounded_channel();
        let connection = Connection::new("test".into(), signals);
        let offered = validate_negotiate::Request {
            capabilities: 0x7F,
            client_guid: [1; 16],
            security_mode: 1,
            dialects: vec![0x0202, 0x0302],
        };
        assert_eq!(connection.validate_negotiate(&offered), None, "nothing was negotiated yet");
        let answered = validate_negotiate::Response {
            capabilities: 4,
            server_guid: [2; 16],
            security_mode: 3,
            dialect: 0x0302,
        };
        let negotiated =
            Negotiated { offered: offered.clone(), answered, dialect: 0x0302, cipher: 0, signing: 1 };
        connection.negotiated.set(negotiated).unwrap();
        assert_eq!(connection.validate_negotiate(&offered), Some(answered.encode()));
        let fewer = validate_negotiate::Request { dialects: vec![0x0202], ..offered };
        assert_eq!(connection.validate_negotiate(&fewer), None);
    }
}
