//! Snapshots in the ledger: made for sessions that never completed (behaviour.md S10).
//!
//! The name has the session's number, and nobody else gives it: it is noted before the snapshot is made, and is all that is needed to
//! recognise it.

use crate::import::hypervisor::Hypervisors;
use crate::import::orphans::Orphan;
use crate::inventory::{Inventory, Machine, StoreFile};
use crate::journal::{InventoryKind, Record, fold};

/// A snapshot that a session made, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::import) struct Snapshot {
    pub(in crate::import) hypervisor: String,
    pub(in crate::import) datacenter: String,
    /// Of the virtual machine.
    pub(in crate::import) vmx: StoreFile,
    pub(in crate::import) name: String,
}

impl Snapshot {
    /// What a journal tells of them.
    pub(in crate::import) fn of(records: &[Record]) -> Vec<Self> {
        let snapshots = fold::inventory(records).into_iter().filter_map(|(hypervisor, kind, _, facts)| {
            let fact = |name: &str| facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            if kind != InventoryKind::Snapshot {
                return None;
            }
            Some(Self {
                hypervisor: hypervisor.to_owned(),
                datacenter: fact("datacenter")?,
                vmx: StoreFile { datastore: fact("datastore")?, path: fact("vmx")? },
                name: fact("name")?,
            })
        });
        snapshots.collect()
    }

    fn key(&self) -> String {
        format!("{} {}", self.vmx, self.name)
    }

    /// For the journal, before it is made.
    pub(in crate::import) fn record(&self) -> Record {
        let fact = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Record::InventoryObject {
            hypervisor: self.hypervisor.clone(),
            kind: InventoryKind::Snapshot,
            name: self.key(),
            facts: vec![
                fact("datacenter", &self.datacenter),
                fact("datastore", &self.vmx.datastore),
                fact("vmx", &self.vmx.path),
                fact("name", &self.name),
            ],
        }
    }

    /// For the journal: it is gone, or belongs to a restore that is complete.
    pub(in crate::import) fn removed(&self) -> Record {
        Record::InventoryRemoved {
            hypervisor: self.hypervisor.clone(),
            kind: InventoryKind::Snapshot,
            name: self.key(),
        }
    }

    /// The inventory that it is in and its virtual machine; else a state, and why.
    fn look<'h>(
        &self,
        hypervisors: &'h Hypervisors,
    ) -> Result<(&'h dyn Inventory, Machine), (&'static str, Option<String>)> {
        let unknown = |why: String| ("unknown", Some(why));
        let on = hypervisors.0.iter().find(|on| on.name == self.hypervisor);
        let inventory = on
            .and_then(|on| on.inventory.as_deref())
            .ok_or_else(|| unknown(format!("no vSphere hypervisor '{}' is configured", self.hypervisor)))?;
        let failed = |error: crate::inventory::InventoryError| unknown(error.to_string());
        let machine = inventory.machine(&self.datacenter, &self.vmx).map_err(failed)?;
        let machine = machine.ok_or_else(|| {
            unknown(format!("its virtual machine is not registered; the snapshot is '{}'", self.name))
        })?;
        let there = inventory.has_snapshot(&machine, &self.name).map_err(failed)?;
        if there { Ok((inventory, machine)) } else { Err(("gone", None)) }
    }

    /// What to do with one that disks were written behind.
    fn remedy(&self, machine: &Machine) -> String {
        format!(
            "half of a restore is in the disks of '{}' since its snapshot '{}': revert to that, then delete it, by the \
             hypervisor's own tools",
            machine.name, self.name
        )
    }

    /// As `orphans list` shows it. `written`: disks of its session were.
    pub(in crate::import) fn orphan(self, written: bool, hypervisors: &Hypervisors) -> Orphan {
        let (state, why) = match self.look(hypervisors) {
            Ok((_, machine)) if written => ("there", Some(self.remedy(&machine))),
            Ok(_) => ("there", Some(format!("'{}'; nothing was restored behind it", self.name))),
            Err(state) => state,
        };
        let Self { hypervisor, vmx: StoreFile { datastore, path }, .. } = self;
        Orphan { hypervisor, datastore, path, kind: "snapshot", state, why }
    }

    /// Removes one that no disk was written behind: the outcome, and why it was kept. Removing another would make half a restore a part
    /// of the virtual machine, and reverting to it would take what may have been done since.
    pub(in crate::import) fn clean(
        &self,
        written: bool,
        hypervisors: &Hypervisors,
    ) -> (&'static str, Option<String>) {
        match self.look(hypervisors) {
            Ok((_, machine)) if written => ("kept", Some(self.remedy(&machine))),
            Ok((_, machine)) if !machine.powered_off => {
                ("kept", Some(format!("the virtual machine '{}' is powered on", machine.name)))
            }
            Ok((inventory, machine)) => match inventory.remove_snapshot(&machine, &self.name) {
                Ok(()) => ("removed", None),
                Err(error) => ("kept", Some(error.to_string())),
            },
            Err(("gone", _)) => ("gone", None),
            Err((_, why)) => ("kept", why),
        }
    }
}
