//! Disks whose datastore takes no random writes: staged while they arrive, and brought there with their machine when the VMX
//! is closed.

use std::sync::Arc;

use super::error::ImportError;
use super::formats::cfg::CfgProblem;
use super::formats::descriptor;
use super::formats::log_text::Event;
use super::formats::names::Kind;
use super::plan::Plan;
use super::session::{Content, Inner, Session};
use super::state::{DiskSlot, State};
use crate::datastore::sink::{CompleteDisk, Course, Machine};
use crate::datastore::{Datastore, DiskSpec};
use crate::disk::ImportDisk;
use crate::journal::Record;

impl Session {
    /// Whether what goes to a datastore has to be staged.
    fn stages(&self, plan: &Plan, datastore: &str) -> bool {
        let store = self.shared.hypervisors.store(&plan.hypervisor, datastore);
        store.is_ok_and(|store| !store.capabilities().random_write)
    }

    /// Whether a plan's machine is brought to its datastores as a whole.
    pub(super) fn is_staged(&self, plan: &Plan) -> bool {
        self.stages(plan, &plan.place.datastore)
    }

    /// Sets the room aside that a plan's disks need in the stage, before anything of them arrives.
    pub(super) fn reserve_stage(&self, plan: &Plan) -> Result<(), CfgProblem> {
        let staged = self.is_staged(plan);
        for (number, disk) in plan.disks.iter().enumerate() {
            if self.stages(plan, &disk.place.datastore) != staged {
                let told = format!(
                    "[{}] is written directly and [{}] is not; a virtual machine lies on the one kind or the other",
                    if staged { &disk.place.datastore } else { &plan.place.datastore },
                    if staged { &plan.place.datastore } else { &disk.place.datastore },
                );
                return Err(plan.asked.problem(&format!("vmdk.{number}.dsname"), told));
            }
        }
        if !staged {
            return Ok(());
        }
        let bytes = plan.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.size));
        self.shared.stage.reserve(&self.cache, bytes).map_err(|error| {
            let last = plan.disks.len().saturating_sub(1);
            let told = format!(
                "{error}; wait until other restores are done, give the stage more room (import.stage-max-bytes), or restore \
                 the disks one after the other"
            );
            plan.asked.problem(&format!("vmdk.{last}.size"), told)
        })
    }

    /// Makes a disk in the stage.
    pub(super) fn make_staged(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let shown = self.display(receiving.plan.taken.target_vmx());
        self.reserve_stage(&receiving.plan)
            .map_err(|problem| ImportError::Refused { path: shown.clone(), why: problem.to_string() })?;
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        let (size, datastore) = (slot.plan.size, slot.plan.place.datastore.clone());
        let shown = format!("{} => stage", self.display(&slot.plan.extent));
        let disk =
            self.shared.stage.create_disk(&self.cache, number, size).map_err(ImportError::io(shown))?;
        self.record(&Record::DiskCreated {
            disk: number as u32,
            datastore,
            path: format!("stage/{number}"),
        })?;
        slot.disk = Some(Arc::new(ImportDisk::new(disk, self.disk_options(number, true))));
        slot.begin_extent();
        if receiving.imported.take().is_some() {
            self.record(&Record::ExtentIncomplete { disk: number as u32 })?;
        }
        Ok(())
    }

    /// An extent whose disk left the stage with its machine comes again: a new disk for it.
    pub(super) fn stage_again(
        &self,
        inner: &mut Inner,
        number: usize,
        path: &str,
        in_error: Option<&str>,
    ) -> Result<(), ImportError> {
        let receiving = inner.state.receiving(path, in_error)?;
        let gone = receiving.disks.get(number).is_some_and(|slot| slot.disk.is_none());
        if gone && self.is_staged(&receiving.plan) { self.make_staged(inner, number) } else { Ok(()) }
    }

    /// Brings a machine to its datastores. Meanwhile nothing of it can be changed.
    pub(super) fn push(&self, plan: &Plan, vmx: &[u8], store: &dyn Datastore) -> Result<(), ImportError> {
        let target = plan.place.vmfs(plan.taken.target_vmx());
        let Some(sink) = store.sink(&plan.taken.inventory()) else {
            let why = "its datastore takes neither random writes nor whole machines".to_owned();
            return Err(ImportError::Refused { path: target, why });
        };
        let machine = {
            let mut inner = self.lock();
            let left = inner.files.values().filter(|entry| {
                matches!(entry.content, Content::Small(Kind::Nvram | Kind::Vmxf | Kind::Vmsd, _))
            });
            for entry in left {
                let note = format!("{} is not carried over: the hypervisor makes its own", entry.name);
                self.log.line(&Event::Note(&note).to_string());
            }
            let State::Receiving(receiving) = &mut inner.state else {
                return Err(ImportError::NotInCfg(target));
            };
            let machine = self.machine(plan, &receiving.disks, vmx)?;
            receiving.pushing = true;
            machine
        };
        let told = |line: &str| self.log.line(&Event::Note(line).to_string());
        let pushed = sink.push(&machine, &Course::default(), &told);
        if let State::Receiving(receiving) = &mut self.lock().state {
            receiving.pushing = false;
        }
        let pushed = pushed.map_err(ImportError::io(target))?;
        if let Some(reference) = pushed.reference {
            told(&format!("{} is {reference}", plan.taken.vm_name));
            self.record(&Record::Registered { reference })?;
        }
        Ok(())
    }

    /// The machine as its sink wants it.
    fn machine(&self, plan: &Plan, slots: &[DiskSlot], vmx: &[u8]) -> Result<Machine, ImportError> {
        let mut disks = Vec::new();
        for (number, slot) in slots.iter().enumerate() {
            let shown = self.display(&slot.plan.extent);
            let (Some(disk), Some(cfg)) = (&slot.disk, plan.taken.disks.get(number)) else {
                let why = "it was brought to its datastore already; copy it again from its start".to_owned();
                return Err(ImportError::Refused { path: shown, why });
            };
            disk.flush().map_err(ImportError::disk(&shown))?;
            let source = self.shared.stage.open_disk(&self.cache, number, slot.plan.size);
            let spec = slot.plan.spec();
            disks.push(CompleteDisk {
                number,
                datastore: slot.plan.place.datastore.clone(),
                spec: DiskSpec { size: disk.size(), ..spec },
                descriptor: slot.plan.target_name.clone(),
                description: descriptor::render(
                    cfg,
                    slot.descriptor.as_ref(),
                    uuid::Uuid::new_v4().as_fields().0,
                ),
                source: Arc::from(source.map_err(ImportError::io(&shown))?),
                allocated: disk
                    .map()
                    .written
                    .into_iter()
                    .map(|range| range.start..range.end.min(disk.size()))
                    .collect(),
            });
        }
        Ok(Machine {
            session: self.display(""),
            name: plan.taken.vm_name.clone(),
            datastore: plan.place.datastore.clone(),
            directory: plan.place.directory.clone(),
            vmx_name: plan.taken.target_vmx().to_owned(),
            vmx: vmx.to_vec(),
            disks,
        })
    }

    /// The machine stands on its datastores, and that is recorded: the stage is another's now.
    pub(super) fn release_stage(&self, inner: &mut Inner) {
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.disks.iter_mut().for_each(|slot| slot.disk = None);
        }
        if let Err(error) = self.shared.stage.release(&self.cache) {
            tracing::warn!("{}: the stage: {error}; it goes with the session", self.display(""));
        }
    }

    /// A VMX that arrived whole and whose machine was not brought to its datastores because the service ended: its name.
    pub(super) fn cut_push(&self) -> Option<String> {
        let inner = self.lock();
        let State::Receiving(receiving) = &inner.state else { return None };
        let open = receiving.imported.is_none() && self.is_staged(&receiving.plan);
        if !open || receiving.enter_vmx("").is_err() || !inner.cfg_errors.is_empty() {
            return None;
        }
        let vmx = inner.files.values().find(|entry| matches!(entry.content, Content::Small(Kind::Vmx, _)));
        vmx.map(|entry| entry.name.clone())
    }

    /// Begins a push again that the end of the service cut short.
    pub(super) fn resume_push(&self, name: &str) {
        self.log.line(
            &Event::Note(&format!("after a restart: {} is taken up again", self.display(name))).to_string(),
        );
        let read = std::fs::read(self.cached(name)).map_err(ImportError::io(self.display(name)));
        if let Err(error) = read.and_then(|bytes| self.commit_vmx(name, &bytes)) {
            let _ = self.refuse(error); // logged; nobody waits for it
        }
    }
}
