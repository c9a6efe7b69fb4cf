//! OPLOCK_BREAK acknowledgements (MS-SMB2 3.3.5.22).

use std::time::Instant;

use smb_proto::Status;
use smb_proto::msg::create::oplock;
use smb_proto::msg::oplock_break as wire;

use super::open_of;
use crate::smb::oplock::LeaseKey;
use crate::smb::request::{Failure, Outcome, Reply, Request, WakeKey};

/// Handles an acknowledgement: whoever waits for the file goes on.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let response = match wire::Request::decode(request.message)? {
        wire::Request::Oplock(asked) => wire::Request::Oplock(oplock(request, asked)?),
        wire::Request::Lease(asked) => wire::Request::Lease(lease(request, asked)?),
    };
    Ok(Reply::success(|out| response.encode(out)))
}

/// 3.3.5.22.1.
fn oplock(request: &mut Request<'_>, asked: wire::Oplock) -> Result<wire::Oplock, Failure> {
    let open = open_of(request, asked.file_id)?;
    if asked.level == oplock::LEASE {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let level = open.entry.with_oplocks(|held| held.acknowledge_oplock(open.id.volatile, asked.level));
    request.server.wake(&WakeKey::File(open.entry.key.clone()));
    Ok(wire::Oplock { level: level?, file_id: open.id })
}

/// 3.3.5.22.2: by the client's key, on any of its connections.
fn lease(request: &Request<'_>, asked: wire::Lease) -> Result<wire::Lease, Failure> {
    let key = LeaseKey { client: request.connection.client_guid(), key: asked.key };
    let entry = request.server.opens.leased(key).ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
    let next = entry.with_oplocks(|held| held.acknowledge_lease(key, asked.state, Instant::now()))?;
    request.server.send_breaks(next.into_iter().collect());
    request.server.wake(&WakeKey::File(entry.key.clone()));
    Ok(wire::Lease { flags: 0, ..asked })
}
