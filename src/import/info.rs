//! What is known of a session's files and of its directory, as clients see it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::session::{Content, Entry, Inner, Session};
use super::state::State;

/// Times of a file, 100-nanosecond intervals since 1601 (MS-DTYP 2.3.3), as clients set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Times {
    pub created: u64,
    pub accessed: u64,
    pub written: u64,
    pub changed: u64,
}

/// Seconds from 1601 to 1970.
const EPOCH_SECONDS: u64 = 11_644_473_600;

/// A moment in 100-nanosecond intervals since 1601.
pub(super) fn file_time(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() + EPOCH_SECONDS) * 10_000_000 + u64::from(since.subsec_nanos() / 100)
}

impl Times {
    pub(super) fn now() -> Self {
        Self::at(SystemTime::now())
    }

    pub(super) fn at(time: SystemTime) -> Self {
        let time = file_time(time);
        Self { created: time, accessed: time, written: time, changed: time }
    }
}

/// What is known of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name as stored, empty for the root.
    pub name: String,
    /// Its number, for as long as the service runs.
    pub number: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether clients may not change it.
    pub own: bool,
    /// End of file in bytes.
    pub size: u64,
    /// Bytes occupied.
    pub allocation: u64,
    /// Its times.
    pub times: Times,
    /// FileAttributes that a client set.
    pub attributes: u32,
}

/// What others see of a session: in listings of the directory above, in the room that the share says it has. They must not wait for a
/// session that waits for its datastore with its lock held.
#[derive(Default)]
pub(super) struct Face(Mutex<Features>);

pub(super) struct Features {
    /// The directory's times.
    pub(super) times: Times,
    /// Its security descriptor as the share encodes it; empty where none was written.
    security: Arc<[u8]>,
    /// See [`Session::destinations`].
    destinations: Vec<(String, String)>,
}

impl Default for Features {
    fn default() -> Self {
        Self { times: Times::now(), security: Arc::default(), destinations: Vec::new() }
    }
}

impl Face {
    /// Held for moments.
    pub(super) fn lock(&self) -> MutexGuard<'_, Features> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// What is known of a file.
    pub(super) fn info(&self, inner: &Inner, entry: &Entry) -> Info {
        let (size, allocation, own) = match &entry.content {
            Content::Small(_, cached) => {
                (cached.metadata().map_or(0, |metadata| metadata.len()), None, false)
            }
            Content::Own(cached) => (cached.metadata().map_or(0, |metadata| metadata.len()), None, true),
            Content::Pancbt(_, bytes) => (bytes.load(Ordering::Relaxed), None, false),
            Content::Extent(number) => {
                let receiving = match &inner.state {
                    State::Receiving(receiving) => Some(receiving),
                    State::Cfg => None,
                };
                let slot = receiving.and_then(|receiving| receiving.disks.get(*number));
                let imported = receiving.is_some_and(|receiving| receiving.imported.is_some());
                match (slot, slot.and_then(|slot| slot.disk.as_ref())) {
                    (_, Some(disk)) => (disk.end_of_file(), disk.allocated().ok(), false),
                    // It left the stage with its machine.
                    (Some(slot), None) if imported => (slot.plan.size, Some(0), false),
                    _ => (0, Some(0), false),
                }
            }
        };
        Info {
            name: entry.name.clone(),
            number: entry.number,
            directory: false,
            own,
            size,
            allocation: allocation.unwrap_or_else(|| size.next_multiple_of(4096)),
            times: entry.times,
            attributes: entry.attributes,
        }
    }

    /// The directory itself.
    pub fn directory_info(&self) -> Info {
        Info {
            name: self.components().pop().unwrap_or_default(),
            number: self.number,
            directory: true,
            own: false,
            size: 0,
            allocation: 0,
            times: self.face.lock().times,
            attributes: 0,
        }
    }

    /// Sets the directory's times.
    pub fn set_directory_times(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.face.lock().times);
    }

    /// Where it still writes to: hypervisor and datastore of each place of an unfinished restore. As it was when that was last asked, while
    /// the session waits for a datastore.
    pub(super) fn destinations(&self) -> Vec<(String, String)> {
        let Some(inner) = self.lock_until(Instant::now()) else {
            return self.face.lock().destinations.clone();
        };
        let found = match &inner.state {
            State::Receiving(receiving) if receiving.imported.is_none() => {
                let plan = &receiving.plan;
                plan.places().map(|place| (plan.hypervisor.clone(), place.datastore.clone())).collect()
            }
            _ => Vec::new(),
        };
        self.face.lock().destinations.clone_from(&found);
        found
    }

    /// The directory's security descriptor as the share encodes it; empty where none was written.
    pub fn kept_security(&self) -> Arc<[u8]> {
        Arc::clone(&self.face.lock().security)
    }

    /// Keeps it for as long as the service runs.
    pub fn keep_security(&self, descriptor: Vec<u8>) {
        self.face.lock().security = descriptor.into();
    }

    /// Its files, by name.
    pub fn list(&self) -> Vec<Info> {
        let inner = self.lock();
        inner.files.values().map(|entry| self.info(&inner, entry)).collect()
    }

    /// The file of that name, through the name that a copy tool uses for now.
    pub fn find(&self, name: &str) -> Option<Info> {
        let inner = self.lock();
        inner.entry(name).map(|entry| self.info(&inner, entry))
    }
}
