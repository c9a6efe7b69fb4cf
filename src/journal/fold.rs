//! What of a journal's records still matters: for compaction, and for the state of its disks after a restart.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::record::{ObjectKind, Record};
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
    identities: HashSet<(String, String)>,
    /// The directory moved again.
    moved: bool,
    /// Objects whose ledger entry was renewed or closed: datastore and path.
    objects: HashSet<(String, String)>,
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
            Record::SessionMoved { .. } => !std::mem::replace(&mut self.moved, true),
            Record::LedgerCreated { datastore, path, .. } => {
                self.objects.insert((datastore.clone(), path.clone()))
            }
            Record::LedgerIdentity { datastore, path, .. } => {
                let object = (datastore.clone(), path.clone());
                !self.objects.contains(&object) && self.identities.insert(object)
            }
            Record::LedgerRemoved { datastore, path } => {
                self.objects.insert((datastore.clone(), path.clone()));
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
    let mut gone = HashSet::new();
    let mut open: Vec<_> = records
        .iter()
        .rev()
        .filter(|record| match record {
            Record::LedgerRemoved { datastore, path } => {
                gone.insert((datastore, path));
                false
            }
            Record::LedgerCreated { datastore, path, .. } => gone.insert((datastore, path)),
            _ => false,
        })
        .collect();
    open.reverse();
    open.into_iter()
}

/// An object of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Name of the datastore.
    pub datastore: String,
    /// The object's path on it.
    pub path: String,
    /// What it is.
    pub kind: ObjectKind,
    /// By what its datastore recognises it; `None` where a crash came before that was noted, or the driver has no such thing.
    pub identity: Option<String>,
}

/// The objects of [`ledger`] with their identities.
#[must_use]
pub fn objects(records: &[Record]) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for record in records {
        match record {
            Record::LedgerCreated { datastore, path, kind } => {
                objects.retain(|object| (&object.datastore, &object.path) != (datastore, path));
                let (datastore, path) = (datastore.clone(), path.clone());
                objects.push(Object { datastore, path, kind: *kind, identity: None });
            }
            Record::LedgerRemoved { datastore, path } => {
                objects.retain(|object| (&object.datastore, &object.path) != (datastore, path));
            }
            Record::LedgerIdentity { datastore, path, identity } => {
                let mut named = objects.iter_mut().filter(|o| (&o.datastore, &o.path) == (datastore, path));
                if let Some(object) = named.next() {
                    object.identity = Some(identity.clone());
                }
            }
            _ => {}
        }
    }
    objects
}
