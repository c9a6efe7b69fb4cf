//! CHANGE_NOTIFY (MS-SMB2 3.3.5.19). Changes are not watched: the answer is NOT_SUPPORTED, which the section provides for and
//! clients answer by listing again (docs/deviations.md).

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::change_notify as wire;

use super::open_of;
use crate::smb::request::{Outcome, Request};
use crate::smb::server::PAYLOAD_BYTES_MAX;

/// Handles a CHANGE_NOTIFY: checks what the section checks first, so that a client's mistakes are told apart.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.output_buffer_length.into())?;
    let open = open_of(request, message.file_id)?;
    if message.output_buffer_length > PAYLOAD_BYTES_MAX || !open.file.is_directory() {
        return Err(Status::INVALID_PARAMETER.into());
    }
    open.require(access::LIST_DIRECTORY)?;
    Err(Status::NOT_SUPPORTED.into())
}
