//! Control codes of IOCTL and their structures (MS-FSCC 2.3, MS-SMB2 2.2.31, 2.2.32).

use core::net::IpAddr;

use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::Utf16;

/// The control codes.
#[allow(missing_docs)] // the names are those of the standard, without FSCTL_
pub mod code {
    pub const DFS_GET_REFERRALS: u32 = 0x0006_0194;
    pub const DFS_GET_REFERRALS_EX: u32 = 0x0006_01B0;
    pub const IS_PATHNAME_VALID: u32 = 0x0009_002C;
    pub const GET_COMPRESSION: u32 = 0x0009_003C;
    pub const SET_COMPRESSION: u32 = 0x0009_C040;
    pub const FILESYSTEM_GET_STATISTICS: u32 = 0x0009_0060;
    pub const GET_NTFS_VOLUME_DATA: u32 = 0x0009_0064;
    pub const SET_REPARSE_POINT: u32 = 0x0009_00A4;
    pub const GET_REPARSE_POINT: u32 = 0x0009_00A8;
    pub const GET_OBJECT_ID: u32 = 0x0009_009C;
    pub const CREATE_OR_GET_OBJECT_ID: u32 = 0x0009_00C0;
    pub const SET_SPARSE: u32 = 0x0009_00C4;
    pub const QUERY_ON_DISK_VOLUME_INFO: u32 = 0x0009_013C;
    pub const QUERY_ALLOCATED_RANGES: u32 = 0x0009_40CF;
    pub const SET_ZERO_DATA: u32 = 0x0009_80C8;
    pub const FILE_LEVEL_TRIM: u32 = 0x0009_8208;
    pub const DUPLICATE_EXTENTS_TO_FILE: u32 = 0x0009_8344;
    pub const PIPE_PEEK: u32 = 0x0011_400C;
    pub const PIPE_WAIT: u32 = 0x0011_0018;
    pub const PIPE_TRANSCEIVE: u32 = 0x0011_C017;
    pub const SRV_REQUEST_RESUME_KEY: u32 = 0x0014_0078;
    pub const SRV_ENUMERATE_SNAPSHOTS: u32 = 0x0014_4064;
    pub const SRV_COPYCHUNK: u32 = 0x0014_40F2;
    pub const SRV_COPYCHUNK_WRITE: u32 = 0x0014_80F2;
    pub const SRV_READ_HASH: u32 = 0x0014_41BB;
    pub const LMR_REQUEST_RESILIENCY: u32 = 0x0014_01D4;
    pub const QUERY_NETWORK_INTERFACE_INFO: u32 = 0x0014_01FC;
    pub const VALIDATE_NEGOTIATE_INFO: u32 = 0x0014_0204;
}

/// Capability of an interface: several receive queues (MS-SMB2 2.2.32.5).
pub const INTERFACE_RSS_CAPABLE: u32 = 0x1;

/// Bytes of one NETWORK_INTERFACE_INFO.
const INTERFACE_LEN: usize = 152;
const FAMILY_INET: u16 = 0x0002;
const FAMILY_INET6: u16 = 0x0017;

/// NETWORK_INTERFACE_INFO (MS-SMB2 2.2.32.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// IfIndex.
    pub index: u32,
    /// `INTERFACE_*` bits.
    pub capability: u32,
    /// Bits per second.
    pub link_speed: u64,
    /// Its address.
    pub address: IpAddr,
}

/// Appends the list.
pub fn encode_interfaces(list: &[Interface], out: &mut Vec<u8>) {
    for (i, interface) in list.iter().enumerate() {
        let start = out.len();
        out.put_u32(if i + 1 < list.len() { INTERFACE_LEN as u32 } else { 0 });
        out.put_u32(interface.index);
        out.put_u32(interface.capability);
        out.put_u32(0);
        out.put_u64(interface.link_speed);
        match interface.address {
            IpAddr::V4(address) => {
                out.put_u16(FAMILY_INET);
                out.put_u16(0); // the port is the client's to choose
                out.put_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out.put_u16(FAMILY_INET6);
                out.put_u16(0);
                out.put_u32(0);
                out.put_slice(&address.octets());
            }
        }
        out.pad_to(start, INTERFACE_LEN);
    }
}

/// COMPRESSION_FORMAT_NONE (MS-FSCC 2.3.9, 2.3.53).
pub const COMPRESSION_NONE: u16 = 0;

/// Length of a resume key (MS-SMB2 2.2.32.3).
pub const RESUME_KEY_LEN: usize = 24;

/// SRV_REQUEST_RESUME_KEY's output: the key, an empty context.
pub fn encode_resume_key(key: &[u8; RESUME_KEY_LEN], out: &mut Vec<u8>) {
    out.put_slice(key);
    out.put_u64(0); // ContextLength, Context
}

/// A range to copy (MS-SMB2 2.2.31.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the source, in bytes.
    pub source_offset: u64,
    /// Where in the target, in bytes.
    pub target_offset: u64,
    /// How many bytes.
    pub length: u32,
}

/// SRV_COPYCHUNK_COPY (MS-SMB2 2.2.31.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyChunk {
    /// Names the source open.
    pub source_key: [u8; RESUME_KEY_LEN],
    /// The ranges.
    pub chunks: Vec<Chunk>,
}

impl CopyChunk {
    /// Decodes the input. ChunkCount is refused before anything is allocated if the chunks are not there.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(input, "SRV_COPYCHUNK_COPY");
        let source_key = r.array()?;
        let count = r.u32()? as usize;
        r.skip(4)?;
        let len =
            count.checked_mul(24).ok_or(DecodeError::Invalid { what: "ChunkCount", value: count as u64 })?;
        r.slice(r.position(), len)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            chunks.push(Chunk { source_offset: r.u64()?, target_offset: r.u64()?, length: r.u32()? });
            r.skip(4)?;
        }
        Ok(Self { source_key, chunks })
    }

    /// Appends the input.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.source_key);
        out.put_u32(self.chunks.len() as u32);
        out.put_u32(0);
        for chunk in &self.chunks {
            out.put_u64(chunk.source_offset);
            out.put_u64(chunk.target_offset);
            out.put_u32(chunk.length);
            out.put_u32(0);
        }
    }
}

/// Bytes of a [`CopyChunkResponse`].
pub const COPY_CHUNK_RESPONSE_LEN: usize = 12;

/// SRV_COPYCHUNK_RESPONSE (MS-SMB2 2.2.32.1): what was done; or, with STATUS_INVALID_PARAMETER, the server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyChunkResponse {
    /// ChunksWritten: those that were copied whole.
    pub chunks: u32,
    /// ChunkBytesWritten: bytes of the one that failed on its way.
    pub chunk_bytes: u32,
    /// TotalBytesWritten.
    pub total_bytes: u32,
}

impl CopyChunkResponse {
    /// Decodes the output.
    pub fn decode(output: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(output, "SRV_COPYCHUNK_RESPONSE");
        Ok(Self { chunks: r.u32()?, chunk_bytes: r.u32()?, total_bytes: r.u32()? })
    }

    /// Appends the output.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.chunks);
        out.put_u32(self.chunk_bytes);
        out.put_u32(self.total_bytes);
    }
}

/// LMR_REQUEST_RESILIENCY's input (MS-SMB2 2.2.31.3): for how many milliseconds the open should outlive its connection.
pub fn decode_resiliency(input: &[u8]) -> Result<u32, DecodeError> {
    let mut r = Reader::new(input, "NETWORK_RESILIENCY_REQUEST");
    let timeout_ms = r.u32()?;
    r.skip(4)?;
    Ok(timeout_ms)
}

/// FSCTL_SET_SPARSE's input (MS-FSCC 2.3.67): no input means sparse.
pub fn decode_set_sparse(input: &[u8]) -> bool {
    input.first().is_none_or(|byte| *byte != 0)
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl Range {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { offset: r.u64()?, length: r.u64()? })
    }
}

fn signed(what: &'static str, value: u64) -> Result<u64, DecodeError> {
    if i64::try_from(value).is_ok() { Ok(value) } else { Err(DecodeError::Invalid { what, value }) }
}

/// FSCTL_SET_ZERO_DATA's input (MS-FSCC 2.3.71): FileOffset and BeyondFinalZero, which must not be negative or lie in the
/// wrong order.
pub fn decode_zero_data(input: &[u8]) -> Result<Range, DecodeError> {
    let mut r = Reader::new(input, "FILE_ZERO_DATA_INFORMATION");
    let offset = signed("FileOffset", r.u64()?)?;
    let beyond = signed("BeyondFinalZero", r.u64()?)?;
    let length =
        beyond.checked_sub(offset).ok_or(DecodeError::Invalid { what: "BeyondFinalZero", value: beyond })?;
    Ok(Range { offset, length })
}

/// FSCTL_QUERY_ALLOCATED_RANGES's input (MS-FSCC 2.3.48); its end must be a valid offset too.
pub fn decode_allocated_ranges(input: &[u8]) -> Result<Range, DecodeError> {
    let range = Range::decode(&mut Reader::new(input, "FILE_ALLOCATED_RANGE_BUFFER"))?;
    signed("FileOffset", range.offset)?;
    signed("Length", range.length)?;
    signed("end of range", range.offset + range.length)?;
    Ok(range)
}

/// Its output (MS-FSCC 2.3.49): as many of `ranges` as fit `limit` bytes, and whether that was all
/// (else STATUS_BUFFER_OVERFLOW).
pub fn encode_allocated_ranges(ranges: &[Range], limit: usize, out: &mut Vec<u8>) -> bool {
    let fit = ranges.len().min(limit / 16);
    for range in &ranges[..fit] {
        out.put_u64(range.offset);
        out.put_u64(range.length);
    }
    fit == ranges.len()
}

/// CompressionState of GET_COMPRESSION and SET_COMPRESSION (MS-FSCC 2.3.18, 2.3.65); 0 is none.
pub fn decode_compression(input: &[u8]) -> Result<u16, DecodeError> {
    Reader::new(input, "CompressionState").u16()
}

/// FSCTL_FILE_LEVEL_TRIM's input (MS-FSCC 2.3.13): ranges whose content is not needed any more.
pub fn decode_trim(input: &[u8]) -> Result<Vec<Range>, DecodeError> {
    let mut r = Reader::new(input, "FILE_LEVEL_TRIM");
    r.skip(4)?; // Key
    let count = r.u32()?;
    let mut ranges = Vec::new(); // grows with what is there
    for _ in 0..count {
        ranges.push(Range::decode(&mut r)?);
    }
    Ok(ranges)
}

/// FILE_OBJECTID_BUFFER type 1 (MS-FSCC 2.1.3.1), the output of CREATE_OR_GET_OBJECT_ID.
pub fn encode_object_id(object_id: &[u8; 16], volume_id: &[u8; 16], out: &mut Vec<u8>) {
    out.put_slice(object_id);
    out.put_slice(volume_id); // BirthVolumeId
    out.put_slice(object_id); // BirthObjectId
    out.put_zeros(16); // DomainId
}

/// REQ_GET_DFS_REFERRAL (MS-DFSC 2.2.2): the highest referral version understood, and the path, its terminator cut off.
pub fn decode_dfs_referral(input: &[u8]) -> Result<(u16, Utf16<'_>), DecodeError> {
    let mut r = Reader::new(input, "REQ_GET_DFS_REFERRAL");
    let level = r.u16()?;
    let path = r.bytes(r.remaining())?;
    let units = path.chunks_exact(2).position(|unit| unit == [0, 0]).unwrap_or(path.len() / 2);
    Ok((level, Utf16(&path[..units * 2])))
}

/// FSCTL_PIPE_WAIT's input (MS-FSCC 2.3.31): how long to wait in 100 ns, if said, and for which pipe.
pub fn decode_pipe_wait(input: &[u8]) -> Result<(Option<u64>, Utf16<'_>), DecodeError> {
    let mut r = Reader::new(input, "FSCTL_PIPE_WAIT");
    let timeout = r.u64()?;
    let len = r.u32()? as usize;
    let specified = r.u8()? != 0;
    r.skip(1)?;
    Ok((specified.then_some(timeout), Utf16(r.bytes(len)?)))
}
