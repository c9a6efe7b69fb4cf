//! What NTFS knows of a file and POSIX does not: DOS attributes, a settable creation time, the size of the extended
//! attributes. All of it lives in one extended attribute, so that listing a directory costs one call a name more.
//!
//! Layout of `user.importfs.dos`, little-endian: version (1 byte, 1), flags (1 byte, bit 0: the creation time is set, bit 1:
//! the change time is set), FileAttributes (4), creation time as FILETIME (8), EA size (4); where bit 1 is set, the change
//! time that a client set (8) and the time when it did (8). On a file system without extended attributes the
//! read-only attribute maps to the owner's write permission, and the rest is not kept.

use std::os::fd::AsFd;

use rustix::fs::{Mode, Statx, StatxFlags, XattrFlags};
use rustix::io::Errno;
use smb_proto::Status;

use super::errors::status;
use super::times;
use crate::smb::share::{FileTime, Metadata};

/// FileAttributes (MS-FSCC 2.6).
pub(super) const READONLY: u32 = 0x1;
pub(super) const HIDDEN: u32 = 0x2;
pub(super) const SYSTEM: u32 = 0x4;
pub(super) const DIRECTORY: u32 = 0x10;
pub(super) const ARCHIVE: u32 = 0x20;
pub(super) const TEMPORARY: u32 = 0x100;
pub(super) const SPARSE: u32 = 0x200;
const OFFLINE: u32 = 0x1000;
const NOT_CONTENT_INDEXED: u32 = 0x2000;

/// The attributes that a client may set (MS-FSA 2.1.5.15.2); the rest tells a file's nature.
pub(super) const SETTABLE: u32 =
    READONLY | HIDDEN | SYSTEM | ARCHIVE | TEMPORARY | OFFLINE | NOT_CONTENT_INDEXED;

/// The extended attribute that holds [`Dos`].
const NAME: &str = "user.importfs.dos";
/// Its length.
const LENGTH: usize = 18;
/// Its length with a change time.
const LENGTH_CHANGED: usize = 34;
const VERSION: u8 = 1;
const HAS_CREATED: u8 = 1;
const HAS_CHANGED: u8 = 2;
/// The kernel's ctime moves when the change time is kept; so long after that, it is still that very change: some ticks of
/// the kernel's clock.
const CHANGED_GRAIN: u64 = 200_000;

/// What is asked of statx.
pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The kept facts of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dos {
    /// Settable attributes and SPARSE.
    pub(super) attributes: u32,
    /// The creation time, where a client set it.
    pub(super) created: Option<FileTime>,
    /// Bytes of extended attributes, as FileEaInformation counts them.
    pub(super) ea_size: u32,
    /// The change time that a client set, and when: it holds until the file changes again.
    pub(super) changed: Option<(FileTime, FileTime)>,
}

impl Dos {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![0; LENGTH];
        out[0] = VERSION;
        out[1] = if self.created.is_some() { HAS_CREATED } else { 0 };
        out[2..6].copy_from_slice(&self.attributes.to_le_bytes());
        out[6..14].copy_from_slice(&self.created.unwrap_or_default().0.to_le_bytes());
        out[14..18].copy_from_slice(&self.ea_size.to_le_bytes());
        if let Some((changed, when)) = self.changed {
            out[1] |= HAS_CHANGED;
            out.extend_from_slice(&changed.0.to_le_bytes());
            out.extend_from_slice(&when.0.to_le_bytes());
        }
        out
    }

    /// `None` for what another program (or version) put there.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, rest) = bytes.split_at_checked(LENGTH)?;
        if bytes[0] != VERSION {
            return None;
        }
        let time = |bytes: &[u8]| bytes.try_into().ok().map(|bytes| FileTime(u64::from_le_bytes(bytes)));
        let created = time(&bytes[6..14])?;
        let changed = match (bytes[1] & HAS_CHANGED, rest.split_at_checked(8)) {
            (0, _) if rest.is_empty() => None,
            (HAS_CHANGED, Some((changed, when))) => Some((time(changed)?, time(when)?)),
            _ => return None,
        };
        Some(Self {
            attributes: u32::from_le_bytes(bytes[2..6].try_into().ok()?) & (SETTABLE | SPARSE),
            created: (bytes[1] & HAS_CREATED != 0).then_some(created),
            ea_size: u32::from_le_bytes(bytes[14..18].try_into().ok()?),
            changed,
        })
    }

    /// What is assumed of a file that no client touched: ARCHIVE, and READONLY where its owner may not write.
    fn assumed(stat: &Statx) -> Self {
        let mut attributes = 0;
        if !is_directory(stat) {
            attributes = ARCHIVE;
            if u32::from(stat.stx_mode) & 0o200 == 0 {
                attributes |= READONLY;
            }
        }
        Self { attributes, ..Self::default() }
    }

    /// Reads it from an open file.
    pub(super) fn load(file: impl AsFd, stat: &Statx) -> Self {
        let mut buffer = [0; LENGTH_CHANGED];
        let length = rustix::fs::fgetxattr(file, NAME, &mut buffer[..]);
        Self::found(length, &buffer, stat)
    }

    /// Reads it by name below an open directory, not through a link: there is no `getxattrat` before Linux 6.13, so
    /// the path goes by the directory's descriptor.
    pub(super) fn load_at(directory: i32, name: &str, stat: &Statx) -> Self {
        let mut buffer = [0; LENGTH_CHANGED];
        let path = format!("/proc/self/fd/{directory}/{name}");
        let length = rustix::fs::lgetxattr(path, NAME, &mut buffer[..]);
        Self::found(length, &buffer, stat)
    }

    fn found(length: Result<usize, Errno>, buffer: &[u8], stat: &Statx) -> Self {
        length
            .ok()
            .and_then(|length| buffer.get(..length))
            .and_then(Self::decode)
            .unwrap_or_else(|| Self::assumed(stat))
    }

    /// Keeps it.
    pub(super) fn store(self, file: impl AsFd) -> Result<(), Status> {
        match rustix::fs::fsetxattr(&file, NAME, &self.encode(), XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => self.store_permissions(file),
            other => other.map_err(status),
        }
    }

    fn store_permissions(self, file: impl AsFd) -> Result<(), Status> {
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&file).map_err(status)?.st_mode);
        if rustix::fs::FileType::from_raw_mode(mode.as_raw_mode()).is_dir() {
            return Ok(());
        }
        let wanted = if self.attributes & READONLY != 0 { mode - Mode::WUSR } else { mode | Mode::WUSR };
        if wanted != mode {
            rustix::fs::fchmod(file, wanted & Mode::from_raw_mode(0o7777)).map_err(status)?;
        }
        Ok(())
    }
}

/// Whether statx speaks of a directory.
pub(super) fn is_directory(stat: &Statx) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_dir()
}

/// The device as one number: [`crate::smb::share::FileKey::volume`].
pub(super) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// A file's numbers (MS-FSCC 2.4), from both sources.
pub(super) fn metadata(stat: &Statx, dos: Dos) -> Metadata {
    let directory = is_directory(stat);
    let written = times::from_statx(stat.stx_mtime);
    let mut changed = times::from_statx(stat.stx_ctime);
    if let Some((set, _)) = dos.changed.filter(|(_, when)| changed.0 <= when.0.saturating_add(CHANGED_GRAIN))
    {
        changed = set;
    }
    // A file system that keeps no birth time: the earliest time that is known.
    let born = if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        times::from_statx(stat.stx_btime)
    } else {
        written.min(changed)
    };
    Metadata {
        file: stat.stx_ino,
        attributes: dos.attributes | if directory { DIRECTORY } else { 0 },
        size: if directory { 0 } else { stat.stx_size },
        allocation: if directory { 0 } else { stat.stx_blocks.saturating_mul(512) },
        created: dos.created.unwrap_or(born),
        accessed: times::from_statx(stat.stx_atime),
        written,
        changed,
        // A directory's `.` and its children's `..` are links to POSIX, not to clients.
        links: if directory { 1 } else { stat.stx_nlink },
        ea_size: dos.ea_size,
        reparse_tag: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_form_survives_and_foreign_bytes_do_not() {
        let mut dos =
            Dos { attributes: HIDDEN | SPARSE, created: Some(FileTime(7)), ea_size: 12, changed: None };
        assert_eq!(Dos::decode(&dos.encode()), Some(dos));
        dos.changed = Some((FileTime(8), FileTime(9)));
        assert_eq!(Dos::decode(&dos.encode()), Some(dos));
        assert_eq!(Dos::decode(&dos.encode()[..LENGTH + 3]), None, "cut");
        assert_eq!(Dos::decode(&dos.encode()[1..]), None);
        assert_eq!(Dos::decode(&[9; LENGTH]), None, "another version");
    }
}
