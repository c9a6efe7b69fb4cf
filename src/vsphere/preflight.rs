//! All that is in the way of an import, found before the first byte.

use super::client::Client;
use super::error::VsphereError;
use super::inventory::{Datacenter, Store, Target, listed, stored_name};
use super::{Ref, soap};
use crate::inventory::{Checked, Place, Problem, Wanted};

/// Longest name of a virtual machine that RegisterVM_Task takes, escaped.
pub const VM_NAME_MAX: usize = 80;

/// What a privilege is needed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The folder of the virtual machine.
    Folder,
    /// The resource pool.
    Pool,
    /// Each datastore.
    Datastore,
}

/// What a privilege is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Whichever way a virtual machine comes.
    All,
    /// Registering what lies on a datastore.
    Files,
    /// Uploads to a lease.
    Lease,
}

/// Privileges of the account: docs/vsphere.md says what each is for, packaging/vsphere-role.txt is the role.
pub const PRIVILEGES: &[(On, For, &str)] = &[
    (On::Datastore, For::All, "Datastore.Browse"),
    (On::Datastore, For::All, "Datastore.FileManagement"),
    (On::Datastore, For::All, "Datastore.AllocateSpace"),
    (On::Folder, For::Files, "VirtualMachine.Inventory.Register"),
    (On::Folder, For::Files, "VirtualMachine.Interact.AnswerQuestion"),
    (On::Folder, For::Lease, "VirtualMachine.Inventory.Create"),
    (On::Folder, For::Lease, "VirtualMachine.Inventory.Delete"),
    (On::Folder, For::Lease, "VApp.Import"),
    (On::Pool, For::All, "Resource.AssignVMToPool"),
    (On::Pool, For::Lease, "VApp.Import"),
];

/// What on-conflict = "overwrite" needs besides, on the folder.
pub const UNREGISTER: &str = "VirtualMachine.Inventory.Unregister";

/// The licence edition of a free ESXi.
const FREE_EDITION: &str = "esxBasic";

struct Findings<'a> {
    checked: Checked,
    wanted: &'a Wanted,
}

impl Findings<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        let problem = Problem { key: key.to_owned(), message: message.into() };
        if !self.checked.problems.contains(&problem) {
            self.checked.problems.push(problem);
        }
    }

    /// A server that went away is no matter of the key that was being looked at.
    fn failed(&mut self, key: &str, error: VsphereError, about: &str) {
        let key = if error.is_transient() { "servername" } else { key };
        self.problem(key, error.about(about).to_string());
    }
}

/// Looks for everything. What hangs on something that is missing is not looked for.
pub fn check(client: &Client, username: &str, wanted: &Wanted) -> Checked {
    let mut findings = Findings { checked: Checked::default(), wanted };
    if let Err(error) = client.with_session(|_| Ok(())) {
        findings.failed("servername", error, &format!("{} refuses the login", client.server()));
        return findings.checked;
    }
    if wanted.register {
        findings.licence(client);
    }
    let datacenter = match client.datacenter(&wanted.place.datacenter) {
        Ok(datacenter) => datacenter,
        Err(error) => {
            findings.failed("datacenter", error, "the datacenters can't be listed");
            return findings.checked;
        }
    };
    let all = match client.stores(&datacenter) {
        Ok(stores) => stores,
        Err(error) => {
            findings.failed("dsname", error, "the datastores can't be listed");
            return findings.checked;
        }
    };
    let stores = findings.stores(&datacenter, &all);
    if wanted.register {
        let folder = findings.folder(client, &datacenter);
        let target = findings.target(client, &datacenter, &stores);
        findings.name(client, folder.as_ref());
        findings.privileges(client, username, folder.as_ref(), target.as_ref(), &stores);
    }
    findings.checked
}

impl Findings<'_> {
    /// The datastores that the CFG names, with the keys that name them.
    fn stores<'s>(&mut self, datacenter: &Datacenter, all: &'s [Store]) -> Vec<(String, &'s Store)> {
        let mut found = Vec::new();
        let wanted = self.wanted;
        for want in &wanted.stores {
            let Some(store) = Store::find(all, &want.name) else {
                let names = listed(all.iter().map(|store| store.name.clone()));
                self.problem(
                    &want.key,
                    format!(
                        "datacenter '{}' has no datastore '{}'; it has: {names}",
                        datacenter.name, want.name
                    ),
                );
                continue;
            };
            let name = &store.name;
            if !store.accessible {
                self.problem(
                    &want.key,
                    format!("no host reaches the datastore '{name}'; connect it, or choose another"),
                );
                continue;
            }
            if !matches!(store.maintenance.as_str(), "" | "normal") {
                self.problem(
                    &want.key,
                    format!("the datastore '{name}' is in maintenance mode; end that, or choose another"),
                );
            }
            if want.thick > store.free {
                let (thick, free) = (want.thick, store.free);
                self.problem(
                    &want.size_key,
                    format!("thick disks need {thick} bytes on '{name}', {free} are free; free some or choose another"),
                );
            } else if want.thick.saturating_add(want.thin) > store.free {
                let all = want.thick.saturating_add(want.thin);
                self.checked
                    .notes
                    .push(format!("{name} has {} bytes free, the disks may grow to {all}", store.free));
            }
            found.push((want.key.clone(), store));
        }
        found
    }

    /// A free ESXi host takes no changes through its API, which would show only at the very end.
    fn licence(&mut self, client: &Client) {
        let manager = client
            .with_session(|live| Ok((!live.content.vcenter).then(|| live.content.license_manager.clone())));
        let Ok(Some(Some(manager))) = manager else { return };
        // Whoever may not read licences learns of it when something is refused.
        let Ok(object) = client.properties_of(&manager, &["licenses"]) else { return };
        let licences = object.values.get("licenses").map(|list| list.children.as_slice()).unwrap_or_default();
        if licences.iter().any(|licence| licence.text_at(&["editionKey"]) == FREE_EDITION) {
            let told = format!(
                "{} has the licence of a free ESXi, which refuses changes through the API; license it, or restore with \
                 register-after-import = 0",
                client.server()
            );
            self.problem("servername", told);
        }
    }

    fn folder(&mut self, client: &Client, datacenter: &Datacenter) -> Option<Ref> {
        match client.vm_folder(datacenter, &self.wanted.place.folder) {
            Ok(folder) => Some(folder),
            Err(error) => {
                self.failed("folder", error, "the folders can't be listed");
                None
            }
        }
    }

    fn target(
        &mut self,
        client: &Client,
        datacenter: &Datacenter,
        stores: &[(String, &Store)],
    ) -> Option<Target> {
        let Place { host, pool, .. } = &self.wanted.place;
        let fits = |host: &Ref| stores.iter().all(|(_, store)| store.hosts.contains(host));
        let target = match client.target(datacenter, host, pool, fits) {
            Ok(target) => target,
            Err((key, error)) => {
                self.failed(key, error, "hosts and resource pools can't be listed");
                return None;
            }
        };
        if let Some(host) = &target.host {
            let name = &host.name;
            if host.state != "connected" {
                self.problem(
                    "hostsystem",
                    format!("the host '{name}' is {}; connect it, or choose another", host.state),
                );
            } else if host.maintenance {
                self.problem(
                    "hostsystem",
                    format!("the host '{name}' is in maintenance mode; end that, or choose another"),
                );
            }
            for (key, store) in stores.iter().filter(|(_, store)| !store.hosts.contains(&host.reference)) {
                let told = format!(
                    "the host '{name}' can't write to the datastore '{}'; mount it there, or choose another host or datastore",
                    store.name
                );
                self.problem(key, told);
            }
        } else if !target.compute.hosts.iter().any(fits) {
            let told = format!(
                "no host of '{}' writes to all the datastores that the CFG names",
                target.compute.name
            );
            self.problem("resourcepool", told);
        }
        self.checked.notes.extend(target.note.clone());
        Some(target)
    }

    fn name(&mut self, client: &Client, folder: Option<&Ref>) {
        let name = &self.wanted.vm_name;
        if stored_name(name).chars().count() > VM_NAME_MAX {
            self.problem(
                "vmname",
                format!(
                    "'{name}' is longer than {VM_NAME_MAX} characters, as the inventory writes it; shorten it"
                ),
            );
        }
        let Some(folder) = folder.filter(|_| self.wanted.stop_on_conflict) else { return };
        match vm_in_folder(client, folder, name) {
            Ok(true) => self.problem(
                "vmname",
                format!("a virtual machine '{name}' is in that folder already; choose another name, or set on-conflict = \"rename\""),
            ),
            Ok(false) => {}
            Err(error) => self.failed("vmname", error, "the folder can't be searched"),
        }
    }

    fn privileges(
        &mut self,
        client: &Client,
        username: &str,
        folder: Option<&Ref>,
        target: Option<&Target>,
        stores: &[(String, &Store)],
    ) {
        let mut asked: Vec<(String, String, On, &Ref)> = Vec::new();
        if let Some(folder) = folder {
            asked.push(("folder".into(), "the folder".into(), On::Folder, folder));
        }
        if let Some(target) = target {
            asked.push(("resourcepool".into(), "the resource pool".into(), On::Pool, &target.pool));
        }
        for (key, store) in stores {
            asked.push((
                key.clone(),
                format!("the datastore '{}'", store.name),
                On::Datastore,
                &store.reference,
            ));
        }
        for (key, named, on, object) in asked {
            let way = if self.wanted.whole { For::Lease } else { For::Files };
            let needed =
                PRIVILEGES.iter().filter(|(place, of, _)| *place == on && [For::All, way].contains(of));
            let mut ids: Vec<_> = needed.map(|(.., id)| *id).collect();
            ids.extend((self.wanted.unregisters && on == On::Folder).then_some(UNREGISTER));
            match missing_privileges(client, object, &ids) {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => self.problem(
                    &key,
                    format!(
                        "the account '{username}' lacks {} on {named}; give it the role of docs/vsphere.md there",
                        missing.join(", ")
                    ),
                ),
                // Whoever can't ask may still be allowed to act: what is refused later says so.
                Err(error) => {
                    let note = error.about(format!("the privileges on {named} can't be asked for"));
                    self.checked.notes.push(note.to_string());
                }
            }
        }
    }
}

/// Whether a folder has a virtual machine of that name. Names are unique in a folder, in any case.
pub fn vm_in_folder(client: &Client, folder: &Ref, name: &str) -> Result<bool, VsphereError> {
    let found = client.search("FindChild", |w| {
        w.reference("entity", folder).value("name", stored_name(name));
    })?;
    Ok(found.is_some())
}

/// Which of those privileges the account lacks on an object.
pub fn missing_privileges(client: &Client, object: &Ref, ids: &[&str]) -> Result<Vec<String>, VsphereError> {
    let result = client.read(
        "HasPrivilegeOnEntities",
        |live| live.content.authorization_manager.clone(),
        |w, live| {
            w.reference("entity", object).value("sessionId", &live.key);
            for id in ids {
                w.value("privId", id);
            }
        },
    )?;
    let availability = soap::returned("HasPrivilegeOnEntities", &result)?;
    let missing = availability.all("privAvailability").filter(|one| !one.flag_at(&["isGranted"]));
    Ok(missing.map(|one| one.text_at(&["privId"]).to_owned()).collect())
}

#[cfg(test)]
mod tests;
