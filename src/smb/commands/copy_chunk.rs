//! Copies within the server: FSCTL_SRV_REQUEST_RESUME_KEY, FSCTL_SRV_COPYCHUNK and FSCTL_SRV_COPYCHUNK_WRITE
//! (MS-SMB2 3.3.5.15.5, 3.3.5.15.6). The source may be on another share of the session: what lies on a staging share goes into
//! an import session without passing the network twice.

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::fscc::fsctl::{
    COPY_CHUNK_RESPONSE_LEN, Chunk, CopyChunk, CopyChunkResponse, RESUME_KEY_LEN, code, encode_resume_key,
};
use smb_proto::msg::ioctl as wire;

use super::open_of;
use crate::smb::open::Open;
use crate::smb::request::{Failure, Request};
use crate::smb::server::Server;

/// Chunks of one request: ServerSideCopyMaxNumberofChunks, as Windows has it.
const CHUNKS_MAX: u32 = 256;
/// Bytes of a chunk: ServerSideCopyMaxChunkSize. Each chunk is read whole before it is written, so that the ranges may
/// overlap.
pub(in crate::smb) const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// Bytes of one request: ServerSideCopyMaxDataSize.
const BYTES_MAX: u32 = 16 << 20;

/// FSCTL_SRV_REQUEST_RESUME_KEY: a name of the open that holds within its session: FileId and SessionId.
pub(super) fn resume_key(request: &mut Request<'_>, message: &wire::Request<'_>) -> Result<Vec<u8>, Failure> {
    let open = open_of(request, message.file_id)?;
    let mut output = Vec::new();
    encode_resume_key(&key_of(&open), &mut output);
    if output.len() > message.max_output_response as usize {
        return Err(Status::INVALID_PARAMETER.into());
    }
    Ok(output)
}

fn key_of(open: &Open) -> [u8; RESUME_KEY_LEN] {
    let mut key = [0; RESUME_KEY_LEN];
    key[..8].copy_from_slice(&open.id.persistent.to_le_bytes());
    key[8..16].copy_from_slice(&open.id.volatile.to_le_bytes());
    key[16..].copy_from_slice(&open.session_id().to_le_bytes());
    key
}

/// The open of a key: of this session, on whichever of its trees.
fn source_of(request: &Request<'_>, key: &[u8; RESUME_KEY_LEN]) -> Result<Arc<Open>, Status> {
    let volatile = u64::from_le_bytes(key[8..16].try_into().map_err(|_| Status::OBJECT_NAME_NOT_FOUND)?);
    let open = request.server.opens.by_id(volatile).filter(|open| open.session_id() == request.session.id);
    open.filter(|open| key_of(open) == *key).ok_or(Status::OBJECT_NAME_NOT_FOUND)
}

/// FSCTL_SRV_COPYCHUNK and its form that needs no right to read the target. A failure on the way is answered with how far
/// it came.
pub(super) fn copy(
    request: &mut Request<'_>,
    message: &wire::Request<'_>,
) -> Result<(Status, Vec<u8>), Failure> {
    let target = open_of(request, message.file_id)?;
    if (message.max_output_response as usize) < COPY_CHUNK_RESPONSE_LEN {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let copy = CopyChunk::decode(message.input)?;
    let source = source_of(request, &copy.source_key)?;
    if source.file.is_directory() || target.file.is_directory() {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    source.require(access::READ_DATA | access::EXECUTE)?;
    target.require(access::WRITE_DATA | access::APPEND_DATA)?;
    if message.ctl_code == code::SRV_COPYCHUNK {
        target.require(access::READ_DATA)?;
    }
    let mut done = CopyChunkResponse::default();
    let status = if fits(&copy.chunks) {
        match copy_all(request.server, (&source, &target), &copy.chunks, &mut done) {
            Ok(()) => Status::SUCCESS,
            Err(status) => status,
        }
    } else {
        done = CopyChunkResponse { chunks: CHUNKS_MAX, chunk_bytes: CHUNK_BYTES_MAX, total_bytes: BYTES_MAX };
        Status::INVALID_PARAMETER
    };
    if done.total_bytes > 0 && status != Status::INVALID_PARAMETER {
        request.server.told_written(&target);
    }
    let mut output = Vec::new();
    done.encode(&mut output);
    Ok((status, output))
}

/// Whether a request is within the limits, which are told to who exceeds them (3.3.5.15.6.1).
fn fits(chunks: &[Chunk]) -> bool {
    let total = chunks.iter().fold(0_u64, |total, chunk| total + u64::from(chunk.length));
    chunks.len() <= CHUNKS_MAX as usize
        && total <= BYTES_MAX.into()
        && chunks.iter().all(|chunk| (1..=CHUNK_BYTES_MAX).contains(&chunk.length))
}

fn copy_all(
    server: &Server,
    (source, target): (&Open, &Open),
    chunks: &[Chunk],
    done: &mut CopyChunkResponse,
) -> Result<(), Status> {
    let longest = chunks.iter().map(|chunk| chunk.length).max().unwrap_or_default();
    let mut buffer = server.pool.take(longest as usize);
    for chunk in chunks {
        let length = u64::from(chunk.length);
        let end = |offset: u64| offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
        let (Some(source_end), Some(_)) = (end(chunk.source_offset), end(chunk.target_offset)) else {
            return Err(Status::INVALID_PARAMETER);
        };
        if source_end > source.file.metadata()?.size {
            return Err(Status::INVALID_VIEW_SIZE);
        }
        source.entry.check_io(source.id.volatile, chunk.source_offset, length, false)?;
        target.entry.check_io(target.id.volatile, chunk.target_offset, length, true)?;
        let data = &mut buffer.bytes_mut()[..chunk.length as usize];
        if source.file.read_at(data, chunk.source_offset)? < data.len() {
            return Err(Status::INVALID_VIEW_SIZE); // cut meanwhile
        }
        server.changing(target);
        target.file.write_at(data, chunk.target_offset, false)?;
        done.chunks += 1;
        done.total_bytes += chunk.length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(lengths: &[u32]) -> Vec<Chunk> {
        lengths.iter().map(|length| Chunk { source_offset: 0, target_offset: 0, length: *length }).collect()
    }

    #[test]
    fn windows_limits_hold() {
        assert!(fits(&chunks(&[])));
        assert!(fits(&chunks(&[1, CHUNK_BYTES_MAX])));
        assert!(fits(&chunks(&[CHUNK_BYTES_MAX; 16])));
        assert!(fits(&chunks(&[1; 256])));
        for too_much in
            [&[0][..], &[CHUNK_BYTES_MAX + 1], &[CHUNK_BYTES_MAX; 17], &[1; 257], &[u32::MAX; 300]]
        {
            assert!(!fits(&chunks(too_much)));
        }
    }
}
