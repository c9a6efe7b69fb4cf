//! A plain directory as a share: the staging area, and what conformance tests run against.
//!
//! Rooted at an `O_PATH` descriptor; every component is opened relative to the one before and never through a symbolic
//! link, so nothing leads out. What POSIX lacks is kept in extended attributes of the `user.importfs` name space. An open
//! file asks the kernel for its present name, so renames of it or of a directory above it need no bookkeeping.
//!
//! - `lookup`: names, case-insensitive; `open`: MS-FSA's rules for CREATE; `namespace`: rename, link, delete
//! - `file`: data, times, sizes; `extended`: extended attributes; `listing`: directories
//! - `streams`: an open named stream; `area`: where streams lie
//! - `attributes`, `security`, `times`, `errors`: translation between the two worlds
//!
//! Knows rustix and the share traits; nothing of imports, datastores or connections.

mod area;
mod attributes;
mod errors;
mod extended;
mod file;
mod listing;
mod lookup;
mod namespace;
mod open;
mod security;
mod streams;
#[cfg(test)]
mod tests;
mod times;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use smb_proto::Status;

use crate::smb::share::{self, Caller, OpenGate, OpenRequest, Opened, Refusal, Share, ShareTraits};

/// FileSystemAttributes (MS-FSCC 2.5.1): case-sensitive search (as NTFS says of itself) and preservation, Unicode, persistent
/// ACLs, sparse files, hard links, extended attributes. No object ids, no reparse points.
const FILE_SYSTEM_ATTRIBUTES: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x40 | 0x0040_0000 | 0x0080_0000;
/// FILE_NAMED_STREAMS, where the file system below keeps extended attributes.
const NAMED_STREAMS: u32 = 0x0004_0000;
/// Longest name of Linux file systems is 255 bytes; clients count UTF-16 units, and ASCII names fit both.
const NAME_MAX: u32 = 255;

/// What all opens of the share have in common.
struct Volume {
    /// The root, opened for walking only.
    root: OwnedFd,
    /// The root's identity.
    root_file: u64,
    device: u64,
    created: share::FileTime,
    label: String,
    index: lookup::NameIndex,
    /// Files can have named streams.
    has_streams: bool,
}

impl Volume {
    /// The root's identity, as opens know it.
    fn root_key(&self) -> share::FileKey {
        share::FileKey { volume: self.device, file: self.root_file, stream: String::new() }
    }
}

/// A directory served as a share.
pub struct DirectoryShare {
    volume: Arc<Volume>,
}

impl DirectoryShare {
    /// Serves `path`, which must exist; it comes from the configuration and may itself lead through links. `label` is
    /// shown to users as the volume's name.
    pub fn open(path: &Path, label: &str) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = lookup::stat_of(&root).map_err(std::io::Error::other)?;
        let created = attributes::metadata(&stat, attributes::Dos::default()).created;
        let has_streams = area::is_possible(&root);
        let volume = Volume {
            root,
            has_streams,
            root_file: stat.stx_ino,
            device: attributes::device(&stat),
            created,
            label: label.to_owned(),
            index: lookup::NameIndex::default(),
        };
        Ok(Self { volume: Arc::new(volume) })
    }
}

impl Share for DirectoryShare {
    fn traits(&self) -> ShareTraits {
        ShareTraits {
            attributes: FILE_SYSTEM_ATTRIBUTES | if self.volume.has_streams { NAMED_STREAMS } else { 0 },
            file_system: "NTFS".to_owned(),
            name_max: NAME_MAX,
            is_slow: false,
        }
    }

    fn volume(&self) -> Result<share::Volume, Status> {
        let numbers = rustix::fs::fstatvfs(&self.volume.root).map_err(errors::status)?;
        let bytes = |blocks: u64| blocks.saturating_mul(numbers.f_frsize);
        Ok(share::Volume {
            label: self.volume.label.clone(),
            serial: (self.volume.device ^ (self.volume.device >> 32) ^ self.volume.root_file) as u32,
            created: self.volume.created,
            total: bytes(numbers.f_blocks),
            free: bytes(numbers.f_bfree),
            available: bytes(numbers.f_bavail),
        })
    }

    fn open(
        &self,
        request: &OpenRequest,
        caller: &Caller,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        open::open(&self.volume, request, caller, gate)
    }
}
