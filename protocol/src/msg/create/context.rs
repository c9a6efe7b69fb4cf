//! Create contexts (MS-SMB2 2.2.13.2, 2.2.14.2): a chain of named blobs, and what is in those that this server knows.

use crate::codec::{DecodeError, Put, Reader};
use crate::msg::FileId;

/// Extended attributes to set.
pub const EXTA: &[u8] = b"ExtA";
/// A security descriptor to set.
pub const SECD: &[u8] = b"SecD";
/// Ask for a durable handle.
pub const DHNQ: &[u8] = b"DHnQ";
/// Reconnect to a durable handle.
pub const DHNC: &[u8] = b"DHnC";
/// Ask for a durable handle, version 2.
pub const DH2Q: &[u8] = b"DH2Q";
/// Reconnect to a durable handle, version 2.
pub const DH2C: &[u8] = b"DH2C";
/// Initial allocation size.
pub const ALSI: &[u8] = b"AlSi";
/// Ask for the maximal access.
pub const MXAC: &[u8] = b"MxAc";
/// Open a previous version.
pub const TWRP: &[u8] = b"TWrp";
/// Ask for the identifier on disk.
pub const QFID: &[u8] = b"QFid";
/// Ask for a lease; version 1 and 2 differ by length.
pub const RQLS: &[u8] = b"RqLs";
/// The application's instance, SMB2_CREATE_APP_INSTANCE_ID: a GUID as it stands on the wire.
pub const APP_INSTANCE_ID: &[u8] = b"\x45\xBC\xA6\x6A\xEF\xA7\xF7\x4A\x90\x08\xFA\x46\x2E\x14\x4D\x74";
/// Its version, SMB2_CREATE_APP_INSTANCE_VERSION.
pub const APP_INSTANCE_VERSION: &[u8] = b"\xB9\x82\xD0\xB7\x3B\x56\x07\x4F\xA0\x7B\x52\x4A\x81\x16\xA0\x10";

/// Lease state bit: reads may be cached.
pub const LEASE_READ: u32 = 0x01;
/// Lease state bit: handles may be cached.
pub const LEASE_HANDLE: u32 = 0x02;
/// Lease state bit: writes may be cached.
pub const LEASE_WRITE: u32 = 0x04;
/// Lease flag: a break is under way.
pub const LEASE_FLAG_BREAK_IN_PROGRESS: u32 = 0x02;
/// Lease flag of version 2: the parent's key is set.
pub const LEASE_FLAG_PARENT_KEY_SET: u32 = 0x04;
/// Durable version 2 flag: persistent.
pub const DURABLE_PERSISTENT: u32 = 0x02;

const HEAD_LEN: usize = 16;

/// A chain of contexts whose links have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contexts<'a>(&'a [u8]);

/// One context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Four characters, or a GUID of 16 bytes.
    pub name: &'a [u8],
    /// Its data; may be empty.
    pub data: &'a [u8],
}

impl<'a> Contexts<'a> {
    /// Checks the chain in `bytes`; empty is a chain of none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split(rest)?.1;
        }
        Ok(Self(bytes))
    }

    /// The contexts in their order.
    pub fn iter(self) -> impl Iterator<Item = Context<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (context, next) = split(rest).ok()?;
            rest = next;
            Some(context)
        })
    }

    /// The data of the first context called `name`.
    pub fn find(self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|context| context.name == name).map(|context| context.data)
    }

    /// The chain as on the wire.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// The first context of a non-empty chain, and what follows it. Each link goes forward by at least a context's head, so a
/// chain has no loops and no more members than its length allows.
fn split(bytes: &[u8]) -> Result<(Context<'_>, &[u8]), DecodeError> {
    let mut r = Reader::new(bytes, "create context");
    let next = r.u32()? as usize;
    let (name_offset, name_len) = (usize::from(r.u16()?), usize::from(r.u16()?));
    r.skip(2)?;
    let (data_offset, data_len) = (usize::from(r.u16()?), r.u32()? as usize);
    if next != 0 && (next < HEAD_LEN || !next.is_multiple_of(8)) {
        return Err(DecodeError::Invalid { what: "create context's Next", value: next as u64 });
    }
    let (own, rest) = match next {
        0 => (bytes, &[][..]),
        next => (r.slice(0, next)?, bytes.get(next..).unwrap_or_default()),
    };
    // A link to the very end has nothing to point at.
    if next != 0 && rest.is_empty() {
        return Err(DecodeError::Invalid { what: "create context's Next", value: next as u64 });
    }
    let own = Reader::new(own, "create context");
    let part = |offset: usize, len: usize| match len {
        0 => Ok(&[][..]),
        _ if offset < HEAD_LEN => Err(DecodeError::Invalid { what: "create context", value: offset as u64 }),
        _ => own.slice(offset, len),
    };
    Ok((Context { name: part(name_offset, name_len)?, data: part(data_offset, data_len)? }, rest))
}

/// Builds a chain.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    last: usize,
}

impl Writer {
    /// An empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a context.
    pub fn push(&mut self, name: &[u8], data: &[u8]) -> &mut Self {
        if !self.bytes.is_empty() {
            self.bytes.pad_to(0, 8);
            let next = (self.bytes.len() - self.last) as u32;
            self.bytes[self.last..self.last + 4].copy_from_slice(&next.to_le_bytes());
        }
        self.last = self.bytes.len();
        let data_offset = (HEAD_LEN + name.len()).next_multiple_of(8);
        self.bytes.put_u32(0);
        self.bytes.put_u16(HEAD_LEN as u16);
        self.bytes.put_u16(name.len() as u16);
        self.bytes.put_u16(0);
        self.bytes.put_u16(if data.is_empty() { 0 } else { data_offset as u16 });
        self.bytes.put_u32(data.len() as u32);
        self.bytes.put_slice(name);
        self.bytes.pad_to(self.last, 8);
        self.bytes.put_slice(data);
        self
    }

    /// The chain, for [`super::Response::contexts`].
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts(&self.bytes)
    }
}

/// MxAc of a request (2.2.13.2.5): the time of the last query, or nothing.
pub fn decode_maximal_access(data: &[u8]) -> Result<Option<u64>, DecodeError> {
    if data.is_empty() { Ok(None) } else { Reader::new(data, "MxAc").u64().map(Some) }
}

/// MxAc of a response (2.2.14.2.5): how the query went, and the access.
pub fn encode_maximal_access(status: u32, access: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&status.to_le_bytes());
    out[4..].copy_from_slice(&access.to_le_bytes());
    out
}

/// QFid of a response (2.2.14.2.9): the file's and the volume's identifier, 16 reserved bytes.
pub fn encode_disk_id(file_id: u64, volume_id: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..8].copy_from_slice(&file_id.to_le_bytes());
    out[8..16].copy_from_slice(&volume_id.to_le_bytes());
    out
}

/// AlSi (2.2.13.2.6): bytes to allocate.
pub fn decode_allocation_size(data: &[u8]) -> Result<u64, DecodeError> {
    Reader::new(data, "AlSi").u64()
}

/// TWrp (2.2.13.2.7): the time of the version, in 100 ns since 1601.
pub fn decode_timewarp(data: &[u8]) -> Result<u64, DecodeError> {
    Reader::new(data, "TWrp").u64()
}

/// DHnQ (2.2.13.2.3): 16 reserved bytes.
pub fn decode_durable_request(data: &[u8]) -> Result<(), DecodeError> {
    Reader::new(data, "DHnQ").skip(16)
}

/// DHnQ of a response (2.2.14.2.3): 8 reserved bytes.
pub fn encode_durable_response() -> [u8; 8] {
    [0; 8]
}

/// DHnC (2.2.13.2.4): the open to reconnect to.
pub fn decode_durable_reconnect(data: &[u8]) -> Result<FileId, DecodeError> {
    FileId::decode(&mut Reader::new(data, "DHnC"))
}

/// DH2Q (2.2.13.2.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableV2Request {
    /// Milliseconds the handle should live without a connection; 0 leaves it to the server.
    pub timeout_ms: u32,
    /// [`DURABLE_PERSISTENT`] or nothing.
    pub flags: u32,
    /// Identifies this CREATE, over reconnects and replays.
    pub create_guid: [u8; 16],
}

impl DurableV2Request {
    /// Decodes the context's data.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "DH2Q");
        let (timeout_ms, flags) = (r.u32()?, r.u32()?);
        r.skip(8)?;
        Ok(Self { timeout_ms, flags, create_guid: r.array()? })
    }

    /// The context's data.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.put_u32(self.timeout_ms);
        out.put_u32(self.flags);
        out.put_zeros(8);
        out.put_slice(&self.create_guid);
        out
    }
}

/// DH2Q of a response (2.2.14.2.12): what was granted.
pub fn encode_durable_v2_response(timeout_ms: u32, flags: u32) -> [u8; 8] {
    encode_maximal_access(timeout_ms, flags) // the same two 32-bit fields
}

/// DH2C (2.2.13.2.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableV2Reconnect {
    /// The open to reconnect to.
    pub file_id: FileId,
    /// The GUID of the CREATE that made it.
    pub create_guid: [u8; 16],
    /// [`DURABLE_PERSISTENT`] or nothing.
    pub flags: u32,
}

impl DurableV2Reconnect {
    /// Decodes the context's data.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "DH2C");
        Ok(Self { file_id: FileId::decode(&mut r)?, create_guid: r.array()?, flags: r.u32()? })
    }

    /// The context's data.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        self.file_id.encode(&mut out);
        out.put_slice(&self.create_guid);
        out.put_u32(self.flags);
        out
    }
}

/// An application that fails over from machine to machine with what it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppInstance {
    /// AppInstanceId.
    pub id: [u8; 16],
    /// Its version, where it has one.
    pub version: Option<AppVersion>,
}

/// SMB2_CREATE_APP_INSTANCE_VERSION (2.2.13.2.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppVersion {
    /// AppInstanceVersionHigh.
    pub high: u64,
    /// AppInstanceVersionLow.
    pub low: u64,
}

impl AppVersion {
    /// Decodes the context's data.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "AppInstanceVersion");
        r.skip(8)?; // StructureSize, Reserved, Padding
        Ok(Self { high: r.u64()?, low: r.u64()? })
    }

    /// The context's data.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.put_u16(24);
        out.put_zeros(6);
        out.put_u64(self.high);
        out.put_u64(self.low);
        out
    }
}

/// SMB2_CREATE_APP_INSTANCE_ID (2.2.13.2.13): AppInstanceId.
pub fn decode_app_instance_id(data: &[u8]) -> Result<[u8; 16], DecodeError> {
    let mut r = Reader::new(data, "AppInstanceId");
    r.skip(4)?; // StructureSize, Reserved
    r.array()
}

/// The same, of a request.
pub fn encode_app_instance_id(id: [u8; 16]) -> [u8; 20] {
    let mut out = [0; 20];
    out[0] = 20;
    out[4..].copy_from_slice(&id);
    out
}

/// RqLs, request and response alike (2.2.13.2.8, 2.2.13.2.10, 2.2.14.2.10, 2.2.14.2.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Identifies the lease within the client.
    pub key: [u8; 16],
    /// `LEASE_*` state bits.
    pub state: u32,
    /// `LEASE_FLAG_*` bits.
    pub flags: u32,
    /// Version 2 only.
    pub v2: Option<LeaseV2>,
}

/// What version 2 of a lease adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseV2 {
    /// Key of the parent directory's lease, valid with [`LEASE_FLAG_PARENT_KEY_SET`].
    pub parent_key: [u8; 16],
    /// Counts changes of state.
    pub epoch: u16,
}

impl Lease {
    /// Decodes the context's data: 32 bytes are version 1, 52 version 2; any other length is refused (3.3.5.9.8, 3.3.5.9.11).
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        if data.len() != 32 && data.len() != 52 {
            return Err(DecodeError::Invalid { what: "RqLs length", value: data.len() as u64 });
        }
        let mut r = Reader::new(data, "RqLs");
        let (key, state, flags) = (r.array()?, r.u32()?, r.u32()?);
        r.skip(8)?; // LeaseDuration
        let v2 = match data.len() {
            52 => Some(LeaseV2 { parent_key: r.array()?, epoch: r.u16()? }),
            _ => None,
        };
        Ok(Self { key, state, flags, v2 })
    }

    /// The context's data, of the same version.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(52);
        out.put_slice(&self.key);
        out.put_u32(self.state);
        out.put_u32(self.flags);
        out.put_u64(0);
        if let Some(v2) = &self.v2 {
            out.put_slice(&v2.parent_key);
            out.put_u16(v2.epoch);
            out.put_u16(0);
        }
        out
    }
}
