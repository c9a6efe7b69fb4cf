//! What a CFG means on the configured hypervisors: every error at once, where everything would go, and whether it fits.
//!
//! The one validator: a session asks it when a CFG is closed, `importfs check` asks it for a dry run. Looks at
//! datastores and changes nothing.

use std::collections::BTreeMap;

use super::error::ImportError;
use super::formats::cfg::{self, Cfg, CfgProblem, Draft, OnConflict};
use super::formats::cfg_check::duplicate_destinations;
use super::formats::conflict::{self, Redirect};
use super::hypervisor::{DatastoreEntry, Hypervisor, Hypervisors};
use super::into_snapshot;
use super::overwrite;
use super::plan::Plan;
use crate::datastore::Space;
use crate::inventory::{Checked, Inventory, Machine, Problem, Store, Wanted};
use crate::journal::LedgerKey;

/// A CFG that was read, against the configuration but not yet against what lies on the datastores.
pub struct Examined<'a> {
    /// Unknown keys and the like.
    pub warnings: Vec<CfgProblem>,
    /// The CFG, where the file itself has no error.
    pub cfg: Option<Cfg>,
    /// All that is wrong so far.
    pub problems: Vec<CfgProblem>,
    draft: Draft,
    pub(super) hypervisor: Option<&'a Hypervisor>,
    /// What an inventory found; apart from `problems`, as a session that has its data asks only for some of it.
    found: Checked,
    /// Datastores that the inventory knows by another name than the configuration (by UUID), to the configuration's.
    names: BTreeMap<String, String>,
}

/// What the disks of a CFG need of one datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub datastore: String,
    /// What it has.
    pub space: Space,
    /// Bytes that its thick disks take at once.
    pub thick: u64,
    /// Bytes to which its thin disks may grow.
    pub thin: u64,
    /// Which driver writes it and why, where there was a choice.
    pub written: Option<String>,
}

impl Room {
    /// Whether thin disks might outgrow it, as a sentence.
    pub fn warning(&self) -> Option<String> {
        let all = self.thick.saturating_add(self.thin);
        (all > self.space.available).then(|| {
            let free = self.space.available;
            format!("{} has {free} bytes free, the disks may grow to {all}", self.datastore)
        })
    }
}

/// A CFG that can be carried out.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Where everything goes.
    pub plan: Plan,
    /// What goes elsewhere because of `on-conflict = "rename"`.
    pub redirects: Vec<Redirect>,
    /// Space, for each datastore that gets something.
    pub rooms: Vec<Room>,
    /// What else is worth a line.
    pub notes: Vec<String>,
    /// The virtual machine into whose next snapshot it goes.
    pub into: Option<Machine>,
}

/// Reads a CFG and looks up what it names, in the hypervisor's inventory too: that may take long. `on_conflict` is what a
/// file without that key gets.
pub fn examine<'a>(bytes: &[u8], on_conflict: OnConflict, hypervisors: &'a Hypervisors) -> Examined<'a> {
    let parsed = cfg::parse(bytes, on_conflict);
    let (cfg, problems) = match parsed.cfg {
        Ok(cfg) => (Some(cfg), Vec::new()),
        Err(problems) => (None, problems),
    };
    let mut examined = Examined {
        warnings: parsed.warnings,
        cfg,
        problems,
        draft: parsed.draft,
        hypervisor: None,
        found: Checked::default(),
        names: BTreeMap::new(),
    };
    if let Some(name) = examined.draft.server_name.clone() {
        examined.hypervisor = hypervisors.find(&name);
        match examined.hypervisor {
            Some(hypervisor) => {
                if let Some(inventory) = &hypervisor.inventory {
                    examined.ask(hypervisor, inventory.as_ref());
                }
                examined.look_up(hypervisor);
                examined.ask_drivers(hypervisor);
            }
            None => {
                let known: Vec<_> = hypervisors.0.iter().map(|h| h.name.as_str()).collect();
                let message =
                    format!("no hypervisor '{name}' is configured; there are: {}", known.join(", "));
                let problem = examined.draft.problem("servername", message);
                examined.problems.push(problem);
            }
        }
    }
    cfg::sort(&mut examined.problems);
    examined
}

impl Examined<'_> {
    /// What stands in the way in the inventory, as far as the CFG can be read; and what the names of datastores mean there.
    fn ask(&mut self, hypervisor: &Hypervisor, inventory: &dyn Inventory) {
        let mut stores: Vec<Store> = Vec::new();
        for (number, place) in self.draft.places.iter().enumerate() {
            let Some(dsname) = place.datastore.as_deref() else { continue };
            if hypervisor.datastore(dsname).is_none() && !self.names.contains_key(dsname) {
                // An error here comes again from the check below, with everything else; but nobody should wait for a dead
                // server twice.
                match inventory.datastore_name(&self.draft.inventory.datacenter, dsname) {
                    Ok(Some(name)) => drop(self.names.insert(dsname.to_owned(), name)),
                    Err(error) if error.transient => {
                        let problem = Problem { key: "servername".to_owned(), message: error.message };
                        self.found.problems.push(problem);
                        return;
                    }
                    _ => {}
                }
            }
            let name = self.entry_of(hypervisor, dsname).map_or(dsname, |entry| &entry.name);
            let at = stores.iter().position(|store| store.name == name).unwrap_or(stores.len());
            if at == stores.len() {
                let key = place.datastore_key.clone();
                stores.push(Store { key, name: name.to_owned(), size_key: String::new(), thick: 0, thin: 0 });
            }
            let Some(disk) = number.checked_sub(1) else { continue };
            let store = &mut stores[at];
            let sum = if place.thick { &mut store.thick } else { &mut store.thin };
            *sum = sum.saturating_add(place.size);
            store.size_key = format!("vmdk.{disk}.size");
        }
        // A disk without a datastore of its own follows the VM's, whose line is the one to change.
        for store in stores.iter_mut().filter(|store| !self.draft.has(&store.key)) {
            "dsname".clone_into(&mut store.key);
        }
        let wanted = Wanted {
            place: self.draft.inventory.clone(),
            vm_name: self.draft.vm_name.clone().unwrap_or_default(),
            register: self.draft.register,
            whole: self.is_whole(hypervisor),
            stop_on_conflict: self.draft.on_conflict == OnConflict::Stop && self.draft.vm_name.is_some(),
            unregisters: self.draft.on_conflict == OnConflict::Overwrite,
            stores,
        };
        self.found = inventory.check(&wanted);
    }

    /// What stands in the way of the drivers of the datastores that the CFG names; with what the inventory found, since it may change
    /// by itself.
    fn ask_drivers(&mut self, hypervisor: &Hypervisor) {
        let mut asked = Vec::new();
        for place in &self.draft.places {
            let Some(dsname) = place.datastore.as_deref() else { continue };
            let Some(entry) = self.entry_of(hypervisor, dsname).filter(|entry| !asked.contains(&&entry.name))
            else {
                continue;
            };
            asked.push(&entry.name);
            let key = if self.draft.has(&place.datastore_key) { &place.datastore_key } else { "dsname" };
            for message in entry.store.obstacles() {
                if self.found.problems.iter().all(|problem| problem.message != message) {
                    self.found.problems.push(Problem { key: key.to_owned(), message });
                }
            }
        }
    }

    /// What the inventory found, in the form of the CFG's own errors.
    pub fn inventory_problems(&self) -> Vec<CfgProblem> {
        self.found.problems.iter().map(|p| self.draft.problem(&p.key, p.message.clone())).collect()
    }

    /// The configured datastore that a CFG calls `dsname`.
    fn entry_of<'h>(&self, hypervisor: &'h Hypervisor, dsname: &str) -> Option<&'h DatastoreEntry> {
        let known = hypervisor.datastore(dsname);
        known.or_else(|| hypervisor.datastore(self.names.get(dsname)?))
    }

    /// Whether any of its datastores takes whole machines only.
    fn is_whole(&self, hypervisor: &Hypervisor) -> bool {
        let named = self.draft.places.iter().filter_map(|place| place.datastore.as_deref());
        named
            .filter_map(|dsname| self.entry_of(hypervisor, dsname))
            .any(|entry| !entry.store.capabilities().random_write)
    }

    fn look_up(&mut self, hypervisor: &Hypervisor) {
        if !self.draft.register && hypervisor.inventory.is_some() && self.is_whole(hypervisor) {
            let message = "its datastore takes whole virtual machines, which are registered as they are made; set \
                           register-after-import = 1";
            self.problems.push(self.draft.problem("register-after-import", message.to_owned()));
        }
        if self.draft.register && hypervisor.inventory.is_none() {
            let message = format!(
                "'{}' has datastores only, nothing to register with; set register-after-import = 0",
                hypervisor.name
            );
            self.problems.push(self.draft.problem("register-after-import", message));
        }
        for place in &self.draft.places {
            let key = &place.datastore_key;
            let Some(dsname) = place.datastore.as_deref().filter(|_| self.draft.has(key)) else { continue };
            if self.entry_of(hypervisor, dsname).is_some() {
                continue;
            }
            let known: Vec<_> = hypervisor.datastores.iter().map(|d| d.name.as_str()).collect();
            let (name, known) = (&hypervisor.name, known.join(", "));
            let message = match (&hypervisor.inventory, self.names.get(dsname)) {
                (None, _) => format!("'{name}' has no datastore '{dsname}'; it has: {known}"),
                (Some(_), Some(store)) => format!(
                    "the datastore '{store}' of '{name}' is not in the configuration; add it there, with its path where it is \
                     mounted here, or choose one that is: {known}"
                ),
                // The inventory's own answer says more.
                (Some(_), None) => continue,
            };
            self.problems.push(self.draft.problem(key, message));
        }
        if self.draft.on_conflict == OnConflict::Snapshot {
            let stores = self.draft.places.iter().filter_map(|place| place.datastore.as_deref());
            let mut entries = stores.filter_map(|dsname| self.entry_of(hypervisor, dsname));
            if let Some(entry) = entries.find(|entry| !entry.store.capabilities().existing_disks) {
                let message = format!(
                    "\"snapshot\" is not to be had on [{}]: {}; use \"stop\" or \"rename\", or another writer of that datastore",
                    entry.name,
                    into_snapshot::DRIVERS
                );
                self.problems.push(self.draft.problem("on-conflict", message));
            }
        }
        if self.draft.on_conflict != OnConflict::Snapshot {
            self.problems.extend(self.new_disks(hypervisor));
        }
        // The same clash within one spelling is the file's own error already.
        let identity =
            |dsname: &str| self.entry_of(hypervisor, dsname).map_or(dsname, |d| &d.name).to_owned();
        let clashes: Vec<_> = self.cfg.iter().flat_map(|cfg| duplicate_destinations(cfg, identity)).collect();
        for (key, first, place) in clashes {
            let message =
                format!("its destination {place} is that of {first} too; rename one or change its directory");
            self.problems.push(self.draft.problem(&key, message));
        }
    }

    /// Whether its datastores take disks that are new.
    fn new_disks(&self, hypervisor: &Hypervisor) -> Option<CfgProblem> {
        let mut disks = self.draft.places.iter().skip(1);
        disks.find_map(|place| {
            let entry = self.entry_of(hypervisor, place.datastore.as_deref()?)?;
            if entry.store.capabilities().new_disks {
                return None;
            }
            let message = format!(
                "[{}] takes no new disks, only those of a virtual machine that exists (existing-disks in the configuration): use \
                 \"snapshot\", or another datastore",
                entry.name
            );
            Some(self.draft.problem("on-conflict", message))
        })
    }

    /// In the form of the CFG's own errors.
    pub fn problem(&self, key: &str, message: String) -> CfgProblem {
        self.draft.problem(key, message)
    }

    /// Every directory that it names, as far as that can be told, with its datastore; deeper ones first.
    pub fn places(&self) -> Vec<(LedgerKey, &DatastoreEntry)> {
        let places = self.draft.places.iter().filter_map(|place| {
            let hypervisor = self.hypervisor?;
            let entry = self.entry_of(hypervisor, place.datastore.as_deref()?)?;
            let (datastore, path) = (entry.name.clone(), place.directory.clone()?);
            Some((LedgerKey { hypervisor: hypervisor.name.clone(), datastore, path }, entry))
        });
        let mut places: Vec<_> = places.collect();
        places.sort_by_key(|(key, _)| std::cmp::Reverse(key.path.matches('/').count()));
        places
    }

    /// Looks at the datastores: conflicts resolved or reported, room compared. `ours` tells whether a directory, by the
    /// datastore's name, is the session's own from an earlier CFG, and so in nobody's way. `session` is its number, for names
    /// that no other may take.
    pub fn resolve(
        mut self,
        session: &str,
        ours: impl Fn(&str, &str) -> bool,
    ) -> Result<Resolved, Vec<CfgProblem>> {
        let Some(hypervisor) = self.hypervisor else { return Err(self.problems) };
        self.problems.extend(self.inventory_problems());
        let names = std::mem::take(&mut self.names);
        let entry_of =
            |dsname: &str| hypervisor.datastore(dsname).or_else(|| hypervisor.datastore(names.get(dsname)?));
        let exists = |dsname: &str, directory: &str| match entry_of(dsname) {
            Some(entry) if ours(&entry.name, directory) => Ok(false),
            Some(entry) => entry.store.exists(directory).map_err(|error| {
                format!("the datastore {} can't be asked about {directory}: {error}", entry.name)
            }),
            None => Ok(false), // reported already
        };
        if self.draft.on_conflict == OnConflict::Stop {
            self.problems.extend(conflict::stopped(&self.draft, exists));
        }
        let Some(asked) = self.cfg.take().filter(|_| self.problems.is_empty()) else {
            cfg::sort(&mut self.problems);
            return Err(self.problems);
        };
        let names: Vec<_> = std::iter::once(&asked.datastore)
            .chain(asked.disks.iter().map(|disk| &disk.datastore))
            .map(|dsname| entry_of(dsname).map_or(dsname, |d| &d.name).clone())
            .collect();
        let mut into = None;
        let (mut taken, mut redirects) = match asked.on_conflict {
            OnConflict::Snapshot => {
                let mut taken = asked.clone();
                into = into_snapshot::target(hypervisor, &asked, &names)?;
                if into.is_none() {
                    let stopped = conflict::stopped(&self.draft, exists);
                    if !stopped.is_empty() {
                        return Err(stopped);
                    }
                    if let Some(problem) = self.new_disks(hypervisor) {
                        return Err(vec![problem]);
                    }
                    let vmx = format!("[{}] {}/{}", names[0], asked.directory, asked.target_vmx());
                    let note = format!("there is no virtual machine with {vmx}: it is restored as a new one");
                    self.found.notes.push(note);
                    taken.on_conflict = OnConflict::Stop;
                }
                (taken, Vec::new())
            }
            OnConflict::Stop | OnConflict::Overwrite => (asked.clone(), Vec::new()),
            OnConflict::Rename => {
                let identity = |dsname: &str| entry_of(dsname).map_or(dsname, |d| &d.name).to_owned();
                conflict::renamed(&asked, identity, exists)
                    .map_err(|error| vec![asked.problem("directory", error.to_string())])?
            }
        };
        if let (Some(inventory), OnConflict::Rename, true) =
            (&hypervisor.inventory, asked.on_conflict, asked.register)
        {
            let taken_name =
                conflict::free_name(&asked.vm_name, |name| inventory.vm_exists(&asked.inventory(), name))
                    .map_err(|error| vec![asked.problem("vmname", error.to_string())])?;
            if taken_name != asked.vm_name {
                redirects.push(Redirect { from: asked.vm_name.clone(), to: taken_name.clone() });
                taken.vm_name = taken_name;
            }
        }
        let mut plan = Plan::new(&hypervisor.name, asked, taken, &names);
        if plan.asked.on_conflict == OnConflict::Overwrite {
            let identity = |dsname: &str| entry_of(dsname).map_or(dsname, |d| &d.name).to_owned();
            let replaced = conflict::replaced(&plan.asked, identity, exists)
                .map_err(|error| vec![plan.asked.problem("directory", error)])?;
            self.found.notes.extend(replaced.iter().map(|place| format!("{place} will be replaced")));
            plan = plan.replacing(overwrite::swaps(replaced, session), false);
            overwrite::possible(&plan, hypervisor)?;
        }
        let rooms = rooms(&plan, hypervisor)?;
        Ok(Resolved { plan, redirects, rooms, notes: self.found.notes, into })
    }
}

/// What each datastore has and must take. Thick disks must fit all together; thin ones may be larger than what is free.
fn rooms(plan: &Plan, hypervisor: &Hypervisor) -> Result<Vec<Room>, Vec<CfgProblem>> {
    let mut needs: BTreeMap<&str, (u64, u64, usize)> = BTreeMap::new();
    needs.entry(&plan.place.datastore).or_default();
    for (number, disk) in plan.disks.iter().enumerate() {
        let need = needs.entry(&disk.place.datastore).or_default();
        // What a snapshot's disk takes grows with it.
        let sum = if disk.thin || plan.into_snapshot() { &mut need.1 } else { &mut need.0 };
        *sum = sum.saturating_add(disk.size);
        need.2 = number;
    }
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (name, (thick, thin, last)) in needs {
        let entry = hypervisor.datastore(name);
        let space = match entry {
            Some(entry) => entry.store.space().map_err(ImportError::io(name)),
            None => Err(ImportError::NotFound(name.to_owned())),
        };
        let written = entry.and_then(|entry| entry.written.clone());
        match space {
            Err(error) => problems.push(plan.asked.problem("dsname", error.to_string())),
            Ok(space) if thick > space.available => {
                let message = format!(
                    "thick disks need {thick} bytes on {name}, {} are free; free some or choose another",
                    space.available
                );
                problems.push(plan.asked.problem(&format!("vmdk.{last}.size"), message));
            }
            Ok(space) => found.push(Room { datastore: name.to_owned(), space, thick, thin, written }),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}
