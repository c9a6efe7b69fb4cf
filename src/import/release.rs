//! Disks that nobody writes for now: their drivers give back what holding them takes elsewhere (an attachment to the appliance).

use super::error::ImportError;
use super::session::Session;
use super::state::State;

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
        for (disk, extent) in disks {
            disk.release().map_err(ImportError::disk(self.display(&extent)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
