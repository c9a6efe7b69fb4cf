//! The inventory of a vSphere hypervisor, behind the trait that import sessions know.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Account, Client};
use super::error::VsphereError;
use super::inventory::Store;
use super::{Ref, describe, machines, preflight, register, snapshots};
use crate::inventory::{
    Checked, Description, Identities, Inventory, InventoryError, Machine, MachineDisk, Place, Registered,
    Registration, StoreFile, Wanted,
};
use crate::tls::Trust;

/// How often a host looks for a directory that was made behind its back, and the pause between: an NFS client may hold on to
/// what it knew for some seconds.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// One vCenter or ESXi host.
pub struct Manager {
    client: Arc<Client>,
    username: String,
}

impl Manager {
    /// Prepares it; nothing is sent before it is asked something.
    pub fn new(url: &str, trust: &Trust, account: Account) -> Result<Self, VsphereError> {
        let username = account.username.clone();
        Ok(Self { client: Arc::new(Client::new(url, trust, account)?), username })
    }

    #[cfg(test)]
    pub(super) fn over(client: Client) -> Self {
        Self { client: Arc::new(client), username: "user".into() }
    }

    /// The virtual machine of that name or inventory path, for a CFG.
    pub fn describe(&self, name: &str) -> Result<Description, InventoryError> {
        Ok(describe::describe(&self.client, name)?)
    }

    /// The client, for drivers.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl From<VsphereError> for InventoryError {
    fn from(error: VsphereError) -> Self {
        Self { transient: error.is_transient(), message: error.to_string() }
    }
}

impl Inventory for Manager {
    fn check(&self, wanted: &Wanted) -> Checked {
        preflight::check(&self.client, &self.username, wanted)
    }

    fn datastore_name(&self, datacenter: &str, dsname: &str) -> Result<Option<String>, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        let stores = self.client.stores(&datacenter)?;
        Ok(Store::find(&stores, dsname).map(|store| store.name.clone()))
    }

    fn sees(&self, datacenter: &str, datastore: &str, directory: &str) -> Result<bool, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        let stores = self.client.stores(&datacenter)?;
        let Some(store) = Store::find(&stores, datastore) else { return Ok(false) };
        for _ in 0..LOOKS {
            if self.client.exists(store, directory)? {
                return Ok(true);
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Ok(false)
    }

    fn vm_exists(&self, place: &Place, vm_name: &str) -> Result<bool, InventoryError> {
        let datacenter = self.client.datacenter(&place.datacenter)?;
        let folder = self.client.vm_folder(&datacenter, &place.folder)?;
        Ok(preflight::vm_in_folder(&self.client, &folder, vm_name)?)
    }

    fn identities(
        &self,
        datacenter: &str,
        datastore: &str,
        vmx: &str,
        (bios, instance): (&str, &str),
    ) -> Result<Identities, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        let path = Store::path(datastore, vmx);
        Ok(Identities {
            bios: register::uuid_in_use(&self.client, &datacenter, &path, bios, false)?,
            instance: register::uuid_in_use(&self.client, &datacenter, &path, instance, true)?,
        })
    }

    fn register(&self, vm: &Registration) -> Result<Registered, InventoryError> {
        Ok(register::register(&self.client, vm)?)
    }

    fn machine(&self, datacenter: &str, vmx: &StoreFile) -> Result<Option<Machine>, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        Ok(machines::with_vmx(&self.client, &datacenter, vmx)?)
    }

    fn machines_in(
        &self,
        datacenter: &str,
        directories: &[StoreFile],
    ) -> Result<Vec<Machine>, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        Ok(machines::with_files_in(&self.client, &datacenter, directories)?)
    }

    fn disks(&self, machine: &Machine) -> Result<Vec<MachineDisk>, InventoryError> {
        Ok(snapshots::disks(&self.client, machine)?)
    }

    fn snapshot(&self, machine: &Machine, name: &str, description: &str) -> Result<bool, InventoryError> {
        Ok(snapshots::snapshot(&self.client, machine, name, description)?)
    }

    fn has_snapshot(&self, machine: &Machine, name: &str) -> Result<bool, InventoryError> {
        Ok(snapshots::find(&self.client, machine, name)?.is_some())
    }

    fn remove_snapshot(&self, machine: &Machine, name: &str) -> Result<(), InventoryError> {
        Ok(snapshots::remove(&self.client, machine, name)?)
    }

    fn lacks_for_snapshot(&self, machine: &Machine) -> Result<Vec<String>, InventoryError> {
        let machine = Ref::new("VirtualMachine", &machine.id);
        Ok(preflight::missing_privileges(&self.client, &machine, &[snapshots::PRIVILEGE])?)
    }

    fn unregister(&self, machine: &Machine) -> Result<(), InventoryError> {
        Ok(machines::unregister(&self.client, machine)?)
    }

    fn register_again(&self, datacenter: &str, machine: &Machine) -> Result<Registered, InventoryError> {
        let datacenter = self.client.datacenter(datacenter)?;
        Ok(machines::register_again(&self.client, &datacenter, machine)?)
    }
}
