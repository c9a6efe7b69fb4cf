//! Filters: wrappers around any disk or datastore, which stack.
//!
//! - [`aligned`]: any range over a driver that takes whole blocks
//! - [`meter`]: counts and times what goes through
//! - [`fault`]: makes operations fail, the same ones for the same seed

use std::io;
use std::sync::Arc;

use crate::inventory::Place;

use super::sink::Sink;
use super::{Capabilities, Datastore, Disk, DiskSpec, Space};

pub mod aligned;
pub mod fault;
pub mod meter;

pub use aligned::Aligned;
pub use fault::{Fault, FaultDatastore, FaultPlan, Injector};
pub use meter::{Counts, Meter};

/// Puts a filter around a disk.
pub type Wrap = Box<dyn Fn(Box<dyn Disk>) -> Box<dyn Disk> + Send + Sync>;

/// A datastore whose disks go through a filter; everything else passes.
pub struct FilteredDatastore {
    inner: Arc<dyn Datastore>,
    wrap: Wrap,
}

impl FilteredDatastore {
    /// Puts `wrap` around every disk of `inner`.
    pub fn new(inner: Arc<dyn Datastore>, wrap: Wrap) -> Self {
        Self { inner, wrap }
    }
}

impl Datastore for FilteredDatastore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn obstacles(&self) -> Vec<String> {
        self.inner.obstacles()
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        self.inner.identity(path)
    }

    fn sink(&self, place: &Place) -> Option<Arc<dyn Sink>> {
        self.inner.sink(place)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.inner.create_directory(path)
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        Ok((self.wrap)(self.inner.create_disk(spec)?))
    }

    fn disk_path(&self, spec: &DiskSpec) -> String {
        self.inner.disk_path(spec)
    }

    fn reach(&self, spec: &DiskSpec) -> io::Result<()> {
        self.inner.reach(spec)
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        Ok((self.wrap)(self.inner.open_disk(spec)?))
    }

    fn open_known(&self, spec: &DiskSpec, known: &str) -> io::Result<Box<dyn Disk>> {
        Ok((self.wrap)(self.inner.open_known(spec, known)?))
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.inner.put_file(path, contents)
    }

    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.inner.get_file(path, limit)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_disk(&self, path: &str) -> io::Result<()> {
        self.inner.remove_disk(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.inner.remove_directory(path)
    }

    fn can_swap(&self) -> Result<(), &'static str> {
        self.inner.can_swap()
    }

    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        self.inner.list(path, limit)
    }

    fn move_directory(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.move_directory(from, to)
    }
}
