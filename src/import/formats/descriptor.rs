//! The VMDK descriptor: the small text file that says what a `-flat.vmdk` beside it is.
//!
//! [`render`] writes one that ESXi, qemu-img and libvmdk read. [`Descriptor::parse`] reads the one in a backup, for what
//! can't be known otherwise (adapter, geometry, UUID); it is checked against the CFG and never copied blindly, for it may
//! name any file of any datastore as its extent.

use std::fmt::Write as _;

use super::cfg::Vmdk;
use super::vmx::basename;
use crate::datastore::{Adapter, Provisioning};

/// Longest descriptor: real ones stay below 2 KiB; embedded ones are given 10 KiB by their format.
pub const DESCRIPTOR_BYTES_MAX: usize = 64 << 10;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Adapters that ESXi knows.
const ADAPTERS: &[&str] = &["lsilogic", "buslogic", "pvscsi", "ide", "legacyESX"];
/// What a disk has when nothing says otherwise; any SCSI controller takes it.
const ADAPTER_DEFAULT: &str = "lsilogic";
/// The oldest virtual hardware still met: a host takes disks of its own version and older ones.
const HW_VERSION: &str = "4";

/// The geometry that a BIOS shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u64,
    /// Heads, at most 255.
    pub heads: u32,
    /// Sectors a track, at most 63.
    pub sectors: u32,
}

impl Descriptor {
    /// What its adapter means to whoever makes a descriptor anew.
    #[must_use]
    pub fn bus(&self) -> Adapter {
        match self.adapter.as_deref() {
            Some(adapter) if adapter.eq_ignore_ascii_case("ide") => Adapter::Ide,
            Some(adapter) if adapter.eq_ignore_ascii_case("buslogic") => Adapter::Buslogic,
            _ => Adapter::Lsilogic,
        }
    }
}

impl Geometry {
    /// What VMware gives a disk of that size in bytes.
    pub fn for_size(size: u64, adapter: &str) -> Self {
        let total = size / SECTOR;
        let (heads, sectors, limit) = match (adapter, size >> 30) {
            ("ide", _) => (16, 63, 16383),
            (_, 0) => (64, 32, u64::MAX),
            (_, 1) => (128, 32, u64::MAX),
            _ => (255, 63, u64::MAX),
        };
        let cylinders = (total / u64::from(heads * sectors)).clamp(1, limit);
        Self { cylinders, heads, sectors }
    }
}

/// An extent line: `RW 2097152 VMFS "x-flat.vmdk"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// `VMFS`, `FLAT`, `VMFSRDM`, `SPARSE` …
    pub kind: String,
    /// The file, as written.
    pub file: String,
}

/// A descriptor, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// `createType`.
    pub create_type: String,
    /// `ddb.adapterType`.
    pub adapter: Option<String>,
    /// `ddb.geometry.*`, if whole and possible.
    pub geometry: Option<Geometry>,
    /// `ddb.uuid`, if it looks like one.
    pub uuid: Option<String>,
    /// `ddb.thinProvisioned`.
    pub thin: bool,
    /// Whether it is the child of another (a snapshot).
    pub has_parent: bool,
    /// The extents.
    pub extents: Vec<Extent>,
}

/// Why a file is no descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// Too long.
    #[error(
        "the file has {0} bytes, more than a disk descriptor; the extent is to be copied under the CFG's extent-name"
    )]
    TooLong(usize),
    /// No `# Disk DescriptorFile`.
    #[error("the file does not begin with '# Disk DescriptorFile', so it is no disk descriptor")]
    NotDescriptor,
    /// An extent line that says nothing.
    #[error("line {0} of the descriptor is not an extent: access, sectors, type and \"file\" are expected")]
    Extent(usize),
}

impl Descriptor {
    /// Reads a descriptor.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > DESCRIPTOR_BYTES_MAX {
            return Err(DescriptorError::TooLong(bytes.len()));
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let magic = text.get(..21).is_some_and(|head| head.eq_ignore_ascii_case("# Disk DescriptorFile"));
        if !magic {
            return Err(DescriptorError::NotDescriptor);
        }
        let mut found = Self::default();
        let (mut cylinders, mut heads, mut sectors) = (None, None, None);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.starts_with(access)) {
                found.extents.push(extent(line).ok_or(DescriptorError::Extent(index + 1))?);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => value.clone_into(&mut found.create_type),
                "parentcid" => found.has_parent = !value.eq_ignore_ascii_case("ffffffff"),
                "ddb.adaptertype" => found.adapter = Some(value.to_owned()),
                "ddb.uuid" if is_uuid(value) => found.uuid = Some(value.to_owned()),
                "ddb.thinprovisioned" => found.thin = value == "1",
                "ddb.geometry.cylinders" => cylinders = value.parse().ok(),
                "ddb.geometry.heads" => heads = value.parse().ok(),
                "ddb.geometry.sectors" => sectors = value.parse().ok(),
                _ => {}
            }
        }
        if let (Some(cylinders @ 1..), Some(heads @ 1..=255), Some(sectors @ 1..=63)) =
            (cylinders, heads, sectors)
        {
            found.geometry = Some(Geometry { cylinders, heads, sectors });
        }
        Ok(found)
    }

    /// `ddb.uuid` as sixteen bytes.
    pub fn uuid_bytes(&self) -> Option<[u8; 16]> {
        let digits = self.uuid.as_deref()?.bytes().filter_map(|byte| char::from(byte).to_digit(16));
        let digits: Vec<u8> = digits.map(|digit| digit as u8).collect();
        let mut uuid = [0; 16];
        for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(uuid)
    }

    /// Bytes of all extents; `None` where the sum is no number of bytes.
    pub fn size(&self) -> Option<u64> {
        self.extents
            .iter()
            .try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors))
            .and_then(|sectors| sectors.checked_mul(SECTOR))
    }

    /// What does not fit the CFG's disk, a sentence each; empty where all does.
    pub fn faults(&self, disk: &Vmdk) -> Vec<String> {
        let mut faults = Vec::new();
        let name = &disk.name;
        if self.has_parent {
            faults
                .push(format!("{name} is a snapshot of another disk; copy the descriptor of the base disk"));
        }
        match &self.extents[..] {
            [only] => {
                if only.file.to_lowercase() != disk.extent_name.to_lowercase() {
                    faults.push(format!(
                        "{name} names the extent \"{}\", the CFG \"{}\"; correct extent-name or copy the right file",
                        only.file, disk.extent_name
                    ));
                }
                if !["VMFS", "FLAT", "VMFSRDM", "VMFSRAW"].contains(&only.kind.as_str()) {
                    faults.push(format!("{name} has an extent of type {}; only flat extents fit", only.kind));
                }
            }
            extents => faults.push(format!("{name} has {} extents; exactly one fits a CFG", extents.len())),
        }
        if self.size() != Some(disk.size) {
            let size =
                self.size().map_or_else(|| "an impossible number of".to_owned(), |size| size.to_string());
            faults.push(format!(
                "{name} describes {size} bytes, the CFG {}; correct size in the CFG or copy the right file",
                disk.size
            ));
        }
        if let Some(adapter) = &self.adapter
            && !ADAPTERS.iter().any(|known| known.eq_ignore_ascii_case(adapter))
        {
            faults.push(format!(
                "{name} has the adapter \"{adapter}\", which is none of {}",
                ADAPTERS.join(", ")
            ));
        }
        faults
    }
}

fn extent(line: &str) -> Option<Extent> {
    let mut words = line.splitn(4, ' ');
    let _access = words.next()?;
    let sectors = words.next()?.parse().ok()?;
    let kind = words.next()?.to_owned();
    let file = words.next().unwrap_or_default();
    let file = file.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(file, _)| file);
    Some(Extent { sectors, kind, file: file?.to_owned() })
}

/// `60 00 C2 9a 5b …-…`: sixteen bytes in hexadecimal, apart by blanks, one '-' in the middle.
fn is_uuid(value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b' ' | b'-'))
}

/// The descriptor of a restored disk: from the CFG, and from what the backup's descriptor told, if it came. `cid` is a
/// random content id.
pub fn render(disk: &Vmdk, known: Option<&Descriptor>, cid: u32) -> String {
    let adapter = known
        .and_then(|known| known.adapter.as_deref())
        .and_then(|adapter| ADAPTERS.iter().find(|known| known.eq_ignore_ascii_case(adapter)))
        .unwrap_or(&ADAPTER_DEFAULT);
    let geometry =
        known.and_then(|known| known.geometry).unwrap_or_else(|| Geometry::for_size(disk.size, adapter));
    // ffffffff says 'no parent' and must not be a content id.
    let cid = cid.min(0xFFFF_FFFE);
    let mut out = String::new();
    let _ = writeln!(out, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"");
    let _ = writeln!(out, "CID={cid:08x}\nparentCID=ffffffff\ncreateType=\"vmfs\"\n");
    let _ = writeln!(out, "# Extent description");
    let _ = writeln!(out, "RW {} VMFS \"{}\"\n", disk.size / SECTOR, basename(&disk.target_extent()));
    let _ = writeln!(out, "# The Disk Data Base\n#DDB\n");
    let _ = writeln!(out, "ddb.adapterType = \"{adapter}\"");
    let _ = writeln!(out, "ddb.geometry.cylinders = \"{}\"", geometry.cylinders);
    let _ = writeln!(out, "ddb.geometry.heads = \"{}\"", geometry.heads);
    let _ = writeln!(out, "ddb.geometry.sectors = \"{}\"", geometry.sectors);
    if disk.provisioning == Provisioning::Thin {
        let _ = writeln!(out, "ddb.thinProvisioned = \"1\"");
    }
    if let Some(uuid) = known.and_then(|known| known.uuid.as_deref()) {
        let _ = writeln!(out, "ddb.uuid = \"{uuid}\"");
    }
    let _ = writeln!(out, "ddb.virtualHWVersion = \"{HW_VERSION}\"");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn disk(size: u64) -> Vmdk {
        Vmdk {
            name: "x.vmdk".into(),
            rename: None,
            extent_name: "x-flat.vmdk".into(),
            extent_rename: None,
            datastore: "ds".into(),
            directory: "d".into(),
            size,
            provisioning: Provisioning::Thin,
        }
    }

    #[test]
    fn what_the_backup_told_is_kept() {
        let old = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
                   RW 8192 VMFS \"x-flat.vmdk\"\nddb.adapterType = \"buslogic\"\nddb.geometry.cylinders = \"4\"\n\
                   ddb.geometry.heads = \"64\"\nddb.geometry.sectors = \"32\"\nddb.thinProvisioned = \"1\"\n\
                   ddb.uuid = \"60 00 C2 9a 5b 2d 8c 2b-1a 5f 3e 2f 5e 8b 5b 11\"\n";
        let read = Descriptor::parse(old.as_bytes()).unwrap();
        assert_eq!(read.faults(&disk(4 << 20)), Vec::<String>::new());
        let ours = Descriptor::parse(render(&disk(4 << 20), Some(&read), 7).as_bytes()).unwrap();
        assert_eq!(ours, read);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let text = "# Disk DescriptorFile\nparentCID=12345678\nRW 8193 VMFS \"../../other-flat.vmdk\"\n\
                    ddb.adapterType = \"floppy\"\n";
        let faults = Descriptor::parse(text.as_bytes()).unwrap().faults(&disk(4 << 20));
        assert_eq!(faults.len(), 4, "{faults:?}");
        let two = "# Disk DescriptorFile\nRW 1 FLAT \"a\" 0\nRW 18446744073709551615 SPARSE \"b\"\n";
        let faults = Descriptor::parse(two.as_bytes()).unwrap().faults(&disk(512));
        assert!(faults[0].contains("2 extents") && faults[1].contains("impossible"), "{faults:?}");
        assert_eq!(Descriptor::parse(b"KDMV"), Err(DescriptorError::NotDescriptor));
        assert_eq!(Descriptor::parse(b"# Disk DescriptorFile\nRW x y z"), Err(DescriptorError::Extent(2)));
        assert!(matches!(Descriptor::parse(&vec![0; 1 << 17]), Err(DescriptorError::TooLong(_))));
    }

    #[test]
    fn geometry_is_within_the_disk() {
        assert_eq!(
            Geometry::for_size(100 << 30, "lsilogic"),
            Geometry { cylinders: 13054, heads: 255, sectors: 63 }
        );
        assert_eq!(Geometry::for_size(100 << 30, "ide").cylinders, 16383);
        assert_eq!(Geometry::for_size(512, "lsilogic").cylinders, 1);
    }

    /// Skipped, by name, where qemu-img is not installed.
    #[test]
    fn qemu_img_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk((5 << 20) + 512);
        let path = folder.path().join("x.vmdk");
        std::fs::write(&path, render(&disk, None, 0xFFFF_FFFF)).unwrap();
        let flat = std::fs::File::create(folder.path().join("x-flat.vmdk")).unwrap();
        flat.set_len(disk.size).unwrap();
        let Ok(output) = Command::new("qemu-img").args(["info", "--output=json"]).arg(&path).output() else {
            eprintln!("skipped: qemu-img is not installed");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((info["format"].as_str(), info["virtual-size"].as_u64()), (Some("vmdk"), Some(disk.size)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let whole = [b"# Disk DescriptorFile\n", &bytes[..]].concat();
            for bytes in [&bytes, &whole] {
                if let Ok(found) = Descriptor::parse(bytes) {
                    let _ = (found.faults(&disk(512)), render(&disk(512), Some(&found), 1));
                }
            }
        }

        #[test]
        fn rendered_it_fits_its_disk(sectors in 1u64..1 << 37, cid: u32) {
            let disk = disk(sectors * SECTOR);
            let read = Descriptor::parse(render(&disk, None, cid).as_bytes()).unwrap();
            prop_assert_eq!(read.faults(&disk), Vec::<String>::new());
            prop_assert!(read.thin && !read.has_parent);
        }
    }
}
