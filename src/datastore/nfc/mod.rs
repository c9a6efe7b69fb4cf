//! The nfc driver: a datastore of a vSphere that is mounted nowhere. Takes whole machines only: they wait in the stage until they
//! are complete, and are made by their hypervisor from a lease then ([`sink`]).
//!
//! Needs HTTPS to the vCenter and to the ESXi hosts that it names, and nothing else. What is asked of a datastore is answered from
//! the hypervisor's inventory.

mod sink;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use sink::Nfc;

use super::sink::Sink;
use super::stream_optimized::Options;
use super::{Capabilities, Datastore, Disk, DiskSpec, Space};
use crate::inventory::Place;
use crate::vsphere::{Client, VsphereError};

/// Disks at once: they are staged in files here, and bounded as those are.
const MAX_PARALLEL_DISKS: usize = 64;
/// How long an answer about room is good for: SMB clients ask before every file.
const SPACE_AGE: Duration = Duration::from_secs(5);
/// How long none is asked again after a failure: a hypervisor that does not answer must not hold clients each time.
const FAILURE_AGE: Duration = Duration::from_secs(20);

/// How machines are pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfcOptions {
    /// How their disks are compressed.
    pub stream: Options,
    /// For how long a push that broke is begun again.
    pub retry: Duration,
}

/// What was last known of the room, and when.
type Known = Option<(Instant, Result<Space, String>)>;

/// A datastore by its hypervisor's inventory.
pub struct NfcDatastore {
    client: Arc<Client>,
    name: String,
    uuid: Option<String>,
    options: NfcOptions,
    space: Mutex<Known>,
}

impl NfcDatastore {
    /// The datastore of that name; `uuid` tells it from others of the same name. Asks nothing yet.
    pub fn new(client: Arc<Client>, name: &str, uuid: Option<&str>, options: NfcOptions) -> Self {
        Self {
            client,
            name: name.to_owned(),
            uuid: uuid.map(str::to_owned),
            options,
            space: Mutex::default(),
        }
    }

    fn ask_space(&self) -> Result<Space, String> {
        let store =
            self.client.one_store(&self.name, self.uuid.as_deref()).map_err(|error| error.to_string())?;
        if !store.accessible {
            return Err(format!("no host reaches the datastore '{}'", self.name));
        }
        Ok(Space { total: store.capacity, available: store.free })
    }
}

fn unsupported<T>() -> io::Result<T> {
    let why = "its driver, nfc, takes whole virtual machines only";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// In the operating system's terms; the sentence stays.
fn as_io(error: VsphereError) -> io::Error {
    let full = matches!(&error, VsphereError::Http { status: 507, .. }) || error.kind() == "NoDiskSpace";
    match error {
        error if full => io::Error::new(io::ErrorKind::StorageFull, error),
        error if error.is_transient() => io::Error::new(io::ErrorKind::TimedOut, error),
        error => io::Error::other(error),
    }
}

impl Datastore for NfcDatastore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_write: false,
            fresh_reads_zero: true,
            sparse: true,
            punch: false,
            resumable: false,
            makes_descriptor: true,
            existing_disks: false,
            new_disks: true,
            max_parallel_disks: MAX_PARALLEL_DISKS,
        }
    }

    fn space(&self) -> io::Result<Space> {
        // Held while it is asked: the others get that answer too.
        let mut known = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match &*known {
            Some((when, Ok(space))) if when.elapsed() < SPACE_AGE => Ok(*space),
            Some((when, Err(why))) if when.elapsed() < FAILURE_AGE => Err(why.clone()),
            _ => {
                let answer = self.ask_space();
                *known = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.map_err(io::Error::other)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        if path.is_empty() {
            return Ok(true);
        }
        let store = self.client.one_store(&self.name, self.uuid.as_deref()).map_err(as_io)?;
        self.client.exists(&store, path).map_err(as_io)
    }

    fn sink(&self, place: &Place) -> Option<Arc<dyn Sink>> {
        Some(Arc::new(Nfc::new(Arc::clone(&self.client), place.clone(), self.options.clone())))
    }

    fn create_directory(&self, _: &str) -> io::Result<()> {
        unsupported()
    }

    fn create_disk(&self, _: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        unsupported()
    }

    fn open_disk(&self, _: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        unsupported()
    }

    fn put_file(&self, _: &str, _: &[u8]) -> io::Result<()> {
        unsupported()
    }

    fn get_file(&self, _: &str, _: u64) -> io::Result<Vec<u8>> {
        unsupported()
    }

    fn remove_file(&self, _: &str) -> io::Result<()> {
        unsupported()
    }

    fn remove_directory(&self, _: &str) -> io::Result<()> {
        unsupported()
    }
}
