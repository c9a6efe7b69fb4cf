//! A VMX as the ConfigSpec from which a lease makes its virtual machine.
//!
//! Pure: settings in, the API's words out, and a list of what has no place there. The server makes its own choice of what a VMX only
//! notes for one host (PCI slots, swap files, addresses of a running machine).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Ref;
use super::xml::Writer;

/// Longest VMX that is read; import sessions take no longer one.
const VMX_BYTES_MAX: usize = 16 << 20;
/// Controllers of one kind, and units of one controller, as hardware version 21 has them at most.
const BUSES: u32 = 4;
const UNITS: u32 = 64;
/// Network cards.
const CARDS: u32 = 10;
/// Keys of the first controller of each kind, as the server numbers them. IDE controllers are part of every machine.
const SCSI_KEY: u32 = 1000;
const SATA_KEY: u32 = 15000;
const NVME_KEY: u32 = 31000;
const IDE_KEY: u32 = 200;
const CARD_KEY: u32 = 4000;

/// Settings that are passed on as they stand.
const EXTRA: &[&str] =
    &["guestinfo.", "disk.enableuuid", "isolation.tools.", "devices.hotplug", "ethernet0.opromsize"];
/// Beginnings of settings that one host noted for itself, or that are what every machine has.
const OWN: &[&str] = &[
    ".encoding",
    "config.version",
    "displayname",
    "nvram",
    "extendedconfigfile",
    "pcibridge",
    "vmci0.",
    "hpet0",
    "floppy0.",
    "cleanshutdown",
    "softpoweroff",
    "replay.",
    "migrate.",
    "sched.",
    "vmotion.",
    "powertype.",
    "tools.",
    "toolscripts.",
    "uuid.",
    "vc.uuid",
    "svga.",
    "virtualhw.productcompatibility",
    "monitor.phys_bits",
    "checkpoint.",
    "vmx.",
    "log.",
    "numa.autosize",
    "workingdir",
    "viv.moid",
];
/// Ends of such settings.
const OWN_ENDS: &[&str] =
    &[".pcislotnumber", ".redo", ".generatedaddressoffset", ".devicetype", ".uptcompatibility", ".present"];

/// Families whose name in the API differs from that in a VMX in more than `Guest`.
const GUESTS: &[(&str, &str)] = &[
    ("winnetenterprise", "winNetEnterprise"),
    ("winnetstandard", "winNetStandard"),
    ("winxppro", "winXPPro"),
    ("longhorn", "winLonghorn"),
    ("windows7srv", "windows7Server"),
    ("windows8srv", "windows8Server"),
    ("windows9srv", "windows9Server"),
    ("windows2019srv", "windows2019srv_"),
    ("windows2019srvnext", "windows2019srvNext_"),
    ("other24xlinux", "other24xLinux"),
    ("other26xlinux", "other26xLinux"),
    ("other3xlinux", "other3xLinux"),
    ("other4xlinux", "other4xLinux"),
    ("otherlinux", "otherLinux"),
    ("oraclelinux", "oracleLinux"),
    ("amazonlinux2", "amazonlinux2_"),
    ("coreos", "coreos"),
    ("vmware-photon", "vmwarePhoton"),
];

/// A VMX's `key = "value"` pairs, keys in lower case; the last one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Reads a VMX. What is no pair is left out; bytes that are no UTF-8 are replaced.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(VMX_BYTES_MAX)]);
        let pair = |line: &str| {
            let (key, value) = line.trim_start_matches('\u{feff}').split_once('=')?;
            let value = value.trim().strip_prefix('"')?;
            let value = &value[..value.find('"')?];
            let key = key.trim().to_ascii_lowercase();
            (!key.is_empty() && !key.starts_with('#')).then(|| (key, unescaped(value)))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_ascii_lowercase()).map(String::as_str)
    }

    fn is(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// `|22` stands for the character of that code.
fn unescaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('|') {
        out.push_str(&rest[..at]);
        let code =
            rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
        out.push(code.map_or('|', char::from));
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

/// A disk to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name of its datastore.
    pub datastore: String,
    /// Its directory there.
    pub directory: String,
    /// Its descriptor.
    pub descriptor: String,
    /// Bytes.
    pub size: u64,
    /// Thin or thick.
    pub thin: bool,
}

/// What is asked of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The virtual machine's name, as the inventory writes it.
    pub name: &'a str,
    /// `[datastore] directory/name.vmx`.
    pub vmx_path: &'a str,
    /// Its disks, in the order of the CFG.
    pub disks: &'a [DiskSpec],
    /// Networks of the datacenter.
    pub networks: &'a [(String, Ref)],
    /// The instance UUID of a machine whose VMX brings none that it can keep.
    pub instance: &'a str,
    /// The file of its firmware's settings that will be put beside the VMX, if any.
    pub nvram: Option<&'a str>,
}

/// The ConfigSpec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What stands in `configSpec`.
    pub body: String,
    /// Where each disk is, as a lease names it: `ParaVirtualSCSIController0:1`.
    pub addresses: Vec<String>,
    /// Its instance UUID.
    pub instance: String,
    /// Lines for the log: what could not be carried over.
    pub notes: Vec<String>,
}

/// The API's name for a VMX's `guestOS`; `None` where it is not one of the known.
pub fn guest_id(vmx: &str) -> Option<String> {
    let lower = vmx.to_ascii_lowercase();
    if lower == "other" || lower == "other-64" {
        return Some(if lower == "other" { "otherGuest".into() } else { "otherGuest64".into() });
    }
    let (family, wide) = match lower.strip_suffix("-64") {
        Some(family) => (family, true),
        None => (lower.as_str(), false),
    };
    if family.is_empty() || !family.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    let whole = GUESTS.iter().find(|(name, _)| *name == family);
    let stem = family.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = GUESTS.iter().find(|(name, _)| *name == stem && stem != family);
    let name = match (whole, numbered) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some((_, name))) => format!("{name}{}", &family[stem.len()..]),
        (None, None) => family.to_owned(),
    };
    // A number runs into the 64 unless something stands between.
    let between = if wide && name.ends_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    Some(format!("{}{between}{}Guest", name, if wide { "64" } else { "" }))
}

/// Builds the spec. An error is a sentence: a disk that the VMX does not use can't be made.
pub fn build(settings: &Settings, wanted: &Wanted<'_>) -> Result<Spec, String> {
    let mut builder = Builder { settings, used: BTreeSet::new(), notes: Vec::new() };
    let places = builder.places(wanted)?;
    let mut w = Writer::default();
    let instance = builder.general(&mut w, wanted);
    builder.processors(&mut w);
    let kinds = builder.controllers(&mut w, &places);
    let mut addresses = Vec::new();
    for (number, (disk, place)) in wanted.disks.iter().zip(&places).enumerate() {
        builder.disk(&mut w, number, disk, place);
        let kind =
            kinds.get(&(place.bus_kind, place.bus)).map_or("VirtualIDEController", |kind| kind.as_str());
        addresses.push(format!("{kind}{}:{}", place.bus, place.unit));
    }
    builder.cards(&mut w, wanted);
    builder.extra(&mut w);
    if let Some(nvram) = wanted.nvram {
        Builder::extra_config(&mut w, "nvram", nvram);
    }
    builder.boot(&mut w);
    builder.leftovers();
    Ok(Spec { body: w.into_text(), addresses, instance, notes: builder.notes })
}

/// Where a disk is in the VMX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DevicePlace {
    bus_kind: &'static str,
    bus: u32,
    unit: u32,
}

struct Builder<'a> {
    settings: &'a Settings,
    used: BTreeSet<String>,
    notes: Vec<String>,
}

impl Builder<'_> {
    fn take(&mut self, key: &str) -> Option<String> {
        self.used.insert(key.to_ascii_lowercase());
        self.settings.get(key).map(str::to_owned)
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.take(key)?.parse().ok()
    }

    /// The device of each disk, by the path of its descriptor.
    fn places(&mut self, wanted: &Wanted<'_>) -> Result<Vec<DevicePlace>, String> {
        let mut found: Vec<Option<DevicePlace>> = vec![None; wanted.disks.len()];
        for bus_kind in ["scsi", "sata", "nvme", "ide"] {
            for (bus, unit) in (0..BUSES).flat_map(|bus| (0..UNITS).map(move |unit| (bus, unit))) {
                let device = format!("{bus_kind}{bus}:{unit}");
                let Some(path) = self.settings.get(&format!("{device}.fileName")) else { continue };
                let absent = self
                    .settings
                    .get(&format!("{device}.present"))
                    .is_some_and(|v| v.eq_ignore_ascii_case("false"));
                let is = |disk: &DiskSpec| {
                    let beside = !path.contains('/') && path.eq_ignore_ascii_case(&disk.descriptor);
                    beside || path.ends_with(&format!("/{}/{}", disk.directory, disk.descriptor))
                };
                if let Some(number) =
                    wanted.disks.iter().position(is).filter(|number| !absent && found[*number].is_none())
                {
                    found[number] = Some(DevicePlace { bus_kind, bus, unit });
                    let prefix = format!("{device}.");
                    let keys = self.settings.0.keys().filter(|key| key.starts_with(&prefix)).cloned();
                    self.used.extend(keys);
                }
            }
        }
        let missing = |number: usize| {
            format!("no device of the VMX uses the disk {}; correct the CFG", wanted.disks[number].descriptor)
        };
        found.iter().enumerate().map(|(number, place)| place.ok_or_else(|| missing(number))).collect()
    }

    /// Returns the instance UUID.
    fn general(&mut self, w: &mut Writer, wanted: &Wanted<'_>) -> String {
        w.value("name", wanted.name);
        let version = self.number("virtualHW.version");
        w.optional("version", version.map(|version| format!("vmx-{version}")));
        // `uuid.action` was decided when the VMX was rewritten: a copy gets identities of its own.
        let keep = self.settings.get("uuid.action") != Some("create");
        let uuid = |key: &str| self.settings.get(key).filter(|_| keep).and_then(super::register::canonical);
        let instance = uuid("vc.uuid").unwrap_or_else(|| wanted.instance.to_owned());
        w.optional("uuid", uuid("uuid.bios")).value("instanceUuid", &instance);
        let guest = self.take("guestOS").unwrap_or_default();
        let known = guest_id(&guest);
        if known.is_none() {
            self.notes.push(format!("vmx: the guest system '{guest}' is not known, it is set to other"));
        }
        w.value("guestId", known.unwrap_or_else(|| "otherGuest64".into()));
        w.optional("annotation", self.take("annotation"));
        w.element("files", |w| {
            w.value("vmPathName", wanted.vmx_path);
        });
        instance
    }

    fn processors(&mut self, w: &mut Writer) {
        let (cpus, cores) = (self.number("numvcpus").unwrap_or(1), self.number("cpuid.coresPerSocket"));
        w.value("numCPUs", cpus).optional("numCoresPerSocket", cores);
        w.value("memoryMB", self.number("memSize").unwrap_or(256));
        for (element, key) in [("memoryHotAddEnabled", "mem.hotadd"), ("cpuHotAddEnabled", "vcpu.hotadd")] {
            if self.take(key).is_some() {
                w.value(element, self.settings.is(key));
            }
        }
    }

    fn device(w: &mut Writer, xsi_type: &str, create: bool, inside: impl FnOnce(&mut Writer)) {
        w.element("deviceChange", |w| {
            w.value("operation", "add");
            if create {
                w.value("fileOperation", "create");
            }
            w.typed("device", xsi_type, inside);
        });
    }

    /// Controllers that disks need; what kind each is.
    fn controllers(
        &mut self,
        w: &mut Writer,
        places: &[DevicePlace],
    ) -> BTreeMap<(&'static str, u32), String> {
        let mut kinds = BTreeMap::new();
        let needed: BTreeSet<_> = places.iter().map(|place| (place.bus_kind, place.bus)).collect();
        for (bus_kind, bus) in needed {
            let own =
                self.take(&format!("{bus_kind}{bus}.virtualDev")).unwrap_or_default().to_ascii_lowercase();
            let (kind, key) = match (bus_kind, own.as_str()) {
                ("scsi", "pvscsi") => ("ParaVirtualSCSIController", SCSI_KEY),
                ("scsi", "lsisas1068") => ("VirtualLsiLogicSASController", SCSI_KEY),
                ("scsi", "buslogic") => ("VirtualBusLogicController", SCSI_KEY),
                ("scsi", _) => ("VirtualLsiLogicController", SCSI_KEY),
                ("sata", _) => ("VirtualAHCIController", SATA_KEY),
                ("nvme", _) => ("VirtualNVMEController", NVME_KEY),
                _ => continue,
            };
            let shared = self.take(&format!("{bus_kind}{bus}.sharedBus")).unwrap_or_default();
            let sharing = match shared.to_ascii_lowercase().as_str() {
                "virtual" => "virtualSharing",
                "physical" => "physicalSharing",
                _ => "noSharing",
            };
            Self::device(w, kind, false, |w| {
                w.value("key", key + bus).value("busNumber", bus);
                if bus_kind == "scsi" {
                    w.value("sharedBus", sharing);
                }
            });
            kinds.insert((bus_kind, bus), kind.to_owned());
        }
        kinds
    }

    fn disk(&mut self, w: &mut Writer, number: usize, disk: &DiskSpec, place: &DevicePlace) {
        let controller = place.bus
            + match place.bus_kind {
                "scsi" => SCSI_KEY,
                "sata" => SATA_KEY,
                "nvme" => NVME_KEY,
                _ => IDE_KEY,
            };
        let device = format!("{}{}:{}", place.bus_kind, place.bus, place.unit);
        let mode = match self
            .settings
            .get(&format!("{device}.mode"))
            .unwrap_or_default()
            .to_ascii_lowercase()
            .as_str()
        {
            "independent-persistent" => "independent_persistent",
            "independent-nonpersistent" => "independent_nonpersistent",
            _ => "persistent",
        };
        Self::device(w, "VirtualDisk", true, |w| {
            w.value("key", 2000 + number);
            w.typed("backing", "VirtualDiskFlatVer2BackingInfo", |w| {
                w.value("fileName", format!("[{}] {}/{}", disk.datastore, disk.directory, disk.descriptor));
                w.value("diskMode", mode).value("thinProvisioned", disk.thin);
                if !disk.thin {
                    w.value("eagerlyScrub", false);
                }
            });
            w.value("controllerKey", controller).value("unitNumber", place.unit);
            w.value("capacityInKB", disk.size.div_ceil(1024)).value("capacityInBytes", disk.size);
        });
    }

    fn cards(&mut self, w: &mut Writer, wanted: &Wanted<'_>) {
        for number in (0..CARDS).filter(|number| self.settings.is(&format!("ethernet{number}.present"))) {
            let key = |field: &str| format!("ethernet{number}.{field}");
            let network = self.take(&key("networkName")).unwrap_or_default();
            let known = wanted.networks.iter().find(|(name, _)| *name == network);
            let kind = match self.take(&key("virtualDev")).unwrap_or_default().to_ascii_lowercase().as_str() {
                "vmxnet3" => "VirtualVmxnet3",
                "vmxnet2" => "VirtualVmxnet2",
                "e1000e" => "VirtualE1000e",
                "vlance" => "VirtualPCNet32",
                _ => "VirtualE1000",
            };
            let starts =
                !self.take(&key("startConnected")).is_some_and(|value| value.eq_ignore_ascii_case("false"));
            // Addresses that a server gave are its own to give again; one that a person chose is kept.
            let chosen =
                self.take(&key("addressType")).is_some_and(|kind| kind.eq_ignore_ascii_case("static"));
            let address = self.take(&key("address")).filter(|_| chosen);
            self.take(&key("generatedAddress"));
            let Some((name, reference)) = known else {
                self.notes.push(format!(
                    "vmx: network card {number} is left out, the network '{network}' does not exist there; add it by hand"
                ));
                continue;
            };
            Self::device(w, kind, false, |w| {
                w.value("key", CARD_KEY + number);
                w.typed("backing", "VirtualEthernetCardNetworkBackingInfo", |w| {
                    w.value("deviceName", name).reference("network", reference);
                });
                w.element("connectable", |w| {
                    w.value("startConnected", starts)
                        .value("allowGuestControl", true)
                        .value("connected", false);
                });
                if let Some(address) = &address {
                    w.value("addressType", "manual").value("macAddress", address);
                }
            });
        }
    }

    fn extra(&mut self, w: &mut Writer) {
        let keys: Vec<_> = self
            .settings
            .0
            .keys()
            .filter(|key| EXTRA.iter().any(|begin| key.starts_with(begin)))
            .cloned()
            .collect();
        for key in keys {
            let value = self.take(&key).unwrap_or_default();
            Self::extra_config(w, &key, &value);
        }
    }

    fn extra_config(w: &mut Writer, key: &str, value: &str) {
        w.element("extraConfig", |w| {
            w.value("key", key).typed("value", "xsd:string", |w| {
                w.text(value);
            });
        });
    }

    fn boot(&mut self, w: &mut Writer) {
        let delay = self.number("bios.bootDelay");
        let secure =
            self.take("uefi.secureBoot.enabled").is_some() && self.settings.is("uefi.secureBoot.enabled");
        if delay.is_some() || secure {
            w.element("bootOptions", |w| {
                w.optional("bootDelay", delay);
                if secure {
                    w.value("efiSecureBootEnabled", true);
                }
            });
        }
        let firmware = self.take("firmware").filter(|firmware| firmware.eq_ignore_ascii_case("efi"));
        w.value("firmware", if firmware.is_some() { "efi" } else { "bios" });
    }

    /// Tells what no part of the spec has taken.
    fn leftovers(&mut self) {
        let own = |key: &&String| {
            OWN.iter().any(|begin| key.starts_with(begin)) || OWN_ENDS.iter().any(|end| key.ends_with(end))
        };
        let left: Vec<_> =
            self.settings.0.keys().filter(|key| !self.used.contains(*key)).filter(|key| !own(key)).collect();
        if let Some((first, rest)) = left.split_first() {
            let mut line = format!("vmx: not carried over: {first}");
            for key in rest {
                let _ = write!(line, ", {key}");
            }
            self.notes.push(line);
        }
    }
}

#[cfg(test)]
mod tests;
