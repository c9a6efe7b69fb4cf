//! The disks of extents are made on their datastores.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::error::ImportError;
use super::formats::descriptor::Descriptor;
use super::formats::names::Kind;
use super::ledger::Whose;
use super::plan::DiskPlan;
use super::session::{Inner, Session, fold_name};
use super::state::{Stage, State};
use crate::datastore::{Adapter, Datastore, Disk, DiskSpec};
use crate::disk::ImportDisk;
use crate::journal::{LedgerKey, ObjectKind, Record};

/// A disk that is to be made.
struct Making {
    number: usize,
    plan: DiskPlan,
    store: Arc<dyn Datastore>,
    key: LedgerKey,
    /// Extent and disk, for errors.
    shown: String,
    /// By its descriptor, where that came first.
    adapter: Adapter,
}

impl Making {
    fn make(&self) -> io::Result<Box<dyn Disk>> {
        self.store.create_disk(&DiskSpec { adapter: self.adapter, ..self.plan.spec() })
    }
}

/// The disks of a session that are being made without its lock: each by one caller at a time, several at once, so that a hypervisor
/// takes them together.
#[derive(Default)]
pub(super) struct Makings {
    under_way: Mutex<BTreeSet<LedgerKey>>,
    over: Condvar,
}

/// One that is being made, until dropped.
struct Alone<'a> {
    makings: &'a Makings,
    key: LedgerKey,
}

impl Makings {
    fn enter(&self, key: &LedgerKey) -> Alone<'_> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.over.wait_while(under_way, |under_way| under_way.contains(key));
        waited.unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Alone { makings: self, key: key.clone() }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.makings.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.makings.over.notify_all();
    }
}

impl Session {
    /// Makes the disk of an extent that is about to be created, where a hypervisor takes its time for that: without the session's
    /// lock, so that the session can be listed and its other disks are written meanwhile. [`Self::make_disk`] finds it then.
    pub(super) fn make_ahead(&self, name: &str) -> Result<(), ImportError> {
        let making = {
            let inner = self.lock();
            let known = self.shared.names.classify(name, inner.state.cfg());
            let Kind::Extent(number) = known.kind else { return Ok(()) };
            let comes_again = inner.files.contains_key(&fold_name(&known.name));
            if comes_again || inner.removed || !inner.cfg_errors.is_empty() {
                return Ok(());
            }
            self.to_make(&inner, number)?.filter(|making| making.store.capabilities().makes_descriptor)
        };
        let Some(making) = making else { return Ok(()) };
        let _alone = self.making.enter(&making.key);
        {
            let mut inner = self.lock();
            if !self.is_wanted(&inner, &making)? {
                return Ok(());
            }
            self.begin_making(&mut inner, &making)?;
        }
        let made = making.make();
        let mut inner = self.lock();
        if self.is_wanted(&inner, &making)? {
            return self.finish_making(&mut inner, &making, made);
        }
        // The CFG leads elsewhere by now, or the session is gone.
        let gone = match made {
            Ok(disk) => disk.release().and_then(|()| making.store.remove_disk(&making.key.path)).is_ok(),
            Err(_) => matches!(making.store.exists(&making.key.path), Ok(false)),
        };
        if gone { self.strike(&mut inner, &making.key) } else { Ok(()) }
    }

    /// Makes the extent on its datastore, or takes up the one that this session made before.
    pub(super) fn make_disk(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        if let Some(disk) = slot.disk.clone() {
            let shown = self.display(&slot.plan.extent);
            self.restart_extent(inner, number)?;
            return disk.set_size(0).map_err(ImportError::disk(shown));
        }
        let (existing, plan) = (slot.existing, slot.plan.clone());
        let hypervisor = &receiving.plan.hypervisor;
        let datastore = self.shared.hypervisors.store(hypervisor, &plan.place.datastore)?;
        if !datastore.capabilities().random_write {
            return self.make_staged(inner, number);
        }
        if existing {
            let spec = plan.spec();
            let disk = datastore.open_disk(&spec).map_err(ImportError::io(self.display(&plan.extent)))?;
            return self.begin_disk(inner, number, datastore.disk_path(&spec), disk, false);
        }
        let Some(making) = self.to_make(inner, number)? else { return Ok(()) };
        self.begin_making(inner, &making)?;
        let made = making.make();
        self.finish_making(inner, &making, made)
    }

    /// What is to be made for a disk, unless it is there, is another's, or is staged.
    fn to_make(&self, inner: &Inner, number: usize) -> Result<Option<Making>, ImportError> {
        let State::Receiving(receiving) = &inner.state else { return Ok(None) };
        let slot = receiving.disks.get(number).filter(|slot| slot.disk.is_none() && !slot.existing);
        let Some(slot) = slot else { return Ok(None) };
        let plan = slot.plan.clone();
        let adapter = slot.descriptor.as_ref().map(Descriptor::bus).unwrap_or_default();
        let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &plan.place.datastore)?;
        if !store.capabilities().random_write {
            return Ok(None);
        }
        let path = store.disk_path(&plan.spec());
        let shown = format!("{} => [{}] {path}", self.display(&plan.extent), plan.place.datastore);
        let key = receiving.plan.key(&plan.place.datastore, &path);
        Ok(Some(Making { number, plan, store, key, shown, adapter }))
    }

    /// Whether a disk is still to be made, and as it was to be.
    fn is_wanted(&self, inner: &Inner, making: &Making) -> Result<bool, ImportError> {
        let now = self.to_make(inner, making.number)?;
        Ok(!inner.removed && now.is_some_and(|now| now.key == making.key && now.plan == making.plan))
    }

    fn begin_making(&self, inner: &mut Inner, making: &Making) -> Result<(), ImportError> {
        let Making { store, key, shown, .. } = making;
        let there = inner.ledger.contains(key) && store.exists(&key.path).map_err(ImportError::io(shown))?;
        if there && inner.ledger.whose(&**store, key).map_err(ImportError::io(shown))? != Whose::NotOurs {
            // A crash came between making it and recording that, or the client deleted all and begins anew.
            store.remove_disk(&key.path).map_err(ImportError::io(shown))?;
        }
        self.note_object(inner, key, ObjectKind::Extent)
    }

    fn finish_making(
        &self,
        inner: &mut Inner,
        making: &Making,
        made: io::Result<Box<dyn Disk>>,
    ) -> Result<(), ImportError> {
        let Making { store, key, shown, .. } = making;
        let disk = match made {
            Ok(disk) => disk,
            Err(error) => {
                let others = error.kind() == io::ErrorKind::AlreadyExists;
                // A driver whose disks all have a descriptor knows whether it left anything.
                let nothing =
                    store.capabilities().makes_descriptor && matches!(store.exists(&key.path), Ok(false));
                if others || nothing {
                    // The next try must not take somebody else's for this session's own and remove it.
                    self.strike(inner, key)?;
                }
                return Err(ImportError::io(shown)(error));
            }
        };
        self.note_identity(inner, &**store, key)?;
        let fresh = store.capabilities().fresh_reads_zero || disk.fresh_reads_zero();
        self.begin_disk(inner, making.number, key.path.clone(), disk, fresh)
    }

    /// A disk is there and takes data from here on.
    fn begin_disk(
        &self,
        inner: &mut Inner,
        number: usize,
        path: String,
        disk: Box<dyn Disk>,
        fresh_reads_zero: bool,
    ) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        let datastore = slot.plan.place.datastore.clone();
        self.record(&Record::DiskCreated { disk: number as u32, datastore, path })?;
        slot.disk = Some(Arc::new(ImportDisk::new(disk, self.disk_options(number, fresh_reads_zero))));
        slot.stage = Stage::Receiving;
        self.absolve(inner, number)
    }
}

#[cfg(test)]
mod tests;
