//! What an administrator sees of a running service: snapshots, and the way to them.
//!
//! - [`Report`]: the service and its sessions at one moment; whoever shows it, command or page, sees only this
//! - [`socket`]: a Unix socket in the data directory that hands reports out
//! - [`instance`]: one service at a time on a data directory
//!
//! Knows [`crate::import::Snapshot`] and nothing of sessions, disks or SMB.

pub mod instance;
pub mod socket;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::import::Snapshot;

/// The service that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub listen: Vec<String>,
    /// When it started, RFC 3339 in UTC.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
}

/// The service and its sessions at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The running service; absent where there is none, and the rest is what its journals tell.
    pub service: Option<Service>,
    /// The sessions.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

/// Where snapshots come from.
pub type Source = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Makes reports of this process.
pub struct Reporter {
    source: Source,
    listen: Vec<String>,
    started: Timestamp,
    begun: Instant,
}

impl Reporter {
    /// The service starts now, listening at those addresses.
    pub fn new(source: Source, listen: Vec<String>) -> Self {
        Self { source, listen, started: Timestamp::now(), begun: Instant::now() }
    }

    /// How all is now. May block for as long as a session is busy.
    pub fn report(&self) -> Report {
        let service = Service {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.listen.clone(),
            started: self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            uptime_seconds: self.begun.elapsed().as_secs(),
        };
        Report { service: Some(service), snapshot: (self.source)() }
    }
}
