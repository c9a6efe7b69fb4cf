//! A session's import.log: one line an event, in the sample's layout, and the same line for the service's own log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::formats::log_text::{self, Fault};
use super::formats::one_line;

/// Bytes, unless the settings say otherwise, after which a session's log takes no more lines but says so once: a client
/// that loops on a refusal must not fill the service's disk.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// The `error:` of the sample's lines.
const CLIENT_FAULT: i32 = 1;

/// Numbers of threads, in the order in which they first logged.
static THREADS: AtomicU64 = AtomicU64::new(1);
thread_local! {
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// The log of one session.
pub(super) struct SessionLog {
    file: Mutex<(File, u64)>,
    bytes_max: u64,
    /// Called when it has grown.
    grown: Box<dyn Fn() + Send + Sync>,
}

impl SessionLog {
    /// Opens it for appending, making it where it is missing. It grows to `bytes_max` bytes, and says so by `grown`.
    pub(super) fn open(
        path: &Path,
        bytes_max: u64,
        grown: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file: Mutex::new((file, length)), bytes_max, grown: Box::new(grown) })
    }

    /// Appends `text` with the time. A log that can't be written stops no restore: the service's own
    /// log has the line too.
    pub(super) fn line(&self, text: &str) {
        self.line_untold(text);
        (self.grown)();
    }

    /// The same without saying that it has grown: for what reading it causes, or whoever reads it at each change would
    /// change it for ever.
    pub(super) fn line_untold(&self, text: &str) {
        tracing::info!(target: "importfs::import", "{}", one_line(text));
        let now = jiff::ZonedDateTime::now().datetime();
        let mut line = log_text::line(now, &text);
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1 > self.bytes_max {
            return;
        }
        if held.1 + line.len() as u64 > self.bytes_max {
            line = log_text::line(now, &"the log is full; further lines are in the service's log");
            held.1 = self.bytes_max;
        }
        held.1 += line.len() as u64;
        if let Err(error) = held.0.write_all(line.as_bytes()) {
            tracing::warn!("import.log can't be written: {error}");
        }
    }

    /// An error in the sample's words: which thread, where in the source.
    #[track_caller]
    pub(super) fn error(&self, text: &str) {
        let thread = THREAD.with(|number| *number);
        self.line(&Fault::here(thread, CLIENT_FAULT, text).to_string());
    }
}
