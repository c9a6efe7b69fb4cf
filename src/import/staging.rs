//! Disks whose datastore takes no random writes: staged while they arrive, until [`super::pushing`] brings them there with their
//! machine.

use std::path::Path;
use std::sync::Arc;

use super::error::ImportError;
use super::formats::cfg::CfgProblem;
use super::hypervisor::Hypervisors;
use super::plan::Plan;
use super::replay::History;
use super::session::{Inner, Session};
use super::snapshot::read;
use super::state::State;
use crate::datastore::stage;
use crate::disk::ImportDisk;
use crate::journal::{Record, replay};

/// Whether what goes to a datastore has to be staged.
fn stages(plan: &Plan, hypervisors: &Hypervisors, datastore: &str) -> bool {
    let store = hypervisors.store(&plan.hypervisor, datastore);
    store.is_ok_and(|store| !store.capabilities().random_write)
}

/// Bytes to which a plan's disks may grow in the stage; 0 where they are written directly.
fn staged_bytes(plan: &Plan, hypervisors: &Hypervisors) -> Result<u64, CfgProblem> {
    let staged = stages(plan, hypervisors, &plan.place.datastore);
    for (number, disk) in plan.disks.iter().enumerate() {
        if stages(plan, hypervisors, &disk.place.datastore) != staged {
            let told = format!(
                "[{}] is written directly and [{}] is not; a virtual machine lies on the one kind or the other",
                if staged { &disk.place.datastore } else { &plan.place.datastore },
                if staged { &plan.place.datastore } else { &disk.place.datastore },
            );
            return Err(plan.asked.problem(&format!("vmdk.{number}.dsname"), told));
        }
    }
    Ok(if staged { plan.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.size)) } else { 0 })
}

fn no_room(plan: &Plan, error: &std::io::Error) -> CfgProblem {
    let last = plan.disks.len().saturating_sub(1);
    let told = format!(
        "{error}; wait until other restores are done, give the stage more room (import.stage-max-bytes), or restore the disks \
         one after the other"
    );
    plan.asked.problem(&format!("vmdk.{last}.size"), told)
}

/// Whether the disks of a plan would fit into the stage now, beside what its journals say of other sessions; how many bytes they may
/// grow to there, 0 where they are written directly. Changes nothing.
pub fn check_stage(
    plan: &Plan,
    hypervisors: &Hypervisors,
    data_dir: &Path,
    limit: Option<u64>,
) -> Result<u64, CfgProblem> {
    let bytes = staged_bytes(plan, hypervisors)?;
    if bytes == 0 {
        return Ok(0);
    }
    let stage = stage::Stage::new(limit);
    let sessions = data_dir.join("sessions");
    for entry in std::fs::read_dir(&sessions).into_iter().flatten().flatten() {
        let journal = read(&entry.path().join("journal")).ok().and_then(|bytes| replay(&bytes).ok());
        let Some(history) = journal.map(|replayed| History::of(&replayed.records)) else { continue };
        let Some(other) = history.plan.filter(|_| history.imported.is_none() && !history.removed) else {
            continue;
        };
        if let Ok(bytes) = staged_bytes(&other, hypervisors) {
            // Where even these do not fit, nothing more will.
            stage.reserve(&entry.path(), bytes).map_err(|error| no_room(plan, &error))?;
        }
    }
    // Before its first start the service has no data directory: what will hold it tells the room.
    let there = sessions.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    stage.reserve(there, bytes).map_err(|error| no_room(plan, &error))?;
    Ok(bytes)
}

impl Session {
    /// Whether a plan's machine is brought to its datastores as a whole.
    pub(super) fn is_staged(&self, plan: &Plan) -> bool {
        stages(plan, &self.shared.hypervisors, &plan.place.datastore)
    }

    /// Sets the room aside that a plan's disks need in the stage, before anything of them arrives.
    pub(super) fn reserve_stage(&self, plan: &Plan) -> Result<(), CfgProblem> {
        let bytes = staged_bytes(plan, &self.shared.hypervisors)?;
        if bytes == 0 {
            return Ok(());
        }
        self.shared.stage.reserve(&self.cache, bytes).map_err(|error| no_room(plan, &error))
    }

    /// Makes a disk in the stage.
    pub(super) fn make_staged(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let shown = self.display(receiving.plan.taken.target_vmx());
        self.reserve_stage(&receiving.plan)
            .map_err(|problem| ImportError::Refused { path: shown.clone(), why: problem.to_string() })?;
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        let (size, datastore) = (slot.plan.size, slot.plan.place.datastore.clone());
        let shown = format!("{} => stage", self.display(&slot.plan.extent));
        let disk =
            self.shared.stage.create_disk(&self.cache, number, size).map_err(ImportError::io(shown))?;
        self.record(&Record::DiskCreated {
            disk: number as u32,
            datastore,
            path: format!("stage/{number}"),
        })?;
        slot.disk = Some(Arc::new(ImportDisk::new(disk, self.disk_options(number, true))));
        slot.begin_extent();
        if receiving.imported.take().is_some() {
            self.record(&Record::ExtentIncomplete { disk: number as u32 })?;
        }
        Ok(())
    }

    /// An extent whose disk left the stage with its machine comes again: a new disk for it.
    pub(super) fn stage_again(
        &self,
        inner: &mut Inner,
        number: usize,
        path: &str,
        in_error: Option<&str>,
    ) -> Result<(), ImportError> {
        let receiving = inner.state.receiving(path, in_error)?;
        let gone = receiving.disks.get(number).is_some_and(|slot| slot.disk.is_none());
        if gone && self.is_staged(&receiving.plan) { self.make_staged(inner, number) } else { Ok(()) }
    }

    /// The machine stands on its datastores, and that is recorded: the stage is another's now.
    pub(super) fn release_stage(&self, inner: &mut Inner) {
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.disks.iter_mut().for_each(|slot| slot.disk = None);
        }
        if let Err(error) = self.shared.stage.release(&self.cache) {
            tracing::warn!("{}: the stage: {error}; it goes with the session", self.display(""));
        }
    }
}
