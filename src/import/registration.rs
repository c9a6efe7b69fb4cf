//! What happens when a VMX has arrived: it goes to its datastore with its disks' new names, and where the CFG asks for it
//! becomes a virtual machine of the hypervisor's inventory.

use std::sync::{Arc, PoisonError};

use super::error::ImportError;
use super::formats::log_text::Event;
use super::formats::vmx::{Vmx, VmxError};
use super::patience::Patience;
use super::plan::Plan;
use super::registered::Registered;
use super::session::{Fault, Session, digest, fold_name};
use super::state::State;
use super::swap::Phase;
use crate::datastore::Datastore;
use crate::inventory::{Identities, Inventory, InventoryError, Registration, StoreFile};
use crate::journal::Record;

impl Session {
    /// The VMX was closed: once for each content. The session's lock is not held while the hypervisor works.
    pub(super) fn commit_vmx(&self, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
        let _one_at_a_time = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.display(name);
        let digest = digest(bytes);
        let changed = matches!(
            &self.lock().state,
            State::Receiving(receiving) if receiving.imported.is_some_and(|imported| imported != digest)
        );
        if changed {
            self.refuse_changed_vmx(&path)?;
        }
        let (plan, copied) = {
            let mut inner = self.lock();
            let in_error = Self::in_error(&inner);
            let receiving = inner.state.receiving(&path, in_error.as_deref())?;
            receiving.enter_vmx(&path)?;
            if receiving.imported == Some(digest) {
                return Ok(());
            }
            receiving.completing = true;
            let plan = receiving.plan.clone();
            let copied: Vec<_> = inner.files.keys().cloned().collect();
            (plan, copied)
        };
        let target = plan.with_placed(true).place.vmfs(plan.taken.target_vmx());
        self.log.line(&Event::Importing(&target).to_string());
        let outcome = self.log_digests().and_then(|()| self.import_vmx(name, bytes, &plan, &copied));
        let mut inner = self.lock();
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.completing = false;
        }
        let before = inner.faults.len();
        inner.faults.retain(|fault| fault.file != fold_name(name));
        if let Err(error) = outcome {
            // It can be tried again by copying the VMX again, also after a restart.
            inner.faults.push(Fault { file: fold_name(name), disk: None, text: error.to_string() });
            self.report(&mut inner)?;
            return Err(error);
        }
        if inner.faults.len() < before {
            self.report(&mut inner)?;
        }
        self.record(&Record::VmxImported { digest })?;
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.imported = Some(digest);
            receiving.was_complete = true;
        }
        inner.left = None;
        if self.is_staged(&plan) {
            self.release_stage(&mut inner);
        }
        self.log.line(&Event::DoneImporting(&target).to_string());
        drop(inner);
        self.clear_old();
        Ok(())
    }

    /// Reads every disk back and has its digest in import.log. Nothing writes to them meanwhile: their extents are closed, and
    /// the VMX is here.
    fn log_digests(&self) -> Result<(), ImportError> {
        let Some(algorithm) = self.shared.digest else { return Ok(()) };
        let disks: Vec<_> = match &self.lock().state {
            State::Receiving(receiving) => receiving
                .disks
                .iter()
                .filter_map(|slot| Some((self.display(&slot.plan.extent), Arc::clone(slot.disk.as_ref()?))))
                .collect(),
            State::Cfg => return Ok(()),
        };
        for (path, disk) in disks {
            let digest = algorithm.of(&disk).map_err(ImportError::disk(&path))?;
            disk.release().map_err(ImportError::disk(&path))?;
            self.log.line(&Event::Note(&format!("{}: {path} {digest}", algorithm.name())).to_string());
        }
        Ok(())
    }

    fn import_vmx(&self, name: &str, bytes: &[u8], plan: &Plan, files: &[String]) -> Result<(), ImportError> {
        let path = self.display(name);
        let refused = |error: VmxError| ImportError::Refused { path: path.clone(), why: error.to_string() };
        let mut vmx = Vmx::parse(bytes).map_err(refused)?;
        let copied = |file: &str| files.contains(&fold_name(file));
        for change in vmx.rewrite(&plan.for_vmx(), copied).map_err(refused)? {
            self.log.line(&change.to_string());
        }
        let store = self.shared.hypervisors.store(&plan.hypervisor, &plan.place.datastore)?;
        if store.capabilities().random_write {
            self.release_disks()?;
        }
        if plan.into_snapshot() {
            let note =
                format!("{path}: the virtual machine keeps the VMX that it has; its disks are restored");
            self.log.line(&Event::Note(&note).to_string());
            return Ok(());
        }
        let inventory = match self.shared.hypervisors.find(&plan.hypervisor) {
            Some(hypervisor) if plan.taken.register => hypervisor.inventory.clone(),
            _ => None,
        };
        let patience = Patience::new(self.shared.register_retry, &self.shared.stopping);
        if plan.swaps.is_empty() {
            return self.put_vmx(name, inventory.as_ref(), plan, vmx, (&*store, &patience));
        }
        self.hold(true);
        let outcome = self.replace(name, inventory.as_ref(), plan, vmx, (&*store, &patience));
        self.hold(false);
        outcome
    }

    /// Puts the machine in the place of the one that was there, and that one back where it can't be registered.
    fn replace(
        &self,
        name: &str,
        inventory: Option<&Arc<dyn Inventory>>,
        plan: &Plan,
        vmx: Vmx,
        (store, patience): (&dyn Datastore, &Patience<'_>),
    ) -> Result<(), ImportError> {
        let path = self.display(name);
        if self.must_swap(plan) {
            self.put_beside(&mut self.lock(), name, plan.taken.target_vmx(), &vmx.to_bytes())?;
            self.swap_in(&path, plan, patience)?;
        }
        let placed = self.plan_now(plan);
        let outcome = self.put_vmx(name, inventory, &placed, vmx, (store, patience));
        match outcome {
            Err(error) if self.swap_state().is_some_and(|swap| swap.phase == Phase::Placed) => {
                Err(self.swap_back(&path, plan, patience, error))
            }
            outcome => outcome,
        }
    }

    fn put_vmx(
        &self,
        name: &str,
        inventory: Option<&Arc<dyn Inventory>>,
        plan: &Plan,
        vmx: Vmx,
        (store, patience): (&dyn Datastore, &Patience<'_>),
    ) -> Result<(), ImportError> {
        match inventory {
            Some(inventory) => self.register(name, inventory, plan, vmx, (store, patience)),
            None if !store.capabilities().random_write => self.push(plan, &vmx.to_bytes(), store),
            None => self.put_beside(&mut self.lock(), name, plan.taken.target_vmx(), &vmx.to_bytes()),
        }
    }

    /// Writes the VMX and registers it, and goes on trying for a while where the hypervisor can't be reached.
    fn register(
        &self,
        name: &str,
        inventory: &Arc<dyn Inventory>,
        plan: &Plan,
        mut vmx: Vmx,
        (store, patience): (&dyn Datastore, &Patience<'_>),
    ) -> Result<(), ImportError> {
        let path = self.display(name);
        let told = |line: &str| self.log.line(&Event::Note(line).to_string());
        let failed =
            |error: InventoryError| ImportError::Unregistered { path: path.clone(), why: error.message };
        let used = patience.hold(&told, || self.identities(inventory, plan, &vmx)).map_err(failed)?;
        let registration = self.identify(used, plan, &mut vmx, &path)?;
        if !store.capabilities().random_write {
            return self.push(plan, &vmx.to_bytes(), store);
        }
        self.put_beside(&mut self.lock(), name, plan.taken.target_vmx(), &vmx.to_bytes())?;
        let machine = Registered {
            hypervisor: plan.hypervisor.clone(),
            datacenter: registration.place.datacenter.clone(),
            vmx: StoreFile { datastore: registration.datastore.clone(), path: registration.vmx.clone() },
            id: String::new(),
            instance: String::new(),
        };
        self.note_machine(machine.clone())?;
        let done = patience.hold(&told, || inventory.register(&registration)).map_err(failed)?;
        self.note_machine(machine.done(&done))?;
        for note in &done.notes {
            self.log.line(&Event::Note(note).to_string());
        }
        let again = if done.before { "was registered already" } else { "registered" };
        self.log.line(&Event::Note(&format!("{} {again} as {}", registration.vm_name, done.id)).to_string());
        Ok(())
    }

    /// Whether other virtual machines have the identities that a VMX brings.
    fn identities(
        &self,
        inventory: &Arc<dyn Inventory>,
        plan: &Plan,
        vmx: &Vmx,
    ) -> Result<Identities, InventoryError> {
        let file = plan.place.file(plan.taken.target_vmx());
        let uuid = |key: &str| vmx.get(key).unwrap_or_default();
        let uuids = (uuid("uuid.bios"), uuid("vc.uuid"));
        inventory.identities(&plan.taken.datacenter, &plan.place.datastore, &file, uuids)
    }

    /// Decides whether it is the virtual machine that was backed up, or a copy beside it, and says so in its VMX: nobody
    /// should be asked at its first start.
    fn identify(
        &self,
        used: Identities,
        plan: &Plan,
        vmx: &mut Vmx,
        path: &str,
    ) -> Result<Registration, ImportError> {
        let failed = |why: String| ImportError::Unregistered { path: path.to_owned(), why };
        let uuid = |key: &str| vmx.get(key).unwrap_or_default().to_owned();
        let (bios, instance) = (uuid("uuid.bios"), uuid("vc.uuid"));
        let action = if used.bios { "create" } else { "keep" };
        vmx.set("uuid.action", action).map_err(|error| failed(error.to_string()))?;
        if used.bios {
            let note = format!("vmx: another virtual machine has the UUID {bios}, this one gets its own");
            self.log.line(&Event::Note(&note).to_string());
        }
        if used.instance {
            vmx.remove("vc.uuid");
            let note = format!("vmx: vc.uuid = \"{instance}\" dropped, another virtual machine has it");
            self.log.line(&Event::Note(&note).to_string());
        }
        let mut datastores: Vec<_> = plan.places().map(|place| place.datastore.clone()).collect();
        datastores.sort();
        datastores.dedup();
        Ok(Registration {
            place: plan.taken.inventory(),
            vm_name: plan.taken.vm_name.clone(),
            datastore: plan.place.datastore.clone(),
            vmx: plan.place.file(plan.taken.target_vmx()),
            datastores,
            same_machine: !used.bios,
        })
    }
}

#[cfg(test)]
mod tests;
