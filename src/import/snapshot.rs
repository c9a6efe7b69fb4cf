//! How far all sessions are, as values: what `importfs status` and a status page show, and all that they see.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::ImportError;
use super::plan::DiskPlan;
use super::replay::History;
use super::session::Session;
use super::state::{DiskSlot, Stage, State};
use crate::disk::{DiskMap, Progress};
use crate::journal;

/// Bytes of a journal or error file that are read for a snapshot; a service compacts its journals long before.
const FILE_BYTES_MAX: u64 = 1 << 30;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// One disk in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSnapshot {
    /// Its number in the CFG.
    pub disk: usize,
    /// Its extent as the backup calls it.
    pub extent: String,
    /// Where it goes, as ESXi would show it.
    pub destination: String,
    /// `thin` or `thick`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `absent`, `receiving`, `complete` or `doubtful`.
    pub stage: String,
    /// What it still needs, as a sentence; absent where it is whole.
    pub missing: Option<String>,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the disk that have arrived.
    pub received: u64,
    /// Bytes of those that were written to the datastore.
    pub written: u64,
    /// Bytes of those that are zeros and were skipped.
    pub skipped: u64,
    /// Differentials merged since the extent became whole.
    pub differentials: u32,
    /// Bytes a second that came in during the last seconds; 0 where no service runs.
    pub rate: u64,
    /// Seconds until it is whole at that rate; absent where nothing can be said.
    pub estimated_seconds: Option<u64>,
}

/// One session in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSnapshot {
    /// Its path from the share's root.
    pub path: String,
    /// The virtual machine's name, empty before a CFG.
    pub vm_name: String,
    /// `waiting` for a clean CFG, `receiving`, `pushing` to its datastores, or `imported`: its VMX is in place. `held`: a datastore has
    /// not answered it for a while, and nothing else can be told.
    pub state: String,
    /// Files open now.
    pub handles: usize,
    /// Whole days in which nothing happened in it.
    pub idle_days: u64,
    /// What stands in `.cfg.err`.
    pub errors: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiskSnapshot>,
}

/// All sessions at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Sessions by path; the root only where it has a CFG.
    pub sessions: Vec<SessionSnapshot>,
}

impl Snapshot {
    pub(super) fn of(sessions: impl Iterator<Item = SessionSnapshot>) -> Self {
        let mut sessions: Vec<_> = sessions.filter(|s| s.path != "/" || s.state != "waiting").collect();
        sessions.sort_by(|a, b| a.path.cmp(&b.path));
        Self { sessions }
    }

    /// What the journals below a data directory tell, without a service: read, not locked and not repaired.
    pub fn from_journals(data_dir: &Path) -> Result<Self, ImportError> {
        let folder = data_dir.join("sessions");
        let name = folder.display().to_string();
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The service has never run here.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ImportError::io(name)(error)),
        };
        for entry in entries {
            let cache = entry.map_err(ImportError::io(&name))?.path();
            found.extend(recorded(&cache)?);
        }
        Ok(Self::of(found.into_iter()))
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    let failed = |error| ImportError::io(path.display().to_string())(error);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

/// One session by its cache; `None` where it was removed or had not begun.
fn recorded(cache: &Path) -> Result<Option<SessionSnapshot>, ImportError> {
    let journal = cache.join("journal");
    if !journal.exists() {
        return Ok(None);
    }
    let replayed = journal::replay(&read(&journal)?).map_err(|error| ImportError::Refused {
        path: journal.display().to_string(),
        why: format!("it is not a journal that this version can read ({error:?})"),
    })?;
    let history = History::of(&replayed.records);
    let Some(path) = history.path.filter(|_| !history.removed) else { return Ok(None) };
    let mut errors = Vec::new();
    for entry in std::fs::read_dir(cache.join("files")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().to_lowercase().ends_with(".cfg.err") {
            let bytes = read(&entry.path())?;
            let text = String::from_utf8_lossy(&bytes);
            errors.extend(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned));
        }
    }
    let plan = history.plan.as_ref();
    let disks = plan.iter().flat_map(|plan| &plan.disks).zip(&history.disks).enumerate();
    let disks = disks.map(|(number, (plan, disk))| {
        let progress = disk.map.as_ref().map(DiskMap::progress).unwrap_or_default();
        let mut told = disk_snapshot(number, plan, disk.stage, progress);
        told.differentials = disk.merged;
        told.missing = match disk.stage {
            Stage::Complete => None,
            Stage::Absent => Some(format!("the extent {} comes first", plan.extent)),
            Stage::Receiving => Some(format!("{} is incomplete", plan.extent)),
            Stage::Doubtful => Some(format!("{} is needed again from its start", plan.extent)),
        };
        told
    });
    Ok(Some(SessionSnapshot {
        path: format!("/{}", path.join("/")),
        vm_name: plan.map(|plan| plan.taken.vm_name.clone()).unwrap_or_default(),
        state: session_state(plan.is_some(), history.imported.is_some()).to_owned(),
        handles: 0,
        idle_days: idle(cache).as_secs() / DAY_SECONDS,
        errors,
        disks: disks.collect(),
    }))
}

/// How long ago something last happened in the session with that cache: every step of a restore leaves a record in its
/// journal, and so does a restart that tidies it. Zero where that can't be told.
fn idle(cache: &Path) -> Duration {
    let changed = std::fs::metadata(cache.join("journal")).and_then(|metadata| metadata.modified());
    changed.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default()
}

fn session_state(planned: bool, imported: bool) -> &'static str {
    match (planned, imported) {
        (false, _) => "waiting",
        (true, false) => "receiving",
        (true, true) => "imported",
    }
}

fn disk_snapshot(number: usize, plan: &DiskPlan, stage: Stage, progress: Progress) -> DiskSnapshot {
    DiskSnapshot {
        disk: number,
        extent: plan.extent.clone(),
        destination: plan.place.vmfs(&plan.target_extent),
        kind: if plan.thin { "thin" } else { "thick" }.to_owned(),
        stage: match stage {
            Stage::Absent => "absent",
            Stage::Receiving => "receiving",
            Stage::Complete => "complete",
            Stage::Doubtful => "doubtful",
        }
        .to_owned(),
        missing: None,
        size: plan.size,
        received: progress.received,
        written: progress.written,
        skipped: progress.skipped,
        differentials: 0,
        rate: 0,
        estimated_seconds: None,
    }
}

fn slot_snapshot(number: usize, slot: &DiskSlot) -> DiskSnapshot {
    let progress = slot.disk.as_ref().map(|disk| disk.progress()).unwrap_or_default();
    let mut told = disk_snapshot(number, &slot.plan, slot.stage, progress);
    told.differentials = slot.merged;
    told.missing = slot.missing();
    told.rate = slot.disk.as_ref().map_or(0, |disk| disk.rate());
    if slot.stage == Stage::Receiving {
        told.estimated_seconds = (told.size - told.received.min(told.size)).checked_div(told.rate);
    }
    told
}

impl Session {
    /// Tells once, in its log and the service's, that nothing has happened in it for as long as the settings say.
    pub(super) fn mark_idle(&self) {
        let (limit, idle) = (self.shared.idle, idle(&self.cache));
        let mut inner = self.lock();
        let empty = matches!(inner.state, State::Cfg) && self.components().is_empty();
        if limit.is_zero() || idle < limit || inner.handles > 0 || empty {
            inner.idle_told = false;
        } else if !std::mem::replace(&mut inner.idle_told, true) {
            let days = idle.as_secs() / DAY_SECONDS;
            let what = "delete the directory if the restore is over; its files on datastores stay";
            self.log.line(&format!("{}: nothing has happened for {days} days; {what}", self.display("")));
        }
    }

    /// How far it is now; that it waits for its datastore, where that is not known by `until`.
    pub(super) fn snapshot(&self, until: Instant) -> SessionSnapshot {
        let Some(inner) = self.lock_until(until) else {
            return SessionSnapshot {
                path: self.display(""),
                vm_name: String::new(),
                state: "held".to_owned(),
                handles: 0,
                idle_days: 0,
                errors: Vec::new(),
                disks: Vec::new(),
            };
        };
        let receiving = match &inner.state {
            State::Receiving(receiving) => Some(receiving),
            State::Cfg => None,
        };
        let disks = receiving.iter().flat_map(|all| all.disks.iter().enumerate());
        SessionSnapshot {
            path: self.display(""),
            vm_name: receiving.map(|all| all.plan.taken.vm_name.clone()).unwrap_or_default(),
            state: match receiving {
                Some(all) if all.pushing.is_some() => "pushing",
                _ => session_state(receiving.is_some(), receiving.is_some_and(|all| all.imported.is_some())),
            }
            .to_owned(),
            handles: inner.handles,
            idle_days: idle(&self.cache).as_secs() / DAY_SECONDS,
            errors: inner.errors(),
            disks: disks.map(|(number, slot)| slot_snapshot(number, slot)).collect(),
        }
    }
}
