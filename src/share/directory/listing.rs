//! The names of a directory, streamed: one open directory read in the kernel's order, which its cookies keep stable while
//! names come and go.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Dir;
use smb_proto::Status;

use super::Volume;
use super::attributes::{self, Dos};
use super::errors::status;
use super::lookup::{nameable, readable, stat_at, stat_of};
use crate::smb::share::{DirEntry, Listing, Metadata};

/// A scan under way.
pub(super) struct Names {
    volume: Arc<Volume>,
    /// By which the names' attributes are read.
    directory: OwnedFd,
    entries: Dir,
    /// How many of `.` and `..` were told: they come first, wherever the kernel has them.
    dots: usize,
}

impl Names {
    pub(super) fn new(volume: Arc<Volume>, directory: impl AsFd) -> Result<Self, Status> {
        let directory = readable(directory).map_err(status)?;
        let entries = Dir::read_from(&directory).map_err(status)?;
        Ok(Self { volume, directory, entries, dots: 0 })
    }

    /// `.` or `..`; the root's `..` is the root, so that nothing outside the share shows.
    fn dot(&self, name: &str) -> Result<Metadata, Status> {
        let own = stat_of(&self.directory)?;
        let is_root = own.stx_ino == self.volume.root_file && attributes::device(&own) == self.volume.device;
        let stat = if name == "." || is_root { Some(own) } else { stat_at(&self.directory, name)? };
        let stat = stat.ok_or(Status::FILE_DELETED)?;
        let name = if is_root { "." } else { name };
        Ok(attributes::metadata(&stat, Dos::load_at(self.directory.as_raw_fd(), name, &stat)))
    }
}

impl Listing for Names {
    fn next(&mut self) -> Result<Option<DirEntry>, Status> {
        if let Some(name) = [".", ".."].get(self.dots) {
            self.dots += 1;
            return Ok(Some(DirEntry { name: (*name).to_owned(), metadata: self.dot(name)? }));
        }
        while let Some(entry) = self.entries.read() {
            let entry = entry.map_err(status)?;
            // What is no UTF-8, or holds what SMB reserves, no client could open.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." || !nameable(name) {
                continue;
            }
            if let Some(stat) = stat_at(&self.directory, name)? {
                let dos = Dos::load_at(self.directory.as_raw_fd(), name, &stat);
                let metadata = attributes::metadata(&stat, dos);
                return Ok(Some(DirEntry { name: name.to_owned(), metadata }));
            }
        }
        Ok(None)
    }

    fn rewind(&mut self) -> Result<(), Status> {
        self.entries.rewind();
        self.dots = 0;
        Ok(())
    }
}
