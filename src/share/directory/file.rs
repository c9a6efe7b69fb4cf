//! An open file or directory: data, sizes, times.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom, Statx};
use rustix::io::{Errno, ReadWriteFlags};
use smb_proto::Status;

use super::attributes::{self, DIRECTORY, Dos, SETTABLE, SPARSE, TEMPORARY};
use super::errors::status;
use super::listing::Names;
use super::lookup::stat_of;
use super::namespace::key_of;
use super::security::Descriptor;
use super::{Volume, times};
use crate::smb::share::{
    BasicChange, File, FileKey, FileTime, Listing, Metadata, OpenGate, Refusal, SharePath, StreamEntry,
};
use crate::turns::Turns;

/// Zeros written at a time where the file system cannot punch holes.
static ZEROS: [u8; 65_536] = [0; 65_536];

/// The times that an open has set (MS-FSA 2.1.5.15.2, UserSetModificationTime and UserSetChangeTime).
#[derive(Clone, Copy, Default)]
struct SetTimes {
    written: Option<FileTime>,
    changed: Option<FileTime>,
}

/// An open of the share.
pub(super) struct DirectoryFile {
    pub(super) volume: Arc<Volume>,
    pub(super) fd: OwnedFd,
    /// Of a named stream: the file that it is a stream of.
    pub(super) base: Option<OwnedFd>,
    pub(super) key: FileKey,
    pub(super) directory: bool,
    /// The times set by this open: what it does later leaves them alone.
    set: Mutex<SetTimes>,
    /// Held while the attribute record is read and written back.
    changing: Mutex<()>,
    turns: Turns,
}

impl DirectoryFile {
    pub(super) fn new(volume: Arc<Volume>, fd: OwnedFd, stat: &Statx, directory: bool) -> Self {
        let (set, changing, turns) = (Mutex::default(), Mutex::new(()), Turns::default());
        Self { volume, fd, base: None, key: key_of(stat), directory, set, changing, turns }
    }

    /// An open of the stream `fd` of the file `base`.
    pub(super) fn of_stream(volume: Arc<Volume>, base: OwnedFd, fd: OwnedFd, key: FileKey) -> Self {
        let (set, changing, turns) = (Mutex::default(), Mutex::new(()), Turns::default());
        Self { volume, fd, base: Some(base), key, directory: false, set, changing, turns }
    }

    /// The file itself, also where this is a stream of it: attributes, times, security and names are the file's.
    pub(super) fn whole(&self) -> &OwnedFd {
        self.base.as_ref().unwrap_or(&self.fd)
    }

    /// Data calls are for files.
    fn as_file(&self) -> Result<&OwnedFd, Status> {
        if self.directory { Err(Status::INVALID_DEVICE_REQUEST) } else { Ok(&self.fd) }
    }

    fn set_times(&self) -> MutexGuard<'_, SetTimes> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After data changed: puts back the times that this open has set.
    fn keep_times(&self) -> Result<(), Status> {
        let SetTimes { written, changed } = *self.set_times();
        if written.is_some() {
            rustix::fs::futimens(self.whole(), &times::changes(None, written)).map_err(status)?;
        }
        match changed {
            Some(time) => self.change_dos(|dos| dos.changed = Some((time, times::now()))),
            None => Ok(()),
        }
    }

    /// Reads the attribute record, changes it, writes it back.
    fn change_dos(&self, change: impl FnOnce(&mut Dos)) -> Result<(), Status> {
        let _held = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Dos::load(self.whole(), &stat_of(self.whole())?);
        let mut after = before;
        change(&mut after);
        if after == before { Ok(()) } else { after.store(self.whole()) }
    }

    fn write_zeros(&self, mut from: u64, to: u64) -> Result<(), Status> {
        while from < to {
            let length = (to - from).min(ZEROS.len() as u64) as usize;
            from += rustix::io::pwrite(&self.fd, &ZEROS[..length], from).map_err(status)? as u64;
        }
        Ok(())
    }

    /// Where data begins at or after `from`; `None` past the last.
    fn seek(&self, to: SeekFrom) -> Result<Option<u64>, Status> {
        match rustix::fs::seek(&self.fd, to) {
            Err(Errno::NXIO) => Ok(None),
            other => other.map(Some).map_err(status),
        }
    }
}

impl File for DirectoryFile {
    fn key(&self) -> FileKey {
        self.key.clone()
    }

    fn path(&self) -> SharePath {
        // Only what was deleted or moved out of the share has none.
        SharePath { components: self.components().unwrap_or_default(), stream: self.stream_name() }
    }

    fn is_directory(&self) -> bool {
        self.directory
    }

    fn metadata(&self) -> Result<Metadata, Status> {
        let stat = stat_of(self.whole())?;
        let mut metadata = attributes::metadata(&stat, Dos::load(self.whole(), &stat));
        if self.base.is_some() {
            let own = stat_of(&self.fd)?;
            metadata.attributes &= !DIRECTORY;
            (metadata.size, metadata.allocation) = (own.stx_size, own.stx_blocks.saturating_mul(512));
        }
        Ok(metadata)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Status> {
        let file = self.as_file()?;
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(file, &mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(status(error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64, write_through: bool) -> Result<(), Status> {
        let file = self.as_file()?;
        let mut flags = if write_through { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let mut done = 0;
        let turn = self.turns.wait(data.len());
        while done < data.len() {
            let at = offset.checked_add(done as u64).ok_or(Status::INVALID_PARAMETER)?;
            match rustix::io::pwritev2(file, &[IoSlice::new(&data[done..])], at, flags) {
                Ok(0) => return Err(Status::DISK_FULL),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // An old file system without the flag: synchronise afterwards.
                Err(Errno::OPNOTSUPP) if !flags.is_empty() => flags = ReadWriteFlags::empty(),
                Err(error) => return Err(status(error)),
            }
        }
        drop(turn);
        if write_through && flags.is_empty() {
            rustix::fs::fdatasync(file).map_err(status)?;
        }
        self.keep_times()
    }

    fn flush(&self) -> Result<(), Status> {
        rustix::fs::fsync(&self.fd).map_err(status)
    }

    fn set_end_of_file(&self, size: u64) -> Result<(), Status> {
        if self.directory {
            return Err(Status::INVALID_PARAMETER);
        }
        rustix::fs::ftruncate(&self.fd, size).map_err(status)?;
        self.keep_times()
    }

    fn set_allocation(&self, size: u64) -> Result<(), Status> {
        if self.directory {
            return Err(Status::INVALID_PARAMETER);
        }
        if size < stat_of(&self.fd)?.stx_size {
            return self.set_end_of_file(size);
        }
        match size {
            0 => Ok(()),
            _ => match rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, 0, size) {
                Err(Errno::OPNOTSUPP) => Ok(()),
                other => other.map_err(status),
            },
        }
    }

    fn set_basic(&self, change: &BasicChange) -> Result<(), Status> {
        if let Some(wanted) = change.attributes
            && (self.directory && wanted & TEMPORARY != 0 || !self.directory && wanted & DIRECTORY != 0)
        {
            return Err(Status::INVALID_PARAMETER);
        }
        if *change == BasicChange::default() {
            return Ok(());
        }
        let set = {
            let mut set = self.set_times();
            set.written = change.written.or(set.written);
            set.changed = change.changed.or(set.changed);
            *set
        };
        if change.accessed.is_some() || change.written.is_some() {
            rustix::fs::futimens(self.whole(), &times::changes(change.accessed, change.written))
                .map_err(status)?;
        }
        // Last, because a change time that is set holds until the next change by another.
        let changed = set.changed.map(|time| (time, times::now()));
        self.change_dos(|dos| {
            if let Some(wanted) = change.attributes {
                dos.attributes = dos.attributes & !SETTABLE | wanted & SETTABLE;
            }
            dos.created = change.created.or(dos.created);
            dos.changed = changed;
        })
    }

    fn list(&self) -> Result<Box<dyn Listing>, Status> {
        if !self.directory {
            return Err(Status::INVALID_PARAMETER);
        }
        Ok(Box::new(Names::new(self.volume.clone(), &self.fd)?))
    }

    fn rename(&self, to: &SharePath, replace: bool, gate: &mut dyn OpenGate) -> Result<(), Refusal> {
        match self.base {
            Some(_) => self.rename_stream(to, replace, gate),
            None => self.rename_to(to, replace, gate),
        }
    }

    fn link(&self, to: &SharePath, replace: bool) -> Result<(), Status> {
        if self.base.is_some() { Err(Status::INVALID_PARAMETER) } else { self.link_to(to, replace) }
    }

    fn check_delete(&self) -> Result<(), Status> {
        if self.base.is_some() { self.stream_deletable() } else { self.deletable() }
    }

    fn delete(&self) -> Result<(), Status> {
        if self.base.is_some() { self.remove_stream() } else { self.remove() }
    }

    fn delete_base(&self) -> Result<(), Status> {
        self.whole_file()?.remove()
    }

    fn security(&self, parts: u32) -> Result<Vec<u8>, Status> {
        Ok(Descriptor::load(self.whole()).encode(parts))
    }

    fn set_security(&self, parts: u32, descriptor: &[u8]) -> Result<(), Status> {
        let new = Descriptor::decode(descriptor).ok_or(Status::INVALID_PARAMETER)?;
        let _held = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Descriptor::load(self.whole());
        kept.replace(parts, &new)?;
        kept.store(self.whole())
    }

    fn extended_attributes(&self) -> Result<Vec<(String, Vec<u8>)>, Status> {
        self.load_eas()
    }

    fn set_extended_attributes(&self, attributes: &[(String, Vec<u8>)]) -> Result<(), Status> {
        let _held = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store_eas(attributes)
    }

    fn streams(&self) -> Result<Vec<StreamEntry>, Status> {
        match self.base {
            None => self.list_streams(&self.metadata()?, self.directory),
            Some(_) => self.whole_file()?.streams(),
        }
    }

    fn set_sparse(&self, sparse: bool) -> Result<(), Status> {
        if self.directory {
            return Err(Status::INVALID_PARAMETER);
        }
        // POSIX files can always have holes: the mark is what clients are told.
        self.change_dos(|dos| dos.attributes = dos.attributes & !SPARSE | if sparse { SPARSE } else { 0 })
    }

    fn zero_range(&self, from: u64, to: u64) -> Result<(), Status> {
        let file = self.as_file()?;
        let to = to.min(stat_of(file)?.stx_size);
        if from >= to {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(file, flags, from, to - from) {
            Err(Errno::OPNOTSUPP) => self.write_zeros(from, to)?,
            other => other.map_err(status)?,
        }
        self.keep_times()
    }

    fn allocated_ranges(&self, from: u64, to: u64, max: usize) -> Result<(Vec<(u64, u64)>, bool), Status> {
        let file = self.as_file()?;
        let stat = stat_of(file)?;
        let to = to.min(stat.stx_size);
        // A file that is not sparse has no holes to tell of (MS-FSA 2.1.5.9.21).
        if Dos::load(file, &stat).attributes & SPARSE == 0 {
            let all = if from < to { vec![(from, to - from)] } else { Vec::new() };
            return Ok((all, false));
        }
        let (mut ranges, mut at) = (Vec::new(), from);
        while at < to {
            let Some(data) = self.seek(SeekFrom::Data(at))?.filter(|data| *data < to) else { break };
            if ranges.len() == max {
                return Ok((ranges, true));
            }
            let hole = self.seek(SeekFrom::Hole(data))?.unwrap_or(to).min(to);
            ranges.push((data, hole - data));
            at = hole;
        }
        Ok((ranges, false))
    }

    fn close(&self, _clean: bool) -> Result<(), Status> {
        // Every write was told of when it was made; there is nothing late to tell.
        Ok(())
    }
}
