//! Where complete disks go that can't be written in any order: a [`Sink`] takes a whole machine, after its last byte has
//! arrived in the stage.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Disk, DiskSpec};

/// A disk that is complete, in the stage.
#[derive(Clone)]
pub struct CompleteDisk {
    /// Number of the disk in the CFG.
    pub number: usize,
    /// Name of the datastore that it goes to.
    pub datastore: String,
    /// Directory, extent, size and provisioning there.
    pub spec: DiskSpec,
    /// Name of its descriptor there (`x.vmdk`).
    pub descriptor: String,
    /// Text of its descriptor: adapter, geometry, UUID.
    pub description: String,
    /// Its data, for reading; it does not change any more.
    pub source: Arc<dyn Disk>,
    /// The ranges that may hold other than zeros: ascending and disjoint.
    pub allocated: Vec<Range<u64>>,
}

impl CompleteDisk {
    /// Bytes that may hold other than zeros.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.allocated.iter().map(|range| range.end - range.start).sum()
    }
}

/// A machine whose data is complete.
#[derive(Clone)]
pub struct Machine {
    /// The session that restores it, as the log shows it.
    pub session: String,
    /// The virtual machine's name.
    pub name: String,
    /// Name of the datastore of its VMX.
    pub datastore: String,
    /// Directory of its VMX there.
    pub directory: String,
    /// Name of its VMX there.
    pub vmx_name: String,
    /// The VMX as it is to stand there.
    pub vmx: Vec<u8>,
    /// Settings of its firmware, where the backup has them.
    pub nvram: Option<Vec<u8>>,
    /// Its disks.
    pub disks: Vec<CompleteDisk>,
}

/// Whether a push is still wanted, and why not.
#[derive(Debug, Default)]
pub struct Course {
    cancelled: Mutex<Option<&'static str>>,
    changed: Condvar,
}

impl Course {
    /// Asks the push to end as soon as it can; `why` is for whoever waits for it. The first reason stays.
    pub fn cancel(&self, why: &'static str) {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.changed.notify_all();
    }

    /// Why the push is to end.
    pub fn cancelled(&self) -> Option<&'static str> {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; `false` where the push is to end, and then at once.
    pub fn pause(&self, time: Duration) -> bool {
        let cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(cancelled, time, |cancelled| cancelled.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_none()
    }
}

/// What a push tells its session while it goes on.
pub trait Told: Sync {
    /// A line for the session's log.
    fn note(&self, line: &str);
    /// What [`Told::leave`] was last told for this machine, by an earlier push too; empty: nothing is left of any.
    fn left(&self) -> String;
    /// Before something is made: makes durable by what it is found again, in the sink's own notation, for [`Sink::undo`] after a
    /// crash. Empty: nothing is left. What is told last is forgotten with the push's success.
    fn leave(&self, trace: &str) -> io::Result<()>;
}

/// What a push made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// The hypervisor's reference of the machine, where it was registered with it.
    pub reference: Option<String>,
}

/// Takes complete machines.
pub trait Sink: Send + Sync {
    /// Brings a machine to its datastores and blocks until it stands there, durably. On an error nothing of it is left, or what is
    /// left stands in what was told ([`Told::leave`]): the push is begun again from its start later.
    /// [`io::ErrorKind::Interrupted`]: it was cancelled.
    fn push(&self, machine: &Machine, course: &Course, told: &dyn Told) -> io::Result<Pushed>;

    /// Whether something is still there of what a push left.
    fn is_there(&self, trace: &str) -> io::Result<bool>;

    /// Undoes what a push left that a crash cut short. `true`: it was complete after all, and stays.
    fn undo(&self, trace: &str) -> io::Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_pause_ends_with_the_push() {
        let course = Course::default();
        assert!(course.pause(Duration::ZERO) && course.cancelled().is_none());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| course.pause(Duration::from_hours(1)));
            course.cancel("the service ends");
            course.cancel("another reason");
            assert!(waits.join().is_ok_and(|went| !went));
        });
        assert!(begun.elapsed() < Duration::from_mins(1));
        assert_eq!(course.cancelled(), Some("the service ends"));
    }
}
