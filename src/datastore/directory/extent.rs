//! An extent's file: opened when it is used, closed when nothing more comes for now, and recognised when it is opened again.
//!
//! A session may wait for days between its extents and its VMX, and hundreds of disks would take all file descriptors that a process
//! has. What has the extent's path by then may be another file; it is never written to.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::super::confined;
use super::super::on_demand::OnDemand;
use super::super::{Disk, DiskSpec, Provisioning};
use super::Tree;
use crate::turns::Turns;

/// Zeros written at a time where the file system can neither punch nor zero a range.
const ZEROS: &[u8] = &[0; 256 * 1024];

/// `stx_blocks` counts these, whatever the file system's own block is (statx(2)).
const STAT_BLOCK: u64 = 512;

/// Where an extent is now, by its path on the datastore: directories may be moved while nobody has it open.
#[derive(Debug)]
pub(super) struct Place(Mutex<String>);

impl Place {
    pub(super) fn new(path: String) -> Self {
        Self(Mutex::new(path))
    }

    fn path(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A directory has another path; where the extent lies in it, so has the extent.
    pub(super) fn follow(&self, from: &str, to: &str) {
        let mut path = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let moved =
            path.strip_prefix(from).filter(|rest| rest.starts_with('/')).map(|rest| format!("{to}{rest}"));
        if let Some(moved) = moved {
            *path = moved;
        }
    }
}

/// By what a file is told from another that has its path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    inode: u64,
    /// Seconds and nanoseconds; `None` where the file system has none.
    born: Option<(i64, u32)>,
}

impl Identity {
    /// Of whatever has that name, a link too.
    pub(super) fn at(parent: impl AsFd, name: &str) -> io::Result<Self> {
        Ok(Self::of(&look(parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn of(found: &Statx) -> Self {
        let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let born = born.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        Self { inode: found.stx_ino, born }
    }

    /// As a text that stays right when the number was given to another file.
    pub(super) fn lasting(self) -> Option<String> {
        self.born.map(|(seconds, nanoseconds)| format!("{}.{seconds}.{nanoseconds}", self.inode))
    }

    /// Whether it is the same file, as far as the file system tells.
    fn is(self, other: Self) -> bool {
        let born = self.born.zip(other.born);
        self.inode == other.inode && born.is_none_or(|(mine, other)| mine == other)
    }
}

fn look(directory: impl AsFd, name: &str, flags: AtFlags) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(rustix::fs::statx(directory, name, flags, wanted)?)
}

/// An extent.
#[derive(Debug)]
pub(super) struct Extent {
    tree: Arc<Tree>,
    place: Arc<Place>,
    identity: Identity,
    size: u64,
    provisioning: Provisioning,
    file: OnDemand<File>,
    /// Something was written since the last flush began.
    unflushed: AtomicBool,
    /// Held during a flush: whoever finds nothing to do must not be ahead of who does it.
    flushing: Mutex<()>,
    turns: Turns,
}

impl Extent {
    /// The extent of that file, which must be an ordinary one of the disk's size.
    pub(super) fn new(tree: &Arc<Tree>, place: Arc<Place>, file: File, spec: &DiskSpec) -> io::Result<Self> {
        let found = look(&file, "", AtFlags::EMPTY_PATH)?;
        if !FileType::from_raw_mode(found.stx_mode.into()).is_file() || found.stx_size != spec.size {
            let message = format!("it is not an extent of {} bytes, but has {}", spec.size, found.stx_size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self {
            tree: Arc::clone(tree),
            place,
            identity: Identity::of(&found),
            size: spec.size,
            provisioning: spec.provisioning,
            file: OnDemand::new(Some(file)),
            unflushed: AtomicBool::new(false),
            flushing: Mutex::new(()),
            turns: Turns::default(),
        })
    }

    /// A file never grows here: what lies outside is a mistake of the caller, not a larger disk.
    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Changes the file; a change that failed may have gone through in part.
    fn change(&self, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        self.with(|file| {
            let changed = work(file);
            // After it: a flush that began before may not have it.
            self.unflushed.store(true, Ordering::Release);
            changed
        })
    }

    /// A disk that was only looked at costs its datastore no flush: a start looks at hundreds.
    fn sync(&self, file: &File) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unflushed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        file.sync_data().inspect_err(|_| self.unflushed.store(true, Ordering::Release))
    }

    fn with<R>(&self, work: impl FnOnce(&File) -> io::Result<R>) -> io::Result<R> {
        self.file.with(|| self.open_again(), work)
    }

    fn open_again(&self) -> io::Result<File> {
        let _no_move = self.tree.places.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.place.path();
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{path} can't be opened again: {error}"));
        let (parent, name) = self.tree.root.parent(&path).map_err(told)?;
        let file = confined::open_file(&parent, name, OFlags::RDWR, Mode::empty()).map_err(told)?;
        let found = look(&file, "", AtFlags::EMPTY_PATH).map_err(told)?;
        if Identity::of(&found).is(self.identity) && found.stx_size == self.size {
            return Ok(file);
        }
        let message = format!(
            "{path} on the datastore is not the file any more that was written; nothing is written to what is there now. Put the \
             file back, or delete this directory of the share and restore again"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

impl Disk for Extent {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buffer.len() as u64)?;
        self.with(|file| file.read_exact_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        self.change(|file| {
            let _turn = self.turns.wait(data.len());
            file.write_all_at(data, offset)
        })
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        // A thick disk keeps its space; a thin one gives it back.
        let flags = match self.provisioning {
            Provisioning::Thin => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Provisioning::Thick => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        self.change(|file| match rustix::fs::fallocate(file, flags, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, offset, length),
            Err(error) => Err(error.into()),
        })
    }

    /// A file that was closed was flushed before.
    fn flush(&self) -> io::Result<()> {
        self.file.if_held(|file| self.sync(file)).unwrap_or(Ok(()))
    }

    fn release(&self) -> io::Result<()> {
        self.file.give_back(|file| self.sync(file))
    }

    fn allocated(&self) -> io::Result<u64> {
        if let Some(found) = self.file.if_held(|file| look(file, "", AtFlags::EMPTY_PATH)) {
            return Ok(found?.stx_blocks * STAT_BLOCK);
        }
        let _no_move = self.tree.places.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.place.path();
        let (parent, name) = self.tree.root.parent(&path)?;
        Ok(look(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?.stx_blocks * STAT_BLOCK)
    }
}

fn write_zeros(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let part = (end - offset).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..part as usize], offset)?;
        offset += part;
    }
    Ok(())
}
