//! FLUSH (MS-SMB2 3.3.5.11).

use smb_proto::fscc::access;
use smb_proto::msg::flush as wire;

use super::open_of;
use crate::smb::request::{Outcome, Reply, Request};

/// Handles a FLUSH: who may write may flush.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    let open = open_of(request, message.file_id)?;
    open.require(access::WRITE_DATA | access::APPEND_DATA)?;
    open.file.flush()?;
    Ok(Reply::success(|out| wire::Response.encode(out)))
}
