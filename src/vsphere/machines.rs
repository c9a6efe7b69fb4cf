//! Virtual machines that are in the inventory: found by their files, taken out of it, put back.
//!
//! Nothing here touches a file: UnregisterVM leaves them, and RegisterVM_Task takes them as they are.

use super::Ref;
use super::client::Client;
use super::error::VsphereError;
use super::inventory::{Datacenter, Store, shown_name};
use super::property::Object;
use super::register::{self, Target};
use crate::inventory::{Machine, Registered, StoreFile};

/// What is asked of a virtual machine.
const PATHS: &[&str] = &[
    "name",
    "parent",
    "resourcePool",
    "runtime.host",
    "runtime.powerState",
    "summary.config.vmPathName",
    "summary.config.instanceUuid",
    "config.hardware.device",
];
/// Virtual machines whose devices are asked for at once: their lists are long.
const DEVICES_PAGE: usize = 50;
/// Disks behind each other, of snapshots of snapshots: vSphere allows 32.
const PARENTS_MAX: usize = 64;

/// `[datastore] path` in its parts.
pub(super) fn store_file(path: &str) -> Option<StoreFile> {
    let (datastore, path) = path.strip_prefix('[')?.split_once(']')?;
    Some(StoreFile { datastore: datastore.to_owned(), path: path.trim_start().to_owned() })
}

fn machine(object: &Object) -> Option<Machine> {
    let vmx = store_file(object.text("summary.config.vmPathName"))?;
    let id = |path: &str| object.reference(path).map(|found| found.id).unwrap_or_default();
    let mut files = vec![vmx.clone()];
    let devices = object.values.get("config.hardware.device").map(|list| list.children.as_slice());
    for device in devices.unwrap_or_default() {
        let mut backing = device.child("backing");
        for _ in 0..PARENTS_MAX {
            let Some(this) = backing else { break };
            files.extend(store_file(this.text_at(&["fileName"])));
            backing = this.child("parent");
        }
    }
    Some(Machine {
        id: object.reference.id.clone(),
        name: shown_name(object.text("name")),
        vmx,
        instance: object.text("summary.config.instanceUuid").to_owned(),
        powered_off: object.text("runtime.powerState") == "poweredOff",
        folder: id("parent"),
        pool: id("resourcePool"),
        host: id("runtime.host"),
        files,
    })
}

/// The virtual machine with that VMX.
pub fn with_vmx(
    client: &Client,
    datacenter: &Datacenter,
    vmx: &StoreFile,
) -> Result<Option<Machine>, VsphereError> {
    let path = Store::path(&vmx.datastore, &vmx.path);
    let Some(found) = register::find(client, datacenter, &path)? else { return Ok(None) };
    Ok(machine(&client.properties_of(&found, PATHS)?))
}

/// The virtual machines that have their VMX or a disk in one of these directories, or below it.
pub fn with_files_in(
    client: &Client,
    datacenter: &Datacenter,
    directories: &[StoreFile],
) -> Result<Vec<Machine>, VsphereError> {
    let stores = client.stores(datacenter)?;
    let named = |store: &&Store| directories.iter().any(|directory| directory.datastore == store.name);
    let stores: Vec<_> = stores.iter().filter(named).map(|store| store.reference.clone()).collect();
    // Who uses the datastores at all; only of those the devices.
    let all = client.below(&datacenter.vm_folder, "VirtualMachine", &["datastore"])?;
    let near: Vec<_> = all
        .into_iter()
        .filter(|vm| vm.references("datastore").iter().any(|store| stores.contains(store)))
        .map(|vm| vm.reference)
        .collect();
    let mut found = Vec::new();
    for page in near.chunks(DEVICES_PAGE) {
        let machines = client.properties("VirtualMachine", page, PATHS)?;
        let machines = machines.iter().filter_map(machine);
        found.extend(machines.filter(|machine| directories.iter().any(|directory| machine.uses(directory))));
    }
    Ok(found)
}

/// Takes a virtual machine out of the inventory. One that is gone already is a success: an answer may have been lost.
pub fn unregister(client: &Client, machine: &Machine) -> Result<(), VsphereError> {
    let reference = Ref::new("VirtualMachine", &machine.id);
    let about = || format!("the virtual machine '{}' ({}) can't be unregistered", machine.name, machine.id);
    let gone = |error: &VsphereError| error.kind() == "ManagedObjectNotFound";
    match client.call("UnregisterVM", &reference, |_| {}) {
        Ok(_) => Ok(()),
        Err(error) if gone(&error) => Ok(()),
        // Whether it arrived, a second one tells.
        Err(VsphereError::Lost { .. }) => match client.call("UnregisterVM", &reference, |_| {}) {
            Ok(_) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(error.about(about())),
        },
        Err(error) => Err(error.about(about())),
    }
}

/// Registers a virtual machine again as it was before [`unregister`]: folder, pool, host, name.
pub fn register_again(
    client: &Client,
    datacenter: &Datacenter,
    machine: &Machine,
) -> Result<Registered, VsphereError> {
    let path = Store::path(&machine.vmx.datastore, &machine.vmx.path);
    let target = Target {
        // In a vApp it has no folder.
        folder: match machine.folder.as_str() {
            "" => datacenter.vm_folder.clone(),
            id => Ref::new("Folder", id),
        },
        pool: Ref::new("ResourcePool", &machine.pool),
        host: Some(machine.host.as_str()).filter(|id| !id.is_empty()).map(|id| Ref::new("HostSystem", id)),
    };
    let done = register::start(client, datacenter, &target, &path, &machine.name)?;
    register::finish(client, done, &machine.name, true)
}
