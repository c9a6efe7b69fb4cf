//! Break notifications on their way to clients (MS-SMB2 3.3.4.6, 3.3.4.7), and the operations that call for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use smb_proto::crypto::encrypt::TRANSFORM_LEN;
use smb_proto::frame::{FRAME_HEADER_LEN, encode_length};
use smb_proto::header::HEADER_LEN;
use smb_proto::msg::create::context::LEASE_HANDLE;
use smb_proto::msg::oplock_break::{LEASE_BREAK_ACK_REQUIRED, LeaseNotification, Oplock};
use smb_proto::{Command, Flags, Header, Status};

use super::buffer::Buffer;
use super::connection::Connection;
use super::file_entry::FileEntry;
use super::open::{Open, locked};
use super::oplock::{Asker, Break, Holder, level_of};
use super::request::{Failure, WakeKey};
use super::server::Server;
use super::share::FileKey;

/// The connections of clients that hold leases, by ClientGuid, the oldest first.
#[derive(Default)]
pub struct Leasers(Mutex<HashMap<[u8; 16], Vec<Weak<Connection>>>>);

impl Leasers {
    fn enter(&self, connection: &Arc<Connection>) {
        let mut clients = locked(&self.0);
        let own = clients.entry(connection.client_guid()).or_default();
        if own.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(connection))) {
            return;
        }
        own.push(Arc::downgrade(connection));
        // As few as there are connections: those that are gone go with every newcomer.
        clients.retain(|_, list| {
            list.retain(|known| known.strong_count() > 0);
            !list.is_empty()
        });
    }

    fn connections(&self, client: [u8; 16]) -> Vec<Arc<Connection>> {
        locked(&self.0).get(&client).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

impl Server {
    /// Sends notifications, each on a connection of any open that holds what is broken. Where there is none to send it on and
    /// an answer is needed, the opens are closed: their client is gone, and others wait.
    pub fn send_breaks(&self, breaks: Vec<Break>) {
        for notification in breaks {
            let opens: Vec<_> =
                notification.opens.iter().filter_map(|open| self.opens.by_id(*open)).collect();
            let sent = opens.iter().any(|open| self.send_break(&notification, open));
            if !sent && notification.acknowledge {
                for open in opens {
                    self.close_open(&open);
                }
            } else if notification.from & !notification.to & LEASE_HANDLE != 0 {
                // What is kept open for a client that is away is kept by this cache alone (3.3.7.1).
                opens.iter().filter(|open| open.session_id() == 0).for_each(|open| self.give_up(open));
            }
        }
    }

    /// An open's client is away, and what others wait for can't be told to it: a durable open is closed, a resilient one keeps
    /// no cache.
    fn give_up(&self, open: &Arc<Open>) {
        if locked(&open.life).resilient.is_none() {
            self.close_open(open);
        } else {
            self.opens.uncache(open);
            self.wake(&WakeKey::File(open.entry.key.clone()));
        }
    }

    fn send_break(&self, notification: &Break, open: &Open) -> bool {
        if open.session_id() == 0 {
            return false; // its client is away
        }
        let Some(frame) = self.frame(notification, open) else { return false };
        let ways = self.ways(notification, open);
        let sent = ways.iter().find(|connection| connection.post(Buffer::from_vec(frame.clone())));
        if let Some(connection) = sent.filter(|_| notification.acknowledge) {
            connection.remember(notification.clone());
            self.unheard.enter(connection);
        }
        sent.is_some()
    }

    /// The connections that it may be sent on, the first that takes it. An oplock's goes to its open's connection or another channel of
    /// its session (3.3.4.6), a lease's to the first connection of its client that there is (3.3.4.7), but sealed by a session only
    /// to where that session is.
    pub(super) fn ways(&self, notification: &Break, open: &Open) -> Vec<Arc<Connection>> {
        let session = self.session(open.session_id());
        let sealed = session.as_ref().is_some_and(|session| session.encrypt);
        let mut connections = match notification.holder {
            Holder::Lease(lease) if !sealed => self.leasers.connections(lease.client),
            _ => Vec::new(),
        };
        connections.extend(open.connection());
        connections.extend(session.into_iter().flat_map(|session| session.connections()));
        connections
    }

    /// A connection is lost: its client may not have read the breaks that were sent there, and hears of those that nobody has
    /// acknowledged on another one, if it has one.
    pub(super) fn send_breaks_again(&self, lost: &Connection) {
        for sent in lost.take_told() {
            let mut opens = sent.opens.iter().filter_map(|open| self.opens.by_id(*open));
            opens.any(|open| {
                open.entry.with_oplocks(|held| held.is_awaited(&sent)) && self.send_break(&sent, &open)
            });
        }
    }

    /// A client asks for a lease: its connections are where breaks go.
    pub fn enter_leaser(&self, connection: &Arc<Connection>) {
        self.leasers.enter(connection);
    }

    /// The notification as a frame, sealed where its session demands that; it is never signed.
    fn frame(&self, notification: &Break, open: &Open) -> Option<Vec<u8>> {
        let session = self.session(open.session_id()).filter(|session| session.encrypt);
        let room = FRAME_HEADER_LEN + if session.is_some() { TRANSFORM_LEN } else { 0 };
        let mut frame = vec![0; room];
        Header {
            credit_charge: 0,
            status: Status::SUCCESS,
            command: Command::OPLOCK_BREAK,
            credits: 0,
            flags: Flags::SERVER_TO_REDIR,
            next_command: 0,
            message_id: u64::MAX,
            async_id: 0,
            tree_id: 0,
            session_id: 0,
            signature: [0; 16],
        }
        .encode(&mut frame);
        match notification.holder {
            Holder::Open(_) => {
                Oplock { level: level_of(notification.to), file_id: open.id }.encode(&mut frame);
            }
            Holder::Lease(lease) => LeaseNotification {
                new_epoch: notification.epoch,
                flags: if notification.acknowledge { LEASE_BREAK_ACK_REQUIRED } else { 0 },
                key: lease.key,
                current_state: notification.from,
                new_state: notification.to,
            }
            .encode(&mut frame),
        }
        debug_assert!(frame.len() >= room + HEADER_LEN);
        if let Some(session) = session {
            session.keys.seal(&mut frame[FRAME_HEADER_LEN..], session.id).ok()?;
        }
        let length = encode_length(frame.len() - FRAME_HEADER_LEN).ok()?;
        frame[..FRAME_HEADER_LEN].copy_from_slice(&length);
        Some(frame)
    }

    /// Closes an open that its client can't close any more, and wakes who waits for its file.
    pub fn close_open(&self, open: &Arc<Open>) {
        if let Err(status) = self.close(open, false) {
            tracing::debug!(%status, file = ?open.file.path().components, "closing an open that was left");
        }
    }

    /// Closes an open and wakes who waits for its file; `clean` as in [`OpenTable::close`](super::open_table::OpenTable::close), whose
    /// outcome this gives.
    pub fn close(&self, open: &Arc<Open>, clean: bool) -> Result<(), Status> {
        let was = self.place_of(open);
        let closed = self.opens.close(open, clean);
        self.told_closed(open, &was);
        self.wake(&WakeKey::Open(open.id.volatile));
        self.wake(&WakeKey::File(open.entry.key.clone()));
        closed
    }

    /// An open of that file was closed, or its client is away: where a break is left that only opens without a client could
    /// answer, nobody waits for it.
    pub fn end_unanswerable(&self, entry: &FileEntry) {
        for holders in entry.breaking() {
            let opens: Vec<_> = holders.into_iter().filter_map(|open| self.opens.by_id(open)).collect();
            if opens.iter().all(|open| open.session_id() == 0) {
                opens.iter().for_each(|open| self.give_up(open));
            }
        }
    }

    /// An open is about to change data, or to lock them: whoever caches them is told.
    pub fn changing(&self, open: &Open) {
        let breaks = open.entry.change(open.asker());
        if !breaks.is_empty() {
            self.send_breaks(breaks);
        }
    }

    /// An open is about to rename or delete its file: others have to close what they keep open in their caches. Parks the
    /// request until they have.
    pub fn evict(&self, open: &Open) -> Result<(), Failure> {
        let verdict = open.entry.evict(open.asker(), false);
        self.send_breaks(verdict.breaks);
        if verdict.wait { Err(park(&open.entry)) } else { Ok(()) }
    }

    /// Clients are asked to close what they only keep open of these files; parks the request until they have, or said that they
    /// use it.
    pub fn evict_all(&self, files: &[FileKey], asker: Asker) -> Result<(), Failure> {
        let mut waits_for = None;
        for entry in files.iter().filter_map(|key| self.opens.entry(key)) {
            let verdict = entry.evict(asker, true);
            self.send_breaks(verdict.breaks);
            if verdict.wait {
                waits_for = Some(entry);
            }
        }
        waits_for.map_or(Ok(()), |entry| Err(park(&entry)))
    }

    /// A directory that `open` is about to rename must have nothing open below it (MS-FSA 2.1.5.15.11); clients that only keep
    /// something open in their caches are asked to close it first.
    pub fn evict_below(&self, open: &Open) -> Result<(), Failure> {
        let below = self.opens.below(&open.share, &open.file.path());
        let mut waits_for = None;
        for other in &below {
            let verdict = other.entry.evict(open.asker(), true);
            self.send_breaks(verdict.breaks);
            if verdict.wait {
                waits_for = Some(&other.entry);
            }
        }
        match waits_for {
            Some(entry) => Err(park(entry)),
            None if below.iter().all(|other| other.is_closed()) => Ok(()),
            None => Err(Status::ACCESS_DENIED.into()),
        }
    }
}

/// Waits for a break of that file: until it is acknowledged, or its time is over.
pub fn park(entry: &FileEntry) -> Failure {
    let now = Instant::now();
    // A little after, so that it has run out then.
    let rest = entry.next_expiry().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    Failure::Park { key: WakeKey::File(entry.key.clone()), timeout: Some(rest + Duration::from_millis(10)) }
}
