//! A session's virtual machine, once it is in an inventory: its disks and files are its own, and it may run. Nothing that a client
//! copies changes them as long as it is registered, whoever registered it.
//!
//! Asked of the inventory each time, without the session's lock: only that knows whether an administrator has unregistered it.
//!
//! And a disk beside which a hypervisor keeps the marks of a running machine is not changed, whosever that machine is and whether any inventory
//! knows it.

use std::sync::Arc;

use super::error::ImportError;
use super::formats::belongs;
use super::formats::names::Kind;
use super::overwrite::FILES_MAX;
use super::plan::{Place, Plan};
use super::registered::Registered;
use super::session::{Content, Inner, Session};
use super::state::State;
use crate::datastore::Datastore;
use crate::inventory::{Inventory, StoreFile};

/// What was registered when the inventory was asked: what has come since was not asked about.
#[derive(Default)]
pub(super) struct Looked(Vec<Registered>);

/// The virtual machine that there may be.
struct Claim {
    inventory: Arc<dyn Inventory>,
    hypervisor: String,
    datacenter: String,
    vmx: StoreFile,
    /// It was there before the session.
    existed: bool,
}

impl Claim {
    /// Refuses where it is registered, or where that can't be found out.
    fn refuse(&self, path: &str) -> Result<(), ImportError> {
        let refused = |why| Err(ImportError::OfMachine { path: path.to_owned(), why });
        let Self { hypervisor, vmx, .. } = self;
        match self.inventory.machine(&self.datacenter, vmx) {
            Ok(None) => Ok(()),
            Ok(Some(machine)) => {
                let what = format!(
                    "the restore is complete, and the virtual machine '{}' ({vmx}) is registered and may run",
                    machine.name
                );
                refused(if self.existed {
                    format!(
                        "{what}; to restore into it again, delete this directory and copy everything into a new one"
                    )
                } else {
                    format!(
                        "{what}; delete this directory and restore into a new one, which on-conflict leads beside that machine or \
                         into its place; or unregister the machine, and copy again"
                    )
                })
            }
            Err(error) => refused(format!(
                "whether the virtual machine {vmx} is registered can't be found out, and it may run: {error}; copy it again \
                 when '{hypervisor}' answers"
            )),
        }
    }
}

impl Session {
    /// Before a file is made, or opened for writing: an extent or differential of a machine that is registered is refused.
    pub(super) fn look(&self, name: &str) -> Result<Looked, ImportError> {
        let (claim, made, seen) = {
            let inner = self.lock();
            let seen = Looked(inner.registered.clone());
            let disk = match inner.entry(name).map(|entry| &entry.content) {
                Some(Content::Extent(number) | Content::Pancbt(number, _)) => Some(*number),
                Some(_) => None,
                None => match self.shared.names.classify(name, inner.state.cfg()).kind {
                    Kind::Extent(disk) | Kind::Pancbt { disk, .. } => Some(disk),
                    _ => None,
                },
            };
            let Some(disk) = disk else { return Ok(seen) };
            (self.claim(&inner), self.made(&inner, disk), seen)
        };
        claim.map_or(Ok(()), |claim| claim.refuse(&self.display(name)))?;
        if let Some((store, place)) = made {
            self.refuse_running(&*store, &place, name)?;
        }
        Ok(seen)
    }

    /// Where a disk of the session lies, once it is there.
    fn made(&self, inner: &Inner, disk: usize) -> Option<(Arc<dyn Datastore>, Place)> {
        let State::Receiving(receiving) = &inner.state else { return None };
        let slot = receiving.disks.get(disk).filter(|slot| slot.disk.is_some() || slot.existing)?;
        let place = slot.plan.place.clone();
        let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &place.datastore).ok()?;
        store.capabilities().random_write.then_some((store, place))
    }

    /// Refuses where the disk's directory has the marks of a machine that runs. A driver that can't list directories has none: what attaches
    /// disks to a hypervisor meets its locks.
    fn refuse_running(&self, store: &dyn Datastore, place: &Place, name: &str) -> Result<(), ImportError> {
        let Ok(names) = store.list(&place.directory, FILES_MAX) else { return Ok(()) };
        let marks: Vec<_> =
            names.iter().map(|(name, _)| name.as_str()).filter(|name| belongs::is_lock(name)).collect();
        if marks.is_empty() {
            return Ok(());
        }
        let why = format!(
            "{} has the marks of a running virtual machine ({}), which may use this disk; power it off, or remove them if none runs \
             there, and copy this again",
            place.vmfs(""),
            marks.join(", ")
        );
        Err(ImportError::OfMachine { path: self.display(name), why })
    }

    /// Whether what was looked at still holds, now that the lock is held: a VMX may be about to make the machine.
    pub(super) fn still(inner: &Inner, looked: &Looked, path: &str) -> Result<(), ImportError> {
        let completing =
            matches!(&inner.state, State::Receiving(all) if all.completing && all.pushing.is_none());
        if !completing && inner.registered == looked.0 {
            return Ok(());
        }
        let missing = "its virtual machine is being completed; wait until that is done".to_owned();
        Err(ImportError::OutOfOrder { path: path.to_owned(), missing })
    }

    /// Before another VMX takes the place of the one that was imported.
    pub(super) fn refuse_changed_vmx(&self, path: &str) -> Result<(), ImportError> {
        let claim = self.claim(&self.lock()).filter(|claim| !claim.existed);
        claim.map_or(Ok(()), |claim| claim.refuse(path))
    }

    /// Before a small file goes beside the VMX: one that is there is the machine's, which has changed it since.
    pub(super) fn refuse_replaced(&self, kind: Kind, name: &str) -> Result<(), ImportError> {
        let (claim, plan) = {
            let inner = self.lock();
            let (State::Receiving(all), Some(claim)) = (&inner.state, self.claim(&inner)) else {
                return Ok(());
            };
            (claim, all.plan.clone())
        };
        if claim.existed || self.is_staged(&plan) {
            return Ok(()); // It is not carried over.
        }
        let (place, target) = match kind {
            Kind::Descriptor(number) => match plan.disks.get(number) {
                Some(disk) => (&disk.place, disk.target_name.as_str()),
                None => return Ok(()),
            },
            _ => (&plan.place, name),
        };
        let store = self.shared.hypervisors.store(&plan.hypervisor, &place.datastore)?;
        if store.exists(&place.file(target)).map_err(ImportError::io(place.vmfs(target)))? {
            return claim.refuse(&self.display(name));
        }
        Ok(())
    }

    /// The machine that there may be: one was registered or about to be, or the VMX is in place and somebody may have.
    fn claim(&self, inner: &Inner) -> Option<Claim> {
        let State::Receiving(receiving) = &inner.state else { return None };
        let plan: &Plan = &receiving.plan;
        // Beside the machine that it is to replace, everything is still the session's.
        if !plan.swaps.is_empty() && !plan.placed {
            return None;
        }
        let vmx = plan.target_vmx();
        let noted =
            inner.registered.iter().any(|known| known.hypervisor == plan.hypervisor && known.vmx == vmx);
        if !noted && receiving.imported.is_none() {
            return None;
        }
        Some(Claim {
            inventory: self.shared.hypervisors.find(&plan.hypervisor)?.inventory.clone()?,
            hypervisor: plan.hypervisor.clone(),
            datacenter: plan.taken.datacenter.clone(),
            vmx,
            existed: plan.into_snapshot(),
        })
    }
}

#[cfg(test)]
mod tests;
