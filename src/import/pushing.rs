//! A machine on its way from the stage to its datastores: pushed when its VMX is closed, called off, begun again after a restart.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::error::ImportError;
use super::formats::descriptor;
use super::formats::log_text::Event;
use super::formats::names::Kind;
use super::hypervisor::Hypervisors;
use super::plan::Plan;
use super::session::{Content, Inner, SMALL_MAX, Session};
use super::state::{DiskSlot, State};
use crate::datastore::sink::{CompleteDisk, Course, Machine, Told};
use crate::datastore::{Datastore, DiskSpec};
use crate::inventory::Place;
use crate::journal::Record;
use crate::journal::fold::Left;

/// How long whoever calls a push off waits for its end: a call that the server does not answer, and what undoes it.
const CALL_OFF_MAX: Duration = Duration::from_mins(2);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// For how long the service tries to undo what pushes left, from its start, and the pauses between.
const UNDO_MAX: Duration = Duration::from_hours(1);
const UNDO_PAUSE_FIRST: Duration = Duration::from_secs(5);
const UNDO_PAUSE_MAX: Duration = Duration::from_mins(5);

/// Undoes what a push left. `true`: it was complete after all, and stays.
pub(super) fn undo(left: &Left, hypervisors: &Hypervisors) -> io::Result<bool> {
    let store = hypervisors.store(&left.hypervisor, &left.datastore).map_err(io::Error::other)?;
    let why = "its datastore is written by another driver now; give it writer = \"nfc\" again";
    store.sink(&Place::default()).ok_or_else(|| io::Error::other(why))?.undo(&left.trace)
}

/// Does `work` until it has nothing left to do, the service ends, or it has taken too long.
pub(super) fn until_undone(ends: &Course, mut work: impl FnMut() -> bool) {
    let (begun, mut pause) = (Instant::now(), UNDO_PAUSE_FIRST);
    while !work() && begun.elapsed() < UNDO_MAX && ends.pause(pause) {
        pause = (pause * 2).min(UNDO_PAUSE_MAX);
    }
}

/// What a push tells its session.
struct Teller<'a> {
    session: &'a Session,
    plan: &'a Plan,
}

impl Told for Teller<'_> {
    fn note(&self, line: &str) {
        self.session.log.line(&Event::Note(line).to_string());
    }

    fn left(&self) -> String {
        self.session.lock().left.as_ref().map(|left| left.trace.clone()).unwrap_or_default()
    }

    fn leave(&self, trace: &str) -> io::Result<()> {
        let left = Left {
            hypervisor: self.plan.hypervisor.clone(),
            datastore: self.plan.place.datastore.clone(),
            path: self.plan.place.file(self.plan.taken.target_vmx()),
            trace: trace.to_owned(),
        };
        self.session.leave(left)
    }
}

impl Session {
    fn leave(&self, left: Left) -> io::Result<()> {
        let mut inner = self.lock();
        let Left { hypervisor, datastore, path, trace } = left.clone();
        self.journal.record(&Record::Pushing { hypervisor, datastore, path, trace })?;
        inner.left = Some(left).filter(|left| !left.trace.is_empty());
        Ok(())
    }

    /// Brings a machine to its datastores. Meanwhile nothing of it can be changed.
    pub(super) fn push(&self, plan: &Plan, vmx: &[u8], store: &dyn Datastore) -> Result<(), ImportError> {
        let target = plan.place.vmfs(plan.taken.target_vmx());
        let Some(sink) = store.sink(&plan.taken.inventory()) else {
            let why = "its datastore takes neither random writes nor whole machines".to_owned();
            return Err(ImportError::Refused { path: target, why });
        };
        let told = Teller { session: self, plan };
        let course = Arc::new(Course::default());
        let machine = {
            let mut inner = self.lock();
            if inner.removed {
                return Err(ImportError::NotFound(self.display("")));
            }
            let nvram = self.nvram(&inner)?;
            let State::Receiving(receiving) = &mut inner.state else {
                return Err(ImportError::NotInCfg(target));
            };
            receiving.enter_vmx(&self.display(&plan.taken.vmx_name))?;
            let machine = Machine { nvram, ..self.machine(plan, &receiving.disks, vmx)? };
            receiving.pushing = Some(Arc::clone(&course));
            machine
        };
        // After it can be seen: whoever ends the service either finds it or was here before.
        if let Some(why) = self.shared.stopping.cancelled() {
            course.cancel(why);
        }
        let pushed = sink.push(&machine, &course, &told);
        if let State::Receiving(receiving) = &mut self.lock().state {
            receiving.pushing = None;
        }
        let pushed = pushed.map_err(ImportError::io(target))?;
        if let Some(reference) = pushed.reference {
            told.note(&format!("{} is {reference}", plan.taken.vm_name));
            self.record(&Record::Registered { reference })?;
        }
        Ok(())
    }

    /// The firmware's settings, where the client copied any. Others that lie beside a VMX are told as left out.
    fn nvram(&self, inner: &Inner) -> Result<Option<Vec<u8>>, ImportError> {
        let mut nvram = None;
        for entry in inner.files.values() {
            match &entry.content {
                Content::Small(Kind::Nvram, cached) => {
                    let read = || {
                        let mut bytes = Vec::new();
                        File::open(cached)?.take(SMALL_MAX).read_to_end(&mut bytes)?;
                        Ok(bytes)
                    };
                    nvram = Some(read().map_err(ImportError::io(self.display(&entry.name)))?);
                }
                Content::Small(Kind::Vmxf | Kind::Vmsd | Kind::Extra, _) => {
                    let note = format!("{} is not carried over: the hypervisor makes its own", entry.name);
                    self.log.line(&Event::Note(&note).to_string());
                }
                _ => {}
            }
        }
        Ok(nvram)
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
            nvram: None,
            disks,
        })
    }

    /// Calls a push off that is under way; `false` where there is none.
    pub(super) fn cancel_push(&self, why: &'static str) -> bool {
        let course = match &self.lock().state {
            State::Receiving(receiving) => receiving.pushing.clone(),
            State::Cfg => None,
        };
        course.is_some_and(|course| {
            course.cancel(why);
            true
        })
    }

    /// Whether an import that was under way is over, with all that it leaves in the session.
    pub(super) fn import_is_over(&self) -> bool {
        !matches!(self.importing.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// The session is being cleared away: calls its push off, and waits until that is over.
    pub(super) fn call_off(&self) -> Result<(), ImportError> {
        if !self.cancel_push("it was called off, files of its session were deleted") {
            return Ok(());
        }
        let begun = Instant::now();
        while begun.elapsed() < CALL_OFF_MAX {
            if self.import_is_over() {
                return Ok(());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Err(ImportError::InUse(self.display("")))
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
    fn resume_push(&self, name: &str) {
        self.log.line(
            &Event::Note(&format!("after a restart: {} is taken up again", self.display(name))).to_string(),
        );
        let read = std::fs::read(self.cached(name)).map_err(ImportError::io(self.display(name)));
        if let Err(error) = read.and_then(|bytes| self.commit_vmx(name, &bytes)) {
            let _ = self.refuse(error); // logged; nobody waits for it
        }
    }

    /// Whether a push left something.
    pub(super) fn has_left(&self) -> bool {
        self.lock().left.is_some()
    }

    /// Undoes what a push left that nobody begins again; `false` where it has to be tried once more.
    fn undo_left(&self) -> bool {
        let _one_at_a_time = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = self.lock().left.clone() else { return true };
        let shown = format!("[{}] {}", left.datastore, left.path);
        let line = match undo(&left, &self.shared.hypervisors) {
            Ok(true) => format!("{shown}: the virtual machine was complete, it stays"),
            Ok(false) => format!("{shown}: what an upload left was removed"),
            Err(error) => {
                tracing::warn!("{}: {shown}: what an upload left is still there: {error}", self.display(""));
                return false;
            }
        };
        self.log.line(&Event::Note(&line).to_string());
        if let Err(error) = self.leave(Left { trace: String::new(), ..left }) {
            tracing::error!("{}: {error}", self.display(""));
        }
        true
    }

    /// Takes up what the end of the service cut short: the push of the VMX, or else what one left.
    pub(super) fn resume(&self, vmx: Option<&str>) {
        if let Some(vmx) = vmx {
            self.resume_push(vmx);
        }
        if !self.has_left() {
            return;
        }
        until_undone(&self.shared.stopping, || self.undo_left());
        // What was left was in its way.
        if let Some(vmx) = self.cut_push().filter(|_| vmx.is_some() && !self.has_left()) {
            self.resume_push(&vmx);
        }
    }
}
