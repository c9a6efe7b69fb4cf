//! The steps of a session: cfg, extents, differentials, vmx. What a step needs is checked where the step is entered, so
//! that no caller can forget it.

use std::sync::Arc;

use super::error::ImportError;
use super::flow::Flow;
use super::formats::cfg::Cfg;
use super::formats::descriptor::Descriptor;
use super::plan::{DiskPlan, Plan};
use super::swap::SwapState;
use crate::datastore::sink::Course;
use crate::disk::{Completion, ImportDisk};
use crate::journal::Digest;

/// How far a session is.
pub(super) enum State {
    /// No CFG yet, or none without errors.
    Cfg,
    /// A clean CFG: data may come.
    Receiving(Box<Receiving>),
}

/// A session whose destination is known.
pub(super) struct Receiving {
    pub(super) plan: Plan,
    pub(super) disks: Vec<DiskSlot>,
    /// The VMX that is in place.
    pub(super) imported: Option<Digest>,
    /// One was, whatever was copied since: the disks and files on datastores are a virtual machine's.
    pub(super) was_complete: bool,
    /// The machine is on its way from the stage to its datastores, or into the place of another.
    pub(super) pushing: Option<Arc<Course>>,
    /// Its VMX is being imported: no disk takes data meanwhile.
    pub(super) completing: bool,
    /// How far it is with that place.
    pub(super) swap: Option<SwapState>,
}

/// How far a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing came.
    Absent,
    /// Its extent arrives, or something of it is missing.
    Receiving,
    /// Its extent is whole; differentials may follow.
    Complete,
    /// A merge broke off: the extent is needed again from its start.
    Doubtful,
}

/// One disk of a session.
pub(super) struct DiskSlot {
    pub(super) plan: DiskPlan,
    /// It is a disk of a virtual machine that exists, and holds what that wrote.
    pub(super) existing: bool,
    pub(super) disk: Option<Arc<ImportDisk>>,
    /// Bytes on their way to it.
    pub(super) flow: Arc<Flow>,
    pub(super) stage: Stage,
    /// Handles that are open for writing the extent.
    pub(super) writers: usize,
    /// The place in the chain that the next differential must have at least: 0 while none was merged.
    pub(super) merged: u32,
    /// A differential is open now: one at a time, a chain has an order.
    pub(super) merging: bool,
    /// The change id at which the disk stands, empty where unknown.
    pub(super) target: String,
    /// The differential that was refused before it changed anything: its disk is not what the backup meant until the
    /// right one came.
    pub(super) refused: Option<String>,
    /// The client's descriptor, checked.
    pub(super) descriptor: Option<Descriptor>,
}

impl DiskSlot {
    pub(super) fn new(plan: DiskPlan, existing: bool, bytes_in_flight: u64) -> Self {
        Self {
            plan,
            existing,
            disk: None,
            flow: Arc::new(Flow::new(bytes_in_flight)),
            stage: Stage::Absent,
            writers: 0,
            merged: 0,
            merging: false,
            target: String::new(),
            refused: None,
            descriptor: None,
        }
    }

    /// The extent comes anew, or more of it: what was merged into it counts no more.
    pub(super) fn begin_extent(&mut self) {
        self.stage = Stage::Receiving;
        self.merged = 0;
        self.target.clear();
        self.refused = None;
    }

    /// What is missing of it, as a sentence; `None` where it is whole.
    pub(super) fn missing(&self) -> Option<String> {
        let refused = || {
            let file = self.refused.as_ref()?;
            let extent = &self.plan.extent;
            Some(format!("{file} was refused; copy the right one, or {extent} again from its start"))
        };
        self.missing_extent().or_else(refused)
    }

    /// What is missing of it before a differential may come.
    fn missing_extent(&self) -> Option<String> {
        let extent = &self.plan.extent;
        match self.stage {
            _ if self.merging => Some(format!("a differential of {extent} is still arriving")),
            _ if self.writers > 0 => Some(format!("{extent} is still open")),
            Stage::Complete => None,
            Stage::Absent => Some(format!("the extent {extent} comes first")),
            Stage::Doubtful => {
                Some(format!("a differential broke off, {extent} is needed again from its start"))
            }
            Stage::Receiving => Some(match self.disk.as_ref().map(|disk| disk.completion()) {
                Some(Completion::Incomplete { missing, first }) => {
                    format!("{extent} is incomplete, {missing} bytes are missing from byte {first} on")
                }
                _ => format!("{extent} has not been closed"),
            }),
        }
    }
}

impl State {
    /// The CFG that holds now, after redirection.
    pub(super) fn cfg(&self) -> Option<&Cfg> {
        match self {
            Self::Cfg => None,
            Self::Receiving(receiving) => Some(&receiving.plan.taken),
        }
    }

    /// The clean CFG's session, or the refusal of a step that needs it. `in_error` is the name of a `.cfg.err`.
    pub(super) fn receiving(
        &mut self,
        path: &str,
        in_error: Option<&str>,
    ) -> Result<&mut Receiving, ImportError> {
        let missing = match (self, in_error) {
            (Self::Receiving(receiving), None) if receiving.pushing.is_some() => {
                "the virtual machine is being brought to its datastore; wait until that is done".to_owned()
            }
            (Self::Receiving(receiving), None) => return Ok(receiving),
            (_, Some(file)) => format!("the CFG has errors, see {file}"),
            (Self::Cfg, None) => "the CFG comes first".to_owned(),
        };
        Err(ImportError::OutOfOrder { path: path.to_owned(), missing })
    }
}

impl Receiving {
    pub(super) fn new(plan: Plan, bytes_in_flight: u64) -> Self {
        let disks = plan
            .disks
            .iter()
            .map(|disk| DiskSlot::new(disk.clone(), plan.into_snapshot(), bytes_in_flight))
            .collect();
        Self {
            plan,
            disks,
            imported: None,
            was_complete: false,
            pushing: None,
            completing: false,
            swap: None,
        }
    }

    /// The directories are where they go in the end, or beside those that they replace.
    pub(super) fn place(&mut self, placed: bool) {
        self.plan = self.plan.with_placed(placed);
        self.disks.iter_mut().zip(&self.plan.disks).for_each(|(slot, plan)| slot.plan.clone_from(plan));
    }

    /// A rewritten CFG that leads everything to the same places: the rest of it holds from now on.
    pub(super) fn adopt(&mut self, asked: Cfg) {
        self.plan = self.plan.with(asked);
        self.disks.iter_mut().zip(&self.plan.disks).for_each(|(slot, plan)| slot.plan.clone_from(plan));
    }

    /// Whether data has arrived for any disk.
    pub(super) fn has_data(&self) -> bool {
        self.disks.iter().any(|slot| slot.disk.is_some())
    }

    /// The step to an extent: none of its differentials is on its way into it.
    pub(super) fn enter_extent(&self, disk: usize, path: &str) -> Result<(), ImportError> {
        match self.disks.get(disk).filter(|slot| slot.merging).and_then(DiskSlot::missing_extent) {
            None => Ok(()),
            Some(missing) => Err(ImportError::OutOfOrder { path: path.to_owned(), missing }),
        }
    }

    /// The step to a differential of a disk.
    pub(super) fn enter_differential(
        &mut self,
        disk: usize,
        path: &str,
    ) -> Result<&mut DiskSlot, ImportError> {
        let slot = self.disks.get_mut(disk).ok_or_else(|| ImportError::NotInCfg(path.to_owned()))?;
        match slot.missing_extent() {
            None => Ok(slot),
            Some(missing) => Err(ImportError::OutOfOrder { path: path.to_owned(), missing }),
        }
    }

    /// The step to the VMX: every disk is whole.
    pub(super) fn enter_vmx(&self, path: &str) -> Result<(), ImportError> {
        let missing: Vec<_> = self.disks.iter().filter_map(DiskSlot::missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ImportError::OutOfOrder { path: path.to_owned(), missing: missing.join("; ") })
    }
}
