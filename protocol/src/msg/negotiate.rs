//! NEGOTIATE (MS-SMB2 2.2.3, 2.2.4) and its contexts (2.2.3.1, 2.2.4.1).

use super::{body, buffer};
use crate::codec::{DecodeError, Put, Reader};
use crate::header::HEADER_LEN;
use crate::utf16::Utf16;

/// SMB 2.0.2.
pub const DIALECT_202: u16 = 0x0202;
/// SMB 2.1.
pub const DIALECT_210: u16 = 0x0210;
/// SMB 3.0.
pub const DIALECT_300: u16 = 0x0300;
/// SMB 3.0.2.
pub const DIALECT_302: u16 = 0x0302;
/// SMB 3.1.1, the only one with contexts.
pub const DIALECT_311: u16 = 0x0311;
/// Answer to an SMB1 NEGOTIATE with `SMB 2.???`: come back with an SMB2 NEGOTIATE.
pub const DIALECT_WILDCARD: u16 = 0x02FF;

/// SecurityMode: signs if the other side wants it.
pub const SIGNING_ENABLED: u16 = 0x0001;
/// SecurityMode: refuses what is not signed.
pub const SIGNING_REQUIRED: u16 = 0x0002;

/// Capability: DFS.
pub const CAP_DFS: u32 = 0x01;
/// Capability: leases.
pub const CAP_LEASING: u32 = 0x02;
/// Capability: requests larger than 64 KiB (credit charge above 1).
pub const CAP_LARGE_MTU: u32 = 0x04;
/// Capability: several connections per session.
pub const CAP_MULTI_CHANNEL: u32 = 0x08;
/// Capability: persistent handles.
pub const CAP_PERSISTENT_HANDLES: u32 = 0x10;
/// Capability: leases of directories.
pub const CAP_DIRECTORY_LEASING: u32 = 0x20;
/// Capability: encryption, by this bit only in 3.0 and 3.0.2.
pub const CAP_ENCRYPTION: u32 = 0x40;
/// Capability: server-to-client notifications.
pub const CAP_NOTIFICATIONS: u32 = 0x80;

/// Preauthentication hash: SHA-512, the only one.
pub const HASH_SHA512: u16 = 1;
/// AES-128-CCM.
pub const CIPHER_AES128_CCM: u16 = 1;
/// AES-128-GCM.
pub const CIPHER_AES128_GCM: u16 = 2;
/// AES-256-CCM.
pub const CIPHER_AES256_CCM: u16 = 3;
/// AES-256-GCM.
pub const CIPHER_AES256_GCM: u16 = 4;
/// HMAC-SHA256.
pub const SIGNING_HMAC_SHA256: u16 = 0;
/// AES-128-CMAC.
pub const SIGNING_AES_CMAC: u16 = 1;
/// AES-128-GMAC.
pub const SIGNING_AES_GMAC: u16 = 2;
/// LZNT1.
pub const COMPRESSION_LZNT1: u16 = 1;
/// LZ77.
pub const COMPRESSION_LZ77: u16 = 2;
/// LZ77 with Huffman coding.
pub const COMPRESSION_LZ77_HUFFMAN: u16 = 3;
/// Runs of one byte; only within a chain.
pub const COMPRESSION_PATTERN_V1: u16 = 4;
/// LZ4.
pub const COMPRESSION_LZ4: u16 = 5;
/// Compression flag: several algorithms within one message.
pub const COMPRESSION_CHAINED: u32 = 1;
/// Transport flag: the transport (QUIC) secures the data already.
pub const TRANSPORT_ACCEPT_SECURITY: u32 = 1;

const PREAUTH: u16 = 0x0001;
const ENCRYPTION: u16 = 0x0002;
const COMPRESSION: u16 = 0x0003;
const NETNAME: u16 = 0x0005;
const TRANSPORT: u16 = 0x0006;
const RDMA: u16 = 0x0007;
const SIGNING: u16 = 0x0008;
const POSIX: u16 = 0x0100;

/// A negotiate context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context<'a> {
    /// Hashes that the client can chain (2.2.3.1.1).
    Preauth {
        /// `HASH_*`.
        algorithms: Vec<u16>,
        /// Random bytes.
        salt: &'a [u8],
    },
    /// Ciphers, the most wanted first (2.2.3.1.2).
    Encryption(Vec<u16>),
    /// Compression algorithms (2.2.3.1.3).
    Compression {
        /// [`COMPRESSION_CHAINED`] or nothing.
        flags: u32,
        /// `COMPRESSION_*`.
        algorithms: Vec<u16>,
    },
    /// The name that the client has for this server (2.2.3.1.4).
    NetName(Utf16<'a>),
    /// Flags of the transport (2.2.3.1.5).
    Transport(u32),
    /// RDMA transforms (2.2.3.1.6).
    Rdma(Vec<u16>),
    /// Signing algorithms, the most wanted first (2.2.3.1.7).
    Signing(Vec<u16>),
    /// The POSIX extensions' identifier.
    Posix(&'a [u8]),
    /// Any other: to be ignored.
    Unknown {
        /// ContextType.
        kind: u16,
        /// Its data.
        data: &'a [u8],
    },
}

/// `count` 16-bit identifiers; refused before anything is allocated if they are not there.
fn ids(r: &mut Reader<'_>, count: usize) -> Result<Vec<u16>, DecodeError> {
    Ok(r.bytes(count * 2)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
}

impl<'a> Context<'a> {
    fn decode(kind: u16, data: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data, "negotiate context");
        Ok(match kind {
            PREAUTH => {
                let (count, salt_len) = (r.u16()?, r.u16()?);
                Self::Preauth { algorithms: ids(&mut r, count.into())?, salt: r.bytes(salt_len.into())? }
            }
            ENCRYPTION => {
                let count = r.u16()?;
                Self::Encryption(ids(&mut r, count.into())?)
            }
            COMPRESSION => {
                let count = r.u16()?;
                r.skip(2)?;
                Self::Compression { flags: r.u32()?, algorithms: ids(&mut r, count.into())? }
            }
            NETNAME => Self::NetName(Utf16(data)),
            TRANSPORT => Self::Transport(r.u32()?),
            RDMA => {
                let count = r.u16()?;
                r.skip(6)?;
                Self::Rdma(ids(&mut r, count.into())?)
            }
            SIGNING => {
                let count = r.u16()?;
                Self::Signing(ids(&mut r, count.into())?)
            }
            POSIX => Self::Posix(data),
            kind => Self::Unknown { kind, data },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        let put_ids = |data: &mut Vec<u8>, ids: &[u16]| ids.iter().for_each(|id| data.put_u16(*id));
        let kind = match self {
            Self::Preauth { algorithms, salt } => {
                data.put_u16(algorithms.len() as u16);
                data.put_u16(salt.len() as u16);
                put_ids(&mut data, algorithms);
                data.put_slice(salt);
                PREAUTH
            }
            Self::Encryption(ciphers) => {
                data.put_u16(ciphers.len() as u16);
                put_ids(&mut data, ciphers);
                ENCRYPTION
            }
            Self::Compression { flags, algorithms } => {
                data.put_u16(algorithms.len() as u16);
                data.put_u16(0);
                data.put_u32(*flags);
                put_ids(&mut data, algorithms);
                COMPRESSION
            }
            Self::NetName(name) => {
                data.put_slice(name.0);
                NETNAME
            }
            Self::Transport(flags) => {
                data.put_u32(*flags);
                TRANSPORT
            }
            Self::Rdma(transforms) => {
                data.put_u16(transforms.len() as u16);
                data.put_zeros(6);
                put_ids(&mut data, transforms);
                RDMA
            }
            Self::Signing(algorithms) => {
                data.put_u16(algorithms.len() as u16);
                put_ids(&mut data, algorithms);
                SIGNING
            }
            Self::Posix(id) => {
                data.put_slice(id);
                POSIX
            }
            Self::Unknown { kind, data: unknown } => {
                data.put_slice(unknown);
                *kind
            }
        };
        out.put_u16(kind);
        out.put_u16(data.len() as u16);
        out.put_u32(0);
        out.put_slice(&data);
    }
}

/// The list of `count` contexts at `offset`, each 8-aligned after the one before. Grows with what is there, not with `count`.
fn decode_contexts(message: &[u8], offset: u32, count: u16) -> Result<Vec<Context<'_>>, DecodeError> {
    let mut list = Vec::new();
    let mut position = offset as usize;
    for _ in 0..count {
        let mut r = Reader::at(message, position, "negotiate context");
        let (kind, len) = (r.u16()?, r.u16()?);
        r.skip(4)?;
        list.push(Context::decode(kind, r.bytes(len.into())?)?);
        position = r.position().next_multiple_of(8);
    }
    Ok(list)
}

fn encode_contexts(out: &mut Vec<u8>, contexts: &[Context<'_>]) {
    for context in contexts {
        out.pad_to(0, 8);
        context.encode(out);
    }
}

/// NEGOTIATE request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// [`SIGNING_ENABLED`], [`SIGNING_REQUIRED`].
    pub security_mode: u16,
    /// `CAP_*` bits.
    pub capabilities: u32,
    /// Identifies the client over all its connections.
    pub client_guid: [u8; 16],
    /// The dialects the client offers, at least one.
    pub dialects: Vec<u16>,
    /// The contexts; read only where 3.1.1 is among the dialects.
    pub contexts: Vec<Context<'a>>,
}

impl<'a> Request<'a> {
    /// Decodes the message. A DialectCount of 0 is refused (MS-SMB2 3.3.5.4).
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 36, "NEGOTIATE request")?;
        let count = r.u16()?;
        let security_mode = r.u16()?;
        r.skip(2)?;
        let capabilities = r.u32()?;
        let client_guid = r.array()?;
        let (context_offset, context_count) = (r.u32()?, r.u16()?);
        r.skip(2)?;
        if count == 0 {
            return Err(DecodeError::Invalid { what: "DialectCount", value: 0 });
        }
        let dialects = ids(&mut r, count.into())?;
        let contexts = if dialects.contains(&DIALECT_311) && context_count > 0 {
            if (context_offset as usize) < r.position() {
                return Err(DecodeError::Invalid {
                    what: "NegotiateContextOffset",
                    value: context_offset.into(),
                });
            }
            decode_contexts(message, context_offset, context_count)?
        } else {
            Vec::new()
        };
        Ok(Self { security_mode, capabilities, client_guid, dialects, contexts })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end_of_dialects = HEADER_LEN + 36 + self.dialects.len() * 2;
        out.put_u16(36);
        out.put_u16(self.dialects.len() as u16);
        out.put_u16(self.security_mode);
        out.put_u16(0);
        out.put_u32(self.capabilities);
        out.put_slice(&self.client_guid);
        let offset = if self.contexts.is_empty() { 0 } else { end_of_dialects.next_multiple_of(8) };
        out.put_u32(offset as u32);
        out.put_u16(self.contexts.len() as u16);
        out.put_u16(0);
        self.dialects.iter().for_each(|dialect| out.put_u16(*dialect));
        encode_contexts(out, &self.contexts);
    }
}

/// NEGOTIATE response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// [`SIGNING_ENABLED`], [`SIGNING_REQUIRED`].
    pub security_mode: u16,
    /// The dialect chosen.
    pub dialect: u16,
    /// Identifies the server.
    pub server_guid: [u8; 16],
    /// `CAP_*` bits.
    pub capabilities: u32,
    /// Bytes that a QUERY or IOCTL may carry.
    pub max_transact_size: u32,
    /// Bytes that a READ may ask for.
    pub max_read_size: u32,
    /// Bytes that a WRITE may carry.
    pub max_write_size: u32,
    /// The server's time, in 100 ns since 1601.
    pub system_time: u64,
    /// 0, or when the server was started.
    pub server_start_time: u64,
    /// The SPNEGO hint.
    pub security_buffer: &'a [u8],
    /// The contexts; written only with 3.1.1.
    pub contexts: Vec<Context<'a>>,
}

impl<'a> Response<'a> {
    /// Decodes the message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = body(message, 65, "NEGOTIATE response")?;
        let (security_mode, dialect) = (r.u16()?, r.u16()?);
        let context_count = r.u16()?;
        let server_guid = r.array()?;
        let capabilities = r.u32()?;
        let (max_transact_size, max_read_size, max_write_size) = (r.u32()?, r.u32()?, r.u32()?);
        let (system_time, server_start_time) = (r.u64()?, r.u64()?);
        let (offset, len) = (r.u16()?, r.u16()?);
        let context_offset = r.u32()?;
        let security_buffer = buffer(&r, offset.into(), len.into())?;
        let context_count = if dialect == DIALECT_311 { context_count } else { 0 };
        Ok(Self {
            security_mode,
            dialect,
            server_guid,
            capabilities,
            max_transact_size,
            max_read_size,
            max_write_size,
            system_time,
            server_start_time,
            security_buffer,
            contexts: decode_contexts(message, context_offset, context_count)?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let contexts: &[Context<'_>] = if self.dialect == DIALECT_311 { &self.contexts } else { &[] };
        out.put_u16(65);
        out.put_u16(self.security_mode);
        out.put_u16(self.dialect);
        out.put_u16(contexts.len() as u16);
        out.put_slice(&self.server_guid);
        out.put_u32(self.capabilities);
        out.put_u32(self.max_transact_size);
        out.put_u32(self.max_read_size);
        out.put_u32(self.max_write_size);
        out.put_u64(self.system_time);
        out.put_u64(self.server_start_time);
        out.put_u16(HEADER_LEN as u16 + 64);
        out.put_u16(self.security_buffer.len() as u16);
        let end = HEADER_LEN + 64 + self.security_buffer.len();
        out.put_u32(if contexts.is_empty() { 0 } else { end.next_multiple_of(8) as u32 });
        out.put_slice(self.security_buffer);
        encode_contexts(out, contexts);
    }
}
