//! What sessions that never completed left on datastores (behaviour.md S10), by the ledgers in their journals.
//!
//! Virtual machines that such sessions registered are in it too ([`super::registered`]); they go before their files.
//!
//! A ledger names an object before it is made, and has its identity after. Only what still has that identity is ever
//! removed: a path may have been cleared by hand and used again since, by another restore or another program. Journals of
//! sessions that were removed before they completed are kept in `<data-dir>/orphans` as long as they tell of anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::error::ImportError;
use super::hypervisor::Hypervisors;
use super::into_snapshot::Snapshot;
use super::plan::Swap;
use super::pushing;
use super::registered::Registered;
use super::replay::History;
use super::snapshot::read;
use super::swap::Phase;
use crate::datastore::Datastore;
use crate::inventory::{Place, StoreFile};
use crate::journal::fold::{self, Left, Object};
use crate::journal::{Journal, LedgerKey, ObjectKind, Record, replay};

/// Where kept journals lie, below the data directory.
pub(super) const FOLDER: &str = "orphans";

/// A session that did not complete, and what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrphanSession {
    /// Its number in the data directory.
    pub id: String,
    /// Its path from the share's root.
    pub path: String,
    /// The virtual machine's name, empty where no CFG was accepted.
    pub vm_name: String,
    /// `removed`: nobody can complete it any more. `open`: its directory is still in the share; its objects are not orphans
    /// yet. `complete`: what it made is a virtual machine's; what that replaced is not all gone. `attached`: no session, but an appliance with the disks that are attached to it.
    pub state: &'static str,
    /// What it made, in order.
    pub objects: Vec<Orphan>,
}

/// An object on a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// The hypervisor's configured name; empty where the version that made it did not keep that.
    pub hypervisor: String,
    /// Name of the datastore.
    pub datastore: String,
    /// Path on it; of a virtual machine, that of its VMX.
    pub path: String,
    /// `directory`, `extent`, `file`, `virtual machine`, `snapshot` (the path is its machine's VMX), `attachment`.
    pub kind: &'static str,
    /// `there`; `gone`; `changed`: what has its path now is something else; `unknown`: whether the session made it can't be
    /// told, or its datastore does not answer; `attached`.
    pub state: &'static str,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The session.
    pub session: String,
    /// Name of the datastore.
    pub datastore: String,
    /// Path on it.
    pub path: String,
    /// `removed`, `gone`, `kept`.
    pub outcome: &'static str,
    /// Why it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Directory => "directory",
        ObjectKind::Extent => "extent",
        ObjectKind::File => "file",
        ObjectKind::VirtualMachine => "virtual machine",
    }
}

/// How an object is now.
enum Condition {
    There(Arc<dyn Datastore>),
    Gone,
    Changed,
    Unknown(String),
}

/// Where an object may lie: as it was noted, or where a swap of directories has brought it since.
fn places(object: &Object, swaps: &[Swap]) -> Vec<String> {
    let LedgerKey { datastore, path, .. } = &object.key;
    let others = swaps.iter().filter_map(|swap| swap.other(datastore, path));
    std::iter::once(path.clone()).chain(others).collect()
}

/// How an object is, and where: at the first of its places that has it.
fn find(object: &Object, hypervisors: &Hypervisors, swaps: &[Swap]) -> (Condition, String) {
    let path = object.key.path.clone();
    let mut found = (condition(object, &path, hypervisors), path);
    let others = places(object, swaps).split_off(1);
    let swapped = !others.is_empty();
    for path in others {
        let now = match &found.0 {
            Condition::There(_) => break,
            _ => condition(object, &path, hypervisors),
        };
        match (now, &found.0) {
            // What lies at the other path may well be the machine that was replaced.
            (Condition::Changed, Condition::Gone) => found.0 = Condition::Changed,
            (now @ Condition::Unknown(_), Condition::Gone) | (now @ Condition::There(_), _) => {
                found = (now, path);
            }
            _ => {}
        }
    }
    if let (true, None, Condition::Unknown(why)) = (swapped, &object.identity, &mut found.0) {
        why.push_str(", if it is not of the virtual machine that was to be replaced");
    }
    found
}

fn condition(object: &Object, path: &str, hypervisors: &Hypervisors) -> Condition {
    let LedgerKey { hypervisor, datastore, .. } = &object.key;
    let on = hypervisors.0.iter().filter(|on| hypervisor.is_empty() || on.name == *hypervisor);
    let stores: Vec<_> = on.flat_map(|on| &on.datastores).filter(|entry| entry.name == *datastore).collect();
    if stores.is_empty() {
        return Condition::Unknown(match hypervisor.as_str() {
            "" => format!("no datastore '{datastore}' is configured"),
            hypervisor => format!("no datastore '{datastore}' of '{hypervisor}' is configured"),
        });
    }
    let Some(identity) = &object.identity else {
        let gone = stores.iter().all(|entry| matches!(entry.store.exists(path), Ok(false)));
        let why = "nothing is known by which to recognise it; look at it and remove it by hand";
        let certain = gone && object.kind != ObjectKind::Extent; // An extent may lie where no path leads.
        return if certain { Condition::Gone } else { Condition::Unknown(why.to_owned()) };
    };
    let mut found = Condition::Gone;
    for entry in stores {
        match entry.store.identity(path) {
            Ok(Some(now)) if now == *identity => return Condition::There(Arc::clone(&entry.store)),
            Ok(_) => found = Condition::Changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found = Condition::Unknown(format!("the datastore can't be asked: {error}")),
        }
    }
    found
}

/// Journals in a folder: number of the session and path. None where the folder is not there.
fn journals(folder: &Path) -> Result<Vec<(String, PathBuf)>, ImportError> {
    let name = folder.display().to_string();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImportError::io(name)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(ImportError::io(&name))?.path();
        let journal = if path.is_dir() { path.join("journal") } else { path.clone() };
        let kept = path.extension().is_some_and(|extension| extension == "journal");
        if let Some(id) = path.file_stem().and_then(|id| id.to_str())
            && (kept || journal.exists())
        {
            found.push((id.to_owned(), journal));
        }
    }
    found.sort();
    Ok(found)
}

fn records(journal: &Path) -> Result<Vec<Record>, ImportError> {
    let replayed = replay(&read(journal)?).map_err(|error| ImportError::Refused {
        path: journal.display().to_string(),
        why: format!("it is not a journal that this version can read ({error:?})"),
    })?;
    Ok(replayed.records)
}

/// The sessions that did not complete and made something. Reads only.
pub fn list(data_dir: &Path, hypervisors: &Hypervisors) -> Result<Vec<OrphanSession>, ImportError> {
    let mut found = Vec::new();
    for folder in [FOLDER, "sessions"] {
        for (id, journal) in journals(&data_dir.join(folder))? {
            let records = records(&journal)?;
            let history = History::of(&records);
            let (mut objects, left) = (fold::objects(&records), fold::left(&records));
            let mut machines = Registered::of(&records);
            if history.completed {
                (objects, machines) = (Vec::new(), Vec::new()); // They are a virtual machine's.
            }
            let replaced = replaced(&history, hypervisors);
            let snapshots = snapshots(&history);
            if objects.is_empty() && snapshots.is_empty() && left.is_none() && replaced.is_empty() {
                continue;
            }
            let written = written(&records);
            let snapshots = snapshots.into_iter().map(|snapshot| snapshot.orphan(written, hypervisors));
            let machines = machines.into_iter().map(|machine| machine.orphan(hypervisors)).chain(snapshots);
            let objects = objects.iter().map(|object| {
                let (condition, path) = find(object, hypervisors, &history.swaps);
                let (state, why) = match condition {
                    Condition::There(_) => ("there", None),
                    Condition::Gone => ("gone", None),
                    Condition::Changed => ("changed", None),
                    Condition::Unknown(why) => ("unknown", Some(why)),
                };
                let LedgerKey { hypervisor, datastore, .. } = object.key.clone();
                Orphan { hypervisor, datastore, path, kind: kind(object.kind), state, why }
            });
            let objects: Vec<_> = machines.chain(objects).collect();
            found.push(OrphanSession {
                id,
                path: format!("/{}", history.path.unwrap_or_default().join("/")),
                vm_name: history.plan.map(|plan| plan.taken.vm_name).unwrap_or_default(),
                state: match history.completed && left.is_none() {
                    true => "complete",
                    false if folder == FOLDER || history.removed => "removed",
                    false => "open",
                },
                objects: objects
                    .into_iter()
                    .chain(replaced)
                    .chain(left.iter().map(|left| upload(left, hypervisors)))
                    .collect(),
            });
        }
    }
    Ok(found)
}

/// Removes what sessions left that are gone. What a completed session made, what others made, directories that hold
/// anything else, and whatever can't be recognised stay. A journal goes when nothing it tells of is left.
pub fn clean(data_dir: &Path, hypervisors: &Hypervisors) -> Result<Vec<Cleaned>, ImportError> {
    let mut told = Vec::new();
    for (id, path) in journals(&data_dir.join(FOLDER))? {
        let shown = path.display().to_string();
        let (journal, records) = match Journal::open(&path) {
            Ok(opened) => opened,
            // One that can't be read, or is still open at the service, does not stand in the way of the others.
            Err(error) => {
                let (datastore, why) = (String::new(), Some(error.to_string()));
                told.push(Cleaned { session: id, datastore, path: shown, outcome: "kept", why });
                continue;
            }
        };
        let History { path: at, swaps, completed, .. } = History::of(&records);
        let session = format!("/{}", at.unwrap_or_default().join("/"));
        if completed && fold::left(&records).is_none() {
            // A virtual machine's, whatever was copied after it was complete.
            drop(journal);
            fs::remove_file(&path).map_err(ImportError::io(&shown))?;
            continue;
        }
        let machines = Registered::of(&records).into_iter();
        let machines = machines.map(|machine| (machine.clean(hypervisors), machine.removed(), machine.vmx));
        let mut left = !completed && take_out(&session, &journal, machines, &mut told)?;
        if left {
            let why = Some("a virtual machine of the inventory may use it".to_owned());
            told.extend(fold::objects(&records).into_iter().map(|object| {
                let LedgerKey { datastore, path, .. } = object.key;
                Cleaned { session: session.clone(), datastore, path, outcome: "kept", why: why.clone() }
            }));
            continue;
        }
        let snapshots = snapshots(&History::of(&records)).into_iter();
        let snapshots = snapshots.map(|snapshot| {
            (snapshot.clean(written(&records), hypervisors), snapshot.removed(), snapshot.vmx)
        });
        left |= take_out(&session, &journal, snapshots, &mut told)?;
        let mut objects = fold::objects(&records);
        // Files before the directories that they are in, deep directories before those above them.
        let depth = |object: &Object| object.key.path.matches('/').count();
        objects
            .sort_by_key(|object| (object.kind == ObjectKind::Directory, std::cmp::Reverse(depth(object))));
        if let Some(upload) = fold::left(&records) {
            let (outcome, why) = match pushing::undo(&upload, hypervisors) {
                Ok(false) => ("removed", None),
                Ok(true) => ("gone", Some("the virtual machine is complete, and stays".to_owned())),
                Err(error) => ("kept", Some(error.to_string())),
            };
            left |= outcome == "kept";
            if outcome != "kept" {
                over(&journal, &upload).map_err(ImportError::io(&shown))?;
            }
            let (datastore, path) = (upload.datastore, upload.path);
            told.push(Cleaned { session: session.clone(), datastore, path, outcome, why });
        }
        for object in if completed { Vec::new() } else { objects } {
            let (outcome, path, why) = remove(&object, hypervisors, &swaps);
            left |= outcome == "kept";
            if outcome != "kept" {
                let gone = Record::LedgerRemoved { key: object.key.clone() };
                journal.record(&gone).map_err(ImportError::io(&shown))?;
            }
            let datastore = object.key.datastore;
            told.push(Cleaned { session: session.clone(), datastore, path, outcome, why });
        }
        drop(journal);
        if !left {
            fs::remove_file(&path).map_err(ImportError::io(&shown))?;
        }
    }
    Ok(told)
}

fn snapshots(history: &History) -> Vec<Snapshot> {
    if history.completed { Vec::new() } else { history.snapshots.clone() }
}

/// Whether the session may have written to a disk.
fn written(records: &[Record]) -> bool {
    records.iter().any(|record| matches!(record, Record::DiskCreated { .. }))
}

/// Notes what became of things of an inventory, each with the record that it is gone and its VMX; whether any is left.
fn take_out(
    session: &str,
    journal: &Journal,
    things: impl Iterator<Item = ((&'static str, Option<String>), Record, StoreFile)>,
    told: &mut Vec<Cleaned>,
) -> Result<bool, ImportError> {
    let mut left = false;
    for ((outcome, why), removed, StoreFile { datastore, path }) in things {
        left |= outcome == "kept";
        if outcome != "kept" {
            journal.record(&removed).map_err(ImportError::io(session))?;
        }
        told.push(Cleaned { session: session.to_owned(), datastore, path, outcome, why });
    }
    Ok(left)
}

/// Directories of the machine that a session replaces, or has replaced, which are out of their place. Nothing but the service itself
/// moves or removes them.
fn replaced(history: &History, hypervisors: &Hypervisors) -> Vec<Orphan> {
    let (Some(plan), Some(swap)) = (&history.plan, &history.swap) else { return Vec::new() };
    let why = match swap.phase {
        Phase::Begun | Phase::Back => {
            "the virtual machine that was to be replaced; the service puts it back when it starts"
        }
        Phase::Placed => "the virtual machine that was replaced, for as long as the new one is not complete",
        Phase::Clearing => {
            "the virtual machine that was replaced; its files are removed when the service starts"
        }
        Phase::Done => "it has what was not the replaced virtual machine's; look at it and remove it by hand",
    };
    let mut found = Vec::new();
    for swap in &plan.swaps {
        let there = hypervisors.store(&plan.hypervisor, &swap.datastore).map_err(|error| error.to_string());
        let there = there.and_then(|store| store.exists(&swap.old).map_err(|error| error.to_string()));
        let (state, why) = match there {
            Ok(true) => ("there", why.to_owned()),
            Ok(false) => continue,
            Err(error) => ("unknown", format!("the datastore can't be asked: {error}")),
        };
        found.push(Orphan {
            hypervisor: plan.hypervisor.clone(),
            datastore: swap.datastore.clone(),
            path: swap.old.clone(),
            kind: kind(ObjectKind::Directory),
            state,
            why: Some(why),
        });
    }
    found
}

/// What a push left, as an orphan.
fn upload(left: &Left, hypervisors: &Hypervisors) -> Orphan {
    let there =
        hypervisors.store(&left.hypervisor, &left.datastore).map_err(io::Error::other).and_then(|store| {
            let other = || io::Error::other("its datastore is written by another driver now");
            store.sink(&Place::default()).ok_or_else(other)?.is_there(&left.trace)
        });
    let (state, why) = match there {
        Ok(true) => ("there", None),
        Ok(false) => ("gone", None),
        Err(error) => ("unknown", Some(error.to_string())),
    };
    let (datastore, path) = (left.datastore.clone(), left.path.clone());
    Orphan {
        hypervisor: left.hypervisor.clone(),
        datastore,
        path,
        kind: kind(ObjectKind::VirtualMachine),
        state,
        why,
    }
}

/// Nothing of an upload is left.
fn over(journal: &Journal, left: &Left) -> io::Result<()> {
    let Left { hypervisor, datastore, path, .. } = left.clone();
    journal.record(&Record::Pushing { hypervisor, datastore, path, trace: String::new() })
}

/// Undoes what uploads of removed sessions left; `false` where that has to be tried again.
pub(super) fn undo_pushes(folder: &Path, hypervisors: &Hypervisors) -> bool {
    let found = journals(folder).unwrap_or_default();
    let mut all = true;
    for (_, path) in found {
        let shown = path.display().to_string();
        let undone = || {
            // Read first: a journal that tells of none is not held up for whoever wants to clean it.
            if fold::left(&records(&path)?).is_none() {
                return Ok(());
            }
            let (journal, records) = Journal::open(&path)
                .map_err(|error| ImportError::Refused { path: shown.clone(), why: error.to_string() })?;
            let Some(left) = fold::left(&records) else { return Ok(()) };
            pushing::undo(&left, hypervisors)
                .and_then(|_| over(&journal, &left))
                .map_err(ImportError::io(format!("[{}] {}", left.datastore, left.path)))?;
            tracing::info!("[{}] {}: what an upload left was removed", left.datastore, left.path);
            if fold::objects(&records).is_empty() {
                fs::remove_file(&path).map_err(ImportError::io(&shown))?;
            }
            Ok::<_, ImportError>(())
        };
        if let Err(error) = undone() {
            tracing::warn!("what an upload left is still there: {error}");
            all = false;
        }
    }
    all
}

/// Removes an object: the outcome, where it was, and why it was kept.
fn remove(
    object: &Object,
    hypervisors: &Hypervisors,
    swaps: &[Swap],
) -> (&'static str, String, Option<String>) {
    let (condition, path) = find(object, hypervisors, swaps);
    let (outcome, why) = removed(object.kind, &path, condition);
    (outcome, path, why)
}

fn removed(kind: ObjectKind, path: &str, condition: Condition) -> (&'static str, Option<String>) {
    let store = match condition {
        Condition::There(store) => store,
        Condition::Gone => return ("gone", None),
        // Somebody else's by now: not an orphan, and none of the ledger's business any more.
        Condition::Changed => {
            return ("gone", Some("its path has been used again; that is left alone".to_owned()));
        }
        Condition::Unknown(why) => return ("kept", Some(why)),
    };
    let removed = match kind {
        ObjectKind::Directory => store.remove_directory(path),
        ObjectKind::Extent => store.remove_disk(path),
        ObjectKind::File => store.remove_file(path),
        ObjectKind::VirtualMachine => {
            return ("kept", Some("a virtual machine is removed with the hypervisor's own tools".to_owned()));
        }
    };
    match removed {
        Ok(()) => ("removed", None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => ("gone", None),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            ("kept", Some("something is in it that the session did not make".to_owned()))
        }
        Err(error) => ("kept", Some(error.to_string())),
    }
}
