//! Makes operations fail: a simulation's bad hardware. The n-th operation behaves the same for the same seed.

use crate::inventory::Place;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::sink::Sink;
use super::super::{Capabilities, Datastore, Disk, DiskSpec, Space};

/// How often what fails, in operations of a thousand. Out of 1000, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultPlan {
    /// Where the sequence starts.
    pub seed: u64,
    /// Reads that fail.
    pub reads: u64,
    /// Writes that fail, each after a random part of its data.
    pub writes: u64,
    /// Zeroings that fail, each after a random part of its range.
    pub zeros: u64,
    /// Flushes that fail, those with which a disk is given back too.
    pub flushes: u64,
    /// Operations of a datastore (making, removing, small files) that fail.
    pub others: u64,
}

/// The sequence of faults, shared by the disks of one simulation.
#[derive(Debug)]
pub struct Injector {
    plan: FaultPlan,
    operations: AtomicU64,
    injected: AtomicU64,
    armed: AtomicBool,
}

impl Injector {
    /// Starts a plan.
    #[must_use]
    pub fn new(plan: FaultPlan) -> Arc<Self> {
        let armed = AtomicBool::new(true);
        Arc::new(Self { plan, operations: AtomicU64::new(0), injected: AtomicU64::new(0), armed })
    }

    /// Turns faults on or off.
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::Relaxed);
    }

    /// Faults so far.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// A number that decides how the next operation fares, if it is to fail.
    fn strike(&self, per_thousand: u64) -> Option<u64> {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        let random = mix(self.plan.seed ^ mix(number));
        if !self.armed.load(Ordering::Relaxed) || random % 1000 >= per_thousand {
            return None;
        }
        self.injected.fetch_add(1, Ordering::Relaxed);
        Some(random / 1000)
    }
}

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn injected<T>() -> io::Result<T> {
    Err(io::Error::other("injected fault"))
}

/// A disk with faults.
pub struct Fault {
    inner: Box<dyn Disk>,
    injector: Arc<Injector>,
}

impl Fault {
    /// Puts the injector's faults before `inner`.
    pub fn new(inner: Box<dyn Disk>, injector: Arc<Injector>) -> Self {
        Self { inner, injector }
    }
}

impl Disk for Fault {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.injector.strike(self.injector.plan.reads) {
            Some(_) => injected(),
            None => self.inner.read_at(buffer, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.injector.strike(self.injector.plan.writes) {
            Some(random) => {
                let part = (random % (data.len() as u64 + 1)) as usize;
                self.inner.write_at(&data[..part], offset)?;
                injected()
            }
            None => self.inner.write_at(data, offset),
        }
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.injector.strike(self.injector.plan.zeros) {
            Some(random) => {
                self.inner.zero(offset, random % (length + 1))?;
                injected()
            }
            None => self.inner.zero(offset, length),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self.injector.strike(self.injector.plan.flushes) {
            Some(_) => injected(),
            None => self.inner.flush(),
        }
    }

    fn keep_alive(&self) -> io::Result<()> {
        self.inner.keep_alive()
    }

    fn release(&self) -> io::Result<()> {
        match self.injector.strike(self.injector.plan.flushes) {
            Some(_) => injected(),
            None => self.inner.release(),
        }
    }

    fn fresh_reads_zero(&self) -> bool {
        self.inner.fresh_reads_zero()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}

/// A datastore with faults, on its disks too.
pub struct FaultDatastore {
    inner: Arc<dyn Datastore>,
    injector: Arc<Injector>,
}

impl FaultDatastore {
    /// Puts the injector's faults before `inner`.
    pub fn new(inner: Arc<dyn Datastore>, injector: Arc<Injector>) -> Self {
        Self { inner, injector }
    }

    /// Does `operation`, or fails without it.
    fn attempt<T>(&self, operation: impl FnOnce(&dyn Datastore) -> io::Result<T>) -> io::Result<T> {
        match self.injector.strike(self.injector.plan.others) {
            Some(_) => injected(),
            None => operation(&*self.inner),
        }
    }

    fn wrap(&self, disk: Box<dyn Disk>) -> Box<dyn Disk> {
        Box::new(Fault::new(disk, Arc::clone(&self.injector)))
    }
}

impl Datastore for FaultDatastore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn obstacles(&self) -> Vec<String> {
        self.inner.obstacles()
    }

    fn disk_path(&self, spec: &DiskSpec) -> String {
        self.inner.disk_path(spec)
    }

    fn space(&self) -> io::Result<Space> {
        self.attempt(|inner| inner.space())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.attempt(|inner| inner.exists(path))
    }

    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        self.attempt(|inner| inner.identity(path))
    }

    fn sink(&self, place: &Place) -> Option<Arc<dyn Sink>> {
        self.inner.sink(place)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.attempt(|inner| inner.create_directory(path))
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.attempt(|inner| inner.create_disk(spec)).map(|disk| self.wrap(disk))
    }

    fn reach(&self, spec: &DiskSpec) -> io::Result<()> {
        self.attempt(|inner| inner.reach(spec))
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.attempt(|inner| inner.open_disk(spec)).map(|disk| self.wrap(disk))
    }

    fn open_known(&self, spec: &DiskSpec, known: &str) -> io::Result<Box<dyn Disk>> {
        self.attempt(|inner| inner.open_known(spec, known)).map(|disk| self.wrap(disk))
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.attempt(|inner| inner.put_file(path, contents))
    }

    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.attempt(|inner| inner.get_file(path, limit))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.attempt(|inner| inner.remove_file(path))
    }

    fn remove_disk(&self, path: &str) -> io::Result<()> {
        self.attempt(|inner| inner.remove_disk(path))
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.attempt(|inner| inner.remove_directory(path))
    }

    fn can_swap(&self) -> Result<(), &'static str> {
        self.inner.can_swap()
    }

    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        self.attempt(|inner| inner.list(path, limit))
    }

    fn move_directory(&self, from: &str, to: &str) -> io::Result<()> {
        self.attempt(|inner| inner.move_directory(from, to))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::memory::MemoryDisk;

    fn outcomes(seed: u64) -> Vec<bool> {
        let plan = FaultPlan { seed, writes: 300, ..FaultPlan::default() };
        let disk = Fault::new(Box::new(MemoryDisk::new(64)), Injector::new(plan));
        (0..200).map(|_| disk.write_at(&[1; 8], 0).is_ok()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_about_as_often_as_asked() {
        assert_eq!(outcomes(1), outcomes(1));
        assert_ne!(outcomes(1), outcomes(2));
        let failed = outcomes(1).iter().filter(|fine| !**fine).count();
        assert!((30..90).contains(&failed), "{failed} of 200");
    }

    #[test]
    fn disarmed_nothing_fails_and_always_means_always() {
        let injector = Injector::new(FaultPlan { flushes: 1000, ..FaultPlan::default() });
        let disk = Fault::new(Box::new(MemoryDisk::new(64)), Arc::clone(&injector));
        assert!(disk.flush().is_err() && disk.flush().is_err());
        injector.arm(false);
        disk.flush().unwrap();
        assert_eq!(injector.injected(), 2);
    }
}
