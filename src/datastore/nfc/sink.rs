//! A machine that is complete in the stage is made by its hypervisor from a lease, its disks uploaded to that as streamOptimized
//! VMDKs.
//!
//! A push that fails leaves nothing: the lease is aborted, the machine removed. What can't be removed because the server is away
//! stays noted, and the next push begins with it. What may succeed later by itself is begun again for a configured time, from its
//! start: a lease that is lost can't be taken up.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::Provisioning;
use super::super::sink::{CompleteDisk, Course, Machine, Pushed, Sink, Told};
use super::super::stream_optimized::{Description, StreamOptimized};
use super::{NfcOptions, as_io};
use crate::inventory::Place;
use crate::vsphere::files::Files;
use crate::vsphere::inventory::{Datacenter, Store, stored_name};
use crate::vsphere::lease::{Home, Lease};
use crate::vsphere::spec::{self, DiskSpec, Settings, Spec, Wanted};
use crate::vsphere::trace::{self, Remains, Trace};
use crate::vsphere::{Client, Ref, VsphereError, register};

/// Heads and sectors a track of a disk on a SCSI adapter: what vSphere writes for disks over 1 GiB.
const HEADS: u32 = 255;
const TRACK: u32 = 63;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// `ddb.virtualHWVersion` of the streams; the machine's own stands in its spec.
const HARDWARE_VERSION: u32 = 4;
/// Before a push that broke is begun again; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Pushes machines to one place of one hypervisor.
pub struct Nfc {
    client: Arc<Client>,
    place: Place,
    options: NfcOptions,
}

/// Where in the inventory, as the server names it.
struct Target {
    datacenter: Datacenter,
    stores: Vec<Store>,
    pool: Ref,
    folder: Ref,
    host: Option<Ref>,
}

impl Nfc {
    /// A sink for machines that go there.
    pub fn new(client: Arc<Client>, place: Place, options: NfcOptions) -> Self {
        Self { client, place, options }
    }

    /// One try. It begins with what an earlier one left.
    fn attempt(&self, machine: &Machine, course: &Course, told: &dyn Told) -> Result<Pushed, VsphereError> {
        let made = match self.settle(told)? {
            Some(made) => made,
            None => match self.make(machine, course, told) {
                Ok(made) => made,
                Err(error) => match self.settle(told) {
                    Ok(None) => return Err(error),
                    // The answer that it is complete was lost.
                    Ok(Some(made)) => made,
                    Err(also) => {
                        tracing::warn!(
                            "{}: {also}; it is listed by `importfs orphans list`",
                            machine.session
                        );
                        return Err(error);
                    }
                },
            },
        };
        self.put_nvram(machine, &made, told);
        Ok(Pushed { reference: Some(made.id) })
    }

    /// Undoes what is noted; a machine that turns out to be complete is returned.
    fn settle(&self, told: &dyn Told) -> Result<Option<Ref>, VsphereError> {
        let left = told.left();
        if left.is_empty() {
            return Ok(None);
        }
        match trace::settle(&self.client, &read_trace(&left)?)? {
            Remains::Complete(machine) => Ok(Some(machine)),
            Remains::Gone => {
                told.leave("").map_err(|error| not_noted(&error))?;
                Ok(None)
            }
        }
    }

    /// Makes the machine and uploads its disks.
    fn make(&self, machine: &Machine, course: &Course, told: &dyn Told) -> Result<Ref, VsphereError> {
        let what = format!("the virtual machine '{}' can't be made", machine.name);
        let target = self.target(machine, told)?;
        let vmx_path =
            Store::path(&machine.datastore, &format!("{}/{}", machine.directory, machine.vmx_name));
        if let Some(found) = register::find(&self.client, &target.datacenter, &vmx_path)? {
            return Err(VsphereError::Told(format!(
                "{what}: {vmx_path} is registered already as {}; remove it there, or restore to another directory",
                found.id
            )));
        }
        let spec = self.spec(machine, &target.datacenter, &vmx_path)?;
        spec.notes.iter().for_each(|line| told.note(line));
        let wanted = || course.cancelled().is_none();
        let mut trace = Trace {
            vmx: vmx_path,
            instance: spec.instance.clone(),
            datacenter: target.datacenter.reference.id.clone(),
            directories: self.missing_directories(machine, &target.stores)?,
            lease: None,
            machine: None,
            complete: false,
        };
        note_trace(told, &trace)?;
        for (datastore, path) in &trace.directories {
            if let Some(store) = Store::find(&target.stores, datastore) {
                self.client.make_directory(&target.datacenter.reference, store, path)?;
            }
        }
        let home = Home { pool: &target.pool, folder: &target.folder, host: target.host.as_ref() };
        let lease = Lease::open(&self.client, home, &spec, &what, &wanted, |lease| {
            trace.lease = Some(lease.id.clone());
            note_trace(told, &trace)
        })?;
        trace.machine = Some(lease.entity.id.clone());
        note_trace(told, &trace)?;
        self.upload_all(machine, &spec, &lease, &wanted, told)?;
        let made = lease.complete(&what)?;
        // A server forgets a lease that is over: a kill from here on must not take it for one that was cut short.
        if let Err(error) = note_trace(told, &Trace { complete: true, ..trace }) {
            tracing::warn!("{}: {error}", machine.session); // It is complete all the same.
        }
        Ok(made)
    }

    /// Directories of the machine and its disks that do not exist yet. Servers differ in which they make by themselves.
    fn missing_directories(
        &self,
        machine: &Machine,
        stores: &[Store],
    ) -> Result<Vec<(String, String)>, VsphereError> {
        let disks = machine.disks.iter().map(|disk| (&disk.datastore, &disk.spec.directory));
        let mut missing: Vec<(String, String)> = Vec::new();
        for (datastore, path) in std::iter::once((&machine.datastore, &machine.directory)).chain(disks) {
            let known = missing.iter().any(|(on, made)| (on, made) == (datastore, path));
            let wanted = !known && !path.is_empty();
            let Some(store) = Store::find(stores, datastore).filter(|_| wanted) else { continue };
            if !self.client.exists(store, path)? {
                missing.push((datastore.clone(), path.clone()));
            }
        }
        // Those above before those in them.
        missing.sort_by_key(|(_, path)| path.matches('/').count());
        Ok(missing)
    }

    fn upload_all(
        &self,
        machine: &Machine,
        spec: &Spec,
        lease: &Lease<'_>,
        wanted: &dyn Fn() -> bool,
        told: &dyn Told,
    ) -> Result<(), VsphereError> {
        let meter = lease.meter();
        meter.expect(machine.disks.iter().map(CompleteDisk::bytes).sum());
        let mut before = 0;
        for (disk, address) in machine.disks.iter().zip(&spec.addresses) {
            let what = format!("the disk {} can't be uploaded", disk.descriptor);
            let begun = Instant::now();
            let device = lease.device(address)?;
            let described = description(disk);
            let stream = StreamOptimized::new(&disk.source, &disk.allocated, described, &self.options.stream)
                .map_err(|error| VsphereError::Told(format!("{what}: {error}")))?;
            let meter = Arc::clone(meter);
            let mut stream =
                stream.with_progress(Box::new(move |progress| meter.reach(before + progress.done)));
            lease.upload(device, &mut stream, disk.bytes(), &what, wanted)?;
            before += disk.bytes();
            told.note(&format!(
                "{} uploaded to {address}: {} kb of data in {} s",
                disk.descriptor,
                disk.bytes() / 1024,
                begun.elapsed().as_secs()
            ));
        }
        Ok(())
    }

    fn spec(&self, machine: &Machine, datacenter: &Datacenter, vmx_path: &str) -> Result<Spec, VsphereError> {
        let networks = self.networks(datacenter)?;
        let disks: Vec<_> = machine.disks.iter().map(disk_spec).collect();
        let stem = machine.vmx_name.strip_suffix(".vmx").unwrap_or(&machine.vmx_name);
        let nvram = machine.nvram.as_ref().map(|_| format!("{stem}.nvram"));
        let wanted = Wanted {
            name: &stored_name(&machine.name),
            vmx_path,
            disks: &disks,
            networks: &networks,
            instance: &Uuid::new_v4().to_string(),
            nvram: nvram.as_deref(),
        };
        spec::build(&Settings::parse(&machine.vmx), &wanted).map_err(VsphereError::Told)
    }

    fn target(&self, machine: &Machine, told: &dyn Told) -> Result<Target, VsphereError> {
        let datacenter = self.client.datacenter(&self.place.datacenter)?;
        let stores = self.client.stores(&datacenter)?;
        let needed = |store: &&Store| {
            store.name == machine.datastore || machine.disks.iter().any(|disk| disk.datastore == store.name)
        };
        let needed: Vec<_> = stores.iter().filter(needed).collect();
        let fits = |host: &Ref| needed.iter().all(|store| store.hosts.contains(host));
        let target = self.client.target(&datacenter, &self.place.host, &self.place.pool, fits);
        let target = target.map_err(|(_, error)| error)?;
        if let Some(line) = &target.note {
            told.note(line);
        }
        let folder = self.client.vm_folder(&datacenter, &self.place.folder)?;
        let (pool, host) = (target.pool, target.host.map(|host| host.reference));
        Ok(Target { datacenter, stores, pool, folder, host })
    }

    fn networks(&self, datacenter: &Datacenter) -> Result<Vec<(String, Ref)>, VsphereError> {
        // Port groups of distributed switches want another backing; they are told as left out.
        let plain: Vec<_> =
            datacenter.networks.iter().filter(|network| network.kind == "Network").cloned().collect();
        let found = self.client.properties("Network", &plain, &["name"])?;
        Ok(found.iter().map(|network| (network.text("name").to_owned(), network.reference.clone())).collect())
    }

    /// Puts the firmware's settings where the machine looks for them. It is complete without: a failure is told, and no more.
    fn put_nvram(&self, machine: &Machine, made: &Ref, told: &dyn Told) {
        let Some(nvram) = &machine.nvram else { return };
        let line = match self.upload_nvram(made, nvram) {
            Ok(Some(path)) => format!("{path} uploaded"),
            Ok(None) => {
                "the nvram is not carried over: the hypervisor does not say where it wants it".to_owned()
            }
            Err(error) => {
                format!("the nvram is not carried over, the firmware starts with its defaults: {error}")
            }
        };
        told.note(&line);
    }

    fn upload_nvram(&self, made: &Ref, nvram: &[u8]) -> Result<Option<String>, VsphereError> {
        let datacenter = self.client.datacenter(&self.place.datacenter)?;
        let known = self.client.properties_of(made, &["config.extraConfig", "config.files.vmPathName"])?;
        let options = known.values.get("config.extraConfig").map(|list| list.children.as_slice());
        let named = options.unwrap_or_default().iter().find(|option| option.text_at(&["key"]) == "nvram");
        let name = named.map(|option| option.text_at(&["value"])).unwrap_or_default();
        let place =
            known.text("config.files.vmPathName").strip_prefix('[').and_then(|path| path.split_once("] "));
        let Some((datastore, vmx)) = place.filter(|_| !name.is_empty() && !name.contains('/')) else {
            return Ok(None);
        };
        let path = vmx
            .rsplit_once('/')
            .map_or_else(|| name.to_owned(), |(directory, _)| format!("{directory}/{name}"));
        Files::new(&self.client, &datacenter.reference, datastore)?.put(&path, nvram)?;
        Ok(Some(Store::path(datastore, &path)))
    }
}

impl Sink for Nfc {
    fn push(&self, machine: &Machine, course: &Course, told: &dyn Told) -> io::Result<Pushed> {
        let mut failing: Option<Instant> = None;
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match self.attempt(machine, course, told) {
                Ok(pushed) => return Ok(pushed),
                Err(error) => error,
            };
            let since = failing.get_or_insert_with(Instant::now).elapsed();
            let again = error.is_transient() && since + pause <= self.options.retry;
            if again && course.cancelled().is_none() {
                told.note(&format!("{error}; begun again in {} s", pause.as_secs()));
            }
            if again && course.pause(pause) {
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
            return Err(match course.cancelled() {
                Some(why) => io::Error::new(io::ErrorKind::Interrupted, why),
                None => as_io(error),
            });
        }
    }

    fn is_there(&self, trace: &str) -> io::Result<bool> {
        let found = read_trace(trace).and_then(|trace| trace::find(&self.client, &trace));
        Ok(found.map_err(as_io)?.is_some())
    }

    fn undo(&self, trace: &str) -> io::Result<bool> {
        let left = read_trace(trace).and_then(|trace| trace::settle(&self.client, &trace)).map_err(as_io)?;
        Ok(left != Remains::Gone)
    }
}

fn read_trace(text: &str) -> Result<Trace, VsphereError> {
    serde_json::from_str(text).map_err(|error| {
        VsphereError::Told(format!("what an upload left can't be read from the journal: {error}"))
    })
}

fn note_trace(told: &dyn Told, trace: &Trace) -> Result<(), VsphereError> {
    let text = serde_json::to_string(trace).map_err(|error| VsphereError::Told(error.to_string()))?;
    told.leave(&text).map_err(|error| not_noted(&error))
}

fn not_noted(error: &io::Error) -> VsphereError {
    VsphereError::Told(format!("the session's journal can't be written: {error}"))
}

fn disk_spec(disk: &CompleteDisk) -> DiskSpec {
    DiskSpec {
        datastore: disk.datastore.clone(),
        directory: disk.spec.directory.clone(),
        descriptor: disk.descriptor.clone(),
        size: disk.spec.size,
        thin: disk.spec.provisioning == Provisioning::Thin,
    }
}

fn description(disk: &CompleteDisk) -> Description {
    let cylinders = disk.spec.size / SECTOR / u64::from(HEADS * TRACK);
    let kept = |key: &str| {
        let line = disk.description.lines().find_map(|line| line.trim().strip_prefix(key)?.split_once('='));
        line.map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    Description {
        file: disk.descriptor.clone(),
        adapter: kept("ddb.adapterType").unwrap_or_else(|| "lsilogic".to_owned()),
        geometry: (cylinders, HEADS, TRACK),
        uuid: kept("ddb.uuid"),
        hardware_version: HARDWARE_VERSION,
    }
}
