//! What changes the appliance: disks attached to it and detached from it.
//!
//! A machine is reconfigured once at a time, by a task that takes seconds. So whatever is asked for while one is under way goes with the
//! next, together: whoever comes first carries out what has gathered. A reconfiguration happens as a whole or not at all; where one of
//! several disks is in its way, each is tried alone, and only that one fails.
//!
//! The order that nothing gets lost by: an entry of the [`super::ledger`] is durable before a disk is attached, and goes after the
//! devices of the appliance don't show the disk any more.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::appliance::{Attachment, DISKS_MAX, Shared, digits, lock, no_unit, told};
use super::device::Sought;
use super::ledger::Entry;
use crate::vsphere::appliance::Machine;
use crate::vsphere::hardware::{Addition, Attached, Hardware, NewDisk};
use crate::vsphere::{Ref, VsphereError};

/// Disks that are attached or detached by one reconfiguration: more make the first wait for the last.
const TOGETHER_MAX: usize = 16;
/// How long another task of the appliance is waited for.
const BUSY_MAX: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// What is asked for, and who carries it out.
#[derive(Default)]
pub(super) struct Changes {
    asked: Mutex<VecDeque<Arc<Ask>>>,
    /// Held while the appliance is reconfigured: a free unit stays free until it is taken.
    changing: Mutex<()>,
}

struct Ask {
    change: Change,
    outcome: Mutex<Option<Outcome>>,
}

enum Change {
    Attach(Entry, Option<NewDisk>),
    Detach(Entry),
}

/// What came of it; of a disk that was detached nothing.
type Outcome = Result<Option<Attachment>, VsphereError>;

/// A disk that is to be attached with others.
struct Wanted<'a> {
    entry: &'a Entry,
    new: Option<&'a NewDisk>,
    file: String,
    place: (i32, u32),
}

impl Entry {
    /// Whether a disk that has its path is the one that was attached.
    fn is(&self, disk: &Attached) -> bool {
        self.uuid.is_empty() || digits(&self.uuid) == digits(&disk.uuid)
    }

    fn machine(&self) -> Machine {
        Machine {
            reference: Ref::new("VirtualMachine", &self.machine),
            name: self.appliance.clone(),
            host: None,
            datacenter: Ref::new("Datacenter", ""),
        }
    }
}

impl Shared {
    /// Attaches a disk, made where `new` says how.
    pub(super) fn attach(
        &self,
        datastore: &str,
        path: &str,
        new: Option<&NewDisk>,
    ) -> Result<Attachment, VsphereError> {
        let machine = self.machine()?;
        let entry = Entry {
            server: self.client.server().to_owned(),
            machine: machine.reference.id.clone(),
            appliance: machine.name,
            datastore: datastore.to_owned(),
            path: path.to_owned(),
            uuid: String::new(),
        };
        let attached = self.change(Change::Attach(entry, new.copied()))?;
        attached.ok_or_else(|| told(format!("[{datastore}] {path}: it was not attached")))
    }

    /// Detaches a disk of this process.
    pub(super) fn detach(&self, entry: &Entry) -> Result<(), VsphereError> {
        self.change(Change::Detach(entry.clone())).map(|_| ())
    }

    /// Waits until a change is carried out, by itself or with others.
    fn change(&self, change: Change) -> Outcome {
        let ask = Arc::new(Ask { change, outcome: Mutex::default() });
        lock(&self.changes.asked).push_back(Arc::clone(&ask));
        let _one_at_a_time = lock(&self.changes.changing);
        loop {
            if let Some(outcome) = lock(&ask.outcome).take() {
                return outcome;
            }
            let gathered: Vec<_> = {
                let mut asked = lock(&self.changes.asked);
                let count = asked.len().min(TOGETHER_MAX);
                asked.drain(..count).collect()
            };
            if gathered.is_empty() {
                // Whoever took it panicked.
                return Err(told("a change of the appliance broke off; try again".to_owned()));
            }
            self.carry_out(&gathered);
        }
    }

    /// Detaches first: that makes room.
    fn carry_out(&self, asks: &[Arc<Ask>]) {
        let (mut detach, mut attach) = (Vec::new(), Vec::new());
        for ask in asks {
            match &ask.change {
                Change::Detach(entry) => detach.push((ask, entry)),
                Change::Attach(entry, new) => attach.push((ask, (entry, new.as_ref()))),
            }
        }
        let entries: Vec<_> = detach.iter().map(|(_, entry)| *entry).collect();
        for ((ask, entry), outcome) in detach.iter().zip(self.undo_all(&entries)) {
            if outcome.is_ok() {
                lock(&self.state).live.remove(&entry.file());
            }
            *lock(&ask.outcome) = Some(outcome.map(|()| None));
        }
        let disks: Vec<_> = attach.iter().map(|(_, disk)| *disk).collect();
        for ((ask, _), outcome) in attach.iter().zip(self.attach_all(&disks)) {
            *lock(&ask.outcome) = Some(outcome.map(Some));
        }
    }

    fn attach_all(&self, disks: &[(&Entry, Option<&NewDisk>)]) -> Vec<Result<Attachment, VsphereError>> {
        let mut attached = if disks.len() > 1 { self.attach_together(disks) } else { Vec::new() };
        let mut one = |entry: &Entry, new: Option<&NewDisk>| match attached.iter().position(|attachment| {
            attachment.entry.path == entry.path && attachment.entry.datastore == entry.datastore
        }) {
            Some(at) => Ok(attached.swap_remove(at)),
            None => self.attach_one(entry, new),
        };
        disks.iter().map(|(entry, new)| one(entry, *new)).collect()
    }

    /// Attaches several disks by one reconfiguration; gives those that are attached. What is in the way of the others shows when
    /// each is tried alone.
    fn attach_together(&self, disks: &[(&Entry, Option<&NewDisk>)]) -> Vec<Attachment> {
        let machine = disks[0].0.machine();
        let what =
            format!("{} disks can't be attached together to the appliance '{}'", disks.len(), machine.name);
        let Some(wanted) = self.places_for(&machine, disks) else { return Vec::new() };
        let noted: Vec<_> =
            wanted.into_iter().filter(|disk| self.place.ledger.put(disk.entry).is_ok()).collect();
        let additions: Vec<_> = noted
            .iter()
            .map(|disk| Addition { place: disk.place, file: &disk.file, new: disk.new })
            .collect();
        let done = match additions.len() {
            0 => Ok(()),
            _ => patiently(|| self.client.attach_disks(&machine, &additions, &what)),
        };
        if let Err(error) = &done {
            tracing::info!("{error}; each is tried alone");
        }
        let mut attached = Vec::new();
        for disk in noted {
            match self.attached(&machine, disk.entry.clone(), done.clone(), &what) {
                Ok(attachment) => attached.push(attachment),
                // Not attached: the entry goes. What can't be said yet is undone before it is tried alone, and told there.
                Err(_) => {
                    if self.undo(disk.entry).is_err() {
                        self.leave(disk.entry.clone());
                    }
                }
            }
        }
        attached
    }

    /// The disks that nothing is in the way of, with a unit for each.
    fn places_for<'a>(
        &self,
        machine: &Machine,
        disks: &[(&'a Entry, Option<&'a NewDisk>)],
    ) -> Option<Vec<Wanted<'a>>> {
        let mut room = DISKS_MAX.saturating_sub(lock(&self.state).live.len());
        let hardware = self.client.hardware(machine).ok()?;
        let (mut wanted, mut taken, mut files) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (entry, new) in disks {
            let file = entry.file();
            let left = lock(&self.state).left.iter().any(|other| other.file() == file);
            let there = hardware.disk(&file).is_some() || hardware.below_snapshot(&file).is_some();
            if left || there || room == 0 || !files.insert(file.clone()) {
                continue;
            }
            let free = hardware.free(|controller, unit| !taken.contains(&(controller.key, unit)));
            let Some(place) = free.map(|(controller, unit)| (controller.key, unit)) else { continue };
            taken.insert(place);
            room -= 1;
            wanted.push(Wanted { entry, new: *new, file, place });
        }
        Some(wanted)
    }

    fn attach_one(&self, entry: &Entry, new: Option<&NewDisk>) -> Result<Attachment, VsphereError> {
        let (machine, file) = (entry.machine(), entry.file());
        let what = format!("{file} can't be attached to the appliance '{}'", machine.name);
        self.undo_left_of(&file)?;
        if lock(&self.state).live.len() >= DISKS_MAX {
            return Err(told(format!(
                "{what}: {DISKS_MAX} disks are attached; wait until other restores are done"
            )));
        }
        let hardware = self.client.hardware(&machine)?;
        if hardware.disk(&file).is_some() || hardware.below_snapshot(&file).is_some() {
            return Err(told(format!(
                "{what}: it is attached already, and not by this service; detach it there"
            )));
        }
        let place = hardware.free(|_, _| true).map(|(controller, unit)| (controller.key, unit));
        let place = place.ok_or_else(|| told(format!("{what}: {}", no_unit(&machine))))?;
        self.ledger(&what, || self.place.ledger.put(entry))?;
        let addition = Addition { place, file: &file, new };
        let done = patiently(|| self.client.attach_disks(&machine, &[addition], &what));
        self.attached(&machine, entry.clone(), done, &what).inspect_err(|_| {
            if let Err(why) = self.undo(entry) {
                tracing::error!("{why}; tried again until it succeeds");
                self.leave(entry.clone());
            }
        })
    }

    /// What became of attaching a disk: its devices tell where the answer got lost.
    fn attached(
        &self,
        machine: &Machine,
        mut entry: Entry,
        done: Result<(), VsphereError>,
        what: &str,
    ) -> Result<Attachment, VsphereError> {
        if let Err(error) = done
            && !matches!(error, VsphereError::Lost { .. })
        {
            return Err(error);
        }
        let hardware = self.idle_hardware(machine)?;
        let missing = || told(format!("{what}: the appliance does not show it among its devices"));
        let disk = hardware.disk(&entry.file()).ok_or_else(missing)?;
        let slot = hardware.controller(disk.controller).and_then(|controller| controller.slot);
        let sought = Sought { uuid: disk.uuid.clone(), slot, unit: disk.unit };
        entry.uuid.clone_from(&disk.uuid);
        self.ledger(what, || self.place.ledger.put(&entry))?;
        lock(&self.state).live.insert(entry.file(), entry.uuid.clone());
        Ok(Attachment { entry, sought })
    }

    fn ledger(&self, what: &str, write: impl FnOnce() -> io::Result<()>) -> Result<(), VsphereError> {
        write().map_err(|error| {
            told(format!("{what}: that can't be written down in the data directory: {error}"))
        })
    }

    /// Its devices, once none of its tasks is under way: a request whose sender died may still be carried out.
    fn idle_hardware(&self, machine: &Machine) -> Result<Hardware, VsphereError> {
        let begun = Instant::now();
        while self.client.is_busy(&machine.reference)? {
            if begun.elapsed() >= BUSY_MAX {
                return Err(told(format!(
                    "the appliance '{}' has tasks that don't end; look at the hypervisor's recent tasks",
                    machine.name
                )));
            }
            std::thread::sleep(BUSY_PAUSE);
        }
        self.client.hardware(machine)
    }

    /// [`Self::undo`] of several.
    fn undo_all(&self, entries: &[&Entry]) -> Vec<Result<(), VsphereError>> {
        if entries.len() > 1 {
            self.detach_together(entries);
        }
        entries.iter().map(|entry| self.undo(entry)).collect()
    }

    /// Detaches by one reconfiguration what nothing is in the way of. What became of each shows when it is looked at alone.
    fn detach_together(&self, entries: &[&Entry]) {
        let machine = entries[0].machine();
        let Ok(hardware) = self.client.hardware(&machine) else { return };
        let of_machine = entries.iter().filter(|entry| entry.machine == machine.reference.id);
        let disks: Vec<_> = of_machine
            .filter_map(|entry| hardware.disk(&entry.file()).filter(|disk| entry.is(disk)))
            .collect();
        let what =
            format!("{} disks can't be detached together from the appliance '{}'", disks.len(), machine.name);
        if disks.len() > 1
            && let Err(error) = patiently(|| self.client.detach_disks(&machine, &disks, &what))
        {
            tracing::info!("{error}; each is tried alone");
        }
    }

    /// Detaches what an entry names, if it is attached and the same disk; the entry goes then. While the appliance is being changed.
    fn undo(&self, entry: &Entry) -> Result<(), VsphereError> {
        let (machine, file) = (entry.machine(), entry.file());
        let what = format!("{file} can't be detached from the appliance '{}'", machine.name);
        let mut hardware = self.client.hardware(&machine).map_err(|error| error.about(&what))?;
        if hardware.disk(&file).is_none() {
            hardware = self.idle_hardware(&machine)?;
        }
        if hardware.below_snapshot(&file).is_some() {
            return Err(told(format!(
                "{what}: the appliance got a snapshot while it was attached; remove that snapshot, and it is detached"
            )));
        }
        if let Some(disk) = hardware.disk(&file) {
            if !entry.is(disk) {
                tracing::warn!("{file}: another disk has that path by now and is attached; it is left alone");
                return self.ledger(&what, || self.place.ledger.remove(entry));
            }
            let done = patiently(|| self.client.detach_disks(&machine, &[disk], &what));
            if let Err(error) = done {
                // The answer may be what got lost.
                let there = self.client.hardware(&machine).map(|now| now.disk(&file).is_some());
                if there.unwrap_or(true) {
                    return Err(error);
                }
            }
        }
        self.ledger(&what, || self.place.ledger.remove(entry))
    }

    /// Detaches at once what nobody holds of that path.
    pub(super) fn settle(&self, file: &str) -> Result<(), VsphereError> {
        let _one_at_a_time = lock(&self.changes.changing);
        self.undo_left_of(file)
    }

    fn undo_left_of(&self, file: &str) -> Result<(), VsphereError> {
        let left = lock(&self.state).left.iter().find(|entry| entry.file() == file).cloned();
        let Some(entry) = left else { return Ok(()) };
        self.undo(&entry)?;
        self.forget_left(&entry);
        Ok(())
    }

    fn forget_left(&self, entry: &Entry) {
        tracing::info!("{}: detached, it was left attached", entry.file());
        lock(&self.state).left.retain(|other| other != entry);
    }

    /// Detaches what nobody holds any more; whether anything could not be.
    pub(super) fn undo_left(&self, left: &[Entry]) -> bool {
        for some in left.chunks(TOGETHER_MAX) {
            let _one_at_a_time = lock(&self.changes.changing);
            let still: Vec<_> = {
                let state = lock(&self.state);
                some.iter().filter(|entry| state.left.contains(entry)).collect()
            };
            let outcomes = self.undo_all(&still);
            for (entry, outcome) in still.iter().zip(&outcomes) {
                match outcome {
                    Ok(()) => self.forget_left(entry),
                    Err(error) => tracing::error!("{error}; tried again until it succeeds"),
                }
            }
            if outcomes.iter().any(Result::is_err) {
                return true;
            }
        }
        false
    }
}

/// Does something again while the appliance is busy with another task.
fn patiently(work: impl Fn() -> Result<(), VsphereError>) -> Result<(), VsphereError> {
    let begun = Instant::now();
    loop {
        match work() {
            Err(error)
                if matches!(error.kind(), "TaskInProgress" | "ConcurrentAccess")
                    && begun.elapsed() < BUSY_MAX =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}
