//! TREE_DISCONNECT (MS-SMB2 3.3.5.8).

use smb_proto::msg::tree_disconnect;

use crate::smb::request::{Outcome, Reply, Request};

/// Takes the tree out of its session and closes its opens.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    tree_disconnect::Request::decode(request.message)?;
    request.session.disconnect(request.tree.id)?;
    request.server.close_opens(request.session.id, Some(request.tree.id));
    Ok(Reply::success(|out| tree_disconnect::Response.encode(out)))
}
