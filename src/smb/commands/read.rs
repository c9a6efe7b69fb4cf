//! READ (MS-SMB2 3.3.5.12): straight into the buffer that is sent.

use std::sync::atomic::Ordering;

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::read as wire;

use super::open_of;
use crate::smb::request::{Failure, Outcome, Reply, Request, WakeKey};
use crate::smb::server::{PAYLOAD_BYTES_MAX, ShareKind};

/// Handles a READ.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.length.into())?;
    let open = open_of(request, message.file_id)?;
    if open.file.is_directory() {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    open.require(access::READ_DATA | access::EXECUTE)?;
    let end = message.offset.checked_add(message.length.into());
    if message.length > PAYLOAD_BYTES_MAX
        || message.channel != wire::CHANNEL_NONE
        || end.is_none_or(|end| i64::try_from(end).is_err())
    {
        return Err(Status::INVALID_PARAMETER.into());
    }
    open.entry.check_io(open.id.volatile, message.offset, message.length.into(), false)?;
    let mut payload = request.server.pool.take_payload(message.length as usize);
    let count = match open.file.read_at(payload.bytes_mut(), message.offset) {
        // A pipe's READ waits until there is something (3.3.5.12): a WRITE to it wakes it, or its close.
        Err(Status::PIPE_EMPTY) => {
            return Err(Failure::Park { key: WakeKey::Open(open.id.volatile), timeout: None });
        }
        read => read?,
    };
    if count < message.minimum_count as usize || (count == 0 && message.length > 0) {
        return Err(Status::END_OF_FILE.into());
    }
    payload.set_payload_len(count);
    open.position.store(message.offset + count as u64, Ordering::Relaxed);
    let pipe = request.tree.entry.kind == ShareKind::Pipe;
    let partial = pipe && open.file.metadata().is_ok_and(|metadata| metadata.size > 0);
    let status = if partial { Status::BUFFER_OVERFLOW } else { Status::SUCCESS };
    Ok(Reply::Data { status, payload })
}
