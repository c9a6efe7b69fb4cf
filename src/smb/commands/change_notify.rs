//! CHANGE_NOTIFY (MS-SMB2 3.3.5.19): parked until something happens below its directory. The rules are in
//! [`crate::smb::notify`].

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::change_notify as wire;

use super::open_of;
use crate::smb::changes::share_id;
use crate::smb::notify::{Happened, Interest};
use crate::smb::request::{Failure, Outcome, Reply, Request, WakeKey};
use crate::smb::server::PAYLOAD_BYTES_MAX;

/// Handles a CHANGE_NOTIFY; runs again whenever something was entered into its open's watch, and when that is over.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.output_buffer_length.into())?;
    let open = open_of(request, message.file_id).map_err(|status| match request.async_id {
        Some(_) => Status::NOTIFY_CLEANUP,
        None => status,
    })?;
    if message.output_buffer_length > PAYLOAD_BYTES_MAX || !open.file.is_directory() {
        return Err(Status::INVALID_PARAMETER.into());
    }
    open.require(access::LIST_DIRECTORY)?;
    let (table, id) = (&request.server.notify, open.id.volatile);
    let room = message.output_buffer_length as usize;
    if request.async_id.is_none() {
        let tree = message.flags & wire::FLAG_WATCH_TREE != 0;
        let interest = Interest { filter: message.completion_filter, tree, room };
        table.watch(id, share_id(&open.share), &open.file.path().components, interest)?;
        if open.is_closed() {
            // Closed in between: its close may have come before the watch.
            table.forget(id);
            return Err(Status::NOTIFY_CLEANUP.into());
        }
    }
    if open.entry.delete_pending() {
        return Err(Status::DELETE_PENDING.into());
    }
    match table.take(id, room) {
        Happened::Changes(data) => Ok(Reply::success(|out| wire::Response { data: &data }.encode(out))),
        Happened::TooMuch => Err(Status::NOTIFY_ENUM_DIR.into()),
        Happened::Nothing => Err(Failure::Park { key: WakeKey::Open(id), timeout: None }),
    }
}
