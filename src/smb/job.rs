//! A frame being worked on: decrypted, cut into the parts of its compound, and how fast that may be expected to go.

use std::sync::Arc;

use smb_proto::crypto::encrypt::{TRANSFORM_LEN, TransformHeader};
use smb_proto::frame::Kind;
use smb_proto::header::HEADER_LEN;
use smb_proto::{Command, DecodeError, Flags, Header, Status};

use super::buffer::{Buffer, HEADROOM, size_of};
use super::charge;
use super::connection::{Connection, Signal};
use super::durable::Reservation;
use super::limits::{Reserved, UNCOUNTED_MAX};
use super::request::{Related, WakeKey};
use super::session::Channel;

/// A frame being worked on.
pub struct Job {
    pub(super) frame: Buffer,
    pub(super) at: usize,
    pub(super) related: Related,
    pub(super) sealed_by: Option<Arc<Channel>>,
    /// Still encrypted: large frames are decrypted where they are worked on, several at a time.
    encrypted: bool,
    pub(super) async_id: Option<u64>,
    pub(super) message_id: u64,
    pub(super) key: Option<WakeKey>,
    /// The create GUID that a parked CREATE works on.
    pub(super) reservation: Option<Reservation>,
    /// Its connection is gone: nobody hears its answer.
    pub(super) mute: bool,
    /// A timer runs for it, which ends its wait.
    pub(super) timed: bool,
    /// It is worked on away from the reader: its client is told where that takes long.
    pub(super) apart: bool,
    /// The AsyncId under which it is among [`super::running::Running`].
    pub(super) running: Option<u64>,
    /// Its interim response is on its way, and it may run again.
    pub(super) armed: bool,
    /// What came before that.
    pub(super) missed: Option<Signal>,
    /// Bytes of the budget for its answer.
    pub(super) reserved: Option<Reserved>,
    /// Whose request was parked: its answer is signed even if the session has ended meanwhile.
    pub(super) session: Option<Arc<Channel>>,
}

/// Encrypted frames up to this length are decrypted by whoever reads them: READ requests, and all that is no data.
const DECRYPT_AT_ONCE_MAX: usize = 16 << 10;

/// How a frame is to be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once and in order: it waits for nothing slower than a local disk's metadata.
    Quick,
    /// It moves data: several at a time.
    Bulk,
    /// In order, but it may take long.
    Slow,
}

impl Job {
    /// Starts on a frame that has just been read: `frame` ends with 16 bytes of room that decryption needs. An error ends the
    /// connection.
    pub fn new(connection: &Connection, frame: Buffer) -> Result<Self, Status> {
        let related = Related::default();
        let mut job = Self {
            frame,
            at: 0,
            related,
            sealed_by: None,
            encrypted: false,
            async_id: None,
            message_id: 0,
            key: None,
            reservation: None,
            mute: false,
            timed: false,
            apart: false,
            running: None,
            armed: false,
            missed: None,
            reserved: None,
            session: None,
        };
        let len = job.frame.bytes().len().saturating_sub(16);
        if Kind::of(job.frame.bytes()).map_err(|_| Status::INVALID_PARAMETER)? == Kind::Transform {
            let transform =
                TransformHeader::decode(&job.frame.bytes()[..len]).map_err(|_| Status::INVALID_PARAMETER)?;
            job.sealed_by = Some(connection.session(transform.session_id)?);
            job.encrypted = true;
            if len <= DECRYPT_AT_ONCE_MAX {
                job.decrypt()?;
            }
        } else {
            job.frame.set_payload_len(len);
        }
        Ok(job)
    }

    /// Decrypts the frame, if that was not done yet.
    pub(super) fn decrypt(&mut self) -> Result<(), Status> {
        if let (true, Some(session)) = (self.encrypted, &self.sealed_by) {
            session.keys.open(self.frame.bytes_mut())?;
            self.encrypted = false;
            let len = self.frame.bytes().len() - 16;
            self.frame.set_payload_len(len);
            self.frame.advance(TRANSFORM_LEN);
        }
        Ok(())
    }

    /// The session of a parked request.
    pub(super) fn session_id(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Length of the frame in bytes.
    pub fn len(&self) -> usize {
        self.frame.bytes().len()
    }

    /// Keeps bytes of the budget reserved until its answer has been sent.
    pub fn hold(&mut self, reserved: Option<Reserved>) {
        self.reserved = reserved;
    }

    /// It is about to be worked on where that may take long, and holds nothing else up.
    pub fn set_apart(&mut self) {
        self.apart = true;
    }

    /// Bytes that its answer may have: what all its parts ask for. 0 where the frame itself is counted: who holds bytes of the
    /// budget must not wait for more, or all might wait for each other; so is a frame that is still encrypted.
    pub fn answer_len(&self) -> usize {
        let (mut at, mut total) = (0, 0u64);
        if self.len() > UNCOUNTED_MAX {
            return 0;
        }
        while !self.encrypted
            && let Ok((header, end, more)) = part(self.frame.bytes(), at)
        {
            let expected = charge::expected(header.command, &self.frame.bytes()[at..end]);
            total += size_of(expected as usize + HEADROOM) as u64; // at most the largest payload
            if !more {
                break;
            }
            at = end;
        }
        usize::try_from(total).unwrap_or(usize::MAX)
    }

    /// Whether there is nothing in the frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How it is to be worked on.
    pub fn pace(&self, connection: &Connection) -> Pace {
        if self.encrypted {
            return Pace::Bulk; // as large as that only data is
        }
        let (mut at, mut ids) = (0, (0, 0));
        while let Ok((header, end, more)) = part(self.frame.bytes(), at) {
            if at == 0 && !more && matches!(header.command, Command::READ | Command::WRITE | Command::FLUSH) {
                return Pace::Bulk;
            }
            if at == 0 || !header.flags.contains(Flags::RELATED_OPERATIONS) {
                ids = (header.session_id, header.tree_id);
            }
            if !is_quick(connection, header.command, ids) {
                return Pace::Slow;
            }
            if !more {
                break;
            }
            at = end;
        }
        Pace::Quick
    }
}

/// Whether a command is quick on that tree. What is not well-formed is: it is only refused.
fn is_quick(connection: &Connection, command: Command, (session, tree): (u64, u32)) -> bool {
    match command {
        Command::NEGOTIATE
        | Command::SESSION_SETUP
        | Command::TREE_CONNECT
        | Command::ECHO
        | Command::CANCEL
        | Command::OPLOCK_BREAK
        | Command::CHANGE_NOTIFY => true,
        Command::CREATE | Command::CLOSE | Command::QUERY_INFO | Command::LOCK => connection
            .session(session)
            .and_then(|session| session.tree(tree))
            .map_or(true, |tree| !tree.is_slow),
        _ => false,
    }
}

/// The bytes of the message at `at` and whether another follows: NextCommand is 8-aligned, past this header, inside.
pub(super) fn part(frame: &[u8], at: usize) -> Result<(Header, usize, bool), DecodeError> {
    let rest = frame.get(at..).unwrap_or_default();
    let header = Header::decode(rest)?;
    let next = header.next_command as usize;
    if next == 0 {
        return Ok((header, frame.len(), false));
    }
    if !next.is_multiple_of(8) || next < HEADER_LEN || next >= rest.len() {
        return Err(DecodeError::Invalid { what: "NextCommand", value: next as u64 });
    }
    Ok((header, at + next, true))
}
