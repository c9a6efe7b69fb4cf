//! WRITE (MS-SMB2 3.3.5.13): the payload goes to the share as a slice of the frame that it came in.

use std::sync::atomic::Ordering;

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::create::options;
use smb_proto::msg::write as wire;

use super::open_of;
use crate::smb::request::{Outcome, Reply, Request, WakeKey};
use crate::smb::server::{PAYLOAD_BYTES_MAX, ShareKind};

/// Handles a WRITE.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.data.len() as u64)?;
    let open = open_of(request, message.file_id)?;
    if open.file.is_directory() {
        return Err(Status::INVALID_DEVICE_REQUEST.into());
    }
    open.require(access::WRITE_DATA | access::APPEND_DATA)?;
    let length = message.data.len() as u64;
    let end = message.offset.checked_add(length);
    if length > PAYLOAD_BYTES_MAX.into()
        || message.channel != 0
        || end.is_none_or(|end| i64::try_from(end).is_err())
    {
        return Err(Status::INVALID_PARAMETER.into());
    }
    open.entry.check_io(open.id.volatile, message.offset, length, true)?;
    if length > 0 {
        request.server.changing(&open);
        let through =
            message.flags & wire::FLAG_WRITE_THROUGH != 0 || open.options & options::WRITE_THROUGH != 0;
        open.file.write_at(message.data, message.offset, through)?;
        request.server.told_written(&open);
        open.position.store(message.offset + length, Ordering::Relaxed);
        if request.tree.entry.kind == ShareKind::Pipe {
            request.server.wake(&WakeKey::Open(open.id.volatile)); // a READ may wait for the answer
        }
    }
    let response = wire::Response { count: length as u32 };
    Ok(Reply::success(|out| response.encode(out)))
}
