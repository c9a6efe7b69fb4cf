//! The hotadd driver: each disk is made by attaching it to the virtual machine that importfs runs in, written as a block device, and
//! detached when no more comes for now.
//!
//! - [`appliance`]: what is attached for whom, and what is left to detach
//! - [`changes`]: attaching and detaching, several disks at once
//! - [`ledger`]: what is attached, durable
//! - [`device`]: the block device of an attached disk; [`super::block_device`] writes it
//!
//! Descriptors are the hypervisor's own; small files go through `/folder`, directories through its FileManager: nothing is mounted.
//! A disk is attached again whenever something is read or written of it, so a restart and a late differential need nothing special.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub mod appliance;
mod changes;
mod device;
pub mod ledger;

use appliance::{Appliance, Attachment, digits, io_error};

use super::block_device;
use super::{Adapter, Capabilities, Datastore, Disk, DiskSpec, Provisioning, Space, confined, replaced};
use crate::vsphere::VsphereError;
use crate::vsphere::files::Files;
use crate::vsphere::hardware::NewDisk;
use crate::vsphere::inventory::Store;

/// How long what is known of the datastore holds: clients ask for its room again and again.
const STORE_AGE_MAX: Duration = Duration::from_secs(5);

/// How disks are made and waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotaddOptions {
    /// Thick disks are zeroed when they are made, not when they are written.
    pub eager: bool,
    /// How long this machine's kernel has to show a disk that was attached.
    pub device_wait: Duration,
}

/// One datastore of the appliance's vSphere.
pub struct HotaddDatastore {
    name: String,
    appliance: Arc<Appliance>,
    options: HotaddOptions,
    known: Mutex<Option<(Instant, Store)>>,
}

impl HotaddDatastore {
    /// The datastore of that name, by the inventory. Nothing is sent.
    pub fn new(name: &str, appliance: Arc<Appliance>, options: HotaddOptions) -> Self {
        Self { name: name.to_owned(), appliance, options, known: Mutex::default() }
    }

    fn store(&self) -> Result<Store, VsphereError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, store)) = &*known
            && when.elapsed() < STORE_AGE_MAX
        {
            return Ok(store.clone());
        }
        let machine = self.appliance.machine()?;
        let stores = self.appliance.client().stores_of(&machine.datacenter)?;
        let missing = || {
            VsphereError::Told(format!(
                "the datacenter of the appliance '{}' has no datastore '{}': hotadd can't reach it",
                machine.name, self.name
            ))
        };
        let store = stores.into_iter().find(|store| store.name == self.name).ok_or_else(missing)?;
        *known = Some((Instant::now(), store.clone()));
        Ok(store)
    }

    fn files(&self) -> Result<Files<'_>, VsphereError> {
        let machine = self.appliance.machine()?;
        Files::new(self.appliance.client(), &machine.datacenter, &self.name)
    }

    fn disk(&self, spec: &DiskSpec, attachment: Option<Attachment>) -> HotaddDisk {
        HotaddDisk {
            appliance: Arc::clone(&self.appliance),
            datastore: self.name.clone(),
            path: self.disk_path(spec),
            known: None,
            size: spec.size,
            provisioning: spec.provisioning,
            device_wait: self.options.device_wait,
            held: RwLock::new(Held { disk: None, attachment }),
        }
    }
}

/// Refuses a path that could lead elsewhere: the hypervisor would resolve `..` itself.
fn checked(path: &str) -> io::Result<()> {
    confined::components(path).map(|_| ())
}

/// A disk that is made as it is attached is one of an LSI Logic controller; the name of another, where a disk of one can be made: the manager of
/// virtual disks counts in KiB.
fn adapter(spec: &DiskSpec) -> Option<&'static str> {
    match spec.adapter {
        _ if !spec.size.is_multiple_of(1024) => None,
        Adapter::Lsilogic => None,
        Adapter::Buslogic => Some("busLogic"),
        Adapter::Ide => Some("ide"),
    }
}

impl Datastore for HotaddDatastore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_write: true,
            fresh_reads_zero: true,
            sparse: true,
            punch: true,
            resumable: true,
            makes_descriptor: true,
            existing_disks: true,
            new_disks: true,
            max_parallel_disks: appliance::DISKS_MAX,
        }
    }

    fn obstacles(&self) -> Vec<String> {
        match self.store() {
            Ok(store) => self.appliance.obstacles(&store),
            Err(error) => vec![error.to_string()],
        }
    }

    fn space(&self) -> io::Result<Space> {
        let store = self.store().map_err(io_error)?;
        Ok(Space { total: store.capacity, available: store.free })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        checked(path)?;
        let store = self.store().map_err(io_error)?;
        if path.is_empty() {
            return Ok(true);
        }
        self.appliance.client().exists(&store, path).map_err(io_error)
    }

    /// A disk's UUID. Directories and small files have nothing by which they could be known again.
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        checked(path)?;
        let is_disk =
            std::path::Path::new(path).extension().is_some_and(|kind| kind.eq_ignore_ascii_case("vmdk"));
        if !is_disk {
            return if self.exists(path)? { Ok(None) } else { Err(io::ErrorKind::NotFound.into()) };
        }
        let file = Store::path(&self.name, path);
        if let Some(uuid) = self.appliance.uuid_of(&file) {
            return Ok(Some(digits(&uuid)));
        }
        let machine = self.appliance.machine().map_err(io_error)?;
        let uuid = self.appliance.client().disk_uuid(&machine.datacenter, &file).map_err(io_error)?;
        match uuid.map(|uuid| digits(&uuid)) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(uuid) => Ok(Some(uuid).filter(|uuid| !uuid.is_empty())),
        }
    }

    fn disk_path(&self, spec: &DiskSpec) -> String {
        spec.file(&spec.descriptor)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        checked(path)?;
        let machine = self.appliance.machine().map_err(io_error)?;
        let store = self.store().map_err(io_error)?;
        let client = self.appliance.client();
        if client.exists(&store, path).map_err(io_error)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        client.make_new_directory(&machine.datacenter, &store, path).map_err(io_error)
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let path = self.disk_path(spec);
        checked(&path)?;
        // The hypervisor would refuse it, too, and with it those that are made together with this one.
        if self.exists(&path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let thin = spec.provisioning == Provisioning::Thin;
        let new = NewDisk { size: spec.size, thin, eager: self.options.eager };
        let attachment = match adapter(spec) {
            None => self.appliance.attach(&self.name, &path, Some(&new)),
            Some(kind) => {
                let file = Store::path(&self.name, &path);
                let machine = self.appliance.machine().map_err(io_error)?;
                self.appliance
                    .client()
                    .create_disk(&machine.datacenter, &file, &new, kind)
                    .map_err(io_error)?;
                self.appliance.attach(&self.name, &path, None).inspect_err(|_| {
                    if let Err(why) = self.remove_disk(&path) {
                        tracing::error!("{file}: it is left on the datastore: {why}");
                    }
                })
            }
        };
        let attachment = attachment.map_err(io_error)?;
        let disk = self.disk(spec, Some(attachment));
        if let Err(error) = disk.with(|_| Ok(())) {
            // Ours alone, and no use to anybody.
            if let Err(why) = disk.release().and_then(|()| self.remove_disk(&path)) {
                tracing::error!("[{}] {path}: it is left on the datastore: {why}", self.name);
            }
            return Err(error);
        }
        Ok(Box::new(disk))
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        checked(&self.disk_path(spec))?;
        Ok(Box::new(self.disk(spec, None)))
    }

    /// Asked when it is attached: a start of the service asks the hypervisor nothing.
    fn open_known(&self, spec: &DiskSpec, known: &str) -> io::Result<Box<dyn Disk>> {
        checked(&self.disk_path(spec))?;
        let mut disk = self.disk(spec, None);
        disk.known = Some(known.to_owned());
        Ok(Box::new(disk))
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        checked(path)?;
        self.files().and_then(|files| files.put(path, contents)).map_err(io_error)
    }

    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        checked(path)?;
        let found = self.files().and_then(|files| files.get(path, limit)).map_err(io_error)?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        checked(path)?;
        if !self.exists(path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let machine = self.appliance.machine().map_err(io_error)?;
        let file = Store::path(&self.name, path);
        self.appliance.client().delete_file(&machine.datacenter, &file).map_err(io_error)
    }

    fn remove_disk(&self, path: &str) -> io::Result<()> {
        checked(path)?;
        let machine = self.appliance.machine().map_err(io_error)?;
        let file = Store::path(&self.name, path);
        self.appliance.settle(&file).map_err(io_error)?;
        self.appliance.client().delete_disk(&machine.datacenter, &file).map_err(io_error)
    }

    /// The API deletes a directory with all that is in it, so one is looked into first. Nobody else has a reason to put anything into a
    /// directory that a session made, in the moment between.
    fn remove_directory(&self, path: &str) -> io::Result<()> {
        checked(path)?;
        let store = self.store().map_err(io_error)?;
        let client = self.appliance.client();
        if path.is_empty() || !client.exists(&store, path).map_err(io_error)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !client.is_empty(&store, path).map_err(io_error)? {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let machine = self.appliance.machine().map_err(io_error)?;
        client.delete_file(&machine.datacenter, &Store::path(&self.name, path)).map_err(io_error)
    }
}

/// A disk of the appliance, attached while it is used.
struct HotaddDisk {
    appliance: Arc<Appliance>,
    datastore: String,
    /// Of the descriptor.
    path: String,
    /// Its UUID's digits, where they are known.
    known: Option<String>,
    size: u64,
    provisioning: Provisioning,
    device_wait: Duration,
    held: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    /// The block device; without one the disk is detached, or could not be.
    disk: Option<Box<dyn Disk>>,
    attachment: Option<Attachment>,
}

impl HotaddDisk {
    /// Does something with the block device, after attaching the disk where it is not.
    fn with<T>(&self, work: impl FnOnce(&dyn Disk) -> io::Result<T>) -> io::Result<T> {
        loop {
            if let Some(disk) = &self.held.read().unwrap_or_else(PoisonError::into_inner).disk {
                return work(&**disk);
            }
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if held.disk.is_none() {
                let attachment = match held.attachment.take() {
                    Some(attachment) => attachment,
                    None => self.appliance.attach(&self.datastore, &self.path, None).map_err(io_error)?,
                };
                let sought = attachment.sought.clone();
                let uuid = digits(&attachment.entry.uuid);
                held.attachment = Some(attachment);
                if self.known.as_ref().is_some_and(|known| !uuid.is_empty() && *known != uuid) {
                    return Err(replaced());
                }
                let open =
                    |path: &std::path::Path| block_device::open(path, self.size, self.provisioning, true);
                held.disk = Some(device::wait(self.appliance.roots(), &sought, self.device_wait, open)?);
            }
        }
    }
}

impl Disk for HotaddDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|disk| disk.read_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|disk| disk.write_at(data, offset))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.with(|disk| disk.zero(offset, length))
    }

    /// Nothing is pending of a disk that is detached: it was flushed before.
    fn flush(&self) -> io::Result<()> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.disk.as_ref().map_or(Ok(()), |disk| disk.flush())
    }

    fn release(&self) -> io::Result<()> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(disk) = &held.disk {
            disk.flush()?;
        }
        held.disk = None;
        if let Some(attachment) = &held.attachment {
            self.appliance.detach(attachment).map_err(io_error)?;
        }
        held.attachment = None;
        Ok(())
    }

    /// Only the hypervisor knows; the size is an upper bound.
    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size)
    }
}

impl Drop for HotaddDisk {
    fn drop(&mut self) {
        let mut held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
        held.disk = None;
        if let Some(attachment) = held.attachment {
            self.appliance.leave(attachment);
        }
    }
}
