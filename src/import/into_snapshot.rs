//! `on-conflict = "snapshot"`: a virtual machine that exists gets a snapshot, and its disks as they are then are written. What it was
//! before is behind the snapshot: whoever wants it back reverts to that.
//!
//! The disks are none that this session made: nothing in them is known to read as zeros, none is an orphan, and the virtual machine's
//! own VMX stays.

use std::io::ErrorKind;

use super::formats::cfg::{Cfg, CfgProblem, OnConflict};
use super::formats::log_text::Event;
use super::hypervisor::Hypervisor;
use super::plan::Plan;
use super::session::{Inner, Session};
use crate::inventory::{Inventory, InventoryError, Machine, MachineDisk, StoreFile};

mod ledger;

pub(super) use ledger::Snapshot;

/// What drivers that can't do it are told with.
pub(super) const DRIVERS: &str = "hotadd writes into the disks of a virtual machine that exists, and nbd where existing-disks = true says that an address \
     follows a disk's name (docs/drivers.md)";

/// The virtual machine whose snapshot a CFG is restored into, after it was found fit. `None`: there is none with that VMX, and nothing is
/// in conflict. `names` are the datastores' names, the VMX's first.
pub(super) fn target(
    hypervisor: &Hypervisor,
    cfg: &Cfg,
    names: &[String],
) -> Result<Option<Machine>, Vec<CfgProblem>> {
    let key = "on-conflict";
    let Some(inventory) = &hypervisor.inventory else {
        let told = format!(
            "'{}' has datastores only, no virtual machine that could have a snapshot",
            hypervisor.name
        );
        return Err(vec![cfg.problem(key, told)]);
    };
    let failed = |error: InventoryError| vec![cfg.problem(key, error.message)];
    let vmx = file(&names[0], &cfg.directory, cfg.target_vmx());
    let Some(machine) = inventory.machine(&cfg.datacenter, &vmx).map_err(failed)? else { return Ok(None) };
    if !machine.powered_off {
        let told = format!("the virtual machine '{}' runs or is suspended; power it off first", machine.name);
        return Err(vec![cfg.problem(key, told)]);
    }
    let lacks = inventory.lacks_for_snapshot(&machine).map_err(failed)?;
    if !lacks.is_empty() {
        let told = format!(
            "the account lacks {} on the virtual machine '{}'; give it the role of docs/vsphere.md there",
            lacks.join(", "),
            machine.name
        );
        return Err(vec![cfg.problem(key, told)]);
    }
    let disks = inventory.disks(&machine).map_err(failed)?;
    let mut problems = Vec::new();
    let mut current = Vec::new();
    for (number, disk) in cfg.disks.iter().enumerate() {
        let wanted = file(&names[number + 1], &disk.directory, disk.target_name());
        match disk_of(&disks, &wanted) {
            None => {
                let known: Vec<_> = disks.iter().map(|disk| disk.base.to_string()).collect();
                let told = format!("'{}' has no disk {wanted}; it has: {}", machine.name, known.join(", "));
                problems.push(cfg.problem(&format!("vmdk.{number}.name"), told));
            }
            Some(found) if found.size != disk.size => {
                let told = format!(
                    "{wanted} of '{}' has {} bytes; only a disk of its size fits",
                    machine.name, found.size
                );
                problems.push(cfg.problem(&format!("vmdk.{number}.size"), told));
            }
            Some(found) => current.push(&found.current),
        }
    }
    if problems.is_empty() {
        // Not the disks that will be written: but what is wrong with their server is wrong before anything is made.
        let plan = Plan::new(&hypervisor.name, cfg.clone(), cfg.clone(), names);
        problems = unreachable(hypervisor, &led(&plan, &machine, &current));
    }
    if problems.is_empty() { Ok(Some(machine)) } else { Err(problems) }
}

/// The plan with its disks where a virtual machine has them, by the descriptors that it writes to.
fn led(plan: &Plan, machine: &Machine, current: &[&StoreFile]) -> Plan {
    let mut taken = plan.taken.clone();
    let mut names = vec![plan.place.datastore.clone()];
    for (disk, current) in taken.disks.iter_mut().zip(current) {
        let (directory, name) = current.path.rsplit_once('/').unwrap_or(("", &current.path));
        directory.clone_into(&mut disk.directory);
        disk.rename = Some(name.to_owned());
        disk.extent_rename = None;
        names.push(current.datastore.clone());
    }
    taken.on_conflict = OnConflict::Snapshot;
    Plan::new(&plan.hypervisor, plan.asked.clone(), taken, &names).of_machine(Some(&machine.id))
}

/// What its drivers say of the disks of such a plan. Of a datastore whose server does not answer, the first.
fn unreachable(hypervisor: &Hypervisor, plan: &Plan) -> Vec<CfgProblem> {
    let (mut problems, mut silent) = (Vec::new(), Vec::new());
    for (number, disk) in plan.disks.iter().enumerate() {
        let datastore = &disk.place.datastore;
        let Some(entry) = hypervisor.datastore(datastore).filter(|_| !silent.contains(&datastore)) else {
            continue;
        };
        let Err(error) = entry.store.reach(&disk.spec()) else { continue };
        if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::PermissionDenied) {
            silent.push(datastore);
        }
        let told = format!("[{datastore}] {} can't be written: {error}", disk.place.file(&disk.target_name));
        problems.push(plan.asked.problem(&format!("vmdk.{number}.name"), told));
    }
    problems
}

fn file(datastore: &str, directory: &str, name: &str) -> StoreFile {
    let path = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
    StoreFile { datastore: datastore.to_owned(), path }
}

fn disk_of<'d>(disks: &'d [MachineDisk], wanted: &StoreFile) -> Option<&'d MachineDisk> {
    disks.iter().find(|disk| disk.base == *wanted || disk.current == *wanted)
}

/// Makes the snapshot, unless the session made it before, and leads the plan's disks to what is written since.
fn enter(
    inventory: &dyn Inventory,
    machine: &Machine,
    snapshot: &str,
    plan: &Plan,
) -> Result<(Plan, bool), InventoryError> {
    let before = inventory.disks(machine)?;
    let description = "made by importfs: the virtual machine as it was before it was restored into";
    let made = inventory.snapshot(machine, snapshot, description)?;
    let now = inventory.disks(machine)?;
    let told = |message: String| InventoryError { message, transient: false };
    let mut entered = Vec::new();
    for planned in &plan.disks {
        let wanted = StoreFile {
            datastore: planned.place.datastore.clone(),
            path: planned.place.file(&planned.target_name),
        };
        let base = disk_of(&before, &wanted).map(|disk| &disk.base);
        let current = now.iter().find(|disk| Some(&disk.base) == base).map(|disk| &disk.current);
        let Some(current) = current.filter(|current| **current != wanted && Some(*current) != base) else {
            return Err(told(format!(
                "{wanted} is not behind the snapshot '{snapshot}': an independent disk has none"
            )));
        };
        if current.datastore != wanted.datastore {
            return Err(told(format!(
                "the snapshot of {wanted} is on another datastore, [{}]",
                current.datastore
            )));
        }
        entered.push(current);
    }
    Ok((led(plan, machine, &entered), made))
}

impl Session {
    /// The plan of a session that is restored into a snapshot of `machine`, which has it then.
    pub(super) fn enter_snapshot(
        &self,
        inner: &mut Inner,
        plan: &Plan,
        machine: &Machine,
    ) -> Result<Plan, Vec<CfgProblem>> {
        let problem = |message: String| vec![plan.asked.problem("on-conflict", message)];
        let hypervisor = self.shared.hypervisors.find(&plan.hypervisor);
        let (hypervisor, inventory) = hypervisor
            .and_then(|found| Some((found, found.inventory.clone()?)))
            .ok_or_else(|| problem(format!("'{}' has no inventory any more", plan.hypervisor)))?;
        // Told apart from other sessions', and the same when a crash has this one begin again.
        let id = self.cache.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
        let name = format!("importfs {id}");
        let snapshot = Snapshot {
            hypervisor: plan.hypervisor.clone(),
            datacenter: plan.taken.datacenter.clone(),
            vmx: machine.vmx.clone(),
            name: name.clone(),
        };
        inner.snapshots.retain(|known| *known != snapshot);
        inner.snapshots.push(snapshot.clone());
        self.record(&snapshot.record()).map_err(|error| problem(error.to_string()))?;
        let entered = enter(inventory.as_ref(), machine, &name, plan);
        if entered.is_err() && matches!(inventory.has_snapshot(machine, &name), Ok(false)) {
            inner.snapshots.retain(|known| *known != snapshot);
            self.record(&snapshot.removed()).map_err(|error| problem(error.to_string()))?;
        }
        let (entered, made) = entered.map_err(|error| problem(error.message))?;
        let was = if made { "made" } else { "there already" };
        let note = format!(
            "restored into '{}' ({}) as it is since its snapshot '{name}' ({was}); to have it back as it was, revert to that",
            machine.name, machine.id
        );
        self.log.line(&Event::Note(&note).to_string());
        let mut problems = unreachable(hypervisor, &entered);
        if problems.is_empty() {
            return Ok(entered);
        }
        problems.push(plan.asked.problem(
            "on-conflict",
            format!(
                "nothing is restored yet, and the snapshot '{name}' of '{}' stays; when its disks can be written, copy this file again: \
                 no second one is made. Or delete this directory: importfs orphans clean removes the snapshot then",
                machine.name
            ),
        ));
        Err(problems)
    }
}

#[cfg(test)]
mod tests;
