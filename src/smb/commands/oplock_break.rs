//! OPLOCK_BREAK acknowledgements (MS-SMB2 3.3.5.22).

use smb_proto::Status;
use smb_proto::msg::oplock_break as wire;

use super::open_of;
use crate::smb::request::{Outcome, Request};

/// Handles an acknowledgement. No oplock or lease was granted, so none can be breaking: an open gets
/// INVALID_OPLOCK_PROTOCOL (3.3.5.22.1), a lease key is not found (3.3.5.22.2).
pub fn handle(request: &mut Request<'_>) -> Outcome {
    match wire::Request::decode(request.message)? {
        wire::Request::Oplock(oplock) => {
            open_of(request, oplock.file_id)?;
            Err(Status::INVALID_OPLOCK_PROTOCOL.into())
        }
        wire::Request::Lease(_) => Err(Status::OBJECT_NAME_NOT_FOUND.into()),
    }
}
