//! A session's virtual machine, once it is in an inventory: its disks and files are its own, and it may run. Nothing that a client
//! copies changes them as long as it is registered, whoever registered it.
//!
//! Asked of the inventory each time, without the session's lock: only that knows whether an administrator has unregistered it.

use std::sync::Arc;

use super::error::ImportError;
use super::formats::names::Kind;
use super::plan::Plan;
use super::registered::Registered;
use super::session::{Content, Inner, Session};
use super::state::State;
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
        let (claim, seen) = {
            let inner = self.lock();
            let of_disk = match inner.entry(name).map(|entry| &entry.content) {
                Some(content) => matches!(content, Content::Extent(_) | Content::Pancbt(..)),
                None => {
                    let kind = self.shared.names.classify(name, inner.state.cfg()).kind;
                    matches!(kind, Kind::Extent(_) | Kind::Pancbt { .. })
                }
            };
            (if of_disk { self.claim(&inner) } else { None }, Looked(inner.registered.clone()))
        };
        claim.map_or(Ok(()), |claim| claim.refuse(&self.display(name)))?;
        Ok(seen)
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
