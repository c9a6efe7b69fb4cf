//! The stage: where disks wait until they are complete whose driver takes no random writes ([`super::Capabilities`]). Sparse
//! files in each session's own directory, so that they go with it, and a budget that all sessions share.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Adapter, Datastore, DirectoryDatastore, Disk, DiskSpec, Provisioning};

/// The folder in a session's directory.
const FOLDER: &str = "stage";
/// `st_blocks` counts these (stat(3type)).
const STAT_BLOCK: u64 = 512;

/// The stage of all sessions.
#[derive(Debug)]
pub struct Stage {
    /// Bytes that all sessions together may stage; `None` is as much as the file system has.
    limit: Option<u64>,
    /// Bytes that a session's disks may grow to, by its directory.
    reserved: Mutex<BTreeMap<PathBuf, u64>>,
    /// The folder of the sessions' directories, once it is known: open once for all their disks.
    sessions: Mutex<Option<(PathBuf, Arc<DirectoryDatastore>)>>,
}

impl Stage {
    /// A stage of so many bytes.
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, reserved: Mutex::default(), sessions: Mutex::default() }
    }

    /// Sets aside what a session's disks may grow to, instead of what it had before. [`io::ErrorKind::StorageFull`] says
    /// how much there is.
    pub fn reserve(&self, session: &Path, bytes: u64) -> io::Result<()> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let others: u64 = reserved.iter().filter(|(at, _)| *at != session).map(|(_, bytes)| bytes).sum();
        let own = staged(session);
        // What others have reserved and not yet used is spoken for; what this session has staged is its own already.
        let spoken_for: u64 = reserved
            .iter()
            .filter(|(at, _)| *at != session)
            .map(|(at, bytes)| bytes.saturating_sub(staged(at)))
            .sum();
        let space = DirectoryDatastore::open(session)?.space()?.available;
        let mut free = space.saturating_sub(spoken_for).saturating_add(own);
        if let Some(limit) = self.limit {
            free = free.min(limit.saturating_sub(others));
        }
        if bytes > free {
            let message = format!("the stage has {free} bytes free, the disks may grow to {bytes}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        reserved.insert(session.to_owned(), bytes);
        Ok(())
    }

    /// Gives a session's part back; its files are removed.
    pub fn release(&self, session: &Path) -> io::Result<()> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
        match std::fs::remove_dir_all(session.join(FOLDER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a disk of a session, anew where there was one.
    pub fn create_disk(&self, session: &Path, number: usize, size: u64) -> io::Result<Box<dyn Disk>> {
        let store = self.store(session)?;
        let spec = spec(session, number, size)?;
        match store.create_directory(&spec.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match store.remove_file(&spec.file(&spec.extent)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        store.create_disk(&spec)
    }

    /// Opens a disk that [`Stage::create_disk`] made.
    pub fn open_disk(&self, session: &Path, number: usize, size: u64) -> io::Result<Box<dyn Disk>> {
        self.store(session)?.open_disk(&spec(session, number, size)?)
    }

    /// The folder that a session's directory lies in.
    fn store(&self, session: &Path) -> io::Result<Arc<DirectoryDatastore>> {
        let folder = session.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, store)) = &*sessions
            && known == folder
        {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(DirectoryDatastore::open(folder)?);
        *sessions = Some((folder.to_owned(), Arc::clone(&store)));
        Ok(store)
    }
}

fn spec(session: &Path, number: usize, size: u64) -> io::Result<DiskSpec> {
    let own = session.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    let extent = format!("disk-{number}");
    let (directory, descriptor) = (format!("{own}/{FOLDER}"), format!("{extent}.vmdk"));
    Ok(DiskSpec {
        directory,
        extent,
        descriptor,
        size,
        provisioning: Provisioning::Thin,
        adapter: Adapter::default(),
        machine: None,
    })
}

/// Bytes that a session's staged disks take now.
fn staged(session: &Path) -> u64 {
    let files = std::fs::read_dir(session.join(FOLDER)).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * STAT_BLOCK).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_reserved_is_shared_out_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let stage = Stage::new(Some(10 << 20));
        stage.reserve(&a, 6 << 20).unwrap();
        stage.reserve(&a, 7 << 20).unwrap();
        let error = stage.reserve(&b, 4 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("3145728 bytes free"), "{error}");
        stage.reserve(&b, 3 << 20).unwrap();
        let disk = stage.create_disk(&a, 0, 1 << 20).unwrap();
        disk.write_at(&[1; 4096], 8192).unwrap();
        assert!(stage.open_disk(&a, 0, 1 << 20).is_ok() && stage.open_disk(&a, 1, 1 << 20).is_err());
        let again = stage.create_disk(&a, 0, 1 << 20).unwrap();
        let mut read = [1; 4096];
        again.read_at(&mut read, 8192).unwrap();
        assert_eq!(read, [0; 4096]);
        stage.release(&a).unwrap();
        stage.release(&a).unwrap();
        assert!(!a.join(FOLDER).exists());
        stage.reserve(&b, 10 << 20).unwrap();
        assert!(Stage::new(None).reserve(&b, u64::MAX).is_err(), "more than the file system has");
    }
}
