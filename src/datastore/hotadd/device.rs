//! What this machine shows of a disk that was attached to it: waiting for its block device, and for that to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::block_device::{self, Roots, Wanted};

/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// After so long without the device its controller is asked to look itself: PVSCSI and SAS tell by themselves, older ones don't.
const RESCAN_AFTER: Duration = Duration::from_secs(2);
/// Slots and hosts looked at.
const ENTRIES_MAX: usize = 256;

/// By what a disk is recognised on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sought {
    /// The disk's UUID, empty where the hypervisor does not tell it.
    pub(super) uuid: String,
    /// PCI slot of its controller, where the hypervisor tells that.
    pub(super) slot: Option<u32>,
    /// Unit on the controller.
    pub(super) unit: u32,
}

impl Sought {
    /// Its SCSI address, where the controller's slot is known here.
    fn address(&self, roots: &Roots) -> Option<Wanted> {
        let host = host_of(roots, self.slot?)?;
        Some(Wanted::Address { host, channel: 0, target: self.unit, lun: 0 })
    }
}

impl std::fmt::Display for Sought {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slot = self.slot.map_or_else(|| "unknown".to_owned(), |slot| slot.to_string());
        let uuid = if self.uuid.is_empty() { "unknown" } else { &self.uuid };
        write!(f, "UUID {uuid}, PCI slot {slot}, unit {}", self.unit)
    }
}

/// The UUID that this machine's firmware tells.
pub(super) fn machine_uuid(roots: &Roots) -> io::Result<String> {
    let path = roots.sysfs.join("class/dmi/id/product_uuid");
    let text = fs::read_to_string(&path);
    let named = |error: io::Error| {
        let told = format!(
            "{}: {error}; without it the appliance's own virtual machine is not known: run as root, or set appliance in the \
             configuration",
            path.display()
        );
        io::Error::new(error.kind(), told)
    };
    Ok(text.map_err(named)?.trim().to_owned())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(ENTRIES_MAX).flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The SCSI host that Linux made for the controller in a PCI slot: `bus/pci/slots/SLOT/address` names the device, whose directory
/// has the host. The numbers of the slots are those of the virtual hardware.
fn host_of(roots: &Roots, slot: u32) -> Option<u32> {
    let pci = roots.sysfs.join("bus/pci");
    let address = fs::read_to_string(pci.join(format!("slots/{slot}/address"))).ok()?;
    let address = address.trim();
    let devices = names(&pci.join("devices"));
    let mut hosts: Vec<u32> = devices
        .iter()
        .filter(|device| device.strip_prefix(address).is_some_and(|function| function.starts_with('.')))
        .flat_map(|device| names(&pci.join("devices").join(device)))
        .filter_map(|name| name.strip_prefix("host")?.parse().ok())
        .collect();
    hosts.dedup();
    match hosts[..] {
        [host] => Some(host),
        _ => None,
    }
}

/// The device of a disk. Where both its UUID and its address are known here, they must agree.
pub(super) fn find(roots: &Roots, sought: &Sought) -> io::Result<PathBuf> {
    let by_uuid = match &sought.uuid[..] {
        "" => None,
        uuid => match block_device::find(roots, &Wanted::Uuid(uuid.to_owned())) {
            Ok(path) => Some(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    let Some(address) = sought.address(roots) else {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no block device has the {sought}"));
        return by_uuid.ok_or_else(missing);
    };
    let by_address = block_device::find(roots, &address);
    match (by_uuid, by_address) {
        (Some(uuid), Ok(address)) if uuid != address => {
            let told = format!(
                "{} has the UUID and {} the address of the disk ({sought})",
                uuid.display(),
                address.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, told))
        }
        (Some(path), _) => Ok(path),
        // One that tells another UUID is another disk, or what was at that address before.
        (None, Ok(path)) if sought.uuid.is_empty() || !tells_uuid(roots, &address) => Ok(path),
        (None, Ok(path)) => {
            let told =
                format!("{} is at the address of the disk and has another UUID ({sought})", path.display());
            Err(io::Error::new(io::ErrorKind::NotFound, told))
        }
        (None, Err(error)) => Err(error),
    }
}

/// Whether the device at an address tells a UUID at all: it does with `disk.EnableUUID` in the appliance's VMX.
fn tells_uuid(roots: &Roots, address: &Wanted) -> bool {
    let Wanted::Address { host, channel, target, lun } = address else { return false };
    let device = roots.sysfs.join(format!("bus/scsi/devices/{host}:{channel}:{target}:{lun}"));
    fs::read_to_string(device.join("wwid")).is_ok_and(|wwid| wwid.trim().starts_with("naa."))
}

/// Waits until the device of a disk is there and `open` takes it. `open` is tried again while it says that the device is not there,
/// may not be opened yet (udev gives it its owner a moment after it appears), or is in use (something looks what is on it).
pub(super) fn wait<T>(
    roots: &Roots,
    sought: &Sought,
    limit: Duration,
    mut open: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let begun = Instant::now();
    let mut rescanned = false;
    loop {
        let error = match find(roots, sought).and_then(|path| open(&path)) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy
                ) =>
            {
                error
            }
            done => return done,
        };
        if begun.elapsed() >= limit {
            let told = format!(
                "{error}, {} seconds after it was attached; look at the appliance's kernel log, and set disk.EnableUUID = \"TRUE\" \
                 in its VMX",
                limit.as_secs()
            );
            return Err(io::Error::new(error.kind(), told));
        }
        if begun.elapsed() >= RESCAN_AFTER && !rescanned {
            rescanned = true;
            rescan(roots, sought);
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Asks the controller to look for the disk. Needs root: without, the kernel's own notice has to do.
fn rescan(roots: &Roots, sought: &Sought) {
    let Some(host) = sought.slot.and_then(|slot| host_of(roots, slot)) else { return };
    let scan = roots.sysfs.join(format!("class/scsi_host/host{host}/scan"));
    if let Err(error) = fs::write(&scan, format!("0 {} 0", sought.unit)) {
        tracing::debug!("{}: {error}", scan.display());
    }
}

/// Waits until the device of a detached disk is gone, so that nothing takes it for the next one at its address.
pub(super) fn wait_gone(roots: &Roots, sought: &Sought, limit: Duration) -> bool {
    let begun = Instant::now();
    loop {
        match find(roots, sought) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            _ if begun.elapsed() >= limit => return false,
            _ => std::thread::sleep(LOOK_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UUID: &str = "6000C293-4fb0-b3ca-5e0a-e0c0db1f0f11";

    /// A machine with a controller in slot 192 that is host 3, and a disk at unit 1 of it.
    fn machine(wwid: &str) -> (tempfile::TempDir, Roots) {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { sysfs: root.path().join("sys"), dev: root.path().join("dev") };
        let sys = |path: &str| roots.sysfs.join(path);
        fs::create_dir_all(sys("bus/pci/slots/192")).unwrap();
        fs::write(sys("bus/pci/slots/192/address"), "0000:0b:00\n").unwrap();
        fs::create_dir_all(sys("bus/pci/devices/0000:0b:00.0/host3")).unwrap();
        fs::create_dir_all(sys("bus/pci/devices/0000:0b:001/host4")).unwrap();
        disk(&roots, "3:0:1:0", wwid, "sdb");
        (root, roots)
    }

    fn disk(roots: &Roots, address: &str, wwid: &str, name: &str) {
        let device = roots.sysfs.join("bus/scsi/devices").join(address);
        fs::create_dir_all(device.join("block").join(name)).unwrap();
        fs::write(device.join("wwid"), format!("{wwid}\n")).unwrap();
    }

    fn sought(uuid: &str, slot: Option<u32>, unit: u32) -> Sought {
        Sought { uuid: uuid.into(), slot, unit }
    }

    #[test]
    fn uuid_and_address_must_agree() {
        let (_root, roots) = machine("naa.6000c2934fb0b3ca5e0ae0c0db1f0f11");
        let sdb = roots.dev.join("sdb");
        assert_eq!(find(&roots, &sought(UUID, Some(192), 1)).unwrap(), sdb);
        assert_eq!(find(&roots, &sought(UUID, None, 1)).unwrap(), sdb);
        assert_eq!(find(&roots, &sought("", Some(192), 1)).unwrap(), sdb);
        let kind = |sought: &Sought| find(&roots, sought).unwrap_err().kind();
        // Another disk is at the address: what was there before, or somebody else's.
        let other = "6000C293-0000-b3ca-5e0a-e0c0db1f0f11";
        assert_eq!(kind(&sought(other, Some(192), 1)), io::ErrorKind::NotFound);
        assert_eq!(kind(&sought("", Some(192), 2)), io::ErrorKind::NotFound);
        assert_eq!(kind(&sought("", Some(7), 1)), io::ErrorKind::NotFound);
        disk(&roots, "3:0:2:0", "naa.6000c29300", "sdc");
        assert_eq!(kind(&sought(UUID, Some(192), 2)), io::ErrorKind::InvalidData);
    }

    #[test]
    fn without_uuids_the_address_has_to_do() {
        let (_root, roots) = machine("");
        assert_eq!(find(&roots, &sought(UUID, Some(192), 1)).unwrap(), roots.dev.join("sdb"));
        assert!(find(&roots, &sought(UUID, None, 1)).is_err());
    }

    #[test]
    fn waiting_ends() {
        let (_root, roots) = machine("");
        let limit = Duration::from_millis(350);
        let begun = Instant::now();
        let late = wait(&roots, &sought("", Some(192), 5), limit, |_| Ok(())).unwrap_err();
        assert!(late.kind() == io::ErrorKind::NotFound && begun.elapsed() >= limit);
        // It may be opened a moment later; any other error ends the wait.
        let mut tries = 0;
        wait(&roots, &sought("", Some(192), 1), limit, |_| {
            tries += 1;
            match tries {
                1 => Err(io::ErrorKind::PermissionDenied.into()),
                2 => Err(io::ErrorKind::ResourceBusy.into()),
                _ => Ok(()),
            }
        })
        .unwrap();
        let wrong = wait(&roots, &sought("", Some(192), 1), limit, |_| {
            Err::<(), _>(io::ErrorKind::InvalidData.into())
        });
        assert_eq!(wrong.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(!wait_gone(&roots, &sought("", Some(192), 1), limit));
        assert!(wait_gone(&roots, &sought("", Some(192), 5), limit));
        assert!(machine_uuid(&roots).unwrap_err().to_string().contains("set appliance"));
    }
}
