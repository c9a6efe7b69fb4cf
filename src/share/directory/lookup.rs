//! Names: case-insensitive and case-preserving, on a file system that is neither, without leaving the share.
//!
//! An exact name costs one statx. Only a miss asks the index: the folded names of that directory, read once and kept
//! until the directory's times say that it changed. The share's own changes are entered into the index as they are
//! made, so that creating 100,000 files reads the directory not 100,000 times.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Statx};
use rustix::io::Errno;
use smb_proto::Status;

use super::area::AREA;
use super::attributes::{self, WANTED};
use super::errors::status;

/// Names kept over all directories, some 100 bytes each: past that, the directory used longest ago is forgotten.
const NAMES_MAX: usize = 1_000_000;
/// Directories kept, where they are small.
const DIRECTORIES_MAX: usize = 4096;
/// File systems stamp times by the kernel's tick: within so long after a stamp, a second change may bear the same one.
const STAMP_GRAIN_NS: i128 = 50_000_000;
/// How long an index that was carried over the share's own change is believed: a stranger's change in the same moment
/// would go unseen.
const CARRIED_MAX: Duration = Duration::from_secs(2);

/// Folds a name's case as Windows compares names: each character of the first plane by its simple upper-case mapping.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c > '\u{FFFF}' {
                return c;
            }
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(single), None) => single,
                _ => c, // one that grows, such as ß: Windows leaves it alone
            }
        })
        .collect()
}

/// Whether clients can name it at all: UTF-8 is checked by who calls, these characters never come in a path, and the area of
/// the named streams is not theirs.
pub(super) fn nameable(name: &str) -> bool {
    !name.contains(|c: char| c < ' ' || r#""*/:<>?\|"#.contains(c)) && !name.eq_ignore_ascii_case(AREA)
}

/// A name that was found.
pub(super) struct Found {
    /// As it is on disk.
    pub(super) name: String,
    /// What it leads to: a file or directory, never a link.
    pub(super) stat: Statx,
}

/// The times by which a directory's change shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    written: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            written: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }

    /// Whether the clock's next ticks could still give the same stamp to another change.
    fn is_fresh(self) -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let ns = |seconds: i64, ns: i128| i128::from(seconds) * 1_000_000_000 + ns;
        let changed = ns(self.changed.0, self.changed.1.into());
        ns(now.tv_sec, now.tv_nsec.into()) - changed < STAMP_GRAIN_NS
    }
}

struct Folded {
    stamp: Stamp,
    /// Folded name to the names on disk; two that differ by case only are both kept, in the order of their bytes.
    names: HashMap<String, Vec<String>>,
    count: usize,
    /// False where the stamp was too fresh, when it was read, to tell a later change.
    settled: bool,
    /// When the share's own change was entered without reading again.
    carried: Option<Instant>,
    used: u64,
}

impl Folded {
    /// Reads a directory's names; `stamp` was taken before.
    fn read(directory: &impl AsFd, stamp: Stamp) -> Result<Folded, Status> {
        let settled = !stamp.is_fresh();
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        let mut count = 0;
        for entry in Dir::new(readable(directory).map_err(status)?).map_err(status)? {
            let entry = entry.map_err(status)?;
            if let Ok(name) = entry.file_name().to_str()
                && nameable(name)
                && name != "."
                && name != ".."
            {
                names.entry(fold(name)).or_default().push(name.to_owned());
                count += 1;
            }
        }
        for same in names.values_mut().filter(|same| same.len() > 1) {
            same.sort_unstable();
        }
        Ok(Folded { stamp, names, count, settled, carried: None, used: 0 })
    }

    /// Whether the absence of a name can be believed.
    fn knows_absence(&self) -> bool {
        self.settled && self.carried.is_none_or(|since| since.elapsed() < CARRIED_MAX)
    }
}

#[derive(Default)]
struct Table {
    directories: HashMap<(u64, u64), Folded>,
    names: usize,
    clock: u64,
}

/// The folded names of directories used lately.
#[derive(Default)]
pub(super) struct NameIndex {
    table: Mutex<Table>,
    /// Directories read: what the index is there to keep small.
    #[cfg(test)]
    pub(super) scans: std::sync::atomic::AtomicU64,
}

/// Opens a directory below `parent` to walk on, never through a link.
pub(super) fn enter(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// The statx of `name` below `parent`; `None` where there is nothing that a client may see.
pub(super) fn stat_at(parent: impl AsFd, name: &str) -> Result<Option<Statx>, Status> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(parent, name, flags, WANTED) {
        Ok(stat) => {
            let kind = rustix::fs::FileType::from_raw_mode(stat.stx_mode.into());
            Ok((kind.is_file() || kind.is_dir()).then_some(stat))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(status(error)),
    }
}

/// The statx of an open file.
pub(super) fn stat_of(file: impl AsFd) -> Result<Statx, Status> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, WANTED).map_err(status)
}

/// A handle by which a directory can be read, from one by which it can only be walked.
pub(super) fn readable(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty())
}

impl NameIndex {
    /// Finds `name` in `directory`, exactly or by its folded form.
    pub(super) fn find(&self, directory: impl AsFd, name: &str) -> Result<Option<Found>, Status> {
        if let Some(stat) = stat_at(&directory, name)? {
            return Ok(Some(Found { name: name.to_owned(), stat }));
        }
        // A name listed but gone since shows in the directory's times at the second look.
        for _ in 0..2 {
            let Some(actual) = self.actual(&directory, name)? else { return Ok(None) };
            if let Some(stat) = stat_at(&directory, &actual)? {
                return Ok(Some(Found { name: actual, stat }));
            }
            self.forget(&directory)?;
        }
        Ok(None)
    }

    fn actual(&self, directory: &impl AsFd, name: &str) -> Result<Option<String>, Status> {
        let stat = stat_of(directory)?;
        let (key, stamp) = ((attributes::device(&stat), stat.stx_ino), Stamp::of(&stat));
        let folded = fold(name);
        {
            let mut table = self.table();
            table.clock += 1;
            let clock = table.clock;
            if let Some(known) = table.directories.get_mut(&key).filter(|known| known.stamp == stamp) {
                known.used = clock;
                let hit = known.names.get(&folded).and_then(|names| names.first()).cloned();
                if hit.is_some() || known.knows_absence() {
                    return Ok(hit);
                }
            }
        }
        // Read without the lock: others look names up meanwhile. The stamp was taken before.
        #[cfg(test)]
        self.scans.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let read = Folded::read(directory, stamp)?;
        let hit = read.names.get(&folded).and_then(|names| names.first()).cloned();
        self.table().insert(key, read);
        Ok(hit)
    }

    /// Tells that this share is about to change `directory`: gives what [`Change::done`] needs to carry the index over.
    pub(super) fn before_change(&self, directory: impl AsFd) -> Result<Change<'_>, Status> {
        let stat = stat_of(directory)?;
        let key = (attributes::device(&stat), stat.stx_ino);
        Ok(Change { index: self, key, before: Stamp::of(&stat) })
    }

    fn forget(&self, directory: &impl AsFd) -> Result<(), Status> {
        let stat = stat_of(directory)?;
        self.table().remove((attributes::device(&stat), stat.stx_ino));
        Ok(())
    }

    /// Nothing under this lock can leave the table half-changed in a way that a later stamp check would not mend.
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share's own change of a directory, under way.
pub(super) struct Change<'a> {
    index: &'a NameIndex,
    key: (u64, u64),
    before: Stamp,
}

impl Change<'_> {
    /// The change was made: enters it. An index that was not current before stays so, and is read again when needed.
    pub(super) fn done(self, directory: impl AsFd, added: Option<&str>, removed: Option<&str>) {
        let Ok(after) = stat_of(directory) else { return };
        let mut table = self.index.table();
        let Some(known) = table.directories.get_mut(&self.key) else { return };
        if known.stamp != self.before {
            // Somebody else's change, of another thread of this share or of a stranger, came between.
            table.remove(self.key);
            return;
        }
        known.stamp = Stamp::of(&after);
        // An unsettled index was believed about what is there only; it now counts as carried, which bounds its age.
        known.settled = true;
        known.carried = known.carried.or_else(|| Some(Instant::now()));
        let mut change = 0_isize;
        if let Some(name) = removed
            && let Some(same) = known.names.get_mut(&fold(name))
        {
            let before = same.len();
            same.retain(|other| other != name);
            change -= (before - same.len()) as isize;
            if same.is_empty() {
                known.names.remove(&fold(name));
            }
        }
        if let Some(name) = added {
            let same = known.names.entry(fold(name)).or_default();
            if !same.iter().any(|other| other == name) {
                same.push(name.to_owned());
                change += 1;
            }
        }
        known.count = known.count.saturating_add_signed(change);
        table.names = table.names.saturating_add_signed(change);
    }
}

impl Table {
    fn insert(&mut self, key: (u64, u64), mut folded: Folded) {
        self.remove(key);
        folded.used = self.clock;
        self.names += folded.count;
        self.directories.insert(key, folded);
        while (self.names > NAMES_MAX || self.directories.len() > DIRECTORIES_MAX)
            && self.directories.len() > 1
        {
            let oldest =
                self.directories.iter().filter(|(other, _)| **other != key).min_by_key(|(_, f)| f.used);
            let Some((&oldest, _)) = oldest else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, key: (u64, u64)) {
        if let Some(gone) = self.directories.remove(&key) {
            self.names = self.names.saturating_sub(gone.count);
        }
    }
}
