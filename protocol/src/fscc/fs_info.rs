//! Information about a volume (MS-FSCC 2.5).

use crate::codec::Put;
use crate::utf16;

/// FsInformationClass.
#[allow(missing_docs)] // the names are those of the standard, without FileFs and Information
pub mod class {
    pub const VOLUME: u8 = 1;
    pub const SIZE: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const ATTRIBUTE: u8 = 5;
    pub const CONTROL: u8 = 6;
    pub const FULL_SIZE: u8 = 7;
    pub const OBJECT_ID: u8 = 8;
    pub const SECTOR_SIZE: u8 = 11;
}

/// FileSystemAttributes (2.5.1).
#[allow(missing_docs)]
pub mod attribute {
    pub const CASE_SENSITIVE_SEARCH: u32 = 0x0000_0001;
    pub const CASE_PRESERVED_NAMES: u32 = 0x0000_0002;
    pub const UNICODE_ON_DISK: u32 = 0x0000_0004;
    pub const PERSISTENT_ACLS: u32 = 0x0000_0008;
    pub const FILE_COMPRESSION: u32 = 0x0000_0010;
    pub const SUPPORTS_SPARSE_FILES: u32 = 0x0000_0040;
    pub const SUPPORTS_OBJECT_IDS: u32 = 0x0001_0000;
    pub const NAMED_STREAMS: u32 = 0x0004_0000;
    pub const READ_ONLY_VOLUME: u32 = 0x0008_0000;
    pub const SUPPORTS_EXTENDED_ATTRIBUTES: u32 = 0x0080_0000;
}

/// DeviceType of a disk (2.5.10).
const FILE_DEVICE_DISK: u32 = 7;
/// Characteristics: the device is mounted (2.5.10).
const FILE_DEVICE_IS_MOUNTED: u32 = 0x20;
/// Flags of FileFsSectorSizeInformation: the device and the partition are aligned (2.5.7).
const SSINFO_ALIGNED: u32 = 0x3;

/// What the classes report about a volume.
#[derive(Debug, Clone, Copy, Default)]
pub struct Volume<'a> {
    /// When the volume was made, in 100 ns since 1601.
    pub creation_time: u64,
    /// VolumeSerialNumber.
    pub serial: u32,
    /// VolumeLabel.
    pub label: &'a str,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that this caller may still use.
    pub available_bytes: u64,
    /// Bytes that are free in all.
    pub free_bytes: u64,
    /// Bytes per sector; must not be 0.
    pub sector_size: u32,
    /// Sectors per allocation unit; must not be 0.
    pub sectors_per_unit: u32,
    /// See [`attribute`].
    pub attributes: u32,
    /// The longest name of a component, in characters.
    pub max_name_len: u32,
    /// The file system's name: clients turn features on for `NTFS`.
    pub file_system: &'a str,
    /// Identifies the volume.
    pub object_id: [u8; 16],
}

/// How many bytes of room a class needs at least, else STATUS_INFO_LENGTH_MISMATCH: the size of the structure as Windows pads it,
/// which a short label leaves unfilled. `None` for an unknown class.
pub fn min_len(class: u8) -> Option<usize> {
    Some(match class {
        class::VOLUME | class::SIZE => 24,
        class::DEVICE => 8,
        class::ATTRIBUTE => 16,
        class::CONTROL => 48,
        class::FULL_SIZE => 32,
        class::OBJECT_ID => 64,
        class::SECTOR_SIZE => 28,
        _ => return None,
    })
}

/// Appends the answer to `class`; false for an unknown class.
pub fn encode(class: u8, volume: &Volume<'_>, out: &mut Vec<u8>) -> bool {
    let unit = (u64::from(volume.sector_size) * u64::from(volume.sectors_per_unit)).max(1);
    match class {
        class::VOLUME => {
            out.put_u64(volume.creation_time);
            out.put_u32(volume.serial);
            out.put_u32(utf16::len(volume.label) as u32);
            out.put_u16(0); // SupportsObjects, Reserved
            utf16::put(out, volume.label);
        }
        class::SIZE => {
            out.put_u64(volume.total_bytes / unit);
            out.put_u64(volume.available_bytes / unit);
            out.put_u32(volume.sectors_per_unit);
            out.put_u32(volume.sector_size);
        }
        class::FULL_SIZE => {
            out.put_u64(volume.total_bytes / unit);
            out.put_u64(volume.available_bytes / unit);
            out.put_u64(volume.free_bytes / unit);
            out.put_u32(volume.sectors_per_unit);
            out.put_u32(volume.sector_size);
        }
        class::DEVICE => {
            out.put_u32(FILE_DEVICE_DISK);
            out.put_u32(FILE_DEVICE_IS_MOUNTED);
        }
        class::ATTRIBUTE => {
            out.put_u32(volume.attributes);
            out.put_u32(volume.max_name_len);
            out.put_u32(utf16::len(volume.file_system) as u32);
            utf16::put(out, volume.file_system);
        }
        class::CONTROL => {
            out.put_zeros(24); // content indexing
            out.put_u64(u64::MAX); // DefaultQuotaThreshold: none
            out.put_u64(u64::MAX); // DefaultQuotaLimit: none
            out.put_u64(0); // FileSystemControlFlags, padding
        }
        class::OBJECT_ID => {
            out.put_slice(&volume.object_id);
            out.put_zeros(48);
        }
        class::SECTOR_SIZE => encode_sector_size(volume, out),
        _ => return false,
    }
    true
}

/// FileFsSectorSizeInformation (2.5.7).
fn encode_sector_size(volume: &Volume<'_>, out: &mut Vec<u8>) {
    for _ in 0..4 {
        out.put_u32(volume.sector_size); // logical, and physical for atomicity, performance, and in effect
    }
    out.put_u32(SSINFO_ALIGNED);
    out.put_u32(0);
    out.put_u32(0);
}
