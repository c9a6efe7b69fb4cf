//! The virtual machine that importfs itself runs in: found in the inventory, disks attached to it and detached from it while it
//! runs (HotAdd).
//!
//! What it has is [`super::hardware`]'s. Detaching never touches a disk's files. What is seen on this machine of an attached disk is not
//! known here.

use std::time::Duration;

use super::Ref;
use super::client::Client;
use super::error::VsphereError;
use super::hardware::{Addition, Attached, Hardware, NewDisk};
use super::inventory::{listed, shown_name};
use super::soap;

/// What the account needs on the appliance's own virtual machine: docs/vsphere.md says what each is for.
pub const PRIVILEGES: &[&str] = &[
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.RemoveDisk",
];

/// How long a reconfiguration may take that writes no data.
pub const RECONFIGURE_TIMEOUT: Duration = Duration::from_mins(5);
/// Folders above a virtual machine.
const FOLDERS_MAX: usize = 64;
/// The key of a device that is to be made: the server gives it its own.
const NEW_KEY: i32 = -1;

/// How the appliance is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// By its SMBIOS UUID, in any of these spellings.
    Uuids(Vec<String>),
    /// By its name or its inventory path.
    Name(String),
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuids(uuids) => write!(f, "the UUID {}", uuids.join(" or ")),
            Self::Name(name) => write!(f, "the name '{name}'"),
        }
    }
}

impl Known {
    /// What a configuration says: a UUID, or else a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match super::register::canonical(text) {
            Some(uuid) => Self::Uuids(spellings(&uuid)),
            None => Self::Name(text.to_owned()),
        }
    }
}

/// A UUID as it stands, and with the bytes of its first three fields turned round: SMBIOS 2.6 has them little-endian, and virtual
/// hardware and kernels disagree on who turns them back.
#[must_use]
pub fn spellings(uuid: &str) -> Vec<String> {
    let Ok(uuid) = uuid.trim().parse::<uuid::Uuid>() else { return Vec::new() };
    let turned = uuid::Uuid::from_bytes_le(uuid.into_bytes());
    let mut all = vec![uuid.to_string()];
    if turned != uuid {
        all.push(turned.to_string());
    }
    all
}

/// The appliance's virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// It.
    pub reference: Ref,
    /// Its name.
    pub name: String,
    /// The host that it runs on, where the account may see that.
    pub host: Option<Ref>,
    /// The datacenter that it is in: its datastores are the ones that it can reach.
    pub datacenter: Ref,
}

impl Client {
    /// The appliance's own virtual machine. It runs, as whoever asks does.
    pub fn appliance(&self, known: &Known) -> Result<Machine, VsphereError> {
        let server = self.server();
        let advice = "hotadd needs importfs to run in a virtual machine of that vSphere; name it with appliance in the \
                      configuration, or choose another writer";
        let candidates = match known {
            Known::Uuids(uuids) => {
                let mut found = Vec::new();
                for uuid in uuids {
                    found.extend(self.machines_by_uuid(uuid)?);
                }
                found
            }
            Known::Name(name) => self.machines_by_name(name)?,
        };
        let paths = ["name", "runtime.powerState", "runtime.host"];
        let mut found = self.properties("VirtualMachine", &candidates, &paths)?;
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        found.dedup_by(|a, b| a.reference == b.reference);
        let all: Vec<_> = found.iter().map(|vm| shown_name(vm.text("name"))).collect();
        found.retain(|vm| vm.text("runtime.powerState") == "poweredOn");
        match found.as_slice() {
            [one] => Ok(Machine {
                reference: one.reference.clone(),
                name: shown_name(one.text("name")),
                host: one.reference("runtime.host"),
                datacenter: self.datacenter_of(&one.reference)?,
            }),
            [] if all.is_empty() => Err(VsphereError::Told(format!(
                "{server} has no virtual machine with {known}, or hides it from the account; {advice}"
            ))),
            [] => Err(VsphereError::Told(format!(
                "the virtual machine with {known} ({}) is not running, so it is not this one; {advice}",
                listed(all)
            ))),
            several => Err(VsphereError::Told(format!(
                "{server} has several running virtual machines with {known}: {}; name the right one with appliance in the \
                 configuration, by its inventory path",
                listed(several.iter().map(|vm| shown_name(vm.text("name"))))
            ))),
        }
    }

    fn machines_by_uuid(&self, uuid: &str) -> Result<Vec<Ref>, VsphereError> {
        // Clones may share an SMBIOS UUID; FindByUuid would pick any of them.
        let all = self.read(
            "FindAllByUuid",
            |live| live.content.search_index.clone(),
            |w, _| {
                w.value("uuid", uuid).value("vmSearch", true).value("instanceUuid", false);
            },
        );
        match all {
            Ok(result) => Ok(result.all("returnval").filter_map(soap::reference).collect()),
            Err(error) if matches!(error.kind(), "MethodNotFound" | "NotSupported" | "NotImplemented") => {
                let one = self.search("FindByUuid", |w| {
                    w.value("uuid", uuid).value("vmSearch", true).value("instanceUuid", false);
                })?;
                Ok(one.into_iter().collect())
            }
            Err(error) => Err(error.about("the inventory can't be searched for the appliance")),
        }
    }

    fn machines_by_name(&self, name: &str) -> Result<Vec<Ref>, VsphereError> {
        let at_path = self.search("FindByInventoryPath", |w| {
            w.value("inventoryPath", name);
        })?;
        if let Some(found) = at_path.filter(|found| found.kind == "VirtualMachine") {
            return Ok(vec![found]);
        }
        let root = self.with_session(|live| Ok(live.content.root_folder.clone()))?;
        let all = self.below(&root, "VirtualMachine", &["name"])?;
        let named = all.into_iter().filter(|vm| shown_name(vm.text("name")) == name);
        Ok(named.map(|vm| vm.reference).collect())
    }

    /// The datacenter above an object.
    fn datacenter_of(&self, object: &Ref) -> Result<Ref, VsphereError> {
        let mut at = object.clone();
        for _ in 0..FOLDERS_MAX {
            let entity = self.properties_of(&at, &["parent"])?;
            match entity.reference("parent") {
                Some(parent) if parent.kind == "Datacenter" => return Ok(parent),
                Some(parent) => at = parent,
                None => break,
            }
        }
        Err(VsphereError::Told(format!(
            "the datacenter of {} {} can't be found; grant the role on the folders above it, too",
            object.kind, object.id
        )))
    }

    /// The appliance's controllers and disks now.
    pub fn hardware(&self, machine: &Machine) -> Result<Hardware, VsphereError> {
        let path = "config.hardware.device";
        let found = self.properties_of(&machine.reference, &[path])?;
        let hidden = || {
            VsphereError::Told(format!(
                "the account may not see the devices of the appliance '{}'",
                machine.name
            ))
        };
        Ok(Hardware::read(found.values.get(path).ok_or_else(hidden)?))
    }

    /// Attaches disks in one reconfiguration: all of them or none. On an error whose outcome is not known the devices tell.
    pub fn attach_disks(
        &self,
        machine: &Machine,
        additions: &[Addition<'_>],
        what: &str,
    ) -> Result<(), VsphereError> {
        let zeroing = additions.iter().filter_map(|addition| addition.new).map(NewDisk::zeroing);
        let limit = RECONFIGURE_TIMEOUT + zeroing.sum::<Duration>();
        self.run_task("ReconfigVM_Task", &machine.reference, limit, what, |w| {
            w.element("spec", |w| {
                for (addition, key) in additions.iter().zip((i32::MIN..=NEW_KEY).rev()) {
                    w.element("deviceChange", |w| {
                        w.value("operation", "add");
                        if addition.new.is_some() {
                            w.value("fileOperation", "create");
                        }
                        w.typed("device", "VirtualDisk", |w| addition.write(key, w));
                    });
                }
            });
        })?;
        Ok(())
    }

    /// Detaches disks in one reconfiguration; their files stay.
    pub fn detach_disks(
        &self,
        machine: &Machine,
        disks: &[&Attached],
        what: &str,
    ) -> Result<(), VsphereError> {
        self.run_task("ReconfigVM_Task", &machine.reference, RECONFIGURE_TIMEOUT, what, |w| {
            w.element("spec", |w| {
                for disk in disks {
                    w.element("deviceChange", |w| {
                        // Without a fileOperation: `destroy` would remove the files.
                        w.value("operation", "remove");
                        w.typed("device", "VirtualDisk", |w| {
                            w.value("key", disk.key).value("controllerKey", disk.controller);
                            w.value("unitNumber", disk.unit);
                            w.value("capacityInKB", disk.capacity.div_ceil(1024));
                        });
                    });
                }
            });
        })?;
        Ok(())
    }

    /// Whether a task of an object is queued or under way.
    pub fn is_busy(&self, object: &Ref) -> Result<bool, VsphereError> {
        let recent = self.properties_of(object, &["recentTask"])?.references("recentTask");
        let tasks = self.properties("Task", &recent, &["info.state"])?;
        Ok(tasks.iter().any(|task| matches!(task.text("info.state"), "queued" | "running")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::hardware::tests::hardware;
    use crate::vsphere::testing::{Script, fault, object, script_client};

    #[test]
    fn a_uuid_in_both_byte_orders() {
        let uuid = "42264ab1-8c73-5d1e-9f00-0102030405ff";
        let turned = "b14a2642-738c-1e5d-9f00-0102030405ff";
        assert_eq!(spellings(uuid), [uuid, turned]);
        assert_eq!(spellings(turned), [turned, uuid]);
        assert!(spellings("").is_empty());
        assert_eq!(Known::parse(&uuid.to_uppercase()), Known::Uuids(vec![uuid.into(), turned.into()]));
        assert_eq!(Known::parse("importer"), Known::Name("importer".into()));
    }

    fn known() -> Known {
        Known::Uuids(vec!["u".into(), "v".into()])
    }

    /// A script that finds virtual machines of those ids, all of them in the datacenter `dc`.
    fn script(found: &[(&str, &str)]) -> Script {
        let script = Script::new();
        let ids = found.iter().map(|(id, _)| format!("<returnval type=\"VirtualMachine\">{id}</returnval>"));
        script.answer("FindAllByUuid", &ids.collect::<Vec<_>>().concat());
        script.answer("FindAllByUuid", "");
        let machines: String = found
            .iter()
            .map(|(id, state)| object("VirtualMachine", id, &[("name", id), ("runtime.powerState", state)]))
            .collect();
        if !found.is_empty() {
            script.answer("RetrievePropertiesEx", &format!("<returnval>{machines}</returnval>"));
        }
        script
    }

    #[test]
    fn the_appliance_is_the_one_that_runs() {
        let script = self::script(&[("vm-1", "poweredOff"), ("vm-2", "poweredOn")]);
        for (kind, id, parent) in [
            ("VirtualMachine", "vm-2", "<val type=\"Folder\">f</val>"),
            ("Folder", "f", "<val type=\"Datacenter\">dc</val>"),
        ] {
            script.answer(
                "RetrievePropertiesEx",
                &format!("<returnval>{}</returnval>", object(kind, id, &[("parent", parent)])),
            );
        }
        let found = script_client(&script).appliance(&known()).unwrap();
        assert_eq!((found.name.as_str(), found.datacenter), ("vm-2", Ref::new("Datacenter", "dc")));
    }

    #[test]
    fn none_and_several_are_errors_that_say_what_to_do() {
        let told = |found: &[(&str, &str)]| {
            script_client(&script(found)).appliance(&known()).unwrap_err().to_string()
        };
        assert!(told(&[]).contains("has no virtual machine with the UUID u or v"));
        assert!(told(&[("vm-1", "poweredOff")]).contains("(vm-1) is not running"));
        let several = told(&[("vm-1", "poweredOn"), ("vm-2", "poweredOn")]);
        assert!(
            several.contains("several running virtual machines with the UUID u or v: vm-1, vm-2"),
            "{several}"
        );
    }

    #[test]
    fn a_server_without_findallbyuuid_is_asked_for_one() {
        let script = Script::new();
        for _ in 0..2 {
            script.fault("FindAllByUuid", &fault("MethodNotFound", ""));
            script.answer("FindByUuid", "");
        }
        assert!(
            script_client(&script)
                .appliance(&known())
                .unwrap_err()
                .to_string()
                .contains("has no virtual machine")
        );
    }

    #[test]
    fn a_disk_is_made_with_its_space_and_detached_with_its_files_kept() {
        let script = Script::new();
        let client = script_client(&script);
        let machine = Machine {
            reference: Ref::new("VirtualMachine", "vm-1"),
            name: "importer".into(),
            host: None,
            datacenter: Ref::new("Datacenter", "dc"),
        };
        let new = NewDisk { size: 1536, thin: false, eager: true };
        for _ in 0..3 {
            script.fault("ReconfigVM_Task", &fault("NoPermission", "<privilegeId>P</privilegeId>"));
        }
        let made = Addition { place: (1001, 4), file: "[ds] a/x.vmdk", new: Some(&new) };
        let there = Addition { place: (1001, 5), file: "[ds] a/y.vmdk", new: None };
        let refused = client.attach_disks(&machine, &[made], "it can't").unwrap_err();
        assert!(
            refused.to_string().contains("it can't: the account of the configuration lacks the privilege P")
        );
        client.attach_disks(&machine, &[there, made], "it can't").unwrap_err();
        client
            .detach_disks(&machine, &[hardware().disk("[ds] a/x-000001.vmdk").unwrap()], "it can't")
            .unwrap_err();
        let asked = script.requests("ReconfigVM_Task");
        let change =
            |n: usize, way: &[&str]| asked[n].at(&["spec", "deviceChange"]).unwrap().text_at(way).to_owned();
        assert_eq!(
            (change(0, &["operation"]), change(0, &["fileOperation"])),
            ("add".into(), "create".into())
        );
        let backing = |name: &'static str| change(0, &["device", "backing", name]);
        assert_eq!((backing("thinProvisioned"), backing("eagerlyScrub")), ("false".into(), "true".into()));
        assert_eq!((backing("diskMode"), backing("fileName")), ("persistent".into(), "[ds] a/x.vmdk".into()));
        let device = |n: usize, name: &'static str| change(n, &["device", name]);
        assert_eq!((device(0, "capacityInKB"), device(0, "capacityInBytes")), ("2".into(), "1536".into()));
        assert_eq!((device(0, "controllerKey"), device(0, "unitNumber")), ("1001".into(), "4".into()));
        assert_eq!((change(1, &["operation"]), change(1, &["fileOperation"])), ("add".into(), String::new()));
        assert_eq!(
            (change(2, &["operation"]), change(2, &["fileOperation"])),
            ("remove".into(), String::new())
        );
        assert_eq!(device(2, "key"), "2000");
        let both: Vec<_> = asked[1].at(&["spec"]).unwrap().all("deviceChange").collect();
        let text = |n: usize, way: &[&str]| both[n].text_at(way).to_owned();
        let told = |n| {
            (text(n, &["fileOperation"]), text(n, &["device", "key"]), text(n, &["device", "unitNumber"]))
        };
        assert_eq!(told(0), (String::new(), "-1".into(), "5".into()));
        assert_eq!(told(1), ("create".into(), "-2".into(), "4".into()));
    }
}
