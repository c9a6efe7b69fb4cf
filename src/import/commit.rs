//! What happens when a small file has arrived: a CFG defines the session, a VMX completes it, others go beside it.

use super::error::ImportError;
use super::formats::cfg::{self, CfgProblem, OnConflict};
use super::formats::descriptor::{self, Descriptor};
use super::formats::log_text::{Event, session_block};
use super::formats::names::Kind;
use super::formats::vmcfg;
use super::ledger::Whose;
use super::plan::Plan;
use super::preflight::{self, Examined, Resolved};
use super::session::{Fault, Inner, Session, digest, fold_name};
use super::state::{Receiving, State};
use crate::datastore::Datastore;
use crate::journal::{LedgerKey, ObjectKind, Record};

impl Session {
    /// Takes up a small file that its client closed.
    pub(super) fn commit_small(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
        match kind {
            // An editor truncates first and writes then; there is nothing to say about the moment between.
            Kind::Cfg if bytes.is_empty() => Ok(()),
            Kind::Cfg => {
                // An inventory may take long to answer: not under the lock, or the session could not even be listed.
                let examined = preflight::examine(bytes, self.shared.on_conflict, &self.shared.hypervisors);
                self.commit_cfg(&mut self.lock(), name, examined)?;
                self.compare_mounts(name)
            }
            Kind::Vmx => self.commit_vmx(name, bytes),
            Kind::Descriptor(number) => {
                self.refuse_replaced(kind, name)?;
                self.commit_descriptor(&mut self.lock(), number, name, bytes)
            }
            _ => {
                self.refuse_replaced(kind, name)?;
                self.put_beside(&mut self.lock(), name, name, bytes)
            }
        }
    }

    /// Asks the hypervisor whether it sees the directories that were just made: a datastore whose path in the configuration
    /// leads elsewhere would take all data, and the VMX could not be registered in the end. Told, but no reason to stop: a
    /// slow NFS client may see them later.
    fn compare_mounts(&self, name: &str) -> Result<(), ImportError> {
        let plan = match &self.lock().state {
            State::Receiving(receiving) if !receiving.has_data() && receiving.plan.taken.register => {
                receiving.plan.clone()
            }
            _ => return Ok(()),
        };
        let Some(inventory) =
            self.shared.hypervisors.find(&plan.hypervisor).and_then(|found| found.inventory.clone())
        else {
            return Ok(());
        };
        if self.is_staged(&plan) {
            return Ok(()); // Nothing of it is mounted, and no directory made yet.
        }
        let mut places: Vec<_> = plan.places().filter(|place| !place.directory.is_empty()).collect();
        places.sort();
        places.dedup_by_key(|place| &place.datastore);
        for place in places {
            let (datastore, directory) = (&place.datastore, &place.directory);
            let text = match inventory.sees(&plan.taken.datacenter, datastore, directory) {
                Ok(true) => continue,
                Ok(false) => format!(
                    "{}: {} does not see the directory [{datastore}] {directory} that was just made: does path in the \
                     configuration lead to that datastore?",
                    self.display(name),
                    plan.hypervisor
                ),
                Err(error) => {
                    self.log.line(&Event::Note(&error.message).to_string());
                    continue;
                }
            };
            self.log.error(&text);
            let mut inner = self.lock();
            inner.faults.push(Fault { file: fold_name(name), disk: None, text });
            self.report(&mut inner)?;
        }
        Ok(())
    }

    /// A CFG was closed. What is wrong with it stands in `.cfg.err` and is no failure of the CLOSE: the client did its part.
    fn commit_cfg(&self, inner: &mut Inner, name: &str, examined: Examined<'_>) -> Result<(), ImportError> {
        for warning in &examined.warnings {
            self.log.line(&Event::Note(&warning.to_string()).to_string());
        }
        let outcome = self.define(inner, examined);
        inner.cfg_errors.clear();
        inner.faults.retain(|fault| fault.file != fold_name(name));
        if let Err(mut problems) = outcome {
            cfg::sort(&mut problems);
            // Where data has arrived the old CFG goes on, and the new one's errors are told without stopping it.
            let goes_on = matches!(&inner.state, State::Receiving(receiving) if receiving.has_data());
            for problem in &problems {
                self.log.error(&format!("{}: {problem}", self.display(name)));
                let text = problem.to_string();
                if goes_on {
                    inner.faults.push(Fault { file: fold_name(name), disk: None, text });
                } else {
                    inner.cfg_errors.push(text);
                }
            }
            return self.report(inner);
        }
        self.report(inner)?;
        let renamed = inner.state.cfg().filter(|cfg| cfg.on_conflict == OnConflict::Rename);
        let text = renamed.map(vmcfg::render);
        self.put_own(inner, &vmcfg::file_name(name), text.as_deref())
    }

    /// Makes the CFG the session's: destinations found, conflicts resolved, room checked, directories made.
    fn define(&self, inner: &mut Inner, mut examined: Examined<'_>) -> Result<(), Vec<CfgProblem>> {
        let mut own = Vec::new();
        if let State::Receiving(receiving) = &mut inner.state {
            let changed = examined.cfg.as_ref().map(|cfg| receiving.plan.asked.changed_destinations(cfg));
            let moved = examined.cfg.as_ref().is_some_and(|cfg| !receiving.plan.asked.registers_like(cfg));
            let obstacles = if moved { examined.inventory_problems() } else { Vec::new() };
            // Without data its directories may be gone: somebody tidied the datastore up.
            let there = receiving.has_data() || self.has_directories(&receiving.plan);
            match changed {
                Some(keys) if keys.is_empty() && examined.problems.is_empty() && there => {
                    if obstacles.is_empty() {
                        return self.adopt(receiving, examined);
                    }
                    return Err(obstacles);
                }
                Some(keys) if receiving.has_data() => {
                    let told = "data has arrived, so its destination can't change any more; the session goes on with \
                                the old one";
                    let moved =
                        examined.cfg.iter().flat_map(|cfg| keys.iter().map(|key| cfg.problem(key, told)));
                    let moved: Vec<_> = moved.collect();
                    examined.problems.extend(moved);
                    return Err(examined.problems);
                }
                None if receiving.has_data() => return Err(examined.problems),
                // A virtual machine's directories stay its own.
                _ if receiving.plan.into_snapshot() => {}
                _ => {
                    own.extend(receiving.plan.places().map(|p| (p.datastore.clone(), p.directory.clone())));
                }
            }
        }
        self.sweep(inner, &examined)
            .map_err(|error| vec![examined.problem("directory", error.to_string())])?;
        // What this session made before and the client deleted, or a crash cut short, is in nobody's way.
        let hypervisor = examined.hypervisor.map(|hypervisor| hypervisor.name.clone()).unwrap_or_default();
        let ledger = &inner.ledger;
        let made = |datastore: &str, path: &str| {
            let key = LedgerKey {
                hypervisor: hypervisor.clone(),
                datastore: datastore.to_owned(),
                path: path.to_owned(),
            };
            // A datastore that does not answer says so when it is asked what exists.
            self.shared
                .hypervisors
                .store(&hypervisor, datastore)
                .is_ok_and(|store| ledger.whose(&*store, &key).is_ok_and(|whose| whose == Whose::Ours))
        };
        let ours = |datastore: &str, directory: &str| {
            own.iter().any(|(known, path)| known == datastore && path == directory)
                || made(datastore, directory)
        };
        let Resolved { mut plan, redirects, rooms, notes, into } = examined.resolve(&self.id(), ours)?;
        let internal = |error: ImportError, plan: &Plan| vec![plan.asked.problem("", error.to_string())];
        self.give_back(inner).map_err(|error| internal(error, &plan))?;
        self.reserve_stage(&plan).map_err(|problem| vec![problem])?;
        if let Some(machine) = into {
            plan = self.enter_snapshot(inner, &plan, &machine)?;
        }
        self.make_directories(inner, &plan)?;
        self.record_plan(&plan).map_err(|error| internal(error, &plan))?;
        self.log.line(&Event::SessionCreated(&self.display("")).to_string());
        for redirect in &redirects {
            let event = Event::RedirectingRecover { from: &redirect.from, to: &redirect.to };
            self.log.line(&event.to_string());
        }
        for text in session_block(&self.display(""), &plan.taken) {
            self.log.line(&text);
        }
        let written = rooms.iter().filter_map(|room| room.written.clone());
        for note in written.chain(rooms.iter().filter_map(preflight::Room::warning)).chain(notes) {
            self.log.line(&Event::Note(&note).to_string());
        }
        inner.state = State::Receiving(Box::new(Receiving::new(plan, self.shared.disk_bytes_in_flight)));
        Ok(())
    }

    fn has_directories(&self, plan: &Plan) -> bool {
        if self.is_staged(plan) {
            return true;
        }
        plan.places().all(|place| {
            let store = self.shared.hypervisors.store(&plan.hypervisor, &place.datastore);
            store.is_ok_and(|store| store.exists(&place.directory).unwrap_or(true))
        })
    }

    /// A rewrite of the CFG that changes no destination: the rest of it holds from now on, after a restart too.
    fn adopt(&self, receiving: &mut Receiving, examined: Examined<'_>) -> Result<(), Vec<CfgProblem>> {
        let Some(asked) = examined.cfg else { return Err(examined.problems) };
        if asked != receiving.plan.asked {
            let plan = receiving.plan.with(asked);
            let told = |error: ImportError| vec![plan.asked.problem("", error.to_string())];
            self.record_plan(&plan).map_err(told)?;
            receiving.adopt(plan.asked);
        }
        Ok(())
    }

    fn record_plan(&self, plan: &Plan) -> Result<(), ImportError> {
        let destination = plan
            .record()
            .map_err(|error| ImportError::Refused { path: self.display(""), why: error.to_string() })?;
        self.record(&Record::CfgAccepted { digest: digest(destination.as_bytes()), destination })
    }

    /// Makes each directory once, exclusively: nobody else's files may be in it. Those of an earlier CFG that could not be
    /// given back, because something small lies in them, are the session's own.
    fn make_directories(&self, inner: &mut Inner, plan: &Plan) -> Result<(), Vec<CfgProblem>> {
        if self.is_staged(plan) || plan.into_snapshot() {
            return Ok(()); // They are made with the machine, or are that of one that exists.
        }
        let mut places: Vec<_> = plan.places().filter(|place| !place.directory.is_empty()).collect();
        // One may lie in another, which must be made first.
        places.sort_by_key(|place| (place.directory.matches('/').count(), *place));
        places.dedup_by_key(|place| (&place.datastore, &place.directory));
        for place in places {
            let key = plan.key(&place.datastore, &place.directory);
            let told = |error: ImportError| vec![plan.asked.problem("directory", error.to_string())];
            let store = self.shared.hypervisors.store(&plan.hypervisor, &place.datastore).map_err(told)?;
            let shown = || ImportError::io(place.vmfs(""));
            let whose = inner.ledger.whose(&*store, &key).map_err(|error| told(shown()(error)))?;
            if whose == Whose::Ours {
                continue;
            }
            let ours = whose == Whose::Unknown;
            let outcome = self.note_object(inner, &key, ObjectKind::Directory).and_then(|()| {
                match store.create_directory(&place.directory) {
                    Err(error) if ours && error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(shown())?,
                }
                self.note_identity(inner, &*store, &key)
            });
            if let Err(error) = outcome {
                if !ours {
                    // Somebody else was faster, or nothing was made: it is none of this session's.
                    let _ = self.strike(inner, &key); // the journal's failure shows at the next record
                }
                return Err(told(error));
            }
        }
        Ok(())
    }

    /// Takes an object out of the ledger.
    pub(super) fn strike(&self, inner: &mut Inner, key: &LedgerKey) -> Result<(), ImportError> {
        inner.ledger.strike(key);
        self.record(&Record::LedgerRemoved { key: key.clone() })
    }

    /// A crash between making directories and recording the CFG leaves empty ones, which would be in the way of the same
    /// CFG: removes those that a CFG wants and the ledger has.
    fn sweep(&self, inner: &mut Inner, examined: &Examined<'_>) -> Result<(), ImportError> {
        if !matches!(inner.state, State::Cfg) {
            return Ok(());
        }
        for (key, entry) in examined.places() {
            let ours = inner.ledger.whose(&*entry.store, &key).is_ok_and(|whose| whose != Whose::NotOurs);
            if ours && entry.store.remove_directory(&key.path).is_ok() {
                self.strike(inner, &key)?;
            }
        }
        Ok(())
    }

    /// Before another destination is taken, or none: removes the empty directories of the one before.
    pub(super) fn give_back(&self, inner: &mut Inner) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &inner.state else { return Ok(()) };
        let mut places: Vec<_> = receiving.plan.places().collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.directory.matches('/').count()));
        // First: what a kill leaves of the rest is swept when it stands in the way.
        self.record(&Record::CfgWithdrawn)?;
        let mut gone = Vec::new();
        for place in places {
            let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &place.datastore);
            // One that is not empty stays, and stays in the ledger.
            // Where machines go as a whole, no directory is this session's.
            let staged = |store: &dyn Datastore| !store.capabilities().random_write;
            let ours = |store: &dyn Datastore| !staged(store) && !receiving.plan.into_snapshot();
            if store.is_ok_and(|store| ours(&*store) && store.remove_directory(&place.directory).is_ok()) {
                gone.push(receiving.plan.key(&place.datastore, &place.directory));
            }
        }
        inner.state = State::Cfg;
        self.release_stage(inner);
        for object in gone {
            self.strike(inner, &object)?;
        }
        Ok(())
    }

    /// Puts a file into the VMX's directory.
    pub(super) fn put_beside(
        &self,
        inner: &mut Inner,
        name: &str,
        target: &str,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &inner.state else {
            return Err(ImportError::NotInCfg(self.display(name)));
        };
        if self.is_staged(&receiving.plan) {
            return Ok(()); // Its hypervisor makes the machine.
        }
        if receiving.plan.into_snapshot() {
            let note = format!("{name} is not carried over: the virtual machine keeps its own");
            self.log.line(&Event::Note(&note).to_string());
            return Ok(());
        }
        let place = receiving.plan.place.clone();
        let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &place.datastore)?;
        let key = receiving.plan.key(&place.datastore, &place.file(target));
        self.note_object(inner, &key, ObjectKind::File)?;
        store.put_file(&key.path, bytes).map_err(ImportError::io(place.vmfs(target)))?;
        self.note_identity(inner, &*store, &key)
    }

    /// A descriptor was closed: what it says must agree with the CFG; what only it knows is kept.
    fn commit_descriptor(
        &self,
        inner: &mut Inner,
        number: usize,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let path = self.display(name);
        let receiving = inner.state.receiving(&path, None)?;
        let refused = |why: String| ImportError::Refused { path: path.clone(), why };
        let parsed = Descriptor::parse(bytes).map_err(|error| refused(error.to_string()))?;
        let (Some(slot), Some(disk)) =
            (receiving.disks.get_mut(number), receiving.plan.taken.disks.get(number))
        else {
            return Err(ImportError::NotInCfg(path));
        };
        let faults = parsed.faults(disk);
        if !faults.is_empty() {
            return Err(refused(faults.join("; ")));
        }
        let before = slot.descriptor.as_ref().map(Descriptor::bus).unwrap_or_default();
        let made = (slot.disk.is_some() && !slot.existing && before != parsed.bus())
            .then(|| slot.plan.place.datastore.clone());
        slot.descriptor = Some(parsed);
        if let Some(datastore) = made {
            let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &datastore)?;
            if store.capabilities().makes_descriptor {
                let note = format!(
                    "{path}: its adapter is another than that of the descriptor that the hypervisor made before this came; a disk whose \
                     descriptor is copied before its extent gets it"
                );
                self.log.line(&Event::Note(&note).to_string());
            }
        }
        if slot.missing().is_none() { self.put_descriptor(inner, number) } else { Ok(()) }
    }

    /// Writes the descriptor of a disk whose extent is whole.
    pub(super) fn put_descriptor(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &inner.state else { return Ok(()) };
        let (Some(slot), Some(disk)) = (receiving.disks.get(number), receiving.plan.taken.disks.get(number))
        else {
            return Ok(());
        };
        if self.is_staged(&receiving.plan) || receiving.plan.into_snapshot() {
            return Ok(()); // Its machine's own.
        }
        let place = slot.plan.place.clone();
        let text = descriptor::render(disk, slot.descriptor.as_ref(), uuid::Uuid::new_v4().as_fields().0);
        let target = slot.plan.target_name.clone();
        let store = self.shared.hypervisors.store(&receiving.plan.hypervisor, &place.datastore)?;
        if store.capabilities().makes_descriptor {
            return Ok(());
        }
        let key = receiving.plan.key(&place.datastore, &place.file(&target));
        self.note_object(inner, &key, ObjectKind::File)?;
        store.put_file(&key.path, text.as_bytes()).map_err(ImportError::io(place.vmfs(&target)))?;
        self.note_identity(inner, &*store, &key)
    }
}
