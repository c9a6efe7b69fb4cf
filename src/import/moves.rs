//! Directories of the share that are renamed: Explorer makes a "New folder" first and asks for its name then.
//!
//! Where a session's files go is its CFG's to say, so that its own place in the share can change at any time. It stands in
//! each session's journal. Where sessions lie below, the directory's own record comes first and says that they have yet to
//! follow; after a crash in between, the next start lets them.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::engine::{DEPTH_MAX, Engine, folded, shown};
use super::error::ImportError;
use super::formats::log_text::Event;
use super::session::{Session, fold_name};
use crate::journal::Record;

/// How long a rename waits for a session that is being worked on.
const BUSY_MAX: Duration = Duration::from_secs(1);

impl Engine {
    /// Gives a directory, with all below it, another path. An open file below makes it wait for its close.
    pub fn rename_directory(&self, session: &Arc<Session>, to: &[String]) -> Result<(), ImportError> {
        let _held = self.structure.lock().unwrap_or_else(PoisonError::into_inner);
        let from = session.components();
        if from == to {
            return Ok(());
        }
        if from.is_empty() {
            return Err(ImportError::InUse("the share's root".to_owned()));
        }
        let (old, new) = (folded(&from), folded(to));
        if new.len() > old.len() && new.starts_with(&old) {
            let why = format!("it can't be moved into itself, {}", shown(to));
            return Err(ImportError::Refused { path: shown(&from), why });
        }
        if !self.session(&from).is_some_and(|known| Arc::ptr_eq(&known, session)) {
            return Err(ImportError::NotFound(shown(&from)));
        }
        // In other case it is its own name, and so free.
        if new == old { Ok(()) } else { self.check_free(to) }?;
        let below = self.below(&old);
        for moving in below.iter().chain([session]) {
            // One that waits for its datastore is in use, too; with the structure held, everybody would wait with it.
            if moving.lock_until(Instant::now() + BUSY_MAX).is_none_or(|inner| inner.handles > 0) {
                return Err(ImportError::InUse(moving.display("")));
            }
            if moving.components().len() - from.len() + to.len() > DEPTH_MAX {
                return Err(ImportError::Limit {
                    what: "directories in one another",
                    limit: DEPTH_MAX as u64,
                });
            }
        }
        let followers = if below.is_empty() { String::new() } else { from.join("/") };
        session.record(&Record::SessionMoved { directory: to.join("/"), followers })?;
        self.put(session, to);
        session.log.line(&Event::Note(&format!("Rename {} to {}", shown(&from), shown(to))).to_string());
        if !below.is_empty() {
            self.follow(session, &from, &below)?;
        }
        Ok(())
    }

    /// The sessions below a folded path.
    fn below(&self, path: &[String]) -> Vec<Arc<Session>> {
        let sessions = self.lock();
        let below = sessions.iter().filter(|(at, _)| at.len() > path.len() && at.starts_with(path));
        below.map(|(_, session)| Arc::clone(session)).collect()
    }

    /// Puts a session where its new path is.
    fn put(&self, session: &Arc<Session>, to: &[String]) {
        let mut sessions = self.lock();
        sessions.remove(&folded(&session.components()));
        session.set_components(to.to_vec());
        sessions.insert(folded(to), Arc::clone(session));
    }

    /// Lets what lay below `from` follow a directory that has moved already.
    fn follow(&self, parent: &Session, from: &[String], below: &[Arc<Session>]) -> Result<(), ImportError> {
        let to = parent.components();
        // All of them here before a journal's failure is told: the share shows one tree or the other.
        let mut outcome = Ok(());
        for session in below {
            let path: Vec<String> = to.iter().chain(&session.components()[from.len()..]).cloned().collect();
            self.put(session, &path);
            let moved = Record::SessionMoved { directory: path.join("/"), followers: String::new() };
            outcome = session.record(&moved).and(outcome);
        }
        outcome?;
        parent.record(&Record::SessionMoved { directory: to.join("/"), followers: String::new() })
    }

    /// At a start: what a crash kept from following follows now. `unfinished` has directories and where they were.
    pub(super) fn finish_moves(
        &self,
        mut unfinished: Vec<(Arc<Session>, Vec<String>)>,
    ) -> Result<(), ImportError> {
        unfinished.sort_by_key(|(session, _)| session.components());
        for (parent, from) in unfinished {
            let old: Vec<_> = from.iter().map(|component| fold_name(component)).collect();
            let below = self.below(&old);
            self.follow(&parent, &from, &below)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
