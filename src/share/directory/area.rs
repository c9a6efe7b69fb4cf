//! Where named streams lie: a hidden directory in the share's root, in it a directory for each file that has streams, in that
//! a file for each stream (docs/decisions/090-named-streams.md).
//!
//! The file that has streams bears `user.importfs.streams`: version (1 byte, 1), its own number (8 bytes, little-endian), a
//! UUID (16 bytes): its directory's name. The number tells a file from its copies, which bear the same attribute. A stream's
//! file is called by the SHA-256 of the folded name, and bears the name as given in `user.importfs.stream`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, Statx, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use smb_proto::Status;

use super::Volume;
use super::errors::status;
use super::lookup::{enter, fold, readable, stat_at, stat_of};

/// The hidden directory's name: no client sees it, or can use it.
pub(super) const AREA: &str = ".importfs-streams";
/// Streams of one file: what agents and Explorer keep is a handful.
pub(super) const STREAMS_MAX: usize = 256;
/// The attribute that leads to a file's streams.
const ID: &str = "user.importfs.streams";
const ID_LENGTH: usize = 25;
const VERSION: u8 = 1;
/// The attribute that bears a stream's name: at most 255 UTF-16 units, which are 765 bytes at most.
const NAME: &str = "user.importfs.stream";
const NAME_MAX: usize = 1024;

/// Whether the file system below keeps extended attributes, and so streams.
pub(super) fn is_possible(root: impl AsFd) -> bool {
    let found = readable(root).and_then(|root| rustix::fs::fgetxattr(root, ID, &mut [0; ID_LENGTH][..]));
    !matches!(found, Err(Errno::OPNOTSUPP | Errno::NOSYS))
}

/// The directory of one file's streams.
pub(super) struct Streams(OwnedFd);

/// What a stream's file is called.
fn on_disk(name: &str) -> String {
    Sha256::digest(fold(name)).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The name of the directory of a file's streams, where it says that it has any.
fn id_of(base: impl AsFd, number: u64) -> Result<Option<String>, Status> {
    let mut found = [0; ID_LENGTH];
    match rustix::fs::fgetxattr(base, ID, &mut found[..]) {
        Ok(ID_LENGTH) if found[0] == VERSION && found[1..9] == number.to_le_bytes() => {
            let uuid = found[9..].try_into().map(uuid::Uuid::from_bytes);
            Ok(uuid.ok().map(|uuid| uuid.simple().to_string()))
        }
        // Another's: a copy bears it, or a file of an older version.
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(status(error)),
    }
}

/// Opens a directory that may be missing.
fn enter_if_there(parent: impl AsFd, name: &str) -> Result<Option<OwnedFd>, Status> {
    match enter(parent, name) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(status(error)),
    }
}

fn make_and_enter(parent: impl AsFd, name: &str) -> Result<OwnedFd, Status> {
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => enter(parent, name).map_err(status),
        Err(error) => Err(status(error)),
    }
}

impl Streams {
    /// The streams of the file open as `base`; `None` where it has none.
    pub(super) fn find(volume: &Volume, base: impl AsFd) -> Result<Option<Self>, Status> {
        if !volume.has_streams {
            return Ok(None);
        }
        let number = stat_of(&base)?.stx_ino;
        let Some(id) = id_of(base, number)? else { return Ok(None) };
        let Some(area) = enter_if_there(&volume.root, AREA)? else { return Ok(None) };
        Ok(enter_if_there(area, &id)?.map(Self))
    }

    /// The same, and makes room for some where there are none.
    pub(super) fn make(volume: &Volume, base: impl AsFd) -> Result<Self, Status> {
        let number = stat_of(&base)?.stx_ino;
        let known = id_of(&base, number)?;
        let id = if let Some(id) = known { id } else { Self::mark(&base, number)? };
        let area = make_and_enter(&volume.root, AREA)?;
        make_and_enter(area, &id).map(Self)
    }

    /// Gives a file the attribute; of two at once, both use the first's.
    fn mark(base: impl AsFd, number: u64) -> Result<String, Status> {
        let uuid = uuid::Uuid::new_v4();
        let mut id = vec![VERSION];
        id.extend_from_slice(&number.to_le_bytes());
        id.extend_from_slice(uuid.as_bytes());
        match rustix::fs::fsetxattr(&base, ID, &id, XattrFlags::CREATE) {
            Ok(()) => return Ok(uuid.simple().to_string()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(status(error)),
        }
        if let Some(theirs) = id_of(&base, number)? {
            return Ok(theirs);
        }
        rustix::fs::fsetxattr(&base, ID, &id, XattrFlags::REPLACE).map_err(status)?;
        Ok(uuid.simple().to_string())
    }

    /// Opens a stream.
    pub(super) fn open(&self, name: &str) -> Result<Option<OwnedFd>, Status> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.0, on_disk(name), flags, Mode::empty()) {
            Ok(stream) => Ok(Some(stream)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(status(error)),
        }
    }

    /// Makes a stream. OBJECT_NAME_COLLISION where it is there.
    pub(super) fn create(&self, name: &str) -> Result<OwnedFd, Status> {
        if self.list()?.len() >= STREAMS_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stream =
            rustix::fs::openat(&self.0, on_disk(name), flags, Mode::from_raw_mode(0o600)).map_err(status)?;
        rustix::fs::fsetxattr(&stream, NAME, name.as_bytes(), XattrFlags::empty()).map_err(status)?;
        Ok(stream)
    }

    /// Names, sizes and blocks, in the order of the names.
    pub(super) fn list(&self) -> Result<Vec<(String, Statx)>, Status> {
        let mut list = Vec::new();
        for entry in Dir::new(readable(&self.0).map_err(status)?).map_err(status)? {
            let entry = entry.map_err(status)?;
            let Ok(file) = entry.file_name().to_str() else { continue };
            let Some(stream) = self.open_file(file) else { continue };
            // What bears no name, or is no stream of that name, is none.
            if let Ok(name) = name_of(&stream)
                && on_disk(&name) == file
            {
                list.push((name, stat_of(&stream)?));
            }
        }
        list.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }

    fn open_file(&self, file: &str) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let is_file = |stat: Statx| rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file();
        stat_at(&self.0, file).ok()?.filter(|stat| is_file(*stat))?;
        rustix::fs::openat(&self.0, file, flags, Mode::empty()).ok()
    }

    /// Renames the stream that is open as `stream`.
    pub(super) fn rename(&self, stream: &OwnedFd, to: &str, replace: bool) -> Result<(), Status> {
        let from = on_disk(&name_of(stream)?);
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        if from != on_disk(to) {
            rustix::fs::renameat_with(&self.0, from, &self.0, on_disk(to), flags).map_err(status)?;
        }
        rustix::fs::fsetxattr(stream, NAME, to.as_bytes(), XattrFlags::empty()).map_err(status)
    }

    /// Deletes the stream that is open as `stream`; one that is gone already is no error.
    pub(super) fn remove(&self, stream: &OwnedFd) -> Result<(), Status> {
        let file = on_disk(&name_of(stream)?);
        let own = stat_of(stream)?.stx_ino;
        if stat_at(&self.0, &file)?.is_none_or(|stat| stat.stx_ino != own) {
            return Ok(()); // replaced by a rename, or deleted with its file
        }
        match rustix::fs::unlinkat(&self.0, &file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(status(error)),
        }
    }

    /// Deletes all streams of the file open as `base`, which is emptied or gone.
    pub(super) fn clear(volume: &Volume, base: impl AsFd) -> Result<(), Status> {
        let Some(streams) = Self::find(volume, &base)? else { return Ok(()) };
        for entry in Dir::new(readable(&streams.0).map_err(status)?).map_err(status)? {
            let entry = entry.map_err(status)?;
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                rustix::fs::unlinkat(&streams.0, name, AtFlags::empty()).map_err(status)?;
            }
        }
        let number = stat_of(&base)?.stx_ino;
        if let (Some(id), Some(area)) = (id_of(&base, number)?, enter_if_there(&volume.root, AREA)?) {
            rustix::fs::unlinkat(area, id, AtFlags::REMOVEDIR).map_err(status)?;
        }
        // It is made anew with the next stream; on a file that is gone there is nothing to take away.
        let _ = rustix::fs::fremovexattr(&base, ID);
        Ok(())
    }
}

/// The name of an open stream.
pub(super) fn name_of(stream: impl AsFd) -> Result<String, Status> {
    let mut name = vec![0; NAME_MAX];
    let length = rustix::fs::fgetxattr(stream, NAME, &mut name[..]).map_err(|error| match error {
        Errno::NODATA => Status::OBJECT_NAME_NOT_FOUND,
        other => status(other),
    })?;
    name.truncate(length);
    String::from_utf8(name).map_err(|_| Status::OBJECT_NAME_INVALID)
}
