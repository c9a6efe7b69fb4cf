//! What of a journal's records still matters: for compaction, and for the state of its disks after a restart.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::record::{InventoryKind, LedgerKey, ObjectKind, Record};
use crate::disk::{DiskMap, Region};

/// Drops the records that later ones replace; the others keep their order. Folding again changes nothing, and
/// [`disk_map`] and [`ledger`] give the same before and after.
#[must_use]
pub fn fold(records: Vec<Record>) -> Vec<Record> {
    let mut later = Later::default();
    let mut kept: Vec<_> = records.into_iter().rev().filter(|record| later.keeps(record)).collect();
    kept.reverse();
    kept
}

/// What is known of the records behind the one that is looked at.
#[derive(Default)]
struct Later {
    /// Disks that were made anew.
    remade: HashSet<u32>,
    /// The epoch of the last map of a disk.
    mapped: HashMap<u32, u64>,
    /// Small files stored again.
    files: HashSet<String>,
    /// Objects whose identity was noted again.
    identities: HashSet<LedgerKey>,
    /// The directory moved again.
    moved: bool,
    /// A machine was pushed again, or its push is over.
    pushed: bool,
    /// The swap went on.
    swapped: bool,
    /// Objects whose ledger entry was renewed or closed.
    objects: Keys,
    /// The same of inventories.
    inventory: HashSet<(String, InventoryKind, String)>,
}

/// Objects by their keys. One without a hypervisor is of a version that did not keep it: a record with one is of the same
/// object.
#[derive(Default)]
struct Keys {
    whole: HashSet<LedgerKey>,
    places: HashSet<(String, String)>,
}

impl Keys {
    fn has(&self, key: &LedgerKey) -> bool {
        let of_any = key.hypervisor.is_empty();
        let place = || self.places.contains(&(key.datastore.clone(), key.path.clone()));
        if of_any { place() } else { self.whole.contains(key) }
    }

    /// Whether it was not there yet.
    fn insert(&mut self, key: &LedgerKey) -> bool {
        let new = !self.has(key);
        self.places.insert((key.datastore.clone(), key.path.clone()));
        self.whole.insert(key.clone());
        new
    }
}

impl Later {
    fn keeps(&mut self, record: &Record) -> bool {
        match record {
            Record::DiskCreated { disk, .. } => self.remade.insert(*disk),
            Record::Map { disk, .. } if self.remade.contains(disk) => false,
            Record::Map { disk, map } => match self.mapped.entry(*disk) {
                Entry::Occupied(_) => false,
                Entry::Vacant(last) => {
                    last.insert(map.epoch);
                    true
                }
            },
            Record::Intent { disk, region } => {
                !self.remade.contains(disk)
                    && self.mapped.get(disk).is_none_or(|epoch| region.epoch >= *epoch)
            }
            Record::FileStored { name, .. } => self.files.insert(name.clone()),
            Record::Pushing { .. } => !std::mem::replace(&mut self.pushed, true),
            Record::VmxImported { .. } => {
                self.pushed = true;
                true
            }
            Record::SessionMoved { .. } => !std::mem::replace(&mut self.moved, true),
            Record::Swap { .. } => !std::mem::replace(&mut self.swapped, true),
            Record::LedgerCreated { key, .. } => self.objects.insert(key),
            Record::LedgerIdentity { key, .. } => {
                !self.objects.has(key) && self.identities.insert(key.clone())
            }
            Record::LedgerRemoved { key } => {
                self.objects.insert(key);
                false
            }
            Record::InventoryObject { hypervisor, kind, name, .. } => {
                self.inventory.insert((hypervisor.clone(), *kind, name.clone()))
            }
            Record::InventoryRemoved { hypervisor, kind, name } => {
                self.inventory.insert((hypervisor.clone(), *kind, name.clone()));
                false
            }
            _ => true,
        }
    }
}

/// What is known of a disk after a restart, with all that the crash leaves in doubt; `None` where it was never made.
/// `size` is the disk's, in bytes.
#[must_use]
pub fn disk_map(records: &[Record], disk: u32, size: u64) -> Option<DiskMap> {
    let mut known: Option<(DiskMap, Vec<Region>)> = None;
    for record in records {
        match (record, &mut known) {
            (Record::DiskCreated { disk: of, .. }, _) if *of == disk => known = Some(Default::default()),
            (Record::Map { disk: of, map: newer }, Some((map, _))) if *of == disk => map.clone_from(newer),
            (Record::Intent { disk: of, region }, Some((_, regions))) if *of == disk => regions.push(*region),
            _ => {}
        }
    }
    known.map(|(map, regions)| map.after_crash(&regions, size))
}

/// The objects that the session made on datastores and that were not removed since: their [`Record::LedgerCreated`].
pub fn ledger(records: &[Record]) -> impl Iterator<Item = &Record> {
    let mut gone = Keys::default();
    let mut open: Vec<_> = records
        .iter()
        .rev()
        .filter(|record| match record {
            Record::LedgerRemoved { key } => {
                gone.insert(key);
                false
            }
            Record::LedgerCreated { key, .. } => gone.insert(key),
            _ => false,
        })
        .collect();
    open.reverse();
    open.into_iter()
}

/// An object of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it is.
    pub key: LedgerKey,
    /// What it is.
    pub kind: ObjectKind,
    /// By what its datastore recognises it; `None` where a crash came before that was noted, or the driver has no such thing.
    pub identity: Option<String>,
}

/// Whether a record of `later` is about the object of `earlier`.
fn same(later: &LedgerKey, earlier: &LedgerKey) -> bool {
    let place = (&later.datastore, &later.path) == (&earlier.datastore, &earlier.path);
    place && (earlier.hypervisor.is_empty() || later.hypervisor == earlier.hypervisor)
}

/// The objects of [`ledger`] with their identities.
#[must_use]
pub fn objects(records: &[Record]) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for record in records {
        match record {
            Record::LedgerCreated { key, kind } => {
                objects.retain(|object| !same(key, &object.key));
                objects.push(Object { key: key.clone(), kind: *kind, identity: None });
            }
            Record::LedgerRemoved { key } => objects.retain(|object| !same(key, &object.key)),
            Record::LedgerIdentity { key, identity } => {
                if let Some(object) = objects.iter_mut().find(|object| object.key == *key) {
                    object.identity = Some(identity.clone());
                }
            }
            _ => {}
        }
    }
    objects
}

/// Something of an inventory: hypervisor, kind, name, and what is known of it by key.
pub type InventoryEntry<'a> = (&'a str, InventoryKind, &'a str, &'a [(String, String)]);

/// What the session made in inventories and that was not removed since.
#[must_use]
pub fn inventory(records: &[Record]) -> Vec<InventoryEntry<'_>> {
    let mut found: Vec<InventoryEntry<'_>> = Vec::new();
    for record in records {
        match record {
            Record::InventoryObject { hypervisor, kind, name, facts } => {
                found.retain(|(on, what, known, _)| (*on, *what, *known) != (hypervisor, *kind, name));
                found.push((hypervisor, *kind, name, facts));
            }
            Record::InventoryRemoved { hypervisor, kind, name } => {
                found.retain(|(on, what, known, _)| (*on, *what, *known) != (hypervisor, *kind, name));
            }
            _ => {}
        }
    }
    found
}

/// What a push left that never ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The hypervisor's configured name.
    pub hypervisor: String,
    /// Name of the datastore of its VMX.
    pub datastore: String,
    /// Path of its VMX there.
    pub path: String,
    /// By what its sink finds it.
    pub trace: String,
}

/// What a push left; `None` where there was none, or nothing is left, or its machine is complete.
#[must_use]
pub fn left(records: &[Record]) -> Option<Left> {
    let last = records
        .iter()
        .rfind(|record| matches!(record, Record::Pushing { .. } | Record::VmxImported { .. }))?;
    match last {
        Record::Pushing { hypervisor, datastore, path, trace } if !trace.is_empty() => Some(Left {
            hypervisor: hypervisor.clone(),
            datastore: datastore.clone(),
            path: path.clone(),
            trace: trace.clone(),
        }),
        _ => None,
    }
}
