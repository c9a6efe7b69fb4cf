//! The structures of a streamOptimized VMDK and their bytes, little-endian (Virtual Disk Format 5.0, 'SparseExtentHeader',
//! 'Markers').

use std::fmt::Write as _;
use std::io;

/// Bytes of a sector: the unit of every place in the file.
pub(super) const SECTOR: u64 = 512;
/// Sectors of a grain: ESXi takes no others in a stream.
const GRAIN_SECTORS: u64 = 128;
/// Bytes of a grain.
pub(super) const GRAIN_BYTES: u64 = GRAIN_SECTORS * SECTOR;
/// Entries of a grain table.
pub(super) const GRAINS_PER_TABLE: u64 = 512;
/// Where grains begin; before it the header and room for the descriptor.
pub(super) const FIRST_GRAIN_SECTOR: u64 = 128;
/// Where the descriptor begins, and its room: what every writer known gives it.
const DESCRIPTOR_SECTOR: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Bytes before a grain's data: LBA and size.
pub(super) const GRAIN_HEADER: usize = 12;

/// `KDMV` read as a little-endian number.
const MAGIC: u32 = 0x564d_444b;
/// The only version that ESXi reads in a stream.
const VERSION: u32 = 3;
/// Valid new-line test (bit 0), compressed grains (bit 16), markers (bit 17).
const FLAGS: u32 = 0x3_0001;
/// gdOffset of a header whose footer has the real one.
const AT_END: u64 = u64::MAX;
/// compressAlgorithm: DEFLATE in a zlib wrapper (RFC 1950).
const DEFLATE: u16 = 1;

/// What a marker announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub(super) enum Marker {
    EndOfStream = 0,
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

/// What the embedded descriptor says beside the disk's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the file, for the extent line only.
    pub file: String,
    /// `ddb.adapterType`: lsilogic, buslogic, pvscsi, ide, legacyESX.
    pub adapter: String,
    /// Cylinders, heads, sectors a track.
    pub geometry: (u64, u32, u32),
    /// `ddb.uuid`, where the disk keeps the one it had.
    pub uuid: Option<String>,
    /// `ddb.virtualHWVersion`.
    pub hardware_version: u32,
}

impl Description {
    /// The descriptor's text for a disk of so many sectors.
    fn text(&self, sectors: u64) -> String {
        let (cylinders, heads, track) = self.geometry;
        // A content id that any reader takes; it links snapshots to their parents, and a stream has neither.
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
             # Extent description\nRW {sectors} SPARSE \"{}\"\n\n# The Disk Data Base\n#DDB\n\n",
            clean(&self.file)
        );
        let entries = [
            ("adapterType", self.adapter.clone()),
            ("geometry.cylinders", cylinders.to_string()),
            ("geometry.heads", heads.to_string()),
            ("geometry.sectors", track.to_string()),
            ("virtualHWVersion", self.hardware_version.to_string()),
        ];
        let uuid = self.uuid.iter().map(|uuid| ("uuid", uuid.clone()));
        for (key, value) in entries.into_iter().chain(uuid) {
            let _ = writeln!(text, "ddb.{key} = \"{}\"", clean(&value)); // A String takes all.
        }
        text
    }
}

/// A value that can't leave its quotes.
fn clean(value: &str) -> String {
    value.chars().filter(|c| !c.is_control() && *c != '"').collect()
}

/// Appends the first sectors: header and descriptor, up to where grains begin.
pub(super) fn put_head(out: &mut Vec<u8>, sectors: u64, description: &Description) -> io::Result<()> {
    put_header(out, sectors, AT_END);
    let text = description.text(sectors);
    if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the disk's descriptor is over 10 KiB"));
    }
    out.extend_from_slice(text.as_bytes());
    out.resize((FIRST_GRAIN_SECTOR * SECTOR) as usize, 0);
    Ok(())
}

/// Appends grain directory, footer and end of stream; `directory_sector` is where the directory comes to lie.
pub(super) fn put_tail(out: &mut Vec<u8>, directory: &[u32], sectors: u64, directory_sector: u64) {
    put_marked(out, Marker::GrainDirectory, directory);
    put_marker(out, Marker::Footer, 1);
    put_header(out, sectors, directory_sector);
    put_marker(out, Marker::EndOfStream, 0);
}

/// Appends a marker and the table behind it, each of whole sectors.
pub(super) fn put_marked(out: &mut Vec<u8>, marker: Marker, table: &[u32]) {
    let sectors = (table.len() as u64 * 4).div_ceil(SECTOR);
    put_marker(out, marker, sectors);
    let end = out.len() + (sectors * SECTOR) as usize;
    out.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    out.resize(end, 0);
}

/// Appends a marker: u64 sectors of what follows, u32 0 where a grain has its size, u32 kind.
fn put_marker(out: &mut Vec<u8>, marker: Marker, sectors: u64) {
    let end = out.len() + SECTOR as usize;
    out.extend_from_slice(&sectors.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&(marker as u32).to_le_bytes());
    out.resize(end, 0);
}

/// Appends the header, or the footer that is its copy with the directory's place.
fn put_header(out: &mut Vec<u8>, sectors: u64, directory_sector: u64) {
    let end = out.len() + SECTOR as usize;
    for word in [MAGIC, VERSION, FLAGS] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    // Exact, as qemu-img writes it: rounded to grains it would disagree with the disk that the VM is created with.
    for word in [sectors, GRAIN_SECTORS, DESCRIPTOR_SECTOR, DESCRIPTOR_SECTORS] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&(GRAINS_PER_TABLE as u32).to_le_bytes());
    for word in [0, directory_sector, FIRST_GRAIN_SECTOR] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    // uncleanShutdown, then the bytes that a transfer as text would change.
    out.extend_from_slice(&[0, b'\n', b' ', b'\r', b'\n']);
    out.extend_from_slice(&DEFLATE.to_le_bytes());
    out.resize(end, 0);
}
