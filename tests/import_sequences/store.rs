//! A datastore with troubles: operations that fail, and a kill of the service within one. Knows nothing of sessions.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use importfs::datastore::{Capabilities, Datastore, DirectoryDatastore, Disk, DiskSpec, Space};

use super::step::Trouble;

/// What outlives a restart of the service: which trouble comes when, and what each object is recognised by.
pub struct Troubles {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which start of the service the datastore serves; those before are dead.
    service: u64,
    next: Option<Trouble>,
    struck: bool,
    killed: bool,
    /// Objects that were made here, each by another number.
    numbers: BTreeMap<String, u64>,
    last_number: u64,
}

impl Troubles {
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), state: Mutex::default() })
    }

    /// The datastore for a service that starts.
    pub fn datastore(self: &Arc<Self>) -> Arc<dyn Datastore> {
        self.lock().service += 1;
        self.beside()
    }

    /// The same for a command beside the service that runs.
    pub fn beside(self: &Arc<Self>) -> Arc<dyn Datastore> {
        let inner = DirectoryDatastore::open(&self.root.join("ds")).unwrap();
        let service = self.lock().service;
        Arc::new(Store { inner, at: At { troubles: Arc::clone(self), service } })
    }

    pub fn set(&self, trouble: Option<Trouble>) {
        self.lock().next = trouble;
    }

    /// Whether trouble came since that was asked last.
    pub fn take_struck(&self) -> bool {
        std::mem::take(&mut self.lock().struck)
    }

    pub fn take_killed(&self) -> bool {
        std::mem::take(&mut self.lock().killed)
    }

    /// The service is killed now: what its data directory holds is kept as `left`, and nothing that it does from now on
    /// reaches the datastore.
    pub fn kill(&self) {
        self.kill_now(&mut self.lock());
    }

    fn kill_now(&self, state: &mut State) {
        copy(&self.root.join("data"), &self.root.join("left"));
        state.service += 1;
        state.killed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The troubles as one start of the service sees them.
#[derive(Clone)]
struct At {
    troubles: Arc<Troubles>,
    service: u64,
}

impl At {
    /// Whether the next operation goes well. [`io::ErrorKind::NotConnected`] is that of a service that is dead.
    fn pass(&self) -> io::Result<()> {
        let mut state = self.troubles.lock();
        if state.service != self.service {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let (left, error) = match &mut state.next {
            None => return Ok(()),
            Some(Trouble::Fails(left)) => (left, Some(io::Error::other("the datastore fails"))),
            Some(Trouble::Full(left)) => (left, Some(io::ErrorKind::StorageFull.into())),
            Some(Trouble::Kill(left)) => (left, None),
        };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        (state.next, state.struck) = (None, true);
        Err(error.unwrap_or_else(|| {
            self.troubles.kill_now(&mut state);
            io::Error::other("the service is killed")
        }))
    }

    fn made(&self, path: &str) {
        let mut state = self.troubles.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.numbers.insert(path.to_owned(), number);
    }
}

struct Store {
    inner: DirectoryDatastore,
    at: At,
}

impl Store {
    fn disk(&self, inner: Box<dyn Disk>) -> Box<dyn Disk> {
        Box::new(Troubled { inner, at: self.at.clone() })
    }
}

impl Datastore for Store {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.at.pass()?;
        self.inner.exists(path)
    }
    /// As a file system with times of birth, whatever the tests run on.
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        self.at.pass()?;
        if !self.inner.exists(path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Some(self.at.troubles.lock().numbers.get(path).map_or_else(|| path.to_owned(), u64::to_string)))
    }
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.at.pass()?;
        self.inner.create_directory(path)?;
        self.at.made(path);
        Ok(())
    }
    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.at.pass()?;
        let disk = self.inner.create_disk(spec)?;
        self.at.made(&spec.file(&spec.extent));
        Ok(self.disk(disk))
    }
    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.at.pass()?;
        self.inner.open_disk(spec).map(|disk| self.disk(disk))
    }
    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.at.pass()?;
        self.inner.put_file(path, contents)?;
        self.at.made(path);
        Ok(())
    }
    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.at.pass()?;
        self.inner.get_file(path, limit)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.at.pass()?;
        self.inner.remove_file(path)
    }
    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.at.pass()?;
        self.inner.remove_directory(path)
    }
    fn can_swap(&self) -> Result<(), &'static str> {
        self.inner.can_swap()
    }
    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        self.at.pass()?;
        self.inner.list(path, limit)
    }
    fn move_directory(&self, from: &str, to: &str) -> io::Result<()> {
        self.at.pass()?;
        self.inner.move_directory(from, to)
    }
}

/// What fails has gone through in half, unless its service was dead already.
fn half(error: io::Error, operation: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if error.kind() != io::ErrorKind::NotConnected {
        operation()?;
    }
    Err(error)
}

struct Troubled {
    inner: Box<dyn Disk>,
    at: At,
}

impl Disk for Troubled {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.at.pass()?;
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.at
            .pass()
            .or_else(|error| half(error, || self.inner.write_at(&data[..data.len() / 2], offset)))?;
        self.inner.write_at(data, offset)
    }
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.at.pass().or_else(|error| half(error, || self.inner.zero(offset, length / 2)))?;
        self.inner.zero(offset, length)
    }
    fn flush(&self) -> io::Result<()> {
        self.at.pass()?;
        self.inner.flush()
    }
    fn release(&self) -> io::Result<()> {
        self.at.pass()?;
        self.inner.release()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}
