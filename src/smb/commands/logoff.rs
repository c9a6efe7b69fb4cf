//! LOGOFF (MS-SMB2 3.3.5.6).

use std::sync::Arc;

use smb_proto::msg::logoff;

use crate::smb::audit;
use crate::smb::request::{Outcome, Reply};
use crate::smb::server::Server;
use crate::smb::session::Session;

/// Ends the session, on all its trees.
pub fn handle(server: &Server, session: &Arc<Session>, message: &[u8]) -> Outcome {
    logoff::Request::decode(message)?;
    audit::logoff(session);
    server.remove_session(session.id);
    Ok(Reply::success(|out| logoff::Response.encode(out)))
}
