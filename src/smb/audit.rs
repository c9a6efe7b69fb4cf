//! The audit log: who came in, who was refused, what was destroyed; through `tracing` with the target `audit`, so that it can be
//! filtered and shipped apart from the rest. Every line of a session has its SessionId.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use smb_proto::Status;

use super::seldom::Seldom;
use super::session::Session;

/// The target of every line.
const TARGET: &str = "audit";
/// Refused logins that get a line of their own in a second; the next line counts the others.
pub const REFUSALS_PER_SECOND: u32 = 50;
/// Overwritten files that get a line of their own in a second; the next line counts the others. More than a restore over an old
/// copy makes: one file can be overwritten again and again.
pub const OVERWRITES_PER_SECOND: u32 = 1000;

/// A session began.
pub fn login(session: &Session) {
    let caller = session.caller();
    tracing::info!(target: TARGET, event = "login", session = session.id, user = %caller.user, peer = %caller.peer);
}

/// A session's user proved himself again, or another took it over.
pub fn login_again(session: &Session) {
    let caller = session.caller();
    tracing::info!(target: TARGET, event = "login-again", session = session.id, user = %caller.user, peer = %caller.peer);
}

/// A session got a further connection.
pub fn channel(session: &Session, peer: &str) {
    tracing::info!(target: TARGET, event = "channel", session = session.id, user = %session.caller().user, peer);
}

/// Logins that failed, as many lines a second as [`REFUSALS_PER_SECOND`]: whoever floods the server with them must not fill the disk.
#[derive(Debug)]
pub struct Refusals(Mutex<Seldom>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Seldom::new(REFUSALS_PER_SECOND)))
    }
}

impl Refusals {
    fn note(&self, log: impl FnOnce(u64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now(), log);
    }

    /// A login failed.
    pub fn login(&self, user: &str, peer: &str, why: &dyn std::fmt::Display) {
        self.note(|more| tracing::warn!(target: TARGET, event = "login-refused", user, peer, more, %why));
    }

    /// A connection was not let into a session.
    pub fn channel(&self, peer: &str, why: &dyn std::fmt::Display) {
        self.note(|more| tracing::warn!(target: TARGET, event = "channel-refused", peer, more, %why));
    }
}

/// Files that were emptied or replaced by a CREATE (MS-SMB2 2.2.13: supersede, overwrite), as many lines a second as
/// [`OVERWRITES_PER_SECOND`].
#[derive(Debug)]
pub struct Overwrites(Mutex<Seldom>);

impl Default for Overwrites {
    fn default() -> Self {
        Self(Mutex::new(Seldom::new(OVERWRITES_PER_SECOND)))
    }
}

impl Overwrites {
    /// A file's data were given up for new ones; `superseded`: the file was replaced whole.
    pub fn note(&self, session: &Session, path: &str, superseded: bool) {
        let mut seldom = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seldom.note(Instant::now(), |more| {
            let (session, user) = (session.id, &session.caller().user);
            tracing::info!(target: TARGET, event = "overwrite", session, %user, path, superseded, more);
        });
    }
}

/// A session ended by its client's wish.
pub fn logoff(session: &Session) {
    tracing::info!(target: TARGET, event = "logoff", session = session.id, user = %session.caller().user);
}

/// A user connected to a share.
pub fn share(session: &Session, share: &str) {
    tracing::info!(target: TARGET, event = "share", session = session.id, user = %session.caller().user, share);
}

/// A user was not let into a share.
pub fn share_refused(session: &Session, share: &str, status: Status) {
    let caller = session.caller();
    tracing::warn!(target: TARGET, event = "share-refused", session = session.id, user = %caller.user, peer = %caller.peer, share, %status);
}

/// A file or directory was deleted, or could not be.
pub fn deleted(session_id: u64, path: &str, outcome: Result<(), Status>) {
    match outcome {
        Ok(()) => tracing::info!(target: TARGET, event = "delete", session = session_id, path),
        Err(status) => {
            tracing::warn!(target: TARGET, event = "delete-failed", session = session_id, path, %status);
        }
    }
}

/// A file or directory was renamed, over another where `replace` allowed that.
pub fn renamed(session: &Session, from: &str, to: &str, replace: bool) {
    tracing::info!(target: TARGET, event = "rename", session = session.id, user = %session.caller().user, from, to, replace);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn overwriting_one_file_again_and_again_fills_no_disk() {
        let overwrites = Overwrites::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        for step in 0..u64::from(OVERWRITES_PER_SECOND) + 10 {
            let now = begin + Duration::from_micros(step);
            overwrites.0.lock().unwrap().note(now, |more| told.push(more));
        }
        assert_eq!(told.len(), OVERWRITES_PER_SECOND as usize);
        overwrites.0.lock().unwrap().note(begin + Duration::from_secs(1), |more| told.push(more));
        assert_eq!(told.last(), Some(&10));
    }
}
