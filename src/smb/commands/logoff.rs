//! LOGOFF (MS-SMB2 3.3.5.6).

use std::sync::Arc;

use smb_proto::msg::logoff;

use crate::smb::connection::Connection;
use crate::smb::request::{Outcome, Reply};
use crate::smb::server::Server;
use crate::smb::session::Session;

/// Ends the session, on all its trees.
pub fn handle(server: &Server, connection: &Connection, session: &Arc<Session>, message: &[u8]) -> Outcome {
    logoff::Request::decode(message)?;
    connection.remove_session(session.id);
    server.remove_session(session.id);
    Ok(Reply::success(|out| logoff::Response.encode(out)))
}
