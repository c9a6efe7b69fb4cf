//! What a command handler is given and what it answers: plain, synchronous values, so that a handler can be tested
//! without a socket and run on whichever thread suits.

use std::sync::Arc;
use std::time::Duration;

use smb_proto::conn::window::CREDIT_BYTES;
use smb_proto::header::HEADER_LEN;
use smb_proto::msg::FileId;
use smb_proto::msg::negotiate::DIALECT_210;
use smb_proto::{DecodeError, Header, Status};

use super::buffer::Buffer;
use super::channel_sequence::Outstanding;
use super::connection::Connection;
use super::durable::Reservation;
use super::server::Server;
use super::session::Session;
use super::share::FileKey;
use super::tree::Tree;

/// One request on a tree, with everything that its handler may look at.
pub struct Request<'a> {
    /// The tables that all connections share.
    pub server: &'a Arc<Server>,
    /// Where it came in.
    pub connection: &'a Arc<Connection>,
    /// Whose it is.
    pub session: &'a Arc<Session>,
    /// The share connected to.
    pub tree: &'a Arc<Tree>,
    /// Its header.
    pub header: &'a Header,
    /// The whole message, from its header on; of a compound only this part.
    pub message: &'a [u8],
    /// What earlier requests of the compound left behind.
    pub related: &'a mut Related,
    /// The create GUID that it works on, kept while it waits.
    pub reservation: &'a mut Option<Reservation>,
    /// Counts it among the requests under way on the file that it named.
    pub outstanding: Option<Outstanding>,
    /// The AsyncId, once the request has been parked: the handler runs again with the same message.
    pub async_id: Option<u64>,
    /// The deadline of its last [`Failure::Park`] has passed.
    pub timed_out: bool,
}

impl Request<'_> {
    /// Whether the credits that the request was charged pay for its `bytes`, one way or the other (MS-SMB2 3.3.5.2.5).
    /// 2.0.2 has no charge, and 64 KiB at most.
    pub fn check_payload(&self, bytes: u64) -> Result<(), Status> {
        let charge =
            if self.connection.dialect() >= DIALECT_210 { self.header.credit_charge.max(1) } else { 1 };
        if bytes > u64::from(charge) * u64::from(CREDIT_BYTES) {
            return Err(Status::INVALID_PARAMETER);
        }
        Ok(())
    }

    /// The FileId that a request means: in a related request, whatever it says, the file of the one before it
    /// (MS-SMB2 3.3.5.2.7.2); where that one was to open it and failed, this one fails alike.
    pub fn resolve(&self, id: FileId) -> Result<FileId, Status> {
        if !self.related.is_related {
            return Ok(id);
        }
        match (self.related.create_failure, self.related.file_id) {
            (Some(status), _) => Err(status),
            (None, Some(before)) => Ok(before),
            (None, None) if id != FileId::ANY => Ok(id),
            (None, None) => Err(Status::INVALID_PARAMETER),
        }
    }
}

/// State that passes from one request of a compound to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Related {
    /// The request being handled carries SMB2_FLAGS_RELATED_OPERATIONS.
    pub is_related: bool,
    /// The file that the last CREATE of this compound opened, or that its last request named.
    pub file_id: Option<FileId>,
    /// Why the last CREATE failed: what related requests that mean its file are answered with.
    pub create_failure: Option<Status>,
    /// The session that related requests inherit; `None` where there was none.
    pub session_id: Option<u64>,
    /// The tree that related requests inherit.
    pub tree_id: u32,
}

/// What a parked request waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WakeKey {
    /// Something about a file changed: a lock was released, an open closed, an oplock break acknowledged.
    File(FileKey),
    /// Something about one open, by its volatile FileId: a change below a watched directory, its close.
    Open(u64),
}

/// A handler's answer to a request that it carried out.
pub enum Reply {
    /// A message: 64 bytes for the header, which the dispatcher fills in, and the body behind them.
    Message {
        /// STATUS_SUCCESS, or a warning that carries data.
        status: Status,
        /// Room for the header, then the body.
        message: Vec<u8>,
    },
    /// A READ's payload in a buffer with headroom; the dispatcher writes the headers in front of it.
    Data {
        /// STATUS_SUCCESS or STATUS_BUFFER_OVERFLOW.
        status: Status,
        /// From [`super::buffer::Pool::take_payload`].
        payload: Buffer,
    },
}

impl Reply {
    /// A successful reply whose body `encode` appends.
    pub fn success(encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::with_status(Status::SUCCESS, encode)
    }

    /// A reply with a status of its own, such as STATUS_BUFFER_OVERFLOW.
    pub fn with_status(status: Status, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut message = vec![0; HEADER_LEN];
        encode(&mut message);
        Self::Message { status, message }
    }
}

/// Why a request was not carried out, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An ERROR response.
    Status(Status),
    /// An ERROR response with ErrorData.
    StatusWith(Status, Vec<u8>),
    /// It has to wait: run again when the key is signalled, or when the time is over.
    Park {
        /// What it waits for.
        key: WakeKey,
        /// How long at most; then it runs again with [`Request::timed_out`].
        timeout: Option<Duration>,
    },
    /// The connection is to be cut without an answer (MS-SMB2 says where: a failed VALIDATE_NEGOTIATE_INFO).
    Disconnect,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A message that can't be decoded is STATUS_INVALID_PARAMETER for every command (MS-SMB2 3.3.5.2).
impl From<DecodeError> for Failure {
    fn from(_: DecodeError) -> Self {
        Self::Status(Status::INVALID_PARAMETER)
    }
}

/// What every handler returns.
pub type Outcome = Result<Reply, Failure>;
