//! Access masks (MS-SMB2 2.2.13.1; MS-DTYP 2.4.3).
#![allow(missing_docs)] // the names are those of the standard, without FILE_

pub const READ_DATA: u32 = 0x0000_0001;
pub const WRITE_DATA: u32 = 0x0000_0002;
pub const APPEND_DATA: u32 = 0x0000_0004;
pub const READ_EA: u32 = 0x0000_0008;
pub const WRITE_EA: u32 = 0x0000_0010;
pub const EXECUTE: u32 = 0x0000_0020;
pub const DELETE_CHILD: u32 = 0x0000_0040;
pub const READ_ATTRIBUTES: u32 = 0x0000_0080;
pub const WRITE_ATTRIBUTES: u32 = 0x0000_0100;
pub const DELETE: u32 = 0x0001_0000;
pub const READ_CONTROL: u32 = 0x0002_0000;
pub const WRITE_DAC: u32 = 0x0004_0000;
pub const WRITE_OWNER: u32 = 0x0008_0000;
pub const SYNCHRONIZE: u32 = 0x0010_0000;
pub const ACCESS_SYSTEM_SECURITY: u32 = 0x0100_0000;
pub const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
pub const GENERIC_ALL: u32 = 0x1000_0000;
pub const GENERIC_EXECUTE: u32 = 0x2000_0000;
pub const GENERIC_WRITE: u32 = 0x4000_0000;
pub const GENERIC_READ: u32 = 0x8000_0000;

/// The same bits for a directory.
pub const LIST_DIRECTORY: u32 = READ_DATA;
pub const ADD_FILE: u32 = WRITE_DATA;
pub const ADD_SUBDIRECTORY: u32 = APPEND_DATA;
pub const TRAVERSE: u32 = EXECUTE;

/// Everything that a file can grant.
pub const ALL: u32 = 0x001F_01FF;
/// What GENERIC_READ means for a file.
pub const FILE_READ: u32 = READ_DATA | READ_EA | READ_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE;
/// What GENERIC_WRITE means for a file.
pub const FILE_WRITE: u32 =
    WRITE_DATA | APPEND_DATA | WRITE_EA | WRITE_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE;
/// What GENERIC_EXECUTE means for a file.
pub const FILE_EXECUTE: u32 = EXECUTE | READ_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE;

/// Replaces the generic bits by what they mean for a file or directory. MAXIMUM_ALLOWED stays.
pub fn map_generic(mask: u32) -> u32 {
    let mut mapped = mask & !(GENERIC_ALL | GENERIC_EXECUTE | GENERIC_WRITE | GENERIC_READ);
    for (bit, meaning) in [
        (GENERIC_ALL, ALL),
        (GENERIC_EXECUTE, FILE_EXECUTE),
        (GENERIC_WRITE, FILE_WRITE),
        (GENERIC_READ, FILE_READ),
    ] {
        if mask & bit != 0 {
            mapped |= meaning;
        }
    }
    mapped
}
