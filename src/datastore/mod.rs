//! Datastores: where virtual disks end up. Drivers do the writing, filters wrap any driver.
//!
//! Knows nothing of SMB, sessions or CFG files. Calls block. A driver declares what it can in [`Capabilities`]; the
//! engine never asks it for more.

#[cfg(test)]
pub(crate) mod altered;
pub mod block_device;
pub mod confined;
pub mod directory;
pub mod filter;
pub mod hotadd;
#[cfg(test)]
pub(crate) mod memory;
pub mod nbd;
pub mod nfc;
mod on_demand;
pub mod sink;
pub mod stage;
pub mod stream_optimized;
pub mod zeros;

use std::io;
use std::sync::Arc;

use crate::inventory::Place;

pub use directory::DirectoryDatastore;
pub use hotadd::HotaddDatastore;
pub use nbd::NbdDatastore;
pub use nfc::NfcDatastore;

/// How a disk's space is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Space as it is written.
    Thin,
    /// All space reserved when the disk is made.
    Thick,
}

/// The controller that a disk's descriptor says it is for. What is on one bus has the same name in descriptors, whatever its make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adapter {
    /// SCSI, SATA, NVMe: what descriptors have where nothing is known.
    #[default]
    Lsilogic,
    /// The old SCSI controller.
    Buslogic,
    /// IDE.
    Ide,
}

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes may come in any order and twice. Without it the engine stages and hands over a complete disk.
    pub random_write: bool,
    /// A disk made by [`Datastore::create_disk`] reads as zeros where nothing was written.
    pub fresh_reads_zero: bool,
    /// Ranges that were never written take no space.
    pub sparse: bool,
    /// [`Disk::zero`] gives space back.
    pub punch: bool,
    /// A disk that was left incomplete can be opened and written on.
    pub resumable: bool,
    /// [`Datastore::create_disk`] makes the disk's descriptor, too: nobody else writes one.
    pub makes_descriptor: bool,
    /// [`Datastore::open_disk`] takes disks that others made, too: those that a virtual machine has since a snapshot.
    pub existing_disks: bool,
    /// [`Datastore::create_disk`] is there. Without it only disks that others made are written.
    pub new_disks: bool,
    /// Disks that may be written at the same time.
    pub max_parallel_disks: usize,
}

/// What a datastore has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be used.
    pub available: u64,
}

/// A disk to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Directory on the datastore, without leading or trailing separator.
    pub directory: String,
    /// Name of the extent file (`x-flat.vmdk`).
    pub extent: String,
    /// Name of its descriptor (`x.vmdk`), for drivers that know disks by that.
    pub descriptor: String,
    /// Size in bytes.
    pub size: u64,
    /// Thin or thick.
    pub provisioning: Provisioning,
    /// For drivers that make descriptors ([`Capabilities::makes_descriptor`]).
    pub adapter: Adapter,
    /// The virtual machine that has it, by the inventory's id, where others made it.
    pub machine: Option<String>,
}

impl DiskSpec {
    /// The path of a file in the disk's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        if self.directory.is_empty() { name.to_owned() } else { format!("{}/{name}", self.directory) }
    }
}

/// The refusal of what has a disk's path and is another.
pub(crate) fn replaced() -> io::Error {
    let why = "it is not the one that was made here: somebody put another in its place. It is left alone; move it away, and copy this again";
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// One datastore. Paths are relative to it, with `/` between components, and never leave it: the driver refuses
/// `..`, absolute names and symbolic links out of it with [`io::ErrorKind::InvalidInput`].
pub trait Datastore: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// What is in the way of restoring to it, as sentences; nothing is changed. Asked when a CFG is read.
    fn obstacles(&self) -> Vec<String> {
        Vec::new()
    }
    /// Room.
    fn space(&self) -> io::Result<Space>;
    /// Whether anything has that name.
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// By what an object is recognised later: differs from whatever else may have its path some day. `None` where the driver
    /// has no such thing.
    fn identity(&self, _path: &str) -> io::Result<Option<String>> {
        Ok(None)
    }
    /// Where complete machines go, for a driver without [`Capabilities::random_write`]; `place` is what the CFG says of the
    /// inventory.
    fn sink(&self, _place: &Place) -> Option<Arc<dyn sink::Sink>> {
        None
    }
    /// Makes a directory and its parents; the last component must not exist yet ([`io::ErrorKind::AlreadyExists`]).
    fn create_directory(&self, path: &str) -> io::Result<()>;
    /// Makes a disk's extent, of its full size, reading as zeros where the capabilities say so.
    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>>;
    /// By what path [`Datastore::exists`], [`Datastore::identity`] and [`Datastore::remove_disk`] know a disk.
    fn disk_path(&self, spec: &DiskSpec) -> String {
        spec.file(&spec.extent)
    }
    /// Whether a disk that others made ([`Capabilities::existing_disks`]) is there, of its size and to be written, as far as that can be
    /// found out without changing anything.
    fn reach(&self, _spec: &DiskSpec) -> io::Result<()> {
        Ok(())
    }
    /// Opens an extent that [`Datastore::create_disk`] made.
    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>>;
    /// [`Datastore::open_disk`], unless what has the disk's path is another than the one that had this [`Datastore::identity`]: refused now, or
    /// when it is first used.
    fn open_known(&self, spec: &DiskSpec, known: &str) -> io::Result<Box<dyn Disk>> {
        match self.identity(&self.disk_path(spec)) {
            Ok(Some(now)) if now != known => Err(replaced()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.open_disk(spec),
        }
    }
    /// Puts a small file (descriptor, VMX, nvram) in place: whole and durable, or not at all.
    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()>;
    /// Reads a small file, at most `limit` bytes; longer is [`io::ErrorKind::FileTooLarge`].
    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>>;
    /// Removes a file. Only the orphan command and a session's own half-made files come here.
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Removes a disk's extent that [`Datastore::create_disk`] made, by its path.
    fn remove_disk(&self, path: &str) -> io::Result<()> {
        self.remove_file(path)
    }
    /// Removes a directory that is empty.
    fn remove_directory(&self, path: &str) -> io::Result<()>;
    /// Whether a directory can be put in another's place, with all that is in it and while its disks are open: else why not, for
    /// a sentence. Without it, [`Datastore::list`] and [`Datastore::move_directory`] are not asked for.
    fn can_swap(&self) -> Result<(), &'static str> {
        Err("its driver can't put one directory in another's place")
    }
    /// The names in a directory, with whether each is a directory itself; more than `limit` is
    /// [`io::ErrorKind::FileTooLarge`].
    fn list(&self, _path: &str, _limit: usize) -> io::Result<Vec<(String, bool)>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives a directory another path, durably; nothing may have that yet ([`io::ErrorKind::AlreadyExists`]).
    fn move_directory(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// An open virtual disk. Offsets and lengths are in bytes; all lie within the disk's size.
pub trait Disk: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Reads exactly.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// The range reads as zeros afterwards, whatever it held; gives space back where [`Capabilities::punch`] says so
    /// and the disk is thin.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// What was written is durable when it returns.
    fn flush(&self) -> io::Result<()>;
    /// Called at an interval while nothing goes out, so that a remote end does not give up.
    fn keep_alive(&self) -> io::Result<()> {
        Ok(())
    }
    /// Nothing more comes for now: what was written is durable, and what holding the disk open takes elsewhere is given back
    /// when it returns. Any call takes it again. After an error it may still be held.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }
    /// Whether this very disk, made just now, is known to read as zeros, although its driver promises that of no disk in
    /// general ([`Capabilities::fresh_reads_zero`]).
    fn fresh_reads_zero(&self) -> bool {
        false
    }
    /// Bytes that it occupies now.
    fn allocated(&self) -> io::Result<u64>;
}
