//! Virtual machines in the ledger: those that sessions registered, by VMX path, id and instance UUID (behaviour.md S10).
//!
//! As with files, the path is noted before and the identity after; only what has both is ever unregistered.

use super::hypervisor::Hypervisors;
use super::orphans::Orphan;
use crate::inventory::{self, Inventory, Machine, StoreFile};
use crate::journal::{InventoryKind, Record, fold};

/// A virtual machine that a session registered, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) hypervisor: String,
    pub(super) datacenter: String,
    pub(super) vmx: StoreFile,
    /// Empty where a crash came before that was known.
    pub(super) id: String,
    pub(super) instance: String,
}

impl Registered {
    /// What a journal tells of them.
    pub(super) fn of(records: &[Record]) -> Vec<Self> {
        let machines = fold::inventory(records).into_iter().filter_map(|(hypervisor, kind, _, facts)| {
            let fact = |name: &str| facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            if kind != InventoryKind::VirtualMachine {
                return None;
            }
            Some(Self {
                hypervisor: hypervisor.to_owned(),
                datacenter: fact("datacenter").unwrap_or_default(),
                vmx: StoreFile { datastore: fact("datastore")?, path: fact("vmx")? },
                id: fact("id").unwrap_or_default(),
                instance: fact("instance").unwrap_or_default(),
            })
        });
        machines.collect()
    }

    /// For the journal: before it is registered, and again when that is done.
    pub(super) fn record(&self) -> Record {
        let fact = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Record::InventoryObject {
            hypervisor: self.hypervisor.clone(),
            kind: InventoryKind::VirtualMachine,
            name: self.vmx.to_string(),
            facts: vec![
                fact("datacenter", &self.datacenter),
                fact("datastore", &self.vmx.datastore),
                fact("vmx", &self.vmx.path),
                fact("id", &self.id),
                fact("instance", &self.instance),
            ],
        }
    }

    /// For the journal: it is not registered any more, or none of the session's business.
    pub(super) fn removed(&self) -> Record {
        Record::InventoryRemoved {
            hypervisor: self.hypervisor.clone(),
            kind: InventoryKind::VirtualMachine,
            name: self.vmx.to_string(),
        }
    }

    /// With what registering led to.
    pub(super) fn done(self, done: &inventory::Registered) -> Self {
        Self { id: done.id.clone(), instance: done.instance.clone(), ..self }
    }

    /// How it is now: the inventory it is in and the virtual machine itself where it is the same, else a state.
    fn look<'h>(
        &self,
        hypervisors: &'h Hypervisors,
    ) -> Result<(&'h dyn Inventory, Machine), (&'static str, Option<String>)> {
        let unknown = |why: String| Err(("unknown", Some(why)));
        let on = hypervisors.0.iter().find(|on| on.name == self.hypervisor);
        let Some(inventory) = on.and_then(|on| on.inventory.as_deref()) else {
            return unknown(format!("no vSphere hypervisor '{}' is configured", self.hypervisor));
        };
        match inventory.machine(&self.datacenter, &self.vmx) {
            Ok(None) => Err(("gone", None)),
            Ok(Some(_)) if self.id.is_empty() || self.instance.is_empty() => unknown(
                "nothing is known by which to recognise it; look at it and unregister it by hand".into(),
            ),
            Ok(Some(now)) if (&now.id, &now.instance) == (&self.id, &self.instance) => Ok((inventory, now)),
            Ok(Some(_)) => Err(("changed", None)),
            Err(error) => unknown(error.to_string()),
        }
    }

    /// As `orphans list` shows it.
    pub(super) fn orphan(self, hypervisors: &Hypervisors) -> Orphan {
        let (state, why) = match self.look(hypervisors) {
            Ok((_, now)) => ("there", (!now.powered_off).then(|| "it is powered on".to_owned())),
            Err(state) => state,
        };
        let Self { hypervisor, vmx: StoreFile { datastore, path }, .. } = self;
        Orphan { hypervisor, datastore, path, kind: "virtual machine", state, why }
    }

    /// Unregisters it where it is the same: the outcome, and why it was kept.
    pub(super) fn clean(&self, hypervisors: &Hypervisors) -> (&'static str, Option<String>) {
        match self.look(hypervisors) {
            Ok((_, now)) if !now.powered_off => (
                "kept",
                Some(format!("the virtual machine '{}' is powered on; power it off first", now.name)),
            ),
            Ok((inventory, now)) => match inventory.unregister(&now) {
                Ok(()) => ("removed", None),
                Err(error) => ("kept", Some(error.to_string())),
            },
            Err(("gone", _)) => ("gone", None),
            // It may use the files: nothing of them goes.
            Err(("changed", _)) => {
                let why = "another virtual machine has been registered from that VMX; it is left alone, with all files";
                ("kept", Some(why.to_owned()))
            }
            Err((_, why)) => ("kept", why),
        }
    }
}
