//! An open named stream: its data is a file of its own in [`super::area`], everything else is its file's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use smb_proto::Status;

use super::Volume;
use super::area::{self, Streams};
use super::attributes::{Dos, READONLY};
use super::file::DirectoryFile;
use super::lookup::stat_of;
use super::namespace::key_of;
use crate::smb::share::{FileKey, Metadata, OpenGate, Refusal, SharePath, StreamEntry};

/// The name of a stream that a path means; `::$DATA` is the file itself.
pub(super) fn named(path: &SharePath) -> Option<&str> {
    path.stream.as_deref().filter(|name| !name.is_empty())
}

/// Refuses named streams where there can be none.
pub(super) fn refuse_named(path: &SharePath) -> Result<(), Status> {
    if named(path).is_some() { Err(Status::OBJECT_NAME_INVALID) } else { Ok(()) }
}

/// The key of a stream: its file's, and its own number, which stays when it is renamed.
pub(super) fn key(base: &FileKey, stream: &OwnedFd) -> Result<FileKey, Status> {
    Ok(FileKey { stream: stat_of(stream)?.stx_ino.to_string(), ..base.clone() })
}

impl DirectoryFile {
    /// The streams, the unnamed one first; a directory has none that is unnamed.
    pub(super) fn list_streams(&self, whole: &Metadata, directory: bool) -> Result<Vec<StreamEntry>, Status> {
        let mut list = Vec::new();
        if !directory {
            let (size, allocation) = (whole.size, whole.allocation);
            list.push(StreamEntry { name: "::$DATA".to_owned(), size, allocation });
        }
        if let Some(streams) = Streams::find(&self.volume, self.whole())? {
            list.extend(streams.list()?.into_iter().map(|(name, stat)| StreamEntry {
                name: format!(":{name}:$DATA"),
                size: stat.stx_size,
                allocation: stat.stx_blocks.saturating_mul(512),
            }));
        }
        Ok(list)
    }

    /// Whether the stream may be deleted.
    pub(super) fn stream_deletable(&self) -> Result<(), Status> {
        let dos = Dos::load(self.whole(), &stat_of(self.whole())?);
        if dos.attributes & READONLY != 0 { Err(Status::CANNOT_DELETE) } else { Ok(()) }
    }

    fn own_streams(&self) -> Result<Streams, Status> {
        Streams::find(&self.volume, self.whole())?.ok_or(Status::FILE_DELETED)
    }

    /// Deletes the stream.
    pub(super) fn remove_stream(&self) -> Result<(), Status> {
        match self.own_streams() {
            Err(Status::FILE_DELETED) => Ok(()),
            streams => streams?.remove(&self.fd),
        }
    }

    /// Renames the stream within its file (MS-FSA 2.1.5.15.11): the target is `:name`.
    pub(super) fn rename_stream(
        &self,
        to: &SharePath,
        replace: bool,
        gate: &mut dyn OpenGate,
    ) -> Result<(), Refusal> {
        if !to.components.is_empty() {
            return Err(Status::SHARING_VIOLATION.into()); // as Windows answers for a path
        }
        let Some(name) = named(to) else { return Err(Status::NOT_SUPPORTED.into()) };
        let streams = self.own_streams()?;
        if let Some(existing) = streams.open(name)? {
            let existing = key(&key_of(&stat_of(self.whole())?), &existing)?;
            if existing != self.key && !replace {
                return Err(Status::OBJECT_NAME_COLLISION.into());
            }
            if existing != self.key {
                gate.admit(&existing, true, super::security::DELETE)?;
            }
        }
        Ok(streams.rename(&self.fd, name, replace)?)
    }

    /// The name of the stream that this is, for paths.
    pub(super) fn stream_name(&self) -> Option<String> {
        self.base.as_ref().and_then(|_| area::name_of(&self.fd).ok())
    }

    /// The file that this is a stream of.
    pub(super) fn whole_file(&self) -> Result<DirectoryFile, Status> {
        let fd = self.whole().try_clone().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        let stat = stat_of(&fd)?;
        let directory = super::attributes::is_directory(&stat);
        Ok(DirectoryFile::new(Arc::clone(&self.volume), fd, &stat, directory))
    }
}

/// Opens the stream `name` of a file, or makes it; whether it was there.
pub(super) fn open_or_make(
    volume: &Volume,
    base: &OwnedFd,
    name: &str,
    make: bool,
) -> Result<Option<(OwnedFd, bool)>, Status> {
    if let Some(stream) = Streams::find(volume, base)?.and_then(|streams| streams.open(name).transpose()) {
        return Ok(Some((stream?, true)));
    }
    if !make {
        return Ok(None);
    }
    match Streams::make(volume, base)?.create(name) {
        Ok(stream) => Ok(Some((stream, false))),
        // Another made it in between.
        Err(Status::OBJECT_NAME_COLLISION) => {
            let found = Streams::find(volume, base)?.and_then(|streams| streams.open(name).transpose());
            Ok(found.transpose()?.map(|stream| (stream, true)))
        }
        Err(error) => Err(error),
    }
}
