//! Snapshots of virtual machines: one is made, and which files its disks write to since.

use super::Ref;
use super::client::Client;
use super::error::VsphereError;
use super::hardware::Hardware;
use super::machines::store_file;
use super::task::REGISTER_TIMEOUT;
use super::xml::Element;
use crate::inventory::{Machine, MachineDisk};

/// What the account needs on a virtual machine that is restored into a snapshot of it.
pub const PRIVILEGE: &str = "VirtualMachine.State.CreateSnapshot";

/// What it needs there where `importfs orphans clean` removes a snapshot that nothing was written behind.
pub const REMOVE_PRIVILEGE: &str = "VirtualMachine.State.RemoveSnapshot";

/// Snapshots behind each other: vSphere allows 32.
const DEPTH_MAX: usize = 64;

/// The disks of a virtual machine.
pub fn disks(client: &Client, machine: &Machine) -> Result<Vec<MachineDisk>, VsphereError> {
    let path = "config.hardware.device";
    let found = client.properties_of(&Ref::new("VirtualMachine", &machine.id), &[path])?;
    let hardware = found.values.get(path).map(Hardware::read).unwrap_or_default();
    let disk = |files: &[String], size: u64| {
        Some(MachineDisk { current: store_file(files.first()?)?, base: store_file(files.last()?)?, size })
    };
    Ok(hardware.disks.iter().filter_map(|attached| disk(&attached.files, attached.capacity)).collect())
}

/// Makes a snapshot without memory of a virtual machine that does not run. `false`: its current one has that name already.
pub fn snapshot(
    client: &Client,
    machine: &Machine,
    name: &str,
    description: &str,
) -> Result<bool, VsphereError> {
    let reference = Ref::new("VirtualMachine", &machine.id);
    let found = client.properties_of(&reference, &["snapshot"])?;
    if found.values.get("snapshot").is_some_and(|snapshot| current(snapshot) == Some(name)) {
        return Ok(false);
    }
    let what = format!("the snapshot of '{}' can't be made", machine.name);
    client.run_task("CreateSnapshot_Task", &reference, REGISTER_TIMEOUT, &what, |w| {
        w.value("name", name)
            .value("description", description)
            .value("memory", false)
            .value("quiesce", false);
    })?;
    Ok(true)
}

/// The name of the snapshot that a virtual machine goes on from.
fn current(snapshots: &Element) -> Option<&str> {
    let wanted = snapshots.text_at(&["currentSnapshot"]);
    let mut level: Vec<_> = snapshots.all("rootSnapshotList").collect();
    for _ in 0..DEPTH_MAX {
        if let Some(found) = level.iter().find(|tree| tree.text_at(&["snapshot"]) == wanted) {
            return Some(found.text_at(&["name"]));
        }
        level = level.into_iter().flat_map(|tree| tree.all("childSnapshotList")).collect();
    }
    None
}

/// The snapshot of that name, the first from the root.
pub fn find(client: &Client, machine: &Machine, name: &str) -> Result<Option<Ref>, VsphereError> {
    let found = client.properties_of(&Ref::new("VirtualMachine", &machine.id), &["snapshot"])?;
    let mut level: Vec<_> =
        found.values.get("snapshot").into_iter().flat_map(|all| all.all("rootSnapshotList")).collect();
    for _ in 0..DEPTH_MAX {
        if let Some(found) = level.iter().find(|tree| tree.text_at(&["name"]) == name) {
            return Ok(Some(Ref::new("VirtualMachineSnapshot", found.text_at(&["snapshot"]))));
        }
        level = level.into_iter().flat_map(|tree| tree.all("childSnapshotList")).collect();
    }
    Ok(None)
}

/// Removes the snapshot of that name, and no other: the disks stay as they are.
pub fn remove(client: &Client, machine: &Machine, name: &str) -> Result<(), VsphereError> {
    let Some(snapshot) = find(client, machine, name)? else { return Ok(()) };
    let what = format!("the snapshot '{name}' of '{}' can't be removed", machine.name);
    client.run_task("RemoveSnapshot_Task", &snapshot, REGISTER_TIMEOUT, &what, |w| {
        w.value("removeChildren", false);
    })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::inventory::StoreFile;
    use crate::vsphere::testing::{Script, fault, object, script_client};

    fn machine() -> Machine {
        Machine {
            id: "vm-1".into(),
            name: "web".into(),
            vmx: StoreFile { datastore: "ds".into(), path: "web/web.vmx".into() },
            instance: String::new(),
            powered_off: true,
            folder: String::new(),
            pool: String::new(),
            host: String::new(),
            files: Vec::new(),
        }
    }

    fn answer(script: &Script, properties: &[(&str, &str)]) {
        let object = object("VirtualMachine", "vm-1", properties);
        script.answer("RetrievePropertiesEx", &format!("<returnval>{object}</returnval>"));
    }

    #[test]
    fn disks_with_what_they_are_snapshots_of() {
        let script = Script::new();
        let device = "<val><VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><backing><fileName>[ds] web/x-000002.vmdk</fileName>\
            <parent><fileName>[ds] web/x-000001.vmdk</fileName><parent><fileName>[ds] web/x.vmdk</fileName></parent></parent></backing>\
            <controllerKey>1000</controllerKey><unitNumber>0</unitNumber><capacityInKB>4</capacityInKB></VirtualDevice></val>";
        answer(&script, &[("config.hardware.device", device)]);
        let file = |path: &str| StoreFile { datastore: "ds".into(), path: path.into() };
        let disk = MachineDisk { current: file("web/x-000002.vmdk"), base: file("web/x.vmdk"), size: 4096 };
        assert_eq!(disks(&script_client(&script), &machine()).unwrap(), [disk]);
    }

    #[test]
    fn one_is_removed_by_its_name_and_no_other() {
        let script = Script::new();
        let tree = "<val><currentSnapshot type=\"VirtualMachineSnapshot\">s-2</currentSnapshot><rootSnapshotList><snapshot>s-1</snapshot>\
            <name>old</name><childSnapshotList><snapshot>s-2</snapshot><name>mine</name></childSnapshotList></rootSnapshotList></val>";
        let client = script_client(&script);
        answer(&script, &[("snapshot", tree)]);
        remove(&client, &machine(), "gone").unwrap();
        assert!(script.requests("RemoveSnapshot_Task").is_empty());
        answer(&script, &[("snapshot", tree)]);
        script.fault(
            "RemoveSnapshot_Task",
            &fault("NoPermission", &format!("<privilegeId>{REMOVE_PRIVILEGE}</privilegeId>")),
        );
        let refused = remove(&client, &machine(), "mine").unwrap_err().to_string();
        assert!(refused.contains("the snapshot 'mine' of 'web' can't be removed"), "{refused}");
        let asked = &script.requests("RemoveSnapshot_Task")[0];
        assert_eq!((asked.text_at(&["_this"]), asked.text_at(&["removeChildren"])), ("s-2", "false"));
    }

    #[test]
    fn a_snapshot_of_that_name_is_made_once() {
        let script = Script::new();
        let tree = "<val><currentSnapshot type=\"VirtualMachineSnapshot\">s-2</currentSnapshot><rootSnapshotList><snapshot>s-1</snapshot>\
            <name>old</name><childSnapshotList><snapshot>s-2</snapshot><name>mine</name></childSnapshotList></rootSnapshotList></val>";
        answer(&script, &[("snapshot", tree)]);
        let client = script_client(&script);
        assert!(!snapshot(&client, &machine(), "mine", "").unwrap());
        for properties in [&[("snapshot", tree)][..], &[]] {
            answer(&script, properties);
            script.fault(
                "CreateSnapshot_Task",
                &fault("NoPermission", &format!("<privilegeId>{PRIVILEGE}</privilegeId>")),
            );
            let refused = snapshot(&client, &machine(), "old", "").unwrap_err().to_string();
            assert!(
                refused.contains("the snapshot of 'web' can't be made") && refused.contains(PRIVILEGE),
                "{refused}"
            );
        }
        let asked = &script.requests("CreateSnapshot_Task")[0];
        assert_eq!((asked.text_at(&["name"]), asked.text_at(&["memory"])), ("old", "false"));
    }
}
