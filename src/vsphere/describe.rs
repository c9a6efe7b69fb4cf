//! A virtual machine that exists, as a CFG for its restore names it: for `importfs cfg new --vm`.

use super::Ref;
use super::client::Client;
use super::error::VsphereError;
use super::inventory::{PARENTS_MAX, listed, shown_name};
use super::machines::store_file;
use super::property::Object;
use super::xml::Element;
use crate::inventory::{DescribedDisk, Description, Place, StoreFile};

/// What is asked of the virtual machine.
const PATHS: &[&str] = &[
    "name",
    "resourcePool",
    "runtime.host",
    "summary.config.vmPathName",
    "summary.config.uuid",
    "config.hardware.device",
];

/// The virtual machine of that name; where several have it, of that inventory path, or the end of one.
pub fn describe(client: &Client, wanted: &str) -> Result<Description, VsphereError> {
    let machine = find(client, wanted)?;
    let known = client.properties_of(&machine, PATHS)?;
    let told = |why: &str| VsphereError::Told(format!("the virtual machine '{wanted}' {why}"));
    let vmx = store_file(known.text("summary.config.vmPathName"))
        .ok_or_else(|| told("has no VMX that the server knows; is its host connected?"))?;
    let (disks, notes) = disks(&known);
    Ok(Description {
        name: shown_name(known.text("name")),
        uuid: known.text("summary.config.uuid").to_owned(),
        place: place(client, &machine, &known)?,
        vmx,
        disks,
        notes,
    })
}

fn find(client: &Client, wanted: &str) -> Result<Ref, VsphereError> {
    let all = client.below(&client.root()?, "VirtualMachine", &["name"])?;
    let of = |name: &str| {
        let same = all.iter().filter(|vm| shown_name(vm.text("name")) == name);
        same.map(|vm| vm.reference.clone()).collect::<Vec<_>>()
    };
    // A name may hold a slash itself.
    let mut found = of(wanted);
    if found.is_empty()
        && let Some((_, name)) = wanted.rsplit_once('/')
    {
        let mut at = Vec::new();
        for machine in of(name) {
            let path = path(client, &machine)?;
            if path == wanted || path.ends_with(&format!("/{wanted}")) {
                at.push(machine);
            }
        }
        found = at;
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let names = listed(all.iter().map(|vm| shown_name(vm.text("name"))));
            Err(VsphereError::Told(format!(
                "{} has no virtual machine '{wanted}'; it has: {names}",
                client.server()
            )))
        }
        several => {
            let paths = several.iter().map(|machine| path(client, machine)).collect::<Result<Vec<_>, _>>()?;
            let paths = listed(paths);
            let told =
                format!("there are several virtual machines '{wanted}', write one with its path: {paths}");
            Err(VsphereError::Told(told))
        }
    }
}

/// An object and all above it up to the root's children, outermost first.
fn above(client: &Client, object: &Ref) -> Result<Vec<(Ref, String)>, VsphereError> {
    let root = client.root()?;
    let (mut at, mut found) = (object.clone(), Vec::new());
    while at != root && found.len() < PARENTS_MAX {
        let entity = client.properties_of(&at, &["name", "parent"])?;
        found.push((at, shown_name(entity.text("name"))));
        match entity.reference("parent") {
            Some(parent) => at = parent,
            None => break,
        }
    }
    found.reverse();
    Ok(found)
}

fn path(client: &Client, machine: &Ref) -> Result<String, VsphereError> {
    let names: Vec<_> = above(client, machine)?.into_iter().map(|(_, name)| name).collect();
    Ok(names.join("/"))
}

fn joined(entities: &[(Ref, String)]) -> String {
    entities.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join("/")
}

fn place(client: &Client, machine: &Ref, known: &Object) -> Result<Place, VsphereError> {
    let way = above(client, machine)?;
    let mut place = Place::default();
    // The datacenter, then the folder of all its virtual machines, folders, the machine itself.
    if let Some(at) = way.iter().position(|(entity, _)| entity.kind == "Datacenter") {
        place.datacenter = joined(&way[..=at]);
        place.folder = joined(way.get(at + 2..way.len() - 1).unwrap_or_default());
    }
    if let Some(host) = known.reference("runtime.host") {
        client.properties_of(&host, &["name"])?.text("name").clone_into(&mut place.host);
    }
    if let Some(pool) = known.reference("resourcePool") {
        let way = above(client, &pool)?;
        let compute = way.iter().position(|(entity, _)| entity.kind.ends_with("ComputeResource"));
        let below = &way[compute.unwrap_or_default()..];
        // The compute resource and its root pool: what an empty one means.
        if below.len() > 2 {
            place.pool = joined(below);
        }
    }
    Ok(place)
}

/// Its disks, and what of them a CFG can't say.
fn disks(known: &Object) -> (Vec<DescribedDisk>, Vec<String>) {
    let (mut disks, mut notes) = (Vec::new(), Vec::new());
    let devices = known.values.get("config.hardware.device").map(|list| list.children.as_slice());
    for device in devices.unwrap_or_default().iter().filter(|device| device.xsi_type == "VirtualDisk") {
        let label = device.text_at(&["deviceInfo", "label"]);
        let Some((base, file)) = device.child("backing").and_then(base) else {
            notes.push(format!("{label} is not in the CFG: it has no file on a datastore"));
            continue;
        };
        let bytes = device.text_at(&["capacityInBytes"]).parse().ok();
        let kib = || device.text_at(&["capacityInKB"]).parse::<u64>().ok()?.checked_mul(1024);
        let Some(size) = bytes.or_else(kib) else {
            notes.push(format!("{label} is not in the CFG: its size is not known"));
            continue;
        };
        if device.text_at(&["backing", "fileName"]) != file.to_string() {
            notes.push(format!(
                "{label} has snapshots; the CFG names the disk below them, {file}, as a backup has it"
            ));
        }
        let raw = base.xsi_type.contains("RawDiskMapping");
        disks.push(DescribedDisk { descriptor: file, size, thin: base.flag_at(&["thinProvisioned"]), raw });
    }
    (disks, notes)
}

/// The backing below all snapshots, and its file.
fn base(backing: &Element) -> Option<(&Element, StoreFile)> {
    let mut at = backing;
    for _ in 0..PARENTS_MAX {
        match at.child("parent") {
            Some(parent) => at = parent,
            None => break,
        }
    }
    Some((at, store_file(at.text_at(&["fileName"]))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::testing::{Script, object, script_client};

    fn inventory(machines: &[(&str, &str)]) -> Script {
        let script = Script::new();
        script.always("CreateContainerView", "<returnval type=\"ContainerView\">v-1</returnval>");
        script.always("DestroyView", "");
        let disk = |kind: &str, file: &str, more: &str, parent: &str| {
            format!(
                "<VirtualDevice xsi:type=\"VirtualDisk\"><deviceInfo><label>Hard disk</label></deviceInfo><backing \
                 xsi:type=\"{kind}\"><fileName>{file}</fileName>{more}{parent}</backing><capacityInKB>4</capacityInKB></VirtualDevice>"
            )
        };
        let flat = "VirtualDiskFlatVer2BackingInfo";
        let parent = format!(
            "<parent xsi:type=\"{flat}\"><fileName>[ds1] web/web.vmdk</fileName><thinProvisioned>true</thinProvisioned></parent>"
        );
        let devices = [
            disk(flat, "[ds1] web/web-000001.vmdk", "", &parent),
            disk(flat, "[ds2] data/d.vmdk", "<thinProvisioned>false</thinProvisioned>", ""),
            disk("VirtualDiskRawDiskMappingVer1BackingInfo", "[ds1] web/raw.vmdk", "", ""),
            disk("VirtualDiskRemote", "", "", ""),
            "<VirtualDevice xsi:type=\"VirtualCdrom\"/>".to_owned(),
        ];
        let devices = format!("<val>{}</val>", devices.concat());
        let machines: Vec<_> = machines
            .iter()
            .map(|(id, name)| {
                let set = [
                    ("name", *name),
                    ("parent", "<val type=\"Folder\">root</val>"),
                    ("summary.config.vmPathName", "[ds1] web/web.vmx"),
                    ("summary.config.uuid", "50133967-ae5a-052c-0140-e47ce07219ee"),
                    ("config.hardware.device", devices.as_str()),
                ];
                object("VirtualMachine", id, &set)
            })
            .collect();
        script.answer_properties("VirtualMachine", &machines.concat());
        script
    }

    #[test]
    fn disks_below_their_snapshots_raw_ones_and_those_that_no_cfg_has() {
        let client = script_client(&inventory(&[("vm-1", "we%2fb")]));
        let found = describe(&client, "we/b").unwrap();
        let disks: Vec<_> =
            found.disks.iter().map(|d| (d.descriptor.to_string(), d.size, d.thin, d.raw)).collect();
        let disk = |file: &str, thin, raw| (file.to_owned(), 4096, thin, raw);
        assert_eq!(
            disks,
            [
                disk("[ds1] web/web.vmdk", true, false),
                disk("[ds2] data/d.vmdk", false, false),
                disk("[ds1] web/raw.vmdk", false, true)
            ]
        );
        assert!(
            found.notes[0].contains("has snapshots") && found.notes[1].contains("no file on a datastore"),
            "{found:?}"
        );
        assert_eq!(found.notes.len(), 2);
    }

    #[test]
    fn a_name_that_none_or_several_have_is_told_with_what_there_is() {
        let client = script_client(&inventory(&[("vm-1", "web"), ("vm-2", "web"), ("vm-3", "db")]));
        let error = describe(&client, "mail").unwrap_err().to_string();
        assert_eq!(error, "hv:443 has no virtual machine 'mail'; it has: db, web");
        let error = describe(&client, "web").unwrap_err().to_string();
        assert!(
            error.contains("there are several virtual machines 'web', write one with its path"),
            "{error}"
        );
        assert!(describe(&client, "elsewhere/db").is_err());
    }
}
