//! The SMB2 packet header (MS-SMB2 2.2.1), 64 bytes, in its synchronous and asynchronous forms.

use crate::codec::{DecodeError, Put, Reader};
use crate::status::Status;

/// The four bytes that every SMB2 message begins with.
pub const PROTOCOL_ID: [u8; 4] = *b"\xfeSMB";
/// Length of the header in bytes; also the value of its StructureSize field.
pub const HEADER_LEN: usize = 64;

/// A command code (MS-SMB2 2.2.1.1), kept as it came: an unknown one is answered, not a parse error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

#[allow(missing_docs)] // the names are those of the standard
impl Command {
    pub const NEGOTIATE: Self = Self(0);
    pub const SESSION_SETUP: Self = Self(1);
    pub const LOGOFF: Self = Self(2);
    pub const TREE_CONNECT: Self = Self(3);
    pub const TREE_DISCONNECT: Self = Self(4);
    pub const CREATE: Self = Self(5);
    pub const CLOSE: Self = Self(6);
    pub const FLUSH: Self = Self(7);
    pub const READ: Self = Self(8);
    pub const WRITE: Self = Self(9);
    pub const LOCK: Self = Self(10);
    pub const IOCTL: Self = Self(11);
    pub const CANCEL: Self = Self(12);
    pub const ECHO: Self = Self(13);
    pub const QUERY_DIRECTORY: Self = Self(14);
    pub const CHANGE_NOTIFY: Self = Self(15);
    pub const QUERY_INFO: Self = Self(16);
    pub const SET_INFO: Self = Self(17);
    pub const OPLOCK_BREAK: Self = Self(18);
}

/// The header's Flags field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

#[allow(missing_docs)]
impl Flags {
    pub const SERVER_TO_REDIR: Self = Self(0x0000_0001);
    pub const ASYNC_COMMAND: Self = Self(0x0000_0002);
    pub const RELATED_OPERATIONS: Self = Self(0x0000_0004);
    pub const SIGNED: Self = Self(0x0000_0008);
    pub const PRIORITY_MASK: Self = Self(0x0000_0070);
    pub const DFS_OPERATIONS: Self = Self(0x1000_0000);
    pub const REPLAY_OPERATION: Self = Self(0x2000_0000);

    /// Whether any bit of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Both sets of bits.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A decoded header. `status` holds ChannelSequence in its low 16 bits in 3.x requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Credits that a request consumes, in units of 65,536 bytes; reserved in 2.0.2.
    pub credit_charge: u16,
    /// Status of a response; channel sequence and reserved of a request.
    pub status: Status,
    /// The command.
    pub command: Command,
    /// Credits asked for (request) or granted (response).
    pub credits: u16,
    /// Flags; [`Flags::ASYNC_COMMAND`] decides whether `async_id` or `tree_id` is on the wire.
    pub flags: Flags,
    /// Bytes from this header to the next one of a compound; 0 in the last.
    pub next_command: u32,
    /// Identifies request and response on a connection.
    pub message_id: u64,
    /// The AsyncId, where the flag is set.
    pub async_id: u64,
    /// The TreeId, where the async flag is not set.
    pub tree_id: u32,
    /// The SessionId.
    pub session_id: u64,
    /// The signature, zero if not signed.
    pub signature: [u8; 16],
}

impl Header {
    /// Decodes the header at the start of `message`.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(message, "SMB2 header");
        let protocol: [u8; 4] = r.array()?;
        if protocol != PROTOCOL_ID {
            let value = u64::from(u32::from_le_bytes(protocol));
            return Err(DecodeError::Invalid { what: "ProtocolId", value });
        }
        r.structure_size(HEADER_LEN as u16)?;
        let credit_charge = r.u16()?;
        let status = Status(r.u32()?);
        let command = Command(r.u16()?);
        let credits = r.u16()?;
        let flags = Flags(r.u32()?);
        let next_command = r.u32()?;
        let message_id = r.u64()?;
        let (async_id, tree_id) = if flags.contains(Flags::ASYNC_COMMAND) {
            (r.u64()?, 0)
        } else {
            r.skip(4)?; // Reserved; 0x0000FEFF in old clients
            (0, r.u32()?)
        };
        let session_id = r.u64()?;
        let signature = r.array()?;
        Ok(Self {
            credit_charge,
            status,
            command,
            credits,
            flags,
            next_command,
            message_id,
            async_id,
            tree_id,
            session_id,
            signature,
        })
    }

    /// Appends the 64 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&PROTOCOL_ID);
        out.put_u16(HEADER_LEN as u16);
        out.put_u16(self.credit_charge);
        out.put_u32(self.status.0);
        out.put_u16(self.command.0);
        out.put_u16(self.credits);
        out.put_u32(self.flags.0);
        out.put_u32(self.next_command);
        out.put_u64(self.message_id);
        if self.flags.contains(Flags::ASYNC_COMMAND) {
            out.put_u64(self.async_id);
        } else {
            out.put_u32(0);
            out.put_u32(self.tree_id);
        }
        out.put_u64(self.session_id);
        out.put_slice(&self.signature);
    }
}
