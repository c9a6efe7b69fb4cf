//! The appliance with what is attached to it: one for each hypervisor. [`super::changes`] attaches and detaches; here it is known what
//! is attached for whom. Detaches by itself what nobody holds any more: what a crash left, what a session that went left, what could not
//! be detached before.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::changes::Changes;
use super::device::{self, Sought};
use super::ledger::{Entry, Ledger};
use crate::datastore::block_device::Roots;
use crate::vsphere::appliance::{Known, Machine, PRIVILEGES, spellings};
use crate::vsphere::hardware::NewDisk;
use crate::vsphere::inventory::Store;
use crate::vsphere::preflight::missing_privileges;
use crate::vsphere::{Client, VsphereError};

/// Disks that are attached at once: what four controllers of 15 disks take beside the appliance's own.
pub const DISKS_MAX: usize = 56;
/// Between two tries of detaching what is left; doubled up to the second.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);
const SWEEP_PAUSE_MAX: Duration = Duration::from_mins(5);
/// How long the kernel has to let a detached disk's device go.
const GONE_MAX: Duration = Duration::from_secs(5);

/// Where the appliance is, and how it is known.
#[derive(Debug, Clone)]
pub struct Place {
    /// What the configuration says of it: a UUID, a name, a path; `None` where the firmware's UUID is to say.
    pub configured: Option<String>,
    /// Where devices are found.
    pub roots: Roots,
    /// What was attached.
    pub ledger: Ledger,
}

/// One hypervisor's appliance.
pub struct Appliance {
    shared: Arc<Shared>,
    sweeper: Option<JoinHandle<()>>,
}

/// A disk that is attached for a disk of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) entry: Entry,
    pub(super) sought: Sought,
}

pub(super) struct Shared {
    pub(super) client: Arc<Client>,
    pub(super) place: Place,
    machine: Mutex<Option<Machine>>,
    pub(super) changes: Changes,
    pub(super) state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// Attached for disks of this process: UUIDs by the descriptor's path.
    pub(super) live: BTreeMap<String, String>,
    /// Attached, or perhaps, and held by nobody.
    pub(super) left: Vec<Entry>,
    stop: bool,
}

pub(super) fn told(sentence: String) -> VsphereError {
    VsphereError::Told(sentence)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hexadecimal digits of a UUID: the API spells it with blanks, with hyphens, in any case.
pub(super) fn digits(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect()
}

/// A failure of the hypervisor as drivers tell it.
pub(super) fn io_error(error: VsphereError) -> io::Error {
    let kind = match error.kind() {
        "FileAlreadyExists" => io::ErrorKind::AlreadyExists,
        "FileNotFound" => io::ErrorKind::NotFound,
        "NoDiskSpace" => io::ErrorKind::StorageFull,
        "NoPermission" => io::ErrorKind::PermissionDenied,
        _ if error.is_transient() => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Appliance {
    /// The appliance of a hypervisor; nothing is sent before something is asked. With `sweep` what an earlier run left attached is
    /// detached from now on, in the background.
    pub fn new(client: Arc<Client>, place: Place, sweep: bool) -> io::Result<Self> {
        let mut state = State::default();
        for entry in if sweep { place.ledger.list()? } else { Vec::new() } {
            match entry {
                Ok(entry) if entry.server == client.server() => state.left.push(entry),
                Ok(_) => {}
                Err(why) => {
                    tracing::error!("an attached disk that can't be known again: {why}; detach it by hand");
                }
            }
        }
        let shared = Arc::new(Shared {
            client,
            place,
            machine: Mutex::default(),
            changes: Changes::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut appliance = Self { shared, sweeper: None };
        if sweep {
            let shared = Arc::clone(&appliance.shared);
            let run = move || shared.sweep();
            appliance.sweeper = Some(std::thread::Builder::new().name("hotadd detach".into()).spawn(run)?);
        }
        Ok(appliance)
    }

    /// The client of its hypervisor.
    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Where devices are found.
    pub(super) fn roots(&self) -> &Roots {
        &self.shared.place.roots
    }

    /// The appliance's virtual machine.
    pub fn machine(&self) -> Result<Machine, VsphereError> {
        self.shared.machine()
    }

    /// The UUID of a disk that is attached now, by its descriptor's path.
    pub(super) fn uuid_of(&self, file: &str) -> Option<String> {
        lock(&self.shared.state).live.get(file).filter(|uuid| !uuid.is_empty()).cloned()
    }

    /// What is in the way of attaching disks of a datastore, as sentences.
    pub(super) fn obstacles(&self, store: &Store) -> Vec<String> {
        let look = || {
            // It may run on another host by now, or have been registered anew.
            *lock(&self.shared.machine) = None;
            let machine = self.machine()?;
            let mut found = Vec::new();
            if machine.host.as_ref().is_some_and(|host| !store.hosts.contains(host)) {
                found.push(format!(
                    "the host of the appliance '{}' does not write to the datastore '{}': hotadd can't reach it; move the \
                     appliance, or choose another writer or datastore",
                    machine.name, store.name
                ));
            }
            if self.client().hardware(&machine)?.free(|_, _| true).is_none() {
                found.push(no_unit(&machine));
            }
            // Whoever can't ask may still be allowed to act: what is refused later says so.
            let missing =
                missing_privileges(self.client(), &machine.reference, PRIVILEGES).unwrap_or_default();
            if !missing.is_empty() {
                found.push(format!(
                    "the account lacks {} on the appliance '{}'; give it the role of docs/vsphere.md there",
                    missing.join(", "),
                    machine.name
                ));
            }
            Ok(found)
        };
        look().unwrap_or_else(|error: VsphereError| vec![error.to_string()])
    }

    /// Attaches a disk, made where `new` says how.
    pub(super) fn attach(
        &self,
        datastore: &str,
        path: &str,
        new: Option<&NewDisk>,
    ) -> Result<Attachment, VsphereError> {
        self.shared.attach(datastore, path, new)
    }

    /// Detaches a disk.
    pub(super) fn detach(&self, attachment: &Attachment) -> Result<(), VsphereError> {
        self.shared.detach(&attachment.entry)?;
        if !device::wait_gone(self.roots(), &attachment.sought, GONE_MAX) {
            tracing::warn!("{}: detached, and its block device is still here", attachment.entry.file());
        }
        Ok(())
    }

    /// Has a disk detached that nobody holds any more.
    pub(super) fn leave(&self, attachment: Attachment) {
        self.shared.leave(attachment.entry);
    }

    /// Detaches at once what nobody holds of that path: before its files can be removed.
    pub(super) fn settle(&self, file: &str) -> Result<(), VsphereError> {
        self.shared.settle(file)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.changed.notify_all();
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join(); // it has nothing to tell
        }
    }
}

pub(super) fn no_unit(machine: &Machine) -> String {
    format!(
        "the appliance '{}' has no free unit on a SCSI controller; add a PVSCSI controller to it, or wait until other restores are \
         done",
        machine.name
    )
}

impl Shared {
    pub(super) fn machine(&self) -> Result<Machine, VsphereError> {
        let mut known = lock(&self.machine);
        if let Some(machine) = &*known {
            return Ok(machine.clone());
        }
        let wanted = match &self.place.configured {
            Some(text) => Known::parse(text),
            None => {
                let uuid =
                    device::machine_uuid(&self.place.roots).map_err(|error| told(error.to_string()))?;
                Known::Uuids(spellings(&uuid))
            }
        };
        let machine = self.client.appliance(&wanted)?;
        tracing::info!(
            "{}: this appliance is '{}' ({})",
            self.client.server(),
            machine.name,
            machine.reference.id
        );
        *known = Some(machine.clone());
        Ok(machine)
    }

    pub(super) fn leave(&self, entry: Entry) {
        let mut state = lock(&self.state);
        state.live.remove(&entry.file());
        state.left.push(entry);
        drop(state);
        self.changed.notify_all();
    }

    /// Detaches what nobody holds, until the appliance goes; then once more, and no more after the first failure.
    fn sweep(&self) {
        let mut pause = SWEEP_PAUSE;
        loop {
            let state = lock(&self.state);
            let state = self.changed.wait_while(state, |state| state.left.is_empty() && !state.stop);
            let (stop, left) = {
                let state = state.unwrap_or_else(PoisonError::into_inner);
                (state.stop, state.left.clone())
            };
            let failed = self.undo_left(&left);
            if stop {
                return;
            }
            if !failed {
                pause = SWEEP_PAUSE;
                continue;
            }
            let state = lock(&self.state);
            drop(self.changed.wait_timeout_while(state, pause, |state| !state.stop));
            pause = (pause * 2).min(SWEEP_PAUSE_MAX);
        }
    }
}
