//! A restored machine takes the place of the one that was there (`on-conflict = "overwrite"`): unregister the old one, move its
//! directories away, move the new ones in, register, and only then remove what belonged to the old one.
//!
//! Each step can be the last before a kill. The journal says how far it got, and the directories themselves the rest: until
//! [`Phase::Placed`] is recorded everything goes back at the next start, which needs nothing but renames, and begins again;
//! from then on it goes on. The old one is whole, under one of two names, until the new one is complete in its place.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clear::clear;
use super::error::ImportError;
use super::formats::log_text::Event;
use super::formats::names::Kind;
use super::hypervisor::Hypervisor;
use super::overwrite;
use super::patience::Patience;
use super::plan::{Plan, Swap};
use super::registered::Registered;
use super::session::{Content, Session};
use super::state::State;
use crate::datastore::Datastore;
use crate::inventory::{Inventory, Machine, StoreFile};
use crate::journal::Record;

/// How far a swap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// The old one may be unregistered, and any of the renames done.
    Begun,
    /// Everything lies where it did before. The old one may be unregistered still.
    Back,
    /// The new one is in its place. It may be registered.
    Placed,
    /// The new one is complete; files of the old one may be gone.
    Clearing,
    /// Over.
    Done,
}

/// What must be known of a swap after a kill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SwapState {
    pub(super) phase: Phase,
    /// The one that was registered.
    pub(super) machine: Option<Machine>,
    /// By what the new directories are recognised, one for each swap of the plan; `None` where the driver has no such thing.
    pub(super) identities: Vec<Option<String>>,
    /// Files of the old one, in [`Phase::Clearing`].
    pub(super) files: Vec<StoreFile>,
}

impl SwapState {
    /// From the journal.
    pub(super) fn recorded(state: &str) -> Option<Self> {
        serde_json::from_str(state).ok()
    }

    /// Whether the new directories are in their place.
    pub(super) fn is_placed(&self) -> bool {
        matches!(self.phase, Phase::Placed | Phase::Clearing | Phase::Done)
    }
}

fn failed(what: String) -> impl FnOnce(io::Error) -> ImportError {
    ImportError::io(what)
}

fn refused(path: String, why: String) -> ImportError {
    ImportError::Refused { path, why }
}

/// Puts one pair of directories back as they were, from wherever a swap of them broke off.
fn place_back(store: &dyn Datastore, swap: &Swap, identity: Option<&String>) -> Result<(), ImportError> {
    let shown = |path: &str| format!("[{}] {path}", swap.datastore);
    let there = |path: &str| store.exists(path).map_err(failed(shown(path)));
    let (beside, target, old) = (there(&swap.beside)?, there(&swap.target)?, there(&swap.old)?);
    if !beside {
        let now =
            if target { store.identity(&swap.target).map_err(failed(shown(&swap.target)))? } else { None };
        let another = identity.zip(now.as_ref()).is_some_and(|(noted, now)| noted != now);
        if !target || another {
            let why = "the restored directory is neither here nor in its place; somebody moved it".to_owned();
            return Err(refused(shown(&swap.beside), why));
        }
        store.move_directory(&swap.target, &swap.beside).map_err(failed(shown(&swap.target)))?;
    } else if target && old {
        let why = format!(
            "somebody made it anew while that of the old virtual machine is at {}; move one away",
            swap.old
        );
        return Err(refused(shown(&swap.target), why));
    }
    if old {
        store.move_directory(&swap.old, &swap.target).map_err(failed(shown(&swap.old)))?;
    }
    Ok(())
}

/// Moves the old directory away and the new one in.
fn place_forward(store: &dyn Datastore, swap: &Swap) -> Result<(), ImportError> {
    let shown = |path: &str| format!("[{}] {path}", swap.datastore);
    if store.exists(&swap.target).map_err(failed(shown(&swap.target)))? {
        store.move_directory(&swap.target, &swap.old).map_err(failed(shown(&swap.target)))?;
    }
    store.move_directory(&swap.beside, &swap.target).map_err(failed(shown(&swap.beside)))
}

impl Session {
    fn hypervisor_of(&self, plan: &Plan) -> Result<&Hypervisor, ImportError> {
        let told = || {
            refused(self.display(""), format!("no hypervisor '{}' is configured any more", plan.hypervisor))
        };
        self.shared.hypervisors.find(&plan.hypervisor).ok_or_else(told)
    }

    pub(super) fn swap_state(&self) -> Option<SwapState> {
        match &self.lock().state {
            State::Receiving(receiving) => receiving.swap.clone(),
            State::Cfg => None,
        }
    }

    /// Records how far the swap is, and lays the plan out by it.
    pub(super) fn set_swap(&self, swap: Option<SwapState>) -> Result<(), ImportError> {
        let state = swap.as_ref().map(serde_json::to_string).transpose();
        let state = state.map_err(|error| refused(self.display(""), error.to_string()))?.unwrap_or_default();
        let mut inner = self.lock();
        self.record(&Record::Swap { state })?;
        if let State::Receiving(receiving) = &mut inner.state {
            receiving.place(swap.as_ref().is_some_and(SwapState::is_placed));
            receiving.swap = swap;
        }
        Ok(())
    }

    /// While a machine is on its way into its place, nothing of it can be changed.
    pub(super) fn hold(&self, held: bool) {
        if let State::Receiving(receiving) = &mut self.lock().state {
            receiving.pushing = held.then(Arc::default);
        }
    }

    /// The plan as it is laid out now.
    pub(super) fn plan_now(&self, plan: &Plan) -> Plan {
        match &self.lock().state {
            State::Receiving(receiving) => receiving.plan.clone(),
            State::Cfg => plan.clone(),
        }
    }

    /// Whether a restored machine has yet to take its place.
    pub(super) fn must_swap(&self, plan: &Plan) -> bool {
        !plan.swaps.is_empty() && !self.swap_state().is_some_and(|swap| swap.is_placed())
    }

    /// The machine's data is complete and its VMX lies beside: takes the place of the old one. On an error everything is
    /// as it was, or goes on being put back at the next try.
    pub(super) fn swap_in(
        &self,
        path: &str,
        plan: &Plan,
        patience: &Patience<'_>,
    ) -> Result<(), ImportError> {
        let hypervisor = self.hypervisor_of(plan)?;
        let before = self.swap_state();
        if let Some(swap) = before.as_ref().filter(|swap| swap.phase == Phase::Begun) {
            self.places_back(plan, &swap.identities)?;
        }
        let told = |problems: Vec<super::formats::cfg::CfgProblem>| {
            let texts: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
            refused(path.to_owned(), format!("{}; when that is mended, copy the VMX again", texts.join("; ")))
        };
        let machine = overwrite::occupant(plan, hypervisor).map_err(told)?;
        let machine = machine.or(before.and_then(|swap| swap.machine));
        let mut identities = Vec::new();
        for swap in &plan.swaps {
            let store = self.shared.hypervisors.store(&plan.hypervisor, &swap.datastore)?;
            let shown = format!("[{}] {}", swap.datastore, swap.beside);
            identities.push(store.identity(&swap.beside).map_err(failed(shown))?);
        }
        let begun = SwapState { phase: Phase::Begun, machine, identities, files: Vec::new() };
        self.set_swap(Some(begun.clone()))?;
        match self.take_place(path, plan, hypervisor, &begun, patience) {
            Ok(()) => self.set_swap(Some(SwapState { phase: Phase::Placed, ..begun })),
            Err(error) => Err(self.swap_back(path, plan, patience, error)),
        }
    }

    fn take_place(
        &self,
        path: &str,
        plan: &Plan,
        hypervisor: &Hypervisor,
        begun: &SwapState,
        patience: &Patience<'_>,
    ) -> Result<(), ImportError> {
        let note = |line: &str| self.log.line(&Event::Note(line).to_string());
        if let (Some(inventory), Some(machine)) = (&hypervisor.inventory, &begun.machine) {
            patience
                .hold(&note, || inventory.unregister(machine))
                .map_err(|error| refused(path.to_owned(), error.message))?;
            note(&format!("{} ({}) unregistered, it is going to be replaced", machine.name, machine.vmx));
        }
        for swap in &plan.swaps {
            let store = self.shared.hypervisors.store(&plan.hypervisor, &swap.datastore)?;
            place_forward(&*store, swap)?;
            note(&format!("[{}] {} takes the place of {}", swap.datastore, swap.beside, swap.target));
        }
        Ok(())
    }

    /// Puts all directories of a plan back as they were.
    pub(super) fn places_back(&self, plan: &Plan, identities: &[Option<String>]) -> Result<(), ImportError> {
        for (number, swap) in plan.swaps.iter().enumerate().rev() {
            let store = self.shared.hypervisors.store(&plan.hypervisor, &swap.datastore)?;
            place_back(&*store, swap, identities.get(number).and_then(Option::as_ref))?;
        }
        Ok(())
    }

    /// The new one could not be registered, or not put in its place: puts the old one back and registers it again; the restored
    /// data stays beside for another try. Gives the error, with what became of the old one.
    pub(super) fn swap_back(
        &self,
        path: &str,
        plan: &Plan,
        patience: &Patience<'_>,
        error: ImportError,
    ) -> ImportError {
        let outcome = self.put_old_back(plan, patience);
        let why = match (error, outcome) {
            (ImportError::Unregistered { why, .. }, Ok(())) => {
                let why = format!("{why}; what was there before is back in its place");
                return ImportError::Unregistered { path: path.to_owned(), why };
            }
            (error, Ok(())) => {
                format!("{error}; what was there before is back in its place; copy the VMX again")
            }
            (error, Err(back)) => {
                format!("{error}; what was there before is not yet back in its place: {back}")
            }
        };
        refused(path.to_owned(), why)
    }

    fn put_old_back(&self, plan: &Plan, patience: &Patience<'_>) -> Result<(), ImportError> {
        let Some(swap) = self.swap_state() else { return Ok(()) };
        let hypervisor = self.hypervisor_of(plan)?;
        let inventory = hypervisor.inventory.as_deref();
        if let Some(inventory) = inventory.filter(|_| swap.phase == Phase::Placed) {
            self.unregister_new(plan, inventory)?;
        }
        if matches!(swap.phase, Phase::Begun | Phase::Placed) {
            self.set_swap(Some(SwapState { phase: Phase::Begun, ..swap.clone() }))?;
            self.places_back(plan, &swap.identities)?;
            self.set_swap(Some(SwapState { phase: Phase::Back, ..swap.clone() }))?;
        }
        if let (Some(inventory), Some(machine)) = (inventory, &swap.machine) {
            let note = |line: &str| self.log.line(&Event::Note(line).to_string());
            let done = patience.hold(&note, || inventory.register_again(&plan.taken.datacenter, machine));
            let done = done.map_err(|error| {
                let told = format!("{error}; copy the VMX again, or register it by hand");
                refused(machine.vmx.to_string(), told)
            })?;
            note(&format!("{} ({}) is registered again, as {}", machine.name, machine.vmx, done.id));
        }
        self.set_swap(None)
    }

    /// A registration whose answer was lost may have succeeded all the same.
    fn unregister_new(&self, plan: &Plan, inventory: &dyn Inventory) -> Result<(), ImportError> {
        let vmx = plan.target_vmx();
        let told = |why: String| refused(vmx.to_string(), why);
        match inventory.machine(&plan.taken.datacenter, &vmx) {
            Ok(None) => {}
            Ok(Some(machine)) => inventory.unregister(&machine).map_err(|error| told(error.message))?,
            Err(error) => {
                return Err(told(format!(
                    "{error}; the restored one stays there until the hypervisor answers"
                )));
            }
        }
        // The one that is registered from there from now on is the old one, and none of the ledger's business.
        let mut inner = self.lock();
        let ours = |known: &Registered| known.hypervisor == plan.hypervisor && known.vmx == vmx;
        for machine in inner.registered.extract_if(.., |known| ours(known)).collect::<Vec<_>>() {
            self.append(&machine.removed())?;
        }
        Ok(())
    }

    /// After a start: a swap that was cut short goes back as far as renames can bring it, so that all is where its plan says.
    pub(super) fn settle_swap(&self, plan: &Plan, swap: &SwapState) {
        if swap.phase == Phase::Begun
            && let Err(error) = self.places_back(plan, &swap.identities)
        {
            self.log.error(&format!("after a restart: {error}"));
        }
    }

    /// A VMX that arrived whole and whose machine has not taken its place because the service ended: its name.
    pub(super) fn cut_swap(&self) -> Option<String> {
        let inner = self.lock();
        let State::Receiving(receiving) = &inner.state else { return None };
        let cut = receiving
            .swap
            .as_ref()
            .is_some_and(|swap| matches!(swap.phase, Phase::Begun | Phase::Back | Phase::Placed));
        if !cut
            || receiving.imported.is_some()
            || receiving.enter_vmx("").is_err()
            || !inner.cfg_errors.is_empty()
        {
            return None;
        }
        let vmx = inner.files.values().find(|entry| matches!(entry.content, Content::Small(Kind::Vmx, _)));
        vmx.map(|entry| entry.name.clone())
    }

    /// The plan and how far its swap is, where the new machine is complete and files of the old one are left.
    fn to_clear(&self) -> Option<(Plan, SwapState)> {
        let inner = self.lock();
        let State::Receiving(all) = &inner.state else { return None };
        let swap = all.swap.clone().filter(|swap| matches!(swap.phase, Phase::Placed | Phase::Clearing))?;
        all.imported.is_some().then(|| (all.plan.clone(), swap))
    }

    /// Whether files of the old machine are left that are to go.
    pub(super) fn must_clear(&self) -> bool {
        self.to_clear().is_some()
    }

    /// The new one is complete in its place: removes what belonged to the old one. Failures are told, and change nothing more.
    pub(super) fn clear_old(&self) {
        let Some((plan, swap)) = self.to_clear() else { return };
        if let Err(error) = clear(self, &plan, swap) {
            self.log.error(&format!("what was there before could not all be removed: {error}"));
        }
    }

    /// Before the session goes: nothing of the old one may be left out of its place.
    pub(super) fn end_swap(&self) -> Result<(), ImportError> {
        let plan = match &self.lock().state {
            State::Receiving(receiving) if receiving.pushing.is_some() => {
                return Err(ImportError::InUse(self.display("")));
            }
            State::Receiving(receiving) if receiving.swap.is_some() && receiving.imported.is_none() => {
                receiving.plan.clone()
            }
            _ => return Ok(()),
        };
        let over = self.swap_state().is_some_and(|swap| matches!(swap.phase, Phase::Clearing | Phase::Done));
        if over {
            Ok(())
        } else {
            self.put_old_back(&plan, &Patience::new(std::time::Duration::ZERO, &self.shared.stopping))
        }
    }
}
