//! Where complete disks go that can't be written in any order: a [`Sink`] takes a whole machine, after its last byte has
//! arrived in the stage.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Disk, DiskSpec};

/// A disk that is complete, in the stage.
#[derive(Clone)]
pub struct CompleteDisk {
    /// Number of the disk in the CFG.
    pub number: usize,
    /// Name of the datastore that it goes to.
    pub datastore: String,
    /// Directory, extent, size and provisioning there.
    pub spec: DiskSpec,
    /// Name of its descriptor there (`x.vmdk`).
    pub descriptor: String,
    /// Text of its descriptor: adapter, geometry, UUID.
    pub description: String,
    /// Its data, for reading; it does not change any more.
    pub source: Arc<dyn Disk>,
    /// The ranges that may hold other than zeros: ascending and disjoint.
    pub allocated: Vec<Range<u64>>,
}

/// A machine whose data is complete.
#[derive(Clone)]
pub struct Machine {
    /// The session that restores it, as the log shows it.
    pub session: String,
    /// The virtual machine's name.
    pub name: String,
    /// Name of the datastore of its VMX.
    pub datastore: String,
    /// Directory of its VMX there.
    pub directory: String,
    /// Name of its VMX there.
    pub vmx_name: String,
    /// The VMX as it is to stand there.
    pub vmx: Vec<u8>,
    /// Its disks.
    pub disks: Vec<CompleteDisk>,
}

/// How far a push is, and whether it is still wanted.
#[derive(Debug, Default)]
pub struct Course {
    cancelled: AtomicBool,
}

impl Course {
    /// Asks the push to end as soon as it can.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the push is to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a push made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// The hypervisor's reference of the machine, where it was registered with it.
    pub reference: Option<String>,
}

/// Takes complete machines.
pub trait Sink: Send + Sync {
    /// Brings a machine to its datastores and blocks until it stands there, durably. On an error nothing of it is left, or
    /// what is left is in the ledger: the push is begun again from its start later. `note` is a line for the session's log.
    fn push(&self, machine: &Machine, course: &Course, note: &dyn Fn(&str)) -> std::io::Result<Pushed>;
}
