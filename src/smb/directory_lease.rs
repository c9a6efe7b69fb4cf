//! Directories that clients lease (MS-SMB2 3.3.5.9.11): where they are, so that a change of an entry finds those who cache it.
//! What they may cache is in their files' [`super::oplock`], like every lease.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::file_entry::FileEntry;
use super::notify::ShareId;
use super::open::locked;

/// Opens of leased directories: the windows of a few hundred Explorers. Past that, none is granted.
pub const DIRECTORY_LEASES_MAX: usize = 4096;

type Place = (ShareId, String);

#[derive(Default)]
struct Table {
    by_place: HashMap<Place, Vec<(u64, Arc<FileEntry>)>>,
    by_open: HashMap<u64, Place>,
}

/// The leased directories of all shares.
#[derive(Default)]
pub struct LeasedDirectories {
    table: Mutex<Table>,
    count: AtomicUsize,
}

/// A directory's place; without case, because clients name it as they like.
fn place(share: ShareId, path: &[String]) -> Place {
    (share, path.join("\\").to_lowercase())
}

impl LeasedDirectories {
    /// Whether there are none.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// An open is about to be granted a lease; `false` where there are too many.
    pub(super) fn enter(&self, share: ShareId, path: &[String], open: u64, entry: &Arc<FileEntry>) -> bool {
        let mut table = locked(&self.table);
        if table.by_open.len() >= DIRECTORY_LEASES_MAX {
            return false;
        }
        let place = place(share, path);
        table.by_place.entry(place.clone()).or_default().push((open, Arc::clone(entry)));
        table.by_open.insert(open, place);
        self.count.store(table.by_open.len(), Ordering::Release);
        true
    }

    /// Those who lease the directory at `path`.
    pub(super) fn at(&self, share: ShareId, path: &[String]) -> Vec<Arc<FileEntry>> {
        let table = locked(&self.table);
        let found = table.by_place.get(&place(share, path));
        found.into_iter().flatten().map(|(_, entry)| Arc::clone(entry)).collect()
    }

    /// A directory has another name. Nothing below it is open then.
    pub(super) fn moved(&self, share: ShareId, from: &[String], to: &[String]) {
        let mut table = locked(&self.table);
        let Some(opens) = table.by_place.remove(&place(share, from)) else { return };
        let to = place(share, to);
        for (open, _) in &opens {
            table.by_open.insert(*open, to.clone());
        }
        table.by_place.entry(to).or_default().extend(opens);
    }

    /// An open is closed.
    pub(super) fn remove(&self, open: u64) {
        if self.is_idle() {
            return;
        }
        let mut table = locked(&self.table);
        let Some(place) = table.by_open.remove(&open) else { return };
        if let Some(opens) = table.by_place.get_mut(&place) {
            opens.retain(|(other, _)| *other != open);
            if opens.is_empty() {
                table.by_place.remove(&place);
            }
        }
        self.count.store(table.by_open.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smb::share::FileKey;

    fn path(text: &str) -> Vec<String> {
        text.split('\\').map(str::to_owned).collect()
    }

    #[test]
    fn directories_are_found_by_place_wherever_they_move() {
        let directories = LeasedDirectories::default();
        let key = FileKey { volume: 1, file: 1, stream: String::new() };
        let entry = Arc::new(FileEntry::new(key));
        assert!(directories.enter(1, &path("A\\b"), 7, &entry));
        assert_eq!(directories.at(1, &path("a\\B")).len(), 1);
        assert!(directories.at(2, &path("a\\b")).is_empty(), "another share");
        directories.moved(1, &path("a\\b"), &path("c"));
        assert!(directories.at(1, &path("a\\b")).is_empty());
        assert_eq!(directories.at(1, &path("c")).len(), 1);
        directories.remove(7);
        assert!(directories.is_idle() && directories.at(1, &path("c")).is_empty());
    }

    #[test]
    fn there_are_not_more_than_the_bound() {
        let directories = LeasedDirectories::default();
        let key = FileKey { volume: 1, file: 1, stream: String::new() };
        let entry = Arc::new(FileEntry::new(key));
        for open in 0..DIRECTORY_LEASES_MAX as u64 {
            assert!(directories.enter(1, &path("d"), open, &entry));
        }
        assert!(!directories.enter(1, &path("d"), u64::MAX, &entry));
    }
}
