//! LOCK (MS-SMB2 3.3.5.14). The rules are in [`crate::smb::lock`].

use smb_proto::Status;
use smb_proto::msg::lock as wire;

use super::open_of;
use crate::smb::lock::Wish;
use crate::smb::open::locked;
use crate::smb::request::{Failure, Outcome, Reply, Request, WakeKey};

/// Handles a LOCK. One that waits is parked until a lock of its file is released; its open closed, RANGE_NOT_LOCKED.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    let open = open_of(request, message.file_id).map_err(|status| match request.async_id {
        Some(_) => Status::RANGE_NOT_LOCKED,
        None => status,
    })?;
    if open.file.is_directory() {
        return Err(Status::INVALID_PARAMETER.into()); // MS-FSA 2.1.5.8, 2.1.5.9
    }
    if locked(&open.state).sequences.is_replay(message.lock_sequence) {
        return Ok(Reply::success(|out| wire::Response.encode(out)));
    }
    let id = open.id.volatile;
    let key = || WakeKey::File(open.entry.key.clone());
    match Wish::new(&message.locks)? {
        Wish::Unlock(ranges) => {
            let done = open
                .entry
                .with_locks(|held| ranges.into_iter().try_for_each(|range| held.unlock(id, range?)));
            request.server.wake(&key());
            done?;
        }
        Wish::Lock { ranges, wait } => {
            request.server.changing(&open);
            match open.entry.with_locks(|held| held.lock(id, &ranges)) {
                Err(Status::LOCK_NOT_GRANTED) if wait => {
                    return Err(Failure::Park { key: key(), timeout: None });
                }
                done => done?,
            }
        }
    }
    locked(&open.state).sequences.done(message.lock_sequence);
    Ok(Reply::success(|out| wire::Response.encode(out)))
}
