//! The NBD driver: disks that are exports of a server which the administrator runs (nbdkit with the vddk plugin, qemu-nbd,
//! nbdkit's file plugin …), one export for each disk. The configuration maps a disk to its export's address.
//!
//! - [`uri`]: addresses, and templates of them
//! - [`wire`]: the protocol's bytes
//! - [`socket`], [`channel`]: what they go through, plain or by TLS
//! - [`connection`]: one connection, pipelined
//! - [`client`]: several of them, made anew when lost
//! - [`unflushed`]: what would be in doubt then
//!
//! An export holds a disk's data and nothing else: directories, descriptors and the VMX go to a directory beside it, through
//! another driver. A disk has connections while it is used: a restart of the service, and a session that waits, take none.

mod channel;
mod client;
mod connection;
mod socket;
#[cfg(test)]
mod tests;
mod unflushed;
pub mod uri;
pub mod wire;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub use channel::Tls;
use client::Client;
pub use client::ClientOptions;
use uri::{Place, Uri};
use wire::{Offer, export};

use super::filter::Aligned;
use super::on_demand::OnDemand;
use super::{Capabilities, Datastore, Disk, DiskSpec, Provisioning, Space, confined};

/// Zeros written at a time to a server that can't zero a range.
const ZEROS: &[u8] = &[0; 1024 * 1024];
/// Disks at the same time: each has its connections and threads.
const MAX_PARALLEL_DISKS: usize = 16;

/// How exports are found and used.
#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// Address with placeholders (see [`uri::fill`]).
    pub template: String,
    /// Connections and patience.
    pub client: ClientOptions,
    /// The administrator says that an export reads as zeros before it is restored to. Otherwise its block status has to.
    pub fresh_reads_zero: bool,
    /// The administrator says that an address leads to the disk that has its names now, whenever that came into being: disks that virtual
    /// machines have since a snapshot are written, and no others.
    pub existing_disks: bool,
}

/// A datastore whose disks are exports.
pub struct NbdDatastore {
    name: String,
    options: NbdOptions,
    /// Directories and small files.
    files: Arc<dyn Datastore>,
    /// Exports that are open: two disks on one would destroy each other.
    open: Arc<Mutex<HashSet<String>>>,
}

impl NbdDatastore {
    /// A datastore of that name; `files` takes directories and small files. Fails where the template makes no address.
    pub fn new(name: &str, options: NbdOptions, files: Arc<dyn Datastore>) -> Result<Self, String> {
        let sample = Place {
            datastore: name,
            directory: "directory",
            extent: "disk-flat.vmdk",
            descriptor: "disk.vmdk",
            machine: options.existing_disks.then_some("vm-1"),
        };
        let uri = Uri::parse(&uri::fill(&options.template, sample)?)?;
        match (uri.tls, &options.client.tls) {
            (true, None) => {
                return Err(
                    "nbds:// needs ca-file or thumbprint, which say what server is trusted".to_owned()
                );
            }
            (false, Some(_)) => return Err("nbd:// is not encrypted: use nbds://".to_owned()),
            _ => {}
        }
        let has = |placeholder: &str| options.template.contains(placeholder);
        if options.existing_disks
            && !(has("{directory}") && ["{descriptor}", "{extent}", "{disk}"].into_iter().any(has))
        {
            return Err(format!(
                "'{}': existing-disks needs {{directory}} and one of {{descriptor}}, {{extent}}, {{disk}} in the address, or one                  virtual machine's restore would get into the disks of another",
                options.template
            ));
        }
        Ok(Self { name: name.to_owned(), options, files, open: Arc::default() })
    }

    fn uri(&self, spec: &DiskSpec) -> io::Result<Uri> {
        let DiskSpec { directory, extent, descriptor, .. } = spec;
        for path in [directory, extent, descriptor] {
            confined::components(path)?;
        }
        let machine = spec.machine.as_deref();
        let place = Place { datastore: &self.name, directory, extent, descriptor, machine };
        self.parsed(place)
    }

    fn parsed(&self, place: Place<'_>) -> io::Result<Uri> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        Uri::parse(&uri::fill(&self.options.template, place).map_err(invalid)?).map_err(invalid)
    }

    /// The disk of that place, not connected yet.
    fn disk(&self, spec: &DiskSpec) -> io::Result<NbdDisk> {
        let uri = self.uri(spec)?;
        Ok(NbdDisk {
            claim: Claim::take(&self.open, &uri)?,
            uri,
            options: self.options.client.clone(),
            size: spec.size,
            keep_space: spec.provisioning == Provisioning::Thick,
            fresh: self.options.fresh_reads_zero,
            export: OnDemand::new(None),
        })
    }
}

/// An export that is in use, until dropped.
struct Claim {
    open: Arc<Mutex<HashSet<String>>>,
    uri: String,
}

impl Claim {
    fn take(open: &Arc<Mutex<HashSet<String>>>, uri: &Uri) -> io::Result<Self> {
        let text = uri.to_string();
        if open.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
            return Ok(Self { open: Arc::clone(open), uri: text });
        }
        let why = "another disk is being restored to this export; the template needs {directory} or {extent}";
        Err(client::named(uri, &io::Error::new(io::ErrorKind::ResourceBusy, why)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uri);
    }
}

impl Datastore for NbdDatastore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_write: true,
            fresh_reads_zero: self.options.fresh_reads_zero,
            sparse: true,
            punch: true,
            resumable: true,
            makes_descriptor: false,
            existing_disks: self.options.existing_disks,
            new_disks: !self.options.existing_disks,
            max_parallel_disks: MAX_PARALLEL_DISKS,
        }
    }

    /// Not known: an export has its size, and says nothing of what is behind it. The directory beside it tells what it has.
    fn space(&self) -> io::Result<Space> {
        let space = self.files.space()?;
        Ok(Space { available: u64::MAX, ..space })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.files.exists(path)
    }

    /// Of directories and small files; an export has none, as it holds whatever was written to it last.
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        match self.files.identity(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.files.create_directory(path)
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        if self.options.existing_disks {
            let why = "with existing-disks the datastore takes disks of virtual machines that exist, and no new ones";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let mut disk = self.disk(spec)?;
        // At once: whether its address is right shows when it is made, and a wrong one is not tried for long.
        let client = Client::open(&disk.uri, &disk.options)?;
        fits(&disk.uri, disk.size, &client.offer())?;
        disk.fresh = disk.fresh || client.is_known_zero(0, spec.size)?;
        disk.export = OnDemand::new(Some(disk.export(client)?));
        Ok(Box::new(disk))
    }

    fn reach(&self, spec: &DiskSpec) -> io::Result<()> {
        let uri = self.uri(spec)?;
        fits(&uri, spec.size, &Client::open(&uri, &self.options.client)?.offer())
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(self.disk(spec)?))
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.files.put_file(path, contents)
    }

    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.files.get_file(path, limit)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.files.remove_file(path)
    }

    /// An export can't be removed; its space is given back where the server can. But never that of a disk which others made, nor by an
    /// address that might be another's.
    fn remove_disk(&self, path: &str) -> io::Result<()> {
        if self.options.existing_disks || self.options.template.contains("{descriptor}") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "an NBD export can't be removed"));
        }
        let (directory, extent) = path.rsplit_once('/').unwrap_or(("", path));
        confined::components(path)?;
        let place = Place { datastore: &self.name, directory, extent, descriptor: "", machine: None };
        let uri = self.parsed(place)?;
        let _claim = Claim::take(&self.open, &uri)?;
        let client = Client::open(&uri, &self.options.client)?;
        client.trim(0, client.offer().size)?;
        client.flush()
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.files.remove_directory(path)
    }

    fn can_swap(&self) -> Result<(), &'static str> {
        Err("an NBD export is written in its place, there is no second one beside it")
    }
}

/// An export as a disk, connected while it is used.
struct NbdDisk {
    uri: Uri,
    options: ClientOptions,
    size: u64,
    /// Zeroing keeps the space (a thick disk).
    keep_space: bool,
    fresh: bool,
    export: OnDemand<Box<dyn Disk>>,
    #[expect(dead_code, reason = "held, until the disk is dropped")]
    claim: Claim,
}

/// Whether an export is that of a disk of so many bytes.
fn fits(uri: &Uri, size: u64, offer: &Offer) -> io::Result<()> {
    let fail = |kind, why: String| Err(client::named(uri, &io::Error::new(kind, why)));
    if offer.size != size {
        return fail(
            io::ErrorKind::InvalidData,
            format!("the export has {} bytes, the disk {size}", offer.size),
        );
    }
    if offer.flags & export::READ_ONLY != 0 {
        return fail(io::ErrorKind::PermissionDenied, "the export is read-only".to_owned());
    }
    Ok(())
}

impl NbdDisk {
    /// The export as it is written, behind a filter where its server takes whole blocks only.
    fn export(&self, client: Client) -> io::Result<Box<dyn Disk>> {
        let offer = client.offer();
        fits(&self.uri, self.size, &offer)?;
        if offer.flags & (export::FLUSH | export::FUA) == 0 {
            tracing::warn!(uri = %self.uri, "the NBD server can't flush; what it acknowledges is taken for durable");
        }
        let export = Box::new(Export { client, keep_space: self.keep_space });
        match offer.block {
            1 => Ok(export),
            block => Ok(Box::new(Aligned::new(export, u64::from(block))?)),
        }
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        end.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn with<R>(&self, work: impl FnOnce(&dyn Disk) -> io::Result<R>) -> io::Result<R> {
        let connect = || self.export(Client::open_patiently(&self.uri, &self.options)?);
        self.export.with(connect, |export| work(&**export))
    }
}

impl Disk for NbdDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buffer.len() as u64)?;
        self.with(|export| export.read_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        self.with(|export| export.write_at(data, offset))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        self.with(|export| export.zero(offset, length))
    }

    /// What has no connection was flushed before that was closed.
    fn flush(&self) -> io::Result<()> {
        self.export.if_held(|export| export.flush()).unwrap_or(Ok(()))
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.export.if_held(|export| export.keep_alive()).unwrap_or(Ok(()))
    }

    fn release(&self) -> io::Result<()> {
        self.export.give_back(|export| export.flush())
    }

    fn fresh_reads_zero(&self) -> bool {
        self.fresh
    }

    /// What is behind an export is the server's business; the size is an upper bound.
    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size)
    }
}

/// A connected export.
struct Export {
    client: Client,
    keep_space: bool,
}

impl Disk for Export {
    fn size(&self) -> u64 {
        self.client.offer().size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.client.read(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.client.write(data, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 || self.client.write_zeroes(offset, length, self.keep_space)? {
            return Ok(());
        }
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(ZEROS.len() as u64);
            self.client.write(&ZEROS[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.client.flush()
    }

    /// Reads a block: the cheapest request that a server and what is behind it must answer.
    fn keep_alive(&self) -> io::Result<()> {
        let mut block = vec![0; (self.client.offer().block as usize).min(self.size() as usize)];
        self.client.read(&mut block, 0)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size())
    }
}
