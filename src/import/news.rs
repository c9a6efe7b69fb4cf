//! What the service itself changes in sessions, told to whoever shows them: import.log, `.cfg.err` and `.vmcfg` come, grow and
//! go without a client's doing.

use std::sync::OnceLock;

/// What happened to one of the service's own files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnChange {
    /// It is there now.
    Added,
    /// It is gone.
    Removed,
    /// Its text is another.
    Modified,
}

type Listener = Box<dyn Fn(&[String], &str, OwnChange) + Send + Sync>;

/// Where such news go. Called with a session's lock held, so a listener must not ask the engine anything.
#[derive(Default)]
pub(super) struct News(OnceLock<Listener>);

impl News {
    /// Sets the listener; the first one stays.
    pub(super) fn listen(&self, listener: Listener) {
        let _ = self.0.set(listener); // a second listener would be a second share on one engine: there is none
    }

    /// Tells of a file `name` in the session at `path`.
    pub(super) fn tell(&self, path: &[String], name: &str, change: OwnChange) {
        if let Some(listener) = self.0.get() {
            listener(path, name, change);
        }
    }
}
