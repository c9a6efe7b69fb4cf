//! A directory as a datastore of which something is otherwise, for tests.

use std::io;

use super::{Capabilities, Datastore, DirectoryDatastore, Disk, DiskSpec, Space};

/// What a disk that others made is like.
type Reaching = Box<dyn Fn(&DiskSpec) -> io::Result<()> + Send + Sync>;

/// By what an object is recognised.
type Recognising = fn(&DirectoryDatastore, &str) -> io::Result<Option<String>>;

/// See [`Altered::of`].
pub(crate) struct Altered {
    /// What lies below.
    pub(crate) directory: DirectoryDatastore,
    /// What it says it can, from what the directory can.
    pub(crate) capabilities: fn(Capabilities) -> Capabilities,
    /// The room it says there is.
    pub(crate) space: Option<Space>,
    /// Called before that is said.
    pub(crate) asking: Box<dyn Fn() + Send + Sync>,
    /// By what it recognises what it has.
    pub(crate) identity: Recognising,
    /// Called before a disk is made.
    pub(crate) making: Box<dyn Fn(&DiskSpec) + Send + Sync>,
    /// Whether a disk that others made is there.
    pub(crate) reaching: Reaching,
}

impl Altered {
    /// That directory, as it is.
    pub(crate) fn of(directory: DirectoryDatastore) -> Self {
        Self {
            directory,
            capabilities: |all| all,
            space: None,
            identity: DirectoryDatastore::identity,
            asking: Box::new(|| ()),
            making: Box::new(|_| ()),
            reaching: Box::new(|_| Ok(())),
        }
    }
}

/// Recognises an object by its name: a copy of the datastore has the same.
pub(crate) fn by_name(directory: &DirectoryDatastore, path: &str) -> io::Result<Option<String>> {
    if directory.exists(path)? { Ok(Some(path.to_owned())) } else { Err(io::ErrorKind::NotFound.into()) }
}

impl Datastore for Altered {
    fn capabilities(&self) -> Capabilities {
        (self.capabilities)(self.directory.capabilities())
    }
    fn space(&self) -> io::Result<Space> {
        (self.asking)();
        self.space.map_or_else(|| self.directory.space(), Ok)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.directory.exists(path)
    }
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        (self.identity)(&self.directory, path)
    }
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.directory.create_directory(path)
    }
    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        (self.making)(spec);
        self.directory.create_disk(spec)
    }
    fn reach(&self, spec: &DiskSpec) -> io::Result<()> {
        (self.reaching)(spec)
    }
    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.directory.open_disk(spec)
    }
    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.directory.put_file(path, contents)
    }
    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.directory.get_file(path, limit)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.directory.remove_file(path)
    }
    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.directory.remove_directory(path)
    }
}
