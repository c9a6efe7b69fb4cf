//! `on-conflict = "overwrite"`: what lies in the directories that are to be replaced, and whether that may be. Asked when the
//! CFG is read, and again when the restored machine is about to take its place. Looks and changes nothing.

use super::formats::belongs;
use super::formats::cfg::{CfgProblem, OnConflict};
use super::hypervisor::Hypervisor;
use super::plan::{Plan, Swap};
use crate::datastore::Datastore;
use crate::inventory::{Inventory, InventoryError, Machine, StoreFile};

/// Files in one directory of a virtual machine that are looked at: more than any has.
pub(super) const FILES_MAX: usize = 4096;
/// Bytes of a component of a path, as file systems have it (NAME_MAX).
const COMPONENT_BYTES_MAX: usize = 255;

/// The swaps of a session for these directories: what each is called in between has the session's number in it.
pub(super) fn swaps(replaced: Vec<StoreFile>, session: &str) -> Vec<Swap> {
    let number: String = session.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let swap = |StoreFile { datastore, path }| Swap {
        beside: format!("{path}.importfs-{number}"),
        old: format!("{path}.importfs-old-{number}"),
        datastore,
        target: path,
    };
    replaced.into_iter().map(swap).collect()
}

/// Whether a plan's directories can take the place of others; all that is in the way if not.
pub(super) fn possible(plan: &Plan, hypervisor: &Hypervisor) -> Result<(), Vec<CfgProblem>> {
    let problems = impossible(plan, hypervisor);
    if !problems.is_empty() {
        return Err(problems);
    }
    occupant(plan, hypervisor).map(drop)
}

/// Why a driver can't, for each datastore of a plan; and names that leave no room for those in between.
fn impossible(plan: &Plan, hypervisor: &Hypervisor) -> Vec<CfgProblem> {
    let mut problems: Vec<CfgProblem> = Vec::new();
    let mut add = |problem: CfgProblem| {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    };
    for place in plan.places() {
        let why = hypervisor.datastore(&place.datastore).and_then(|entry| entry.store.can_swap().err());
        if let Some(why) = why {
            add(plan.asked.problem(
                "on-conflict",
                format!(
                    "\"overwrite\" is not possible on {}: {why}; a datastore that is mounted here can (writer = \"directory\"), \
                     or use \"stop\" or \"rename\"",
                    place.datastore
                ),
            ));
        }
    }
    for swap in &plan.swaps {
        let name = swap.old.rsplit('/').next().unwrap_or_default();
        if name.len() > COMPONENT_BYTES_MAX {
            let told = format!("the name {} is too long for another beside it; shorten it", swap.target);
            add(plan.asked.problem("directory", told));
        }
    }
    problems
}

/// The registered virtual machine that is to be replaced, if there is one; or all that is in the way.
pub(super) fn occupant(plan: &Plan, hypervisor: &Hypervisor) -> Result<Option<Machine>, Vec<CfgProblem>> {
    if plan.asked.on_conflict != OnConflict::Overwrite {
        return Ok(None);
    }
    let mut found = Findings { plan, problems: Vec::new() };
    let machine = match &hypervisor.inventory {
        Some(inventory) => found
            .registered(&**inventory)
            .map_err(|error| vec![plan.asked.problem("servername", error.message)])?,
        None => None,
    };
    for swap in &plan.swaps {
        match hypervisor.datastore(&swap.datastore) {
            Some(entry) => found.files(swap, &*entry.store, machine.as_ref()),
            None => found.problem("dsname", format!("the datastore {} is not configured", swap.datastore)),
        }
    }
    if found.problems.is_empty() { Ok(machine) } else { Err(found.problems) }
}

struct Findings<'a> {
    plan: &'a Plan,
    problems: Vec<CfgProblem>,
}

impl Findings<'_> {
    fn problem(&mut self, key: &str, message: String) {
        self.problems.push(self.plan.asked.problem(key, message));
    }

    fn registered(&mut self, inventory: &dyn Inventory) -> Result<Option<Machine>, InventoryError> {
        let asked = &self.plan.asked;
        let directories: Vec<_> = self
            .plan
            .swaps
            .iter()
            .map(|swap| StoreFile { datastore: swap.datastore.clone(), path: swap.target.clone() })
            .collect();
        let mut machines = Vec::new();
        if !directories.is_empty() {
            machines = inventory.machines_in(&asked.datacenter, &directories)?;
        }
        let named = |machine: &Machine| format!("'{}' ({})", machine.name, machine.vmx);
        if machines.len() > 1 {
            let names: Vec<_> = machines.iter().map(named).collect();
            self.problem(
                "on-conflict",
                format!(
                    "several virtual machines have files in what would be replaced: {}",
                    names.join(", ")
                ),
            );
            return Ok(None);
        }
        let machine = machines.pop();
        if let Some(machine) = &machine {
            let name = named(machine);
            if !self.holds_vmx(&machine.vmx) {
                self.problem(
                    "on-conflict",
                    format!("the virtual machine {name} has disks in a directory that would be replaced, and does not lie in \
                             `directory` itself; choose other directories"),
                );
            }
            if !machine.powered_off {
                self.problem(
                    "on-conflict",
                    format!("the virtual machine {name} is not powered off; power it off first"),
                );
            }
            if !asked.register {
                self.problem(
                    "register-after-import",
                    format!("the virtual machine {name} would be replaced in the inventory too; set it to 1, or unregister that \
                             one first"),
                );
            }
        }
        if asked.register
            && machine.as_ref().is_none_or(|machine| machine.name != asked.vm_name)
            && inventory.vm_exists(&asked.inventory(), &asked.vm_name)?
        {
            self.problem(
                "vmname",
                format!(
                    "a virtual machine '{}' is in that folder, and does not lie in the directory of the CFG, the one that \
                     \"overwrite\" replaces; correct `directory`, or choose another name",
                    asked.vm_name
                ),
            );
        }
        Ok(machine)
    }

    /// Whether a VMX lies in what the directory of the CFG's VMX replaces.
    fn holds_vmx(&self, vmx: &StoreFile) -> bool {
        let target = self.plan.target_vmx();
        let mut roots =
            self.plan.swaps.iter().filter(|swap| swap.moved(&target.datastore, &target.path).is_some());
        roots.any(|swap| swap.moved(&vmx.datastore, &vmx.path).is_some())
    }

    /// Looks into a directory: whether it is one, of one virtual machine, that does not run as far as its files tell.
    fn files(&mut self, swap: &Swap, store: &dyn Datastore, machine: Option<&Machine>) {
        let shown = format!("[{}] {}", swap.datastore, swap.target);
        let names = match store.list(&swap.target, FILES_MAX) {
            Ok(names) => names,
            Err(error) => return self.problem("directory", format!("{shown} can't be looked into: {error}")),
        };
        let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        let vmx: Vec<_> = names.iter().filter(|name| belongs::is_vmx(name)).map(String::as_str).collect();
        let target = self.plan.target_vmx();
        let of_vmx = swap.moved(&target.datastore, &target.path).is_some();
        if !of_vmx && !vmx.is_empty() {
            let told = format!(
                "{shown} is the directory of another virtual machine, {}; choose another",
                vmx.join(", ")
            );
            self.problem("directory", told);
        } else if machine.is_none() && vmx.len() > 1 && !vmx.contains(&self.plan.taken.target_vmx()) {
            let told = format!(
                "{shown} holds several virtual machines, {}; which one is meant can't be told",
                vmx.join(", ")
            );
            self.problem("directory", told);
        }
        // Whoever is in the inventory was asked there; for others there are only the marks of a running machine.
        let marks: Vec<_> = names.iter().filter(|name| belongs::is_lock(name)).map(String::as_str).collect();
        if machine.is_none() && !marks.is_empty() {
            let told = format!(
                "{shown} looks like that of a running virtual machine ({}); power it off, or remove them if it does not run",
                marks.join(", ")
            );
            self.problem("on-conflict", told);
        }
    }
}
