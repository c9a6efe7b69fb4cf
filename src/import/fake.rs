//! An inventory of values, for tests: what it is asked, and how it answers.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::hypervisor::{DatastoreEntry, Hypervisor};
use crate::datastore::{Datastore, DirectoryDatastore};
use crate::inventory::{
    Checked, Identities, Inventory, InventoryError, Machine, MachineDisk, Place, Problem, Registered,
    Registration, StoreFile, Wanted,
};

#[derive(Default)]
pub(super) struct Fake {
    /// It answers nothing.
    pub(super) dead: bool,
    /// It does not tell which machines there are.
    pub(super) mute: Mutex<bool>,
    /// Privileges that are missing for a snapshot.
    pub(super) lacks: Mutex<Vec<String>>,
    /// Names of virtual machines besides those in `machines`.
    pub(super) taken: Vec<&'static str>,
    /// Directories that it does not see.
    pub(super) blind: Vec<&'static str>,
    pub(super) used: Identities,
    pub(super) problem: Mutex<Option<Problem>>,
    /// So many registrations are refused.
    pub(super) refuses: Mutex<usize>,
    /// So many registrations find nobody.
    pub(super) away: Mutex<usize>,
    /// It registers, and its answer is lost.
    pub(super) forgets: bool,
    pub(super) wanted: Mutex<Vec<Wanted>>,
    pub(super) registered: Mutex<Vec<Registration>>,
    pub(super) machines: Mutex<Vec<Machine>>,
    /// Of whatever machine is asked about.
    pub(super) disks: Mutex<Vec<MachineDisk>>,
    /// Names of the snapshots that were made.
    pub(super) snapshots: Mutex<Vec<String>>,
}

pub(super) fn machine(id: &str, name: &str, vmx: (&str, &str)) -> Machine {
    let vmx = StoreFile { datastore: vmx.0.into(), path: vmx.1.into() };
    Machine {
        id: id.into(),
        name: name.into(),
        instance: format!("52-{id}"),
        powered_off: true,
        folder: "group-1".into(),
        pool: "pool-1".into(),
        host: "host-1".into(),
        files: vec![vmx.clone()],
        vmx,
    }
}

/// The directory of the datastore `ds1`.
pub(super) fn ds1(root: &Path) -> DirectoryDatastore {
    let at = root.join("ds1");
    std::fs::create_dir_all(&at).unwrap();
    DirectoryDatastore::open(&at).unwrap()
}

impl Fake {
    /// A vSphere `vc` with this inventory, and `store` as its datastore `ds1`.
    pub(super) fn vc(self: &Arc<Self>, store: Arc<dyn Datastore>) -> Vec<Hypervisor> {
        let datastores = vec![DatastoreEntry { name: "ds1".into(), uuid: None, store, written: None }];
        let inventory = Some(Arc::<Self>::clone(self) as Arc<dyn Inventory>);
        vec![Hypervisor { name: "vc".into(), aliases: Vec::new(), datastores, inventory }]
    }

    fn next_id(&self) -> String {
        format!("vm-{}", 7 + self.registered.lock().unwrap().len())
    }

    fn fails(&self) -> Result<(), InventoryError> {
        let (mut away, mut refuses) = (self.away.lock().unwrap(), self.refuses.lock().unwrap());
        if *away > 0 {
            *away -= 1;
            return Err(InventoryError { message: "vc does not answer".into(), transient: true });
        }
        if *refuses > 0 {
            *refuses -= 1;
            return Err(InventoryError { message: "the pool is full".into(), transient: false });
        }
        Ok(())
    }
}

impl Inventory for Fake {
    fn check(&self, wanted: &Wanted) -> Checked {
        self.wanted.lock().unwrap().push(wanted.clone());
        let problems = self.problem.lock().unwrap().iter().cloned().collect();
        Checked { problems, notes: vec!["a note".into()] }
    }

    fn datastore_name(&self, _: &str, dsname: &str) -> Result<Option<String>, InventoryError> {
        if self.dead {
            return Err(InventoryError { message: "vc does not answer".into(), transient: true });
        }
        Ok(match dsname {
            "UUID-1" => Some("ds1".into()),
            "UUID-2" => Some("ds2".into()),
            _ => None,
        })
    }

    fn sees(&self, _: &str, datastore: &str, directory: &str) -> Result<bool, InventoryError> {
        assert_eq!(datastore, "ds1");
        Ok(!self.blind.contains(&directory))
    }

    fn vm_exists(&self, _: &Place, vm_name: &str) -> Result<bool, InventoryError> {
        let machines = self.machines.lock().unwrap();
        Ok(self.taken.contains(&vm_name) || machines.iter().any(|machine| machine.name == vm_name))
    }

    fn identities(
        &self,
        _: &str,
        _: &str,
        _: &str,
        uuids: (&str, &str),
    ) -> Result<Identities, InventoryError> {
        assert_eq!(uuids, ("56 4d", "50 13"));
        Ok(self.used)
    }

    fn register(&self, vm: &Registration) -> Result<Registered, InventoryError> {
        self.fails()?;
        let id = self.next_id();
        let made = machine(&id, &vm.vm_name, (&vm.datastore, &vm.vmx));
        let instance = made.instance.clone();
        self.registered.lock().unwrap().push(vm.clone());
        self.machines.lock().unwrap().push(made);
        if self.forgets {
            return Err(InventoryError { message: "the connection was lost".into(), transient: true });
        }
        Ok(Registered { id, instance, before: false, notes: Vec::new() })
    }

    fn machine(&self, _: &str, vmx: &StoreFile) -> Result<Option<Machine>, InventoryError> {
        if *self.mute.lock().unwrap() {
            return Err(InventoryError { message: "vc does not answer".into(), transient: true });
        }
        Ok(self.machines.lock().unwrap().iter().find(|machine| machine.vmx == *vmx).cloned())
    }

    fn machines_in(&self, _: &str, directories: &[StoreFile]) -> Result<Vec<Machine>, InventoryError> {
        let machines = self.machines.lock().unwrap();
        let near = |machine: &&Machine| directories.iter().any(|directory| machine.uses(directory));
        Ok(machines.iter().filter(near).cloned().collect())
    }

    fn disks(&self, machine: &Machine) -> Result<Vec<MachineDisk>, InventoryError> {
        assert!(self.machines.lock().unwrap().contains(machine));
        Ok(self.disks.lock().unwrap().clone())
    }

    fn snapshot(&self, _: &Machine, name: &str, _: &str) -> Result<bool, InventoryError> {
        self.fails()?;
        let mut snapshots = self.snapshots.lock().unwrap();
        if snapshots.last().is_some_and(|last| last == name) {
            return Ok(false);
        }
        snapshots.push(name.to_owned());
        for disk in self.disks.lock().unwrap().iter_mut() {
            disk.current.path = disk.base.path.replace(".vmdk", &format!("-{:06}.vmdk", snapshots.len()));
        }
        Ok(true)
    }

    fn has_snapshot(&self, _: &Machine, name: &str) -> Result<bool, InventoryError> {
        Ok(self.snapshots.lock().unwrap().iter().any(|known| known == name))
    }

    fn remove_snapshot(&self, machine: &Machine, name: &str) -> Result<(), InventoryError> {
        assert!(machine.powered_off);
        self.snapshots.lock().unwrap().retain(|known| known != name);
        Ok(())
    }

    fn lacks_for_snapshot(&self, _: &Machine) -> Result<Vec<String>, InventoryError> {
        Ok(self.lacks.lock().unwrap().clone())
    }

    fn unregister(&self, machine: &Machine) -> Result<(), InventoryError> {
        assert!(machine.powered_off, "nobody unregisters what runs");
        self.machines.lock().unwrap().retain(|known| known.id != machine.id);
        Ok(())
    }

    fn register_again(&self, _: &str, machine: &Machine) -> Result<Registered, InventoryError> {
        self.fails()?;
        let id = format!("{}-again", machine.id);
        let instance = machine.instance.clone();
        self.machines.lock().unwrap().push(Machine { id: id.clone(), ..machine.clone() });
        Ok(Registered { id, instance, before: false, notes: Vec::new() })
    }
}
