//! TREE_CONNECT (MS-SMB2 3.3.5.7).

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::msg::tree_connect::{self, SHARE_FLAG_ENCRYPT_DATA, SHARE_TYPE_DISK, SHARE_TYPE_PIPE};

use crate::smb::audit;
use crate::smb::request::{Failure, Outcome, Reply};
use crate::smb::server::{Server, ShareKind};
use crate::smb::session::Session;

/// FILE_ALL_ACCESS: what a share grants at most; the file's own security says the rest.
const FILE_ALL_ACCESS: u32 = 0x001F_01FF;

/// Connects the session to a share; also gives the new TreeId, for the response's header.
pub fn handle(server: &Server, session: &Arc<Session>, message: &[u8]) -> Result<(u32, Outcome), Failure> {
    let request = tree_connect::Request::decode(message)?;
    let path = request.path.decode()?;
    let name = path.rsplit('\\').next().unwrap_or_default();
    let refused = |status| audit::share_refused(session, name, status);
    let entry = server.share(name).ok_or(Status::BAD_NETWORK_NAME).inspect_err(|status| refused(*status))?;
    if entry.encrypt && !session.keys.can_encrypt() {
        refused(Status::ACCESS_DENIED);
        return Err(Status::ACCESS_DENIED.into()); // 3.3.5.7: the client can't encrypt
    }
    let tree = session.connect(Arc::clone(entry), FILE_ALL_ACCESS).inspect_err(|status| refused(*status))?;
    audit::share(session, &entry.name);
    let response = tree_connect::Response {
        share_type: if entry.kind == ShareKind::Pipe { SHARE_TYPE_PIPE } else { SHARE_TYPE_DISK },
        share_flags: if entry.encrypt { SHARE_FLAG_ENCRYPT_DATA } else { 0 },
        capabilities: 0,
        maximal_access: tree.maximal_access,
    };
    Ok((tree.id, Ok(Reply::success(|out| response.encode(out)))))
}
