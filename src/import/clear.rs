//! The end of a swap: files of the virtual machine that was replaced are removed where it was moved to, and nothing else.

use std::collections::BTreeSet;
use std::io;

use super::error::ImportError;
use super::formats::belongs::{self, Look};
use super::formats::log_text::Event;
use super::hypervisor::Hypervisors;
use super::overwrite::FILES_MAX;
use super::plan::{Plan, Swap};
use super::session::Session;
use super::swap::{Phase, SwapState};
use crate::inventory::StoreFile;

/// Bytes of a VMX, list of snapshots or descriptor that are read.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Names that a line of the log tells.
const NAMED_MAX: usize = 20;

/// The directories of the old machine where they are now, by the paths that it knows.
struct Moved<'a> {
    plan: &'a Plan,
    hypervisors: &'a Hypervisors,
}

impl Moved<'_> {
    /// Where a file is now; `None` where it was not moved, and so is none that is replaced.
    fn now(&self, file: &StoreFile) -> Option<(&Swap, String)> {
        self.plan.swaps.iter().find_map(|swap| Some((swap, swap.moved(&file.datastore, &file.path)?)))
    }
}

impl Look for Moved<'_> {
    fn read(&self, file: &StoreFile) -> Option<Vec<u8>> {
        let (swap, path) = self.now(file)?;
        let store = self.hypervisors.store(&self.plan.hypervisor, &swap.datastore).ok()?;
        store.get_file(&path, READ_BYTES_MAX).ok()
    }

    fn list(&self, directory: &StoreFile) -> Vec<String> {
        let Some((swap, path)) = self.now(directory) else { return Vec::new() };
        let store = self.hypervisors.store(&self.plan.hypervisor, &swap.datastore);
        let names = store.ok().and_then(|store| store.list(&path, FILES_MAX).ok()).unwrap_or_default();
        names.into_iter().filter(|(_, directory)| !directory).map(|(name, _)| name).collect()
    }

    fn datastore(&self, volume: &str) -> Option<String> {
        let hypervisor = self.hypervisors.find(&self.plan.hypervisor)?;
        hypervisor.datastore(volume).map(|entry| entry.name.clone())
    }
}

/// The VMX of the old machine: the inventory's word, else the one of the new one's name, else the only one.
fn old_vmx(plan: &Plan, swap: &SwapState, moved: &Moved<'_>) -> Option<StoreFile> {
    if let Some(machine) = &swap.machine {
        return Some(machine.vmx.clone());
    }
    let target = plan.target_vmx();
    let (directory, name) = target.path.rsplit_once('/')?;
    let directory = StoreFile { datastore: target.datastore.clone(), path: directory.to_owned() };
    let names: Vec<_> = moved.list(&directory).into_iter().filter(|name| belongs::is_vmx(name)).collect();
    let found = match names.as_slice() {
        names if names.iter().any(|other| other == name) => name,
        [only] => only,
        _ => return None,
    };
    Some(StoreFile { path: format!("{}/{found}", directory.path), ..directory })
}

/// Removes what belonged to the old machine, then its directories where they are empty; what is left is told.
pub(super) fn clear(session: &Session, plan: &Plan, mut swap: SwapState) -> Result<(), ImportError> {
    let moved = Moved { plan, hypervisors: &session.shared.hypervisors };
    if swap.phase == Phase::Placed {
        let vmx = old_vmx(plan, &swap, &moved);
        let files = vmx.map(|vmx| belongs::files(&vmx, &moved)).unwrap_or_default();
        swap = SwapState { phase: Phase::Clearing, files, ..swap };
        session.set_swap(Some(swap.clone()))?;
    }
    let mut directories = BTreeSet::new();
    for file in &swap.files {
        let Some((at, path)) = moved.now(file) else { continue };
        let store = session.shared.hypervisors.store(&plan.hypervisor, &at.datastore)?;
        match store.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                session.log.error(&format!("[{}] {path} could not be removed: {error}", at.datastore));
            }
            _ => {}
        }
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/').filter(|(parent, _)| parent.starts_with(&at.old))
        {
            directories.insert((at.datastore.clone(), parent.to_owned()));
            above = parent;
        }
    }
    directories.extend(plan.swaps.iter().map(|swap| (swap.datastore.clone(), swap.old.clone())));
    // Deep ones first: a longer path sorts behind the one that it begins with.
    for (datastore, directory) in directories.iter().rev() {
        let store = session.shared.hypervisors.store(&plan.hypervisor, datastore)?;
        // One that is not empty stays.
        let _ = store.remove_directory(directory);
    }
    for at in &plan.swaps {
        let store = session.shared.hypervisors.store(&plan.hypervisor, &at.datastore)?;
        let Ok(names) = store.list(&at.old, FILES_MAX) else { continue };
        let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        let more = if names.len() > NAMED_MAX { " …" } else { "" };
        let named = names[..names.len().min(NAMED_MAX)].join(", ");
        let text = format!(
            "[{}] {} is kept: what is in it was not the replaced virtual machine's: {named}{more}",
            at.datastore, at.old
        );
        session.log.line(&Event::Note(&text).to_string());
    }
    session.set_swap(Some(SwapState { phase: Phase::Done, files: Vec::new(), ..swap }))
}
