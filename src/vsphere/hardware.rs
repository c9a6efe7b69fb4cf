//! The controllers and disks of a virtual machine, and disks that are to be added to them. Only what the devices say: nothing is asked or
//! changed here.
//!
//! A disk is known by the path of its descriptor, `[datastore] directory/x.vmdk`, and by its UUID; never by its place in a list.

use std::collections::BTreeSet;
use std::time::Duration;

use super::xml::{Element, Writer};

/// Bytes a second at which a host zeroes a disk at least, for the bound of an eagerly zeroed one.
const ZEROED_PER_SECOND_MIN: u64 = 32 << 20;
/// Units of one SCSI controller that every version has; a PVSCSI controller of a recent one has 64.
const UNITS: u32 = 16;
/// The controller's own unit, where the server does not say.
const RESERVED_UNIT: u32 = 7;
/// Delta files in one another, as many as snapshots that vSphere allows.
const PARENTS_MAX: usize = 32;

/// A SCSI controller of the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// The server's key.
    pub key: i32,
    /// Its type, as in `ParaVirtualSCSIController`.
    pub kind: String,
    /// As in `scsi1`.
    pub bus: u32,
    /// The PCI slot, where the server tells it.
    pub slot: Option<u32>,
    reserved: u32,
}

/// A disk that is attached to the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The server's key.
    pub key: i32,
    /// The controller's key.
    pub controller: i32,
    /// The unit on it.
    pub unit: u32,
    /// The descriptor that it writes to, then those that this one is a delta of.
    pub files: Vec<String>,
    /// The disk's UUID, empty where the server does not tell it.
    pub uuid: String,
    /// Bytes.
    pub capacity: u64,
}

/// The devices of the appliance that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hardware {
    /// Its SCSI controllers.
    pub controllers: Vec<Controller>,
    /// Its disks.
    pub disks: Vec<Attached>,
    /// Units that any device has.
    used: BTreeSet<(i32, u32)>,
}

/// A disk that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes.
    pub size: u64,
    /// Space as it is written.
    pub thin: bool,
    /// Zeroed when it is made, if it is not thin.
    pub eager: bool,
}

impl NewDisk {
    /// How long the host may take to zero it.
    pub(super) fn zeroing(&self) -> Duration {
        let zeroed = if self.eager && !self.thin { self.size / ZEROED_PER_SECOND_MIN } else { 0 };
        Duration::from_secs(zeroed)
    }
}

/// A disk that is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    /// Key of the controller, and the unit on it.
    pub place: (i32, u32),
    /// Path of the descriptor.
    pub file: &'a str,
    /// How it is made, where it is not there yet.
    pub new: Option<&'a NewDisk>,
}

impl Addition<'_> {
    pub(super) fn write(&self, key: i32, w: &mut Writer) {
        w.value("key", key);
        w.typed("backing", "VirtualDiskFlatVer2BackingInfo", |w| {
            w.value("fileName", self.file).value("diskMode", "persistent");
            if let Some(new) = self.new {
                w.value("thinProvisioned", new.thin).value("eagerlyScrub", new.eager && !new.thin);
            }
        });
        w.value("controllerKey", self.place.0).value("unitNumber", self.place.1);
        let size = self.new.map_or(0, |new| new.size);
        w.value("capacityInKB", size.div_ceil(1024));
        if size > 0 {
            w.value("capacityInBytes", size);
        }
    }
}

fn number<T: std::str::FromStr>(device: &Element, way: &[&str]) -> Option<T> {
    device.text_at(way).parse().ok()
}

impl Hardware {
    /// From the property `config.hardware.device`.
    #[must_use]
    pub fn read(devices: &Element) -> Self {
        let mut hardware = Self::default();
        for device in &devices.children {
            let Some(key) = number::<i32>(device, &["key"]) else { continue };
            let at = number(device, &["controllerKey"]).zip(number(device, &["unitNumber"]));
            hardware.used.extend(at);
            let kind = device.xsi_type.as_str();
            if kind.contains("SCSI")
                || kind.starts_with("VirtualLsiLogic")
                || kind.starts_with("VirtualBusLogic")
            {
                hardware.controllers.push(Controller {
                    key,
                    kind: kind.to_owned(),
                    bus: number(device, &["busNumber"]).unwrap_or(0),
                    slot: number(device, &["slotInfo", "pciSlotNumber"]),
                    reserved: number(device, &["scsiCtlrUnitNumber"]).unwrap_or(RESERVED_UNIT),
                });
            }
            if let ("VirtualDisk", Some((controller, unit))) = (kind, at) {
                let (files, uuid) = backing(device);
                let kilobytes = number::<u64>(device, &["capacityInKB"]).unwrap_or(0);
                let capacity = number(device, &["capacityInBytes"]).unwrap_or(kilobytes.saturating_mul(1024));
                hardware.disks.push(Attached { key, controller, unit, files, uuid, capacity });
            }
        }
        // PVSCSI first, then by bus.
        hardware.controllers.sort_by_key(|one| (one.kind != "ParaVirtualSCSIController", one.bus));
        hardware
    }

    /// The disk that writes to that descriptor.
    #[must_use]
    pub fn disk(&self, file: &str) -> Option<&Attached> {
        self.disks.iter().find(|disk| disk.files.first().is_some_and(|own| own == file))
    }

    /// The disk that reads from that descriptor, because a snapshot of the appliance put a delta before it.
    #[must_use]
    pub fn below_snapshot(&self, file: &str) -> Option<&Attached> {
        self.disks.iter().find(|disk| disk.files.iter().skip(1).any(|own| own == file))
    }

    /// The controller with that key.
    #[must_use]
    pub fn controller(&self, key: i32) -> Option<&Controller> {
        self.controllers.iter().find(|controller| controller.key == key)
    }

    /// A place where a disk can go: PVSCSI controllers first, the lowest unit. `usable` may refuse one.
    #[must_use]
    pub fn free(&self, usable: impl Fn(&Controller, u32) -> bool) -> Option<(&Controller, u32)> {
        self.controllers.iter().find_map(|controller| {
            let mut units = (0..UNITS).filter(|unit| *unit != controller.reserved);
            let free =
                |unit: &u32| !self.used.contains(&(controller.key, *unit)) && usable(controller, *unit);
            units.find(free).map(|unit| (controller, unit))
        })
    }
}

/// The files of a disk, its own first, and its UUID.
fn backing(device: &Element) -> (Vec<String>, String) {
    let mut files = Vec::new();
    let mut at = device.child("backing");
    let uuid = at.map(|backing| backing.text_at(&["uuid"]).to_owned()).unwrap_or_default();
    while let Some(backing) = at.filter(|_| files.len() < PARENTS_MAX) {
        files.push(backing.text_at(&["fileName"]).to_owned());
        at = backing.child("parent");
    }
    (files, uuid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    const DEVICES: &str = "<val xsi:type=\"ArrayOfVirtualDevice\">\
        <VirtualDevice xsi:type=\"VirtualLsiLogicController\"><key>1000</key><busNumber>0</busNumber></VirtualDevice>\
        <VirtualDevice xsi:type=\"ParaVirtualSCSIController\"><key>1001</key><slotInfo><pciSlotNumber>192</pciSlotNumber></slotInfo>\
        <busNumber>1</busNumber><scsiCtlrUnitNumber>3</scsiCtlrUnitNumber></VirtualDevice>\
        <VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\">\
        <fileName>[ds] a/x-000001.vmdk</fileName><uuid>6000C29a</uuid><parent><fileName>[ds] a/x.vmdk</fileName></parent></backing>\
        <controllerKey>1001</controllerKey><unitNumber>0</unitNumber><capacityInKB>4</capacityInKB></VirtualDevice>\
        <VirtualDevice xsi:type=\"VirtualCdrom\"><key>3000</key><controllerKey>1001</controllerKey><unitNumber>1</unitNumber>\
        </VirtualDevice></val>";

    pub(in crate::vsphere) fn hardware() -> Hardware {
        Hardware::read(
            &Element::parse(format!("<r xmlns:xsi=\"x\">{DEVICES}</r>").as_bytes()).unwrap().children[0],
        )
    }

    #[test]
    fn disks_are_known_by_their_files() {
        let hardware = hardware();
        let disk = hardware.disk("[ds] a/x-000001.vmdk").unwrap();
        assert_eq!((disk.key, disk.controller, disk.unit, disk.capacity), (2000, 1001, 0, 4096));
        assert_eq!(hardware.controller(disk.controller).unwrap().slot, Some(192));
        assert!(hardware.disk("[ds] a/x.vmdk").is_none());
        assert_eq!(hardware.below_snapshot("[ds] a/x.vmdk"), Some(disk));
        assert!(hardware.below_snapshot("[ds] a/x-000001.vmdk").is_none());
    }

    #[test]
    fn places_are_paravirtual_first_and_never_the_controllers_own() {
        let mut hardware = hardware();
        let mut taken = Vec::new();
        while let Some((controller, unit)) = hardware.free(|_, unit| unit != 5) {
            taken.push((controller.key, unit));
            hardware.used.insert((controller.key, unit));
        }
        // 0 and 1 are in use, 3 is the controller's, 5 was refused; then the other controller, whose own is 7 by default.
        let first: Vec<_> = [2, 4].into_iter().chain(6..16).map(|unit| (1001, unit)).collect();
        let then: Vec<_> = (0..16).filter(|unit| ![5, 7].contains(unit)).map(|unit| (1000, unit)).collect();
        assert_eq!(taken, [first, then].concat());
    }
}
