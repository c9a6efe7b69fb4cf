//! The nfc sink: a machine that is complete in the stage is made by its hypervisor from a lease, its disks uploaded to that as
//! streamOptimized VMDKs.
//!
//! Needs HTTPS to the vCenter and to the ESXi host that it names, and nothing else. Takes no random writes: that is why there is a
//! stage. A push that fails leaves nothing: the lease is aborted, the machine removed.

use std::io;
use std::sync::Arc;

use super::Provisioning;
use super::sink::{CompleteDisk, Course, Machine, Pushed, Sink};
use super::stream_optimized::{Description, Options, StreamOptimized};
use crate::inventory::Place;
use crate::vsphere::inventory::{Datacenter, Store, stored_name};
use crate::vsphere::lease::Lease;
use crate::vsphere::register;
use crate::vsphere::spec::{self, DiskSpec, Settings, Wanted};
use crate::vsphere::{Client, Ref, VsphereError};

/// Heads and sectors a track of a disk on a SCSI adapter: what vSphere writes for disks over 1 GiB.
const HEADS: u32 = 255;
const TRACK: u32 = 63;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// `ddb.virtualHWVersion` of the streams; the machine's own stands in its spec.
const HARDWARE_VERSION: u32 = 4;

/// Pushes machines to one place of one hypervisor.
pub struct Nfc {
    client: Arc<Client>,
    place: Place,
    options: Options,
}

impl Nfc {
    /// A sink for machines that go there.
    pub fn new(client: Arc<Client>, place: Place, options: Options) -> Self {
        Self { client, place, options }
    }

    fn push_to(
        &self,
        machine: &Machine,
        course: &Course,
        note: &dyn Fn(&str),
    ) -> Result<Pushed, VsphereError> {
        let what = format!("the virtual machine '{}' can't be made", machine.name);
        let datacenter = self.client.datacenter(&self.place.datacenter)?;
        let vmx = format!("{}/{}", machine.directory, machine.vmx_name);
        let vmx_path = Store::path(&machine.datastore, &vmx);
        if let Some(found) = register::find(&self.client, &datacenter, &vmx_path)? {
            return Err(VsphereError::Told(format!(
                "{what}: {vmx_path} is registered already as {}",
                found.id
            )));
        }
        let (pool, folder, host) = self.target(machine, &datacenter, note)?;
        let networks = self.networks(&datacenter)?;
        let disks: Vec<_> = machine.disks.iter().map(disk_spec).collect();
        let name = stored_name(&machine.name);
        let wanted = Wanted { name: &name, vmx_path: &vmx_path, disks: &disks, networks: &networks };
        let spec = spec::build(&Settings::parse(&machine.vmx), &wanted).map_err(VsphereError::Told)?;
        spec.notes.iter().for_each(|line| note(line));
        let lease = Lease::open(&self.client, &pool, &folder, host.as_ref(), &spec, &what)?;
        let expected =
            |disk: &CompleteDisk| disk.allocated.iter().map(|range| range.end - range.start).sum::<u64>();
        lease.expect(machine.disks.iter().map(expected).sum());
        for (disk, address) in machine.disks.iter().zip(&spec.addresses) {
            if course.is_cancelled() {
                return Err(VsphereError::Told(format!("{what}: it is not wanted any more")));
            }
            let what = format!("the disk {} can't be uploaded", disk.descriptor);
            let device = lease.device(address)?;
            let described = description(disk);
            let stream = StreamOptimized::new(&disk.source, &disk.allocated, described, &self.options)
                .map_err(|error| VsphereError::Told(format!("{what}: {error}")))?;
            lease.upload(device, stream, expected(disk), false, &what)?;
            note(&format!("{} uploaded to {address}", disk.descriptor));
        }
        let made = lease.complete(&what)?;
        Ok(Pushed { reference: Some(made.id) })
    }

    fn target(
        &self,
        machine: &Machine,
        datacenter: &Datacenter,
        note: &dyn Fn(&str),
    ) -> Result<(Ref, Ref, Option<Ref>), VsphereError> {
        let stores = self.client.stores(datacenter)?;
        let needed = |store: &&Store| {
            store.name == machine.datastore || machine.disks.iter().any(|disk| disk.datastore == store.name)
        };
        let needed: Vec<_> = stores.iter().filter(needed).collect();
        let fits = |host: &Ref| needed.iter().all(|store| store.hosts.contains(host));
        let target = self.client.target(datacenter, &self.place.host, &self.place.pool, fits);
        let target = target.map_err(|(_, error)| error)?;
        if let Some(line) = &target.note {
            note(line);
        }
        let folder = self.client.vm_folder(datacenter, &self.place.folder)?;
        Ok((target.pool, folder, target.host.map(|host| host.reference)))
    }

    fn networks(&self, datacenter: &Datacenter) -> Result<Vec<(String, Ref)>, VsphereError> {
        // Port groups of distributed switches want another backing; they are told as left out.
        let plain: Vec<_> =
            datacenter.networks.iter().filter(|network| network.kind == "Network").cloned().collect();
        let found = self.client.properties("Network", &plain, &["name"])?;
        Ok(found.iter().map(|network| (network.text("name").to_owned(), network.reference.clone())).collect())
    }
}

impl Sink for Nfc {
    fn push(&self, machine: &Machine, course: &Course, note: &dyn Fn(&str)) -> io::Result<Pushed> {
        self.push_to(machine, course, note).map_err(|error| match error.kind() {
            "NoDiskSpace" => io::Error::new(io::ErrorKind::StorageFull, error),
            _ if error.is_transient() => io::Error::new(io::ErrorKind::TimedOut, error),
            _ => io::Error::other(error),
        })
    }
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
