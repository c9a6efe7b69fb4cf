//! What a session's journal tells: how far everything is. A restart takes it up, and `importfs status` shows it where no
//! service runs.

use super::into_snapshot::Snapshot;
use super::ledger::Ledger;
use super::plan::{Plan, Swap};
use super::registered::Registered;
use super::state::Stage;
use super::swap::SwapState;
use crate::disk::{Completion, DiskMap};
use crate::journal::{Digest, Record, fold};

/// A session, by its journal.
pub(super) struct History {
    /// Components from the share's root; `None` where a crash came before the first record.
    pub(super) path: Option<Vec<String>>,
    /// The path that it had, where a crash kept sessions below that from following it.
    pub(super) followers: Option<Vec<String>>,
    /// The client removed it.
    pub(super) removed: bool,
    /// The CFG that holds.
    pub(super) plan: Option<Plan>,
    /// How far it was with the place of another.
    pub(super) swap: Option<SwapState>,
    /// The VMX that is in place.
    pub(super) imported: Option<Digest>,
    /// A VMX of the plan was in place once, whatever was copied since: what it made is a virtual machine's.
    pub(super) completed: bool,
    /// Directories that took the place of others, or were to, by any CFG of the session.
    pub(super) swaps: Vec<Swap>,
    /// The plan's disks.
    pub(super) disks: Vec<DiskHistory>,
    /// Small files that arrived whole, with their lengths in bytes.
    pub(super) files: Vec<(String, u64)>,
    /// What a push left that the end of the service cut short.
    pub(super) left: Option<fold::Left>,
    /// Objects made on datastores and not removed since.
    pub(super) ledger: Ledger,
    /// Virtual machines that were registered, or were about to be.
    pub(super) registered: Vec<Registered>,
    /// Snapshots that were made of virtual machines, or were about to be.
    pub(super) snapshots: Vec<Snapshot>,
}

/// A disk, by its session's journal.
pub(super) struct DiskHistory {
    /// What is known of its contents, with what a crash leaves in doubt; `None` where it was never made.
    pub(super) map: Option<DiskMap>,
    pub(super) stage: Stage,
    /// The place in the chain that the next differential must have at least.
    pub(super) merged: u32,
    /// The change id at which it stands, empty where unknown.
    pub(super) target: String,
}

impl History {
    pub(super) fn of(records: &[Record]) -> Self {
        let components = |text: &str| text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let (mut path, mut followers) = (None, None);
        for record in records {
            match record {
                Record::SessionCreated { directory } => path = Some(components(directory)),
                Record::SessionMoved { directory, followers: from } => {
                    path = Some(components(directory));
                    followers = (!from.is_empty()).then(|| components(from));
                }
                _ => {}
            }
        }
        let withdrawn = records.iter().rposition(|record| *record == Record::CfgWithdrawn);
        let present = &records[withdrawn.map_or(0, |at| at + 1)..];
        let plan = present.iter().rev().find_map(|record| match record {
            Record::CfgAccepted { destination, .. } => Plan::recorded(destination),
            _ => None,
        });
        let swap = present.iter().rev().find_map(|record| match record {
            Record::Swap { state } => Some(SwapState::recorded(state)),
            _ => None,
        });
        let swap = swap.flatten();
        let placed = swap.as_ref().is_some_and(SwapState::is_placed);
        let plan = plan.map(|plan| plan.with_placed(placed));
        let disks = plan.iter().flat_map(|plan| plan.disks.iter().enumerate());
        let disks = disks.map(|(number, disk)| DiskHistory::of(present, number as u32, disk.size)).collect();
        // A version that kept no hypervisor in the ledger had one for all objects of a session.
        let hypervisor = plan.as_ref().map(|plan| plan.hypervisor.as_str()).unwrap_or_default();
        let ledger = Ledger::of(records, hypervisor);
        Self {
            path,
            followers,
            removed: records.contains(&Record::SessionRemoved),
            plan,
            swap,
            imported: imported(present),
            completed: present.iter().any(|record| matches!(record, Record::VmxImported { .. })),
            swaps: swaps(records),
            disks,
            files: files(records),
            left: fold::left(records),
            ledger,
            registered: Registered::of(records),
            snapshots: Snapshot::of(records),
        }
    }
}

fn swaps(records: &[Record]) -> Vec<Swap> {
    let mut swaps = Vec::new();
    for record in records {
        let Record::CfgAccepted { destination, .. } = record else { continue };
        for swap in Plan::recorded(destination).into_iter().flat_map(|plan| plan.swaps) {
            if !swaps.contains(&swap) {
                swaps.push(swap);
            }
        }
    }
    swaps
}

/// The VMX in place, unless a disk was changed afterwards.
fn imported(records: &[Record]) -> Option<Digest> {
    let mut digest = None;
    for record in records {
        match record {
            Record::VmxImported { digest: new } => digest = Some(*new),
            Record::ExtentIncomplete { .. } | Record::DiskDoubtful { .. } | Record::PancbtMerged { .. } => {
                digest = None;
            }
            _ => {}
        }
    }
    digest
}

fn files(records: &[Record]) -> Vec<(String, u64)> {
    let stored = records.iter().filter_map(|record| match record {
        Record::FileStored { name, length, .. } => Some((name.clone(), *length)),
        _ => None,
    });
    stored.collect()
}

impl DiskHistory {
    fn of(records: &[Record], number: u32, size: u64) -> Self {
        let mut history = Self {
            map: fold::disk_map(records, number, size),
            stage: Stage::Absent,
            merged: 0,
            target: String::new(),
        };
        for record in records {
            match record {
                Record::DiskCreated { disk, .. } | Record::ExtentIncomplete { disk } if *disk == number => {
                    history.stage = Stage::Receiving;
                    history.merged = 0;
                    history.target.clear();
                }
                Record::ExtentComplete { disk } if *disk == number => history.stage = Stage::Complete,
                Record::DiskDoubtful { disk } if *disk == number => history.stage = Stage::Doubtful,
                Record::PancbtMerged { disk, index, target, .. } if *disk == number => {
                    history.merged = index + 1;
                    history.target.clone_from(target);
                }
                _ => {}
            }
        }
        let Some(map) = &mut history.map else { return history };
        if history.stage != Stage::Complete {
            // Nobody closed it: the client that set the end of file had not yet sent all that it wanted to.
            map.declared_end = None;
        } else if map.completion(size) != Completion::Complete {
            history.stage = Stage::Receiving;
        }
        history
    }
}
