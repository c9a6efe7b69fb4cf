//! CLOSE (MS-SMB2 3.3.5.10).

use smb_proto::msg::close as wire;

use super::{network_open_of, open_of};
use crate::smb::request::{Outcome, Reply, Request};

/// Handles a CLOSE. The share's own close status goes to the client: an import tells its late errors so.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    let open = open_of(request, message.file_id)?;
    let metadata = match message.flags & wire::FLAG_POSTQUERY_ATTRIB {
        0 => None,
        _ => open.file.metadata().ok(),
    };
    let closed = request.server.close(&open, true);
    request.server.end_unanswerable(&open.entry);
    closed?;
    let response = metadata.map_or_else(wire::Response::default, |metadata| wire::Response {
        flags: wire::FLAG_POSTQUERY_ATTRIB,
        file: network_open_of(&metadata),
    });
    Ok(Reply::success(|out| response.encode(out)))
}
