//! Virtual disks by themselves, through the server's VirtualDiskManager: made, looked at, deleted while they are attached to nothing.

use super::Ref;
use super::appliance::RECONFIGURE_TIMEOUT;
use super::client::Client;
use super::error::VsphereError;
use super::hardware::NewDisk;
use super::task::SEARCH_TIMEOUT;

impl Client {
    /// A disk's UUID by its descriptor's path; `None` where there is no such disk.
    pub fn disk_uuid(&self, datacenter: &Ref, file: &str) -> Result<Option<String>, VsphereError> {
        let manager = self.disk_manager()?;
        let asked = self.call("QueryVirtualDiskUuid", &manager, |w| {
            w.value("name", file).reference("datacenter", datacenter);
        });
        match asked {
            Ok(result) => Ok(Some(result.text_at(&["returnval"]).to_owned())),
            Err(error) if matches!(error.kind(), "FileNotFound" | "CannotAccessFile" | "FileFault") => {
                Ok(None)
            }
            Err(error) => Err(error.about(format!("{file} can't be looked at"))),
        }
    }

    /// Makes a disk that is attached to nothing, for an adapter: `ide`, `busLogic` or `lsiLogic`. Its size is a multiple of 1024.
    pub fn create_disk(
        &self,
        datacenter: &Ref,
        file: &str,
        new: &NewDisk,
        adapter: &str,
    ) -> Result<(), VsphereError> {
        let what = format!("{file} can't be made");
        let kind = match new {
            NewDisk { thin: true, .. } => "thin",
            NewDisk { eager: true, .. } => "eagerZeroedThick",
            NewDisk { .. } => "preallocated",
        };
        let manager = self.disk_manager()?;
        let limit = RECONFIGURE_TIMEOUT + new.zeroing();
        self.run_task("CreateVirtualDisk_Task", &manager, limit, &what, |w| {
            w.value("name", file).reference("datacenter", datacenter);
            w.typed("spec", "FileBackedVirtualDiskSpec", |w| {
                w.value("diskType", kind).value("adapterType", adapter).value("capacityKb", new.size / 1024);
            });
        })?;
        Ok(())
    }

    /// Deletes a disk with all its files.
    pub fn delete_disk(&self, datacenter: &Ref, file: &str) -> Result<(), VsphereError> {
        let what = format!("{file} can't be deleted");
        let manager = self.disk_manager()?;
        self.run_task("DeleteVirtualDisk_Task", &manager, SEARCH_TIMEOUT, &what, |w| {
            w.value("name", file).reference("datacenter", datacenter);
        })?;
        Ok(())
    }

    fn disk_manager(&self) -> Result<Ref, VsphereError> {
        let manager = self.with_session(|live| Ok(live.content.disk_manager.clone()))?;
        manager
            .ok_or_else(|| VsphereError::Told(format!("{} has no manager of virtual disks", self.server())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::testing::{Script, fault, script_client};

    #[test]
    fn a_disk_for_an_adapter_is_made_by_the_manager() {
        let script = Script::new();
        let client = script_client(&script);
        script.fault("CreateVirtualDisk_Task", &fault("FileAlreadyExists", "<file>[ds] a/x.vmdk</file>"));
        let new = NewDisk { size: 4096, thin: false, eager: true };
        let at = Ref::new("Datacenter", "dc");
        let refused = client.create_disk(&at, "[ds] a/x.vmdk", &new, "ide").unwrap_err();
        assert_eq!(refused.kind(), "FileAlreadyExists", "{refused}");
        let asked = script.requests("CreateVirtualDisk_Task");
        let spec = |name: &'static str| asked[0].text_at(&["spec", name]).to_owned();
        assert_eq!(
            (spec("diskType"), spec("adapterType"), spec("capacityKb")),
            ("eagerZeroedThick".into(), "ide".into(), "4".into())
        );
        assert_eq!(asked[0].text_at(&["name"]), "[ds] a/x.vmdk");
    }
}
