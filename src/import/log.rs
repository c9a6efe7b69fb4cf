//! A session's import.log: one line an event, in the sample's layout, and the same line for the service's own log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes after which a session's log takes no more lines but says so once: a client that loops on a refusal must not
/// fill the service's disk.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// The log of one session.
#[derive(Debug)]
pub struct SessionLog {
    file: Mutex<(File, u64)>,
}

impl SessionLog {
    /// Opens it for appending, making it where it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file: Mutex::new((file, length)) })
    }

    /// Appends `text`, each of its lines with the time. A log that can't be written stops no restore: the service's own
    /// log has the line too.
    pub fn line(&self, text: &str) {
        tracing::info!(target: "importfs::import", "{text}");
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
        let mut lines: String = text.lines().map(|line| format!("{now}: {line}\n")).collect();
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1 > LOG_BYTES_MAX {
            return;
        }
        if held.1 + lines.len() as u64 > LOG_BYTES_MAX {
            lines.push_str(&now);
            lines.push_str(": the log is full; further lines are in the service's log\n");
            held.1 = LOG_BYTES_MAX;
        }
        held.1 += lines.len() as u64;
        if let Err(error) = held.0.write_all(lines.as_bytes()) {
            tracing::warn!("import.log can't be written: {error}");
        }
    }

    /// An error in the sample's words: which thread, where in the source.
    pub fn error(&self, at: &str, text: &str) {
        self.line(&format!("ERROR [thread:{}, where:{at}, error:1] {text}", thread_number()));
    }
}

/// A number for the calling thread, as the sample's lines carry one.
fn thread_number() -> u64 {
    rustix::thread_id()
}

/// `file.rs:line` of where it stands.
macro_rules! here {
    () => {
        concat!(env!("CARGO_CRATE_NAME"), "::", file!(), ":", line!())
    };
}
pub(super) use here;
