//! A hypervisor's inventory, as import sessions know it: what is in the way of an import, and how a VMX becomes a virtual
//! machine. Values and a trait; who implements it ([`crate::vsphere::manager`]) knows the network.
//!
//! Calls block, for minutes at worst; each has bounds of its own.

use serde::{Deserialize, Serialize};

/// What a CFG wants of the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// `datacenter`, empty where there is only one.
    pub datacenter: String,
    /// `folder` of virtual machines, `/` between components, empty for the datacenter's own.
    pub folder: String,
    /// `hostsystem`, empty: the hypervisor chooses.
    pub host: String,
    /// `resourcepool`, empty: the root pool of the host or cluster.
    pub pool: String,
}

/// A datastore that a CFG names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The CFG's key (`vmdk.0.dsname`): problems are told with it.
    pub key: String,
    /// Name or UUID.
    pub name: String,
    /// The key that room is told with.
    pub size_key: String,
    /// Bytes that thick disks take there.
    pub thick: u64,
    /// Bytes to which thin disks may grow there.
    pub thin: u64,
}

/// What to check before the first byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Where.
    pub place: Place,
    /// The virtual machine's name.
    pub vm_name: String,
    /// Whether it is to be registered; without it only the datastores matter.
    pub register: bool,
    /// Whether it is made from an upload, whole, and not from files on its datastore.
    pub whole: bool,
    /// Whether a virtual machine of that name is in the way (`on-conflict = "stop"`), or gets out of it.
    pub stop_on_conflict: bool,
    /// Whether a virtual machine that is there has to be taken out of the inventory (`on-conflict = "overwrite"`).
    pub unregisters: bool,
    /// Datastores of the VMX and of the disks, each once.
    pub stores: Vec<Store>,
}

/// One thing in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The CFG's key.
    pub key: String,
    /// A sentence.
    pub message: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// All that is in the way.
    pub problems: Vec<Problem>,
    /// What is worth a line in the log.
    pub notes: Vec<String>,
}

/// Whether the identities that a VMX brings are in use by other virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identities {
    /// Its SMBIOS UUID (`uuid.bios`).
    pub bios: bool,
    /// Its instance UUID (`vc.uuid`).
    pub instance: bool,
}

/// A VMX on a datastore that is to become a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where in the inventory.
    pub place: Place,
    /// Its name.
    pub vm_name: String,
    /// Datastore of the VMX, by the hypervisor's name for it.
    pub datastore: String,
    /// Path of the VMX on it.
    pub vmx: String,
    /// Datastores of the VMX and of all disks: a host must reach them.
    pub datastores: Vec<String>,
    /// Whether the virtual machine is the one that was backed up, and not a copy of it beside it.
    pub same_machine: bool,
}

/// What registering led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The server's name for the virtual machine (`vm-42`).
    pub id: String,
    /// Its instance UUID, by which it is known from others; empty where the server does not tell.
    pub instance: String,
    /// It was registered before: an earlier try had succeeded after all.
    pub before: bool,
    /// What is worth a line in the log.
    pub notes: Vec<String>,
}

/// A file or directory on a datastore, by the hypervisor's name for that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct StoreFile {
    /// Name of the datastore.
    pub datastore: String,
    /// Path on it.
    pub path: String,
}

impl StoreFile {
    /// Whether it is `directory`, or lies in it or below it.
    #[must_use]
    pub fn is_in(&self, directory: &Self) -> bool {
        let rest = self.path.strip_prefix(directory.path.as_str());
        self.datastore == directory.datastore
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl std::fmt::Display for StoreFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

/// A virtual machine that is in the inventory, and what is needed to put it back there as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The server's name for it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its VMX.
    pub vmx: StoreFile,
    /// Its instance UUID.
    pub instance: String,
    /// It does not run, and is not suspended.
    pub powered_off: bool,
    /// Its folder, resource pool and host, by the server's names; empty where it has none.
    pub folder: String,
    /// See `folder`.
    pub pool: String,
    /// See `folder`.
    pub host: String,
    /// The VMX, and the descriptors of its disks and what these are snapshots of.
    pub files: Vec<StoreFile>,
}

impl Machine {
    /// Whether any of its files is in that directory or below it.
    #[must_use]
    pub fn uses(&self, directory: &StoreFile) -> bool {
        self.files.iter().any(|file| file.is_in(directory))
    }
}

/// Why something failed: a sentence, and whether the same may succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InventoryError {
    /// The sentence.
    pub message: String,
    /// Whether it may succeed when tried again.
    pub transient: bool,
}

/// A disk of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// The descriptor that it writes to.
    pub current: StoreFile,
    /// The descriptor that all of its snapshots are on top of; the same as `current` where it has none.
    pub base: StoreFile,
    /// Bytes.
    pub size: u64,
}

/// What of a virtual machine that exists stands in a CFG for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its SMBIOS UUID.
    pub uuid: String,
    /// Where it is in the inventory.
    pub place: Place,
    /// Its VMX.
    pub vmx: StoreFile,
    /// Its disks.
    pub disks: Vec<DescribedDisk>,
    /// What a CFG can't say of it.
    pub notes: Vec<String>,
}

/// A disk of a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedDisk {
    /// Its descriptor; where there are snapshots, that of the disk below them: what a backup has.
    pub descriptor: StoreFile,
    /// Bytes.
    pub size: u64,
    /// Thin.
    pub thin: bool,
    /// A raw device mapping.
    pub raw: bool,
}

/// A hypervisor with an inventory.
pub trait Inventory: Send + Sync {
    /// Looks for all that is in the way of an import. Changes nothing.
    fn check(&self, wanted: &Wanted) -> Checked;
    /// The name of the datastore that a CFG calls `dsname`, by name or UUID; `None` where there is none.
    fn datastore_name(&self, datacenter: &str, dsname: &str) -> Result<Option<String>, InventoryError>;
    /// Whether the hypervisor sees a directory that was just made on a datastore: it does not where `path` in the
    /// configuration leads elsewhere. May take seconds.
    fn sees(&self, datacenter: &str, datastore: &str, directory: &str) -> Result<bool, InventoryError>;
    /// Whether the place has a virtual machine of that name.
    fn vm_exists(&self, place: &Place, vm_name: &str) -> Result<bool, InventoryError>;
    /// Whether other virtual machines than the one with that VMX have its SMBIOS UUID (the first) or instance UUID (the
    /// second); either may be empty, and is as a VMX writes it.
    fn identities(
        &self,
        datacenter: &str,
        datastore: &str,
        vmx: &str,
        uuids: (&str, &str),
    ) -> Result<Identities, InventoryError>;
    /// Registers a VMX. One that is registered already is left as it is, and told as a success.
    fn register(&self, vm: &Registration) -> Result<Registered, InventoryError>;
    /// The virtual machine with that VMX.
    fn machine(&self, datacenter: &str, vmx: &StoreFile) -> Result<Option<Machine>, InventoryError>;
    /// The virtual machines that have their VMX or a disk in one of these directories, or below it.
    fn machines_in(
        &self,
        datacenter: &str,
        directories: &[StoreFile],
    ) -> Result<Vec<Machine>, InventoryError>;
    /// The disks of a virtual machine.
    fn disks(&self, machine: &Machine) -> Result<Vec<MachineDisk>, InventoryError>;
    /// Makes a snapshot of a virtual machine that does not run. `false`: the one that it goes on from has that name already.
    fn snapshot(&self, machine: &Machine, name: &str, description: &str) -> Result<bool, InventoryError>;
    /// Whether a virtual machine has a snapshot of that name.
    fn has_snapshot(&self, machine: &Machine, name: &str) -> Result<bool, InventoryError>;
    /// Removes a snapshot: what was written since becomes a part of what was before. One that is gone is a success.
    fn remove_snapshot(&self, machine: &Machine, name: &str) -> Result<(), InventoryError>;
    /// Privileges that the account lacks on a virtual machine to make a snapshot of it.
    fn lacks_for_snapshot(&self, machine: &Machine) -> Result<Vec<String>, InventoryError>;
    /// Takes a virtual machine out of the inventory; its files stay. It must not run. One that is gone is a success.
    fn unregister(&self, machine: &Machine) -> Result<(), InventoryError>;
    /// Puts a virtual machine back into the inventory as it was before [`Inventory::unregister`].
    fn register_again(&self, datacenter: &str, machine: &Machine) -> Result<Registered, InventoryError>;
}
