//! Virtual machines that are in the inventory: found by their files, taken out of it, put back.
//!
//! Nothing here touches a file: UnregisterVM leaves them, and RegisterVM_Task takes them as they are.

use super::Ref;
use super::client::Client;
use super::error::VsphereError;
use super::inventory::{Datacenter, Store, shown_name};
use super::property::Object;
use super::register::{self, Made, Target};
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
    if let Some(found) = register::find(client, datacenter, &path)? {
        return register::finish(client, Made { machine: found, before: true }, &machine.name, true);
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::task::tests::{update, with_collector};
    use crate::vsphere::testing::{Script, Site, fault, object, script_client};

    fn known(script: &Script) {
        let disk = |file: &str, parent: &str| {
            format!(
                "<VirtualDevice xsi:type=\"VirtualDisk\"><backing><fileName>{file}</fileName>{parent}</backing></VirtualDevice>"
            )
        };
        let parent = "<parent><fileName>[ds2] data/base.vmdk</fileName></parent>";
        let devices = format!("<val>{}<VirtualDevice/></val>", disk("[ds2] data/x-000001.vmdk", parent));
        let set = [
            ("name", "we%2fb"),
            ("parent", "<val type=\"Folder\">f-1</val>"),
            ("resourcePool", "<val type=\"ResourcePool\">p-low</val>"),
            ("runtime.host", "<val type=\"HostSystem\">h-1</val>"),
            ("runtime.powerState", "poweredOff"),
            ("summary.config.vmPathName", "[ds1] web/web.vmx"),
            ("summary.config.instanceUuid", "52-1"),
            ("config.hardware.device", &devices),
            (
                "datastore",
                "<val><ManagedObjectReference type=\"Datastore\">ds-1</ManagedObjectReference></val>",
            ),
        ];
        script.answer_properties("VirtualMachine", &object("VirtualMachine", "vm-7", &set));
    }

    fn place(datastore: &str, path: &str) -> StoreFile {
        StoreFile { datastore: datastore.into(), path: path.into() }
    }

    #[test]
    fn machines_are_found_by_their_vmx_their_disks_and_what_these_are_snapshots_of() {
        let script = Site::new().script();
        known(&script);
        let client = script_client(&script);
        let datacenter = client.datacenter("dc").unwrap();
        let names = |directory: StoreFile| {
            let found = with_files_in(&client, &datacenter, &[directory, place("ds1", "nothing")]).unwrap();
            found.into_iter().map(|machine| machine.name).collect::<Vec<_>>()
        };
        assert_eq!(names(place("ds1", "web")), ["we/b"]);
        assert_eq!(names(place("ds2", "data")), ["we/b"]);
        assert!(names(place("ds2", "web")).is_empty() && names(place("ds1", "we")).is_empty());
        script.always("FindByDatastorePath", "<returnval type=\"VirtualMachine\">vm-7</returnval>");
        let machine = with_vmx(&client, &datacenter, &place("ds1", "web/web.vmx")).unwrap().unwrap();
        let ids = [&machine.id, &machine.folder, &machine.pool, &machine.host, &machine.instance];
        assert_eq!(ids, ["vm-7", "f-1", "p-low", "h-1", "52-1"]);
        assert!(machine.powered_off && machine.files.len() == 3);
    }

    #[test]
    fn unregistered_once_whatever_becomes_of_the_line_and_registered_again_as_it_was() {
        let script = Site::new().script();
        with_collector(&script);
        known(&script);
        let client = script_client(&script);
        let datacenter = client.datacenter("dc").unwrap();
        script.always("FindByDatastorePath", "<returnval type=\"VirtualMachine\">vm-7</returnval>");
        let machine = with_vmx(&client, &datacenter, &place("ds1", "web/web.vmx")).unwrap().unwrap();
        script.lost("UnregisterVM");
        script.fault("UnregisterVM", &fault("ManagedObjectNotFound", ""));
        unregister(&client, &machine).unwrap();
        script.fault("UnregisterVM", &fault("InvalidPowerState", ""));
        let error = unregister(&client, &machine).unwrap_err().to_string();
        assert!(error.starts_with("the virtual machine 'we/b' (vm-7) can't be unregistered: "), "{error}");
        assert!(register_again(&client, &datacenter, &machine).unwrap().before, "it is registered still");
        script.always("FindByDatastorePath", "");
        script.answer("RegisterVM_Task", "<returnval type=\"Task\">t-1</returnval>");
        let done = [
            ("info.state", "<val>success</val>"),
            ("info.result", "<val type=\"VirtualMachine\">vm-8</val>"),
        ];
        script.answer("WaitForUpdatesEx", &update(&done));
        assert!(!register_again(&client, &datacenter, &machine).unwrap().before);
        let request = &script.requests("RegisterVM_Task")[0];
        let sent: Vec<_> =
            ["_this", "path", "name", "pool", "host"].iter().map(|key| request.text_at(&[key])).collect();
        assert_eq!(sent, ["f-1", "[ds1] web/web.vmx", "we%2fb", "p-low", "h-1"]);
    }
}
