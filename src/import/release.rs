//! Disks that nobody writes for now: their drivers give back what holding them takes elsewhere (an attachment to the appliance).

use super::error::ImportError;
use super::session::Session;
use super::state::State;

/// Disks that are given back at the same time: a hypervisor lets several go together.
const TOGETHER_MAX: usize = 16;

impl Session {
    /// After a handle is gone: a disk that no other handle writes is given back. One that can't be is told, and tried again before
    /// its virtual machine is registered.
    pub(super) fn release_unused(&self, number: usize) {
        let found = {
            let inner = self.lock();
            let State::Receiving(receiving) = &inner.state else { return };
            let Some(slot) = receiving.disks.get(number) else { return };
            let unused = slot.writers == 0 && !slot.merging;
            slot.disk.clone().filter(|_| unused).map(|disk| (disk, slot.plan.extent.clone()))
        };
        let Some((disk, extent)) = found else { return };
        if let Err(error) = disk.release() {
            self.log.error(&format!("{}: {error}; tried again when the VMX comes", self.display(&extent)));
        }
    }

    /// Before the virtual machine is registered: nobody else may hold its disks.
    pub(super) fn release_disks(&self) -> Result<(), ImportError> {
        let disks: Vec<_> = {
            let inner = self.lock();
            let State::Receiving(receiving) = &inner.state else { return Ok(()) };
            let held = receiving.disks.iter();
            held.filter_map(|slot| Some((slot.disk.clone()?, slot.plan.extent.clone()))).collect()
        };
        for some in disks.chunks(TOGETHER_MAX) {
            let released: Vec<_> = std::thread::scope(|scope| {
                let begun: Vec<_> = some.iter().map(|(disk, _)| scope.spawn(|| disk.release())).collect();
                begun.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for ((_, extent), outcome) in some.iter().zip(released) {
                let shown = self.display(extent);
                let broke_off =
                    |_| ImportError::Refused { path: shown.clone(), why: "its driver broke off".into() };
                outcome.map_err(broke_off)?.map_err(ImportError::disk(&shown))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
