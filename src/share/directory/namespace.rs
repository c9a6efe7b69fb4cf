//! Walking to a name, and changing names: rename, link, delete. All by descriptors; a path is never handed to the kernel
//! whole, so nothing that changes meanwhile leads out of the share.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use smb_proto::Status;

use super::Volume;
use super::area::{self, Streams};
use super::attributes::{self, Dos, READONLY};
use super::errors::status;
use super::file::DirectoryFile;
use super::listing::Names;
use super::lookup::{Found, enter, stat_at, stat_of};
use super::streams;
use crate::smb::share::{FileKey, Listing, OpenGate, Refusal, SharePath};

/// Components of a path: Windows allows 32,767 characters, and nobody nests so deep in earnest.
const DEPTH_MAX: usize = 256;

/// The directory that holds the last component of `components`, and that component.
pub(super) fn parent_of<'a>(volume: &Volume, components: &'a [String]) -> Result<(OwnedFd, &'a str), Status> {
    let Some((name, directories)) = components.split_last() else { return Err(Status::OBJECT_NAME_INVALID) };
    if components.len() > DEPTH_MAX {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    if components.iter().any(|name| name.eq_ignore_ascii_case(area::AREA)) {
        return Err(Status::ACCESS_DENIED);
    }
    let mut directory = volume.root.try_clone().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    for component in directories {
        // What is missing on the way, or is no directory, is a missing path (MS-FSA 2.1.5.1).
        let found = volume.index.find(&directory, component)?.ok_or(Status::OBJECT_PATH_NOT_FOUND)?;
        directory = enter(&directory, &found.name).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Status::OBJECT_PATH_NOT_FOUND,
            other => status(other),
        })?;
    }
    Ok((directory, name))
}

/// The key of what statx speaks of.
pub(super) fn key_of(stat: &rustix::fs::Statx) -> FileKey {
    FileKey { volume: attributes::device(stat), file: stat.stx_ino, stream: String::new() }
}

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &str = " (deleted)";

/// What the kernel calls an open descriptor now.
fn kernel_path(descriptor: i32) -> Result<String, Status> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{descriptor}"), Vec::new()).map_err(status)?;
    path.into_string().map_err(|_| Status::OBJECT_NAME_INVALID)
}

impl DirectoryFile {
    /// Its names from the share's root down, as the kernel has them now.
    pub(super) fn components(&self) -> Result<Vec<String>, Status> {
        let root = kernel_path(self.volume.root.as_raw_fd())?;
        let mut own = kernel_path(self.whole().as_raw_fd())?;
        if stat_of(self.whole())?.stx_nlink == 0
            && let Some(was) = own.strip_suffix(DELETED)
        {
            own.truncate(was.len());
        }
        let below = own.strip_prefix(root.trim_end_matches('/')).ok_or(Status::FILE_DELETED)?;
        Ok(below.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// The directory it is in and its name there, checked to lead to this very file.
    fn locate(&self) -> Result<(OwnedFd, String), Status> {
        let mut components = self.components()?;
        let name = components.pop().ok_or(Status::ACCESS_DENIED)?; // the root itself
        let mut directory = self.volume.root.try_clone().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        for component in &components {
            directory = enter(&directory, component).map_err(|_| Status::FILE_DELETED)?;
        }
        match stat_at(&directory, &name)? {
            Some(stat) if key_of(&stat) == self.key => Ok((directory, name)),
            _ => Err(Status::FILE_DELETED),
        }
    }

    /// FileRenameInformation (MS-FSA 2.1.5.15.11).
    pub(super) fn rename_to(
        &self,
        to: &SharePath,
        replace: bool,
        gate: &mut dyn OpenGate,
    ) -> Result<(), Refusal> {
        streams::refuse_named(to)?;
        let (source, old) = self.locate()?;
        let (target, new) = parent_of(&self.volume, &to.components)?;
        let found = self.volume.index.find(&target, new)?;
        let existing = found.filter(|found| key_of(&found.stat) != self.key);
        let index = &self.volume.index;
        let (left, entered) = (index.before_change(&source)?, index.before_change(&target)?);
        let same = key_of(&stat_of(&source)?) == key_of(&stat_of(&target)?);
        let mut flags = RenameFlags::NOREPLACE;
        // A target that differs by case only is a file of another name on disk: it goes by its own name.
        let mut on_disk = new;
        let mut replaced = None;
        gate.admit_entry(&key_of(&stat_of(&target)?))?;
        if let Some(existing) = &existing {
            self.admit_replacing(&target, existing, replace, gate)?;
            flags = RenameFlags::empty();
            on_disk = &existing.name;
            replaced = self.streams_replaced(&target, on_disk)?;
        } else if same && old == new {
            return Ok(());
        }
        match rustix::fs::renameat_with(&source, &old, &target, on_disk, flags) {
            // A file system without NOREPLACE: the lookup above has to do.
            Err(Errno::INVAL | Errno::NOSYS) if !flags.is_empty() && !self.directory => {
                rustix::fs::renameat(&source, &old, &target, on_disk).map_err(status)?;
            }
            // Into itself or below.
            Err(Errno::INVAL) if self.directory => return Err(Status::ACCESS_DENIED.into()),
            other => other.map_err(status)?,
        }
        if let Some(replaced) = replaced {
            Streams::clear(&self.volume, replaced)?;
        }
        if same {
            left.done(&source, Some(on_disk), Some(&old));
        } else {
            left.done(&source, None, Some(&old));
            entered.done(&target, Some(on_disk), None);
        }
        if on_disk != new {
            let recased = index.before_change(&target)?;
            if rustix::fs::renameat_with(&target, on_disk, &target, new, RenameFlags::NOREPLACE).is_ok() {
                recased.done(&target, Some(new), Some(on_disk));
            }
        }
        Ok(())
    }

    fn admit_replacing(
        &self,
        directory: &OwnedFd,
        existing: &Found,
        replace: bool,
        gate: &mut dyn OpenGate,
    ) -> Result<(), Refusal> {
        if !replace {
            return Err(Status::OBJECT_NAME_COLLISION.into());
        }
        let dos = Dos::load_at(directory.as_raw_fd(), &existing.name, &existing.stat);
        if self.directory || attributes::is_directory(&existing.stat) || dos.attributes & READONLY != 0 {
            return Err(Status::ACCESS_DENIED.into());
        }
        gate.admit(&key_of(&existing.stat), true, super::security::DELETE)
    }

    /// FileLinkInformation (MS-FSA 2.1.5.15.6).
    pub(super) fn link_to(&self, to: &SharePath, replace: bool) -> Result<(), Status> {
        streams::refuse_named(to)?;
        if self.directory {
            return Err(Status::FILE_IS_A_DIRECTORY);
        }
        let (source, old) = self.locate()?;
        let (target, new) = parent_of(&self.volume, &to.components)?;
        if let Some(existing) = self.volume.index.find(&target, new)? {
            let dos = Dos::load_at(target.as_raw_fd(), &existing.name, &existing.stat);
            if !replace {
                return Err(Status::OBJECT_NAME_COLLISION);
            }
            let own = key_of(&existing.stat) == self.key;
            if own || attributes::is_directory(&existing.stat) || dos.attributes & READONLY != 0 {
                return Err(Status::ACCESS_DENIED);
            }
            let replaced = self.streams_replaced(&target, &existing.name)?;
            link_over((&source, &old), &target, &existing.name)?;
            return replaced.map_or(Ok(()), |replaced| Streams::clear(&self.volume, replaced));
        }
        let change = self.volume.index.before_change(&target)?;
        rustix::fs::linkat(&source, &old, &target, new, AtFlags::empty()).map_err(status)?;
        change.done(&target, Some(new), None);
        Ok(())
    }

    /// Whether it may be marked for deletion (MS-FSA 2.1.5.15.3).
    pub(super) fn deletable(&self) -> Result<(), Status> {
        let stat = stat_of(&self.fd)?;
        if key_of(&stat) == self.volume.root_key() {
            return Err(Status::ACCESS_DENIED);
        }
        if Dos::load(&self.fd, &stat).attributes & READONLY != 0 {
            return Err(Status::CANNOT_DELETE);
        }
        if self.directory {
            // `.` and `..` come first; anything after them that clients can see keeps the directory.
            let mut names = Names::new(self.volume.clone(), &self.fd)?;
            while let Some(entry) = names.next()? {
                if entry.name != "." && entry.name != ".." {
                    return Err(Status::DIRECTORY_NOT_EMPTY);
                }
            }
        }
        Ok(())
    }

    /// Removes the name that leads to this very file; one that is gone already is no error.
    pub(super) fn remove(&self) -> Result<(), Status> {
        let (directory, name) = match self.locate() {
            Err(Status::FILE_DELETED) => return Ok(()),
            other => other?,
        };
        let flags = if self.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let streams = self.last_streams(&self.fd)?;
        let change = self.volume.index.before_change(&directory)?;
        match rustix::fs::unlinkat(&directory, &name, flags) {
            Err(Errno::NOENT) => {}
            other => other.map_err(status)?,
        }
        change.done(&directory, None, Some(&name));
        if streams { Streams::clear(&self.volume, &self.fd) } else { Ok(()) }
    }

    /// Whether streams go with the name that is about to be taken from a file: its last one.
    fn last_streams(&self, file: &OwnedFd) -> Result<bool, Status> {
        let stat = stat_of(file)?;
        let last = attributes::is_directory(&stat) || stat.stx_nlink == 1;
        Ok(last && Streams::find(&self.volume, file)?.is_some())
    }

    /// A handle on a file that a rename or link is about to replace, if its streams are to go with it.
    fn streams_replaced(&self, directory: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Status> {
        if !self.volume.has_streams {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return Ok(None) };
        Ok(if self.last_streams(&file)? { Some(file) } else { None })
    }
}

/// Replaces `existing` by another name of the file `from` in one step: a failure leaves it as it was.
fn link_over(from: (&OwnedFd, &str), target: &OwnedFd, existing: &str) -> Result<(), Status> {
    let passing = format!(".importfs-link-{}", uuid::Uuid::new_v4().simple());
    rustix::fs::linkat(from.0, from.1, target, &passing, AtFlags::empty()).map_err(status)?;
    let renamed = rustix::fs::renameat(target, &passing, target, existing).map_err(status);
    if renamed.is_err()
        && let Err(error) = rustix::fs::unlinkat(target, &passing, AtFlags::empty())
    {
        tracing::warn!(name = passing, %error, "a passing link could not be removed again");
    }
    renamed
}
