//! Which disks are attached to the appliance by this service: a file for each, durable before the disk is attached and gone after it
//! was detached. What a crash left attached is found by it, whatever became of the session.
//!
//! One JSON object a file, in `<data-dir>/attachments`. An entry's file has the digest of the disk's path for its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The folder in the data directory.
pub const FOLDER: &str = "attachments";
/// What an entry's file ends in.
const EXTENSION: &str = "json";
/// Bytes of an entry: a path and a few numbers.
const ENTRY_BYTES_MAX: u64 = 64 << 10;
/// Bytes of the digest that make a file's name.
const NAME_BYTES: usize = 16;

/// A disk that is attached, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Host and port of the hypervisor.
    pub server: String,
    /// The appliance's virtual machine: its reference.
    pub machine: String,
    /// Its name.
    pub appliance: String,
    /// Name of the datastore.
    pub datastore: String,
    /// Path of the disk's descriptor on it.
    pub path: String,
    /// The disk's UUID; empty until it is attached.
    #[serde(default)]
    pub uuid: String,
}

impl Entry {
    /// As the API writes the descriptor's path.
    #[must_use]
    pub fn file(&self) -> String {
        format!("[{}] {}", self.datastore, self.path)
    }
}

/// The entries of one data directory.
#[derive(Debug, Clone)]
pub struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// Those of a data directory. Nothing is made before the first entry.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join(FOLDER) }
    }

    fn place(&self, entry: &Entry) -> PathBuf {
        let digest = Sha256::digest(format!("{}\n{}", entry.server, entry.file()).as_bytes());
        let mut start = [0; NAME_BYTES];
        start.copy_from_slice(&digest[..NAME_BYTES]);
        self.folder.join(format!("{:032x}", u128::from_be_bytes(start))).with_extension(EXTENSION)
    }

    /// Makes an entry durable, instead of one for the same disk.
    pub fn put(&self, entry: &Entry) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) => self.folder.parent().map_or(Ok(()), sync)?,
            _ => {}
        }
        let place = self.place(entry);
        let temporary = place.with_extension("tmp");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(entry)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &place)?;
        sync(&self.folder)
    }

    /// Removes the entry of a disk that is not attached any more.
    pub fn remove(&self, entry: &Entry) -> io::Result<()> {
        match fs::remove_file(self.place(entry)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync(&self.folder),
        }
    }

    /// All entries. One that can't be read is an error of its own, and does not hide the others.
    pub fn list(&self) -> io::Result<Vec<Result<Entry, String>>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut places = Vec::new();
        for entry in entries {
            let place = entry?.path();
            if place.extension().is_some_and(|extension| extension == EXTENSION) {
                places.push(place);
            }
        }
        places.sort();
        let read = |place: &PathBuf| {
            let mut bytes = Vec::new();
            let file = File::open(place).and_then(|file| file.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes));
            let read = file.and_then(|_| Ok(serde_json::from_slice(&bytes)?));
            read.map_err(|error| format!("{}: {error}", place.display()))
        };
        Ok(places.iter().map(read).collect())
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_come_go_and_don_t_hide_each_other() {
        let data = tempfile::tempdir().unwrap();
        let ledger = Ledger::of(data.path());
        assert!(ledger.list().unwrap().is_empty());
        let entry = |path: &str| Entry {
            server: "vc:443".into(),
            machine: "vm-7".into(),
            appliance: "importer".into(),
            datastore: "ds".into(),
            path: path.into(),
            uuid: String::new(),
        };
        let (one, other) = (entry("a/x.vmdk"), entry("b/x.vmdk"));
        ledger.put(&one).unwrap();
        ledger.put(&other).unwrap();
        let known = Entry { uuid: "6000C29".into(), ..one.clone() };
        ledger.put(&known).unwrap();
        let mut found: Vec<_> = ledger.list().unwrap().into_iter().map(Result::unwrap).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(found, [known, other.clone()]);
        fs::write(data.path().join(FOLDER).join("0.json"), "{").unwrap();
        ledger.remove(&one).unwrap();
        ledger.remove(&one).unwrap();
        let left = ledger.list().unwrap();
        assert!(left.len() == 2 && left[0].is_err() && left[1] == Ok(other));
    }
}
