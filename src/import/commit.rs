//! What happens when a small file has arrived: a CFG defines the session, a VMX completes it, others go beside it.

use super::error::ImportError;
use super::formats::cfg::{self, Cfg, CfgProblem, OnConflict};
use super::formats::conflict;
use super::formats::log_text::{Event, session_block};
use super::formats::names::Kind;
use super::formats::vmcfg;
use super::plan::{Place, Plan};
use super::rewrite;
use super::session::{Inner, Session, digest};
use super::state::{Receiving, State};
use crate::datastore::Provisioning;
use crate::journal::{ObjectKind, Record};

impl Session {
    /// Takes up a small file that its client closed.
    pub(super) fn commit_small(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
        let mut inner = self.lock();
        match kind {
            Kind::Cfg => self.commit_cfg(&mut inner, name, bytes),
            Kind::Vmx => self.commit_vmx(&mut inner, name, bytes),
            Kind::Descriptor(number) => self.commit_descriptor(&mut inner, number, name, bytes),
            _ => self.put_beside(&mut inner, name, name, bytes),
        }
    }

    /// A CFG was closed. What is wrong with it stands in `.cfg.err` and is no failure of the CLOSE: the client did its part.
    fn commit_cfg(&self, inner: &mut Inner, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
        if bytes.is_empty() {
            // An editor truncates first and writes then; there is nothing to say about the moment between.
            return Ok(());
        }
        let parsed = cfg::parse(bytes, OnConflict::Stop);
        for warning in &parsed.warnings {
            self.log.line(&Event::Note(&warning.to_string()).to_string());
        }
        let outcome = parsed.cfg.and_then(|cfg| {
            self.define(inner, cfg).map_err(|mut problems| {
                problems.sort_by_key(|problem| problem.line);
                problems
            })
        });
        inner.cfg_errors.clear();
        let error_file = format!("{name}.err");
        match outcome {
            Ok(()) => {
                self.report(inner)?;
                let renamed = inner.state.cfg().filter(|cfg| cfg.on_conflict == OnConflict::Rename);
                let Some(text) = renamed.map(vmcfg::render) else { return Ok(()) };
                self.put_own(inner, &vmcfg::file_name(name), Some(&text))
            }
            Err(problems) => {
                for problem in &problems {
                    self.log.error(&format!("{}: {problem}", self.display(name)));
                }
                inner.cfg_errors = problems.iter().map(ToString::to_string).collect();
                // Where data has arrived the old CFG goes on, and the new one's errors are told without stopping it.
                let goes_on = matches!(&inner.state, State::Receiving(receiving) if receiving.has_data());
                if goes_on {
                    inner.faults = std::mem::take(&mut inner.cfg_errors);
                }
                self.put_own(inner, &error_file, Some(&cfg::render_problems(name, &problems)))
            }
        }
    }

    /// Makes the CFG the session's: destinations found, conflicts resolved, room checked, directories made.
    fn define(&self, inner: &mut Inner, asked: Cfg) -> Result<(), Vec<CfgProblem>> {
        if let State::Receiving(receiving) = &mut inner.state {
            let changed = receiving.plan.asked.changed_destinations(&asked);
            // Without data they may be gone: given back for another CFG, which a kill or an error kept from being taken.
            let there =
                receiving.has_data() || receiving.plan.places().all(|place| self.has_directory(place));
            if changed.is_empty() && there {
                receiving.plan.taken.vm_name.clone_from(&asked.vm_name);
                receiving.plan.asked = asked;
                inner.faults.clear();
                return Ok(());
            }
            if receiving.has_data() {
                let told = "data has arrived, so its destination can't change any more; the session goes on with the \
                            old one";
                return Err(changed.iter().map(|key| asked.problem(key, told)).collect());
            }
        }
        self.give_back(inner);
        let (hypervisor, datastores) = self.find_datastores(&asked)?;
        let (taken, redirects) = self.resolve_conflicts(&asked)?;
        let plan = Plan::new(&hypervisor, asked, taken, &datastores);
        self.check_space(&plan)?;
        self.make_directories(inner, &plan)?;
        let internal = |message: String| vec![plan.asked.problem("", message)];
        let destination = plan.record().map_err(|error| internal(error.to_string()))?;
        let accepted = Record::CfgAccepted { digest: digest(destination.as_bytes()), destination };
        self.record(&accepted).map_err(|error| internal(error.to_string()))?;
        self.log.line(&Event::SessionCreated(&self.display("")).to_string());
        for redirect in &redirects {
            let event = Event::RedirectingRecover { from: &redirect.from, to: &redirect.to };
            self.log.line(&event.to_string());
        }
        for text in session_block(&self.display(""), &plan.taken) {
            self.log.line(&text);
        }
        inner.state = State::Receiving(Box::new(Receiving::new(plan)));
        Ok(())
    }

    fn has_directory(&self, place: &Place) -> bool {
        let store = self.shared.datastore(&place.datastore);
        store.is_ok_and(|store| place.directory.is_empty() || store.exists(&place.directory).unwrap_or(true))
    }

    /// The hypervisor, and the names of the datastores of the VMX and of each disk.
    fn find_datastores(&self, asked: &Cfg) -> Result<(String, Vec<String>), Vec<CfgProblem>> {
        let Some(hypervisor) = self.shared.hypervisor(&asked.server_name) else {
            let known: Vec<_> = self.shared.hypervisors.iter().map(|h| h.name.as_str()).collect();
            let message = format!(
                "no hypervisor '{}' is configured; there are: {}",
                asked.server_name,
                known.join(", ")
            );
            return Err(vec![asked.problem("servername", message)]);
        };
        let mut problems = Vec::new();
        if asked.register {
            let message = format!(
                "'{}' has datastores only, nothing to register with; set register-after-import = 0",
                hypervisor.name
            );
            problems.push(asked.problem("register-after-import", message));
        }
        let wanted = std::iter::once(("dsname".to_owned(), &asked.datastore)).chain(
            asked.disks.iter().enumerate().map(|(n, disk)| (format!("vmdk.{n}.dsname"), &disk.datastore)),
        );
        let mut names = Vec::new();
        for (key, dsname) in wanted {
            match hypervisor.datastore(dsname) {
                Some(entry) => names.push(entry.name.clone()),
                None => {
                    let known: Vec<_> = hypervisor.datastores.iter().map(|d| d.name.as_str()).collect();
                    let message = format!(
                        "'{}' has no datastore '{dsname}'; it has: {}",
                        hypervisor.name,
                        known.join(", ")
                    );
                    problems.push(asked.problem(&key, message));
                }
            }
        }
        if problems.is_empty() { Ok((hypervisor.name.clone(), names)) } else { Err(problems) }
    }

    fn resolve_conflicts(&self, asked: &Cfg) -> Result<(Cfg, Vec<conflict::Redirect>), Vec<CfgProblem>> {
        let server = asked.server_name.as_str();
        let exists = |dsname: &str, directory: &str| match self.shared.datastore_of(server, dsname) {
            Some(entry) => entry.store.exists(directory).map_err(ImportError::io(&entry.name)),
            None => Err(ImportError::NotFound(dsname.to_owned())),
        };
        let failed = |error: String| vec![asked.problem("directory", error)];
        match asked.on_conflict {
            OnConflict::Stop => {
                let problems = conflict::stopped(asked, exists).map_err(|error| failed(error.to_string()))?;
                if problems.is_empty() { Ok((asked.clone(), Vec::new())) } else { Err(problems) }
            }
            OnConflict::Rename => {
                let identity = |dsname: &str| {
                    self.shared.datastore_of(server, dsname).map_or(dsname.to_owned(), |d| d.name.clone())
                };
                conflict::renamed(asked, identity, exists).map_err(|error| failed(error.to_string()))
            }
        }
    }

    /// Thick disks must fit all together; thin ones may grow into what is there, which is worth a line if they might not.
    fn check_space(&self, plan: &Plan) -> Result<(), Vec<CfgProblem>> {
        let mut problems = Vec::new();
        let mut names: Vec<_> = plan.places().map(|place| place.datastore.clone()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let space = self.shared.datastore(&name).and_then(|d| d.space().map_err(ImportError::io(&name)));
            let space = space.map_err(|error| vec![plan.asked.problem("dsname", error.to_string())])?;
            let (mut thick, mut all, mut last) = (0_u64, 0_u64, 0);
            for (number, disk) in plan.disks.iter().enumerate().filter(|(_, d)| d.place.datastore == name) {
                all = all.saturating_add(disk.size);
                last = number;
                if plan.taken.disks.get(number).is_some_and(|d| d.provisioning == Provisioning::Thick) {
                    thick = thick.saturating_add(disk.size);
                }
            }
            if thick > space.available {
                let message = format!(
                    "thick disks need {thick} bytes on {name}, {} are free; free some or choose another",
                    space.available
                );
                problems.push(plan.asked.problem(&format!("vmdk.{last}.size"), message));
            } else if all > space.available {
                let free = space.available;
                self.log.line(&format!("{name} has {free} bytes free, the disks may grow to {all}"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Makes each directory once, exclusively: nobody else's files may be in it.
    fn make_directories(&self, inner: &mut Inner, plan: &Plan) -> Result<(), Vec<CfgProblem>> {
        let mut made: Vec<(String, String)> = Vec::new();
        for place in plan.places() {
            let object = (place.datastore.clone(), place.directory.clone());
            if place.directory.is_empty() || made.contains(&object) {
                continue;
            }
            let outcome = self
                .note_object(inner, &place.datastore, &place.directory, ObjectKind::Directory)
                .and_then(|()| self.shared.datastore(&place.datastore))
                .and_then(|store| {
                    store.create_directory(&place.directory).map_err(ImportError::io(place.vmfs("")))
                });
            outcome.map_err(|error| vec![plan.asked.problem("directory", error.to_string())])?;
            made.push(object);
        }
        Ok(())
    }

    /// Before another destination is taken: removes the session's directories that are empty. A kill may have come after
    /// they were made and before the CFG was recorded: they are this session's all the same, and no conflict.
    fn give_back(&self, inner: &mut Inner) {
        let made = std::mem::take(&mut inner.ledger);
        inner.ledger = made
            .into_iter()
            .filter(|(datastore, path)| {
                let Ok(store) = self.shared.datastore(datastore) else { return true };
                // One that is not empty stays, and stays in the ledger; so does a file.
                if store.remove_directory(path).is_err() {
                    return true;
                }
                let gone = Record::LedgerRemoved { datastore: datastore.clone(), path: path.clone() };
                if let Err(error) = self.record(&gone) {
                    self.log.error(&error.to_string());
                }
                false
            })
            .collect();
        inner.state = State::Cfg;
    }

    /// The VMX was closed: it goes to its datastore with its disks' new names, once for each content.
    fn commit_vmx(&self, inner: &mut Inner, name: &str, bytes: &[u8]) -> Result<(), ImportError> {
        let path = self.display(name);
        let in_error = Self::in_error(inner);
        let receiving = inner.state.receiving(&path, in_error.as_deref())?;
        receiving.enter_vmx(&path)?;
        let digest = digest(bytes);
        if receiving.imported == Some(digest) {
            return Ok(());
        }
        let plan = receiving.plan.clone();
        let target = plan.place.vmfs(plan.taken.target_vmx());
        self.log.line(&Event::Importing(&target).to_string());
        for disk in &plan.disks {
            let event = Event::RedirectingDisk { from: &disk.name, to: &disk.target_name };
            self.log.line(&event.to_string());
        }
        let text = rewrite::vmx(bytes, &plan);
        self.put_beside(inner, name, plan.taken.target_vmx(), &text)?;
        self.record(&Record::VmxImported { digest })?;
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.imported = Some(digest);
        }
        self.log.line(&Event::DoneImporting(&target).to_string());
        Ok(())
    }

    /// Puts a file into the VMX's directory.
    fn put_beside(
        &self,
        inner: &mut Inner,
        name: &str,
        target: &str,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &inner.state else {
            return Err(ImportError::NotInCfg(self.display(name)));
        };
        let place = receiving.plan.place.clone();
        let store = self.shared.datastore(&place.datastore)?;
        self.note_object(inner, &place.datastore, &place.file(target), ObjectKind::File)?;
        store.put_file(&place.file(target), bytes).map_err(ImportError::io(place.vmfs(target)))
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
        let Some(slot) = receiving.disks.get_mut(number) else { return Err(ImportError::NotInCfg(path)) };
        rewrite::check_descriptor(bytes, slot.plan.size)
            .map_err(|why| ImportError::Refused { path: path.clone(), why })?;
        slot.descriptor = Some(bytes.to_vec());
        if slot.missing().is_none() { self.put_descriptor(inner, number) } else { Ok(()) }
    }

    /// Writes the descriptor of a disk whose extent is whole.
    pub(super) fn put_descriptor(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get(number) else { return Ok(()) };
        let plan = slot.plan.clone();
        let text = rewrite::descriptor(slot.descriptor.as_deref().unwrap_or_default(), &plan);
        let target = plan.place.file(&plan.target_name);
        let store = self.shared.datastore(&plan.place.datastore)?;
        self.note_object(inner, &plan.place.datastore, &target, ObjectKind::File)?;
        store.put_file(&target, text.as_bytes()).map_err(ImportError::io(plan.place.vmfs(&plan.target_name)))
    }
}
