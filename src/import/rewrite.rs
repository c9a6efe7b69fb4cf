//! The VMX and the descriptors as they go to a datastore: the backup's own text, with what the restore changes replaced.

use std::fmt::Write as _;

use super::plan::{DiskPlan, Plan};

/// Bytes of a sector: extents are measured in them (VMware Virtual Disks 1.1, 'The Extent Description').
const SECTOR: u64 = 512;
/// Geometry of a disk on an lsilogic or buslogic adapter: what vSphere writes for disks over 1 GiB.
const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;

/// A line `key = "value"`; keys are compared in any case, as VMware does.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim().trim_matches('"')))
}

/// The VMX with displayName and the paths of the plan's disks replaced; every other line stays byte for byte.
pub(super) fn vmx(bytes: &[u8], plan: &Plan) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 256);
    let mut named = false;
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(raw);
        match entry(&line) {
            Some((key, _)) if key.eq_ignore_ascii_case("displayName") => {
                named = true;
                out.extend(format!("displayName = \"{}\"\n", escaped(&plan.taken.vm_name)).bytes());
            }
            Some((key, value)) if key.to_ascii_lowercase().ends_with(".filename") => match moved(value, plan)
            {
                Some(path) => out.extend(format!("{key} = \"{}\"\n", escaped(&path)).bytes()),
                None => out.extend_from_slice(raw),
            },
            _ => out.extend_from_slice(raw),
        }
    }
    if !named {
        if !out.is_empty() && !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        out.extend(format!("displayName = \"{}\"\n", escaped(&plan.taken.vm_name)).bytes());
    }
    out
}

/// VMX values have `|22` for a quote and `|7C` for the bar itself.
fn escaped(value: &str) -> String {
    value.replace('|', "|7C").replace('"', "|22")
}

/// Where the disk that the VMX names is now: beside the VMX by name alone, elsewhere by its whole path.
fn moved(value: &str, plan: &Plan) -> Option<String> {
    let base = value.rsplit('/').next()?.to_lowercase();
    let disk = plan.disks.iter().find(|disk| disk.name.to_lowercase() == base)?;
    let beside = disk.place.datastore == plan.place.datastore && disk.place.directory == plan.place.directory;
    Some(if beside { disk.target_name.clone() } else { disk.place.vmfs(&disk.target_name) })
}

/// Checks a client's descriptor against the CFG: its extents must add up to the disk's size.
pub(super) fn check_descriptor(bytes: &[u8], size: u64) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    if !text.trim_start_matches('\u{feff}').starts_with("# Disk DescriptorFile") {
        return Err("it is no disk descriptor: it does not begin with '# Disk DescriptorFile'".to_owned());
    }
    let sectors = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let access = words.next()?;
        let sectors = words.next()?.parse::<u64>().ok()?;
        matches!(access, "RW" | "RDONLY" | "NOACCESS").then_some(sectors)
    });
    let described = sectors.fold(0_u64, u64::saturating_add).saturating_mul(SECTOR);
    if described == size {
        return Ok(());
    }
    Err(format!("it describes {described} bytes of extents, the CFG says {size}"))
}

/// The descriptor of a restored disk. Adapter, hardware version, UUID and geometry are taken from the client's own; the
/// rest is what a plain disk has, whatever the backup was of.
pub(super) fn descriptor(client: &[u8], plan: &DiskPlan) -> String {
    let client = String::from_utf8_lossy(client);
    let kept = |key: &str| {
        client.lines().filter_map(entry).find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.to_owned())
    };
    let sectors = plan.size / SECTOR;
    let mut out = String::from("# Disk DescriptorFile\nversion=1\n");
    let cid = kept("CID").unwrap_or_else(|| "fffffffe".to_owned());
    let _ = writeln!(out, "CID={cid}\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description");
    let _ = writeln!(out, "RW {sectors} VMFS \"{}\"\n\n# The Disk Data Base\n#DDB\n", plan.target_extent);
    let cylinders = (sectors / (HEADS * SECTORS_PER_TRACK)).to_string();
    let defaults = [
        ("ddb.adapterType", "lsilogic".to_owned()),
        ("ddb.geometry.cylinders", cylinders),
        ("ddb.geometry.heads", HEADS.to_string()),
        ("ddb.geometry.sectors", SECTORS_PER_TRACK.to_string()),
        ("ddb.virtualHWVersion", "8".to_owned()),
    ];
    for (key, default) in defaults {
        let _ = writeln!(out, "{key} = \"{}\"", kept(key).unwrap_or(default));
    }
    for key in ["ddb.uuid", "ddb.longContentID", "ddb.toolsVersion"] {
        if let Some(value) = kept(key) {
            let _ = writeln!(out, "{key} = \"{value}\"");
        }
    }
    if plan.thin {
        out.push_str("ddb.thinProvisioned = \"1\"\n");
    }
    out
}
