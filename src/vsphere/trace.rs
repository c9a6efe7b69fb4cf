//! What a lease made, as it is kept from before the lease is opened until its machine is complete: by this it is found again
//! after a crash, and undone.
//!
//! Only what is provably the lease's own is ever removed: a virtual machine with that VMX and that instance UUID, which was never
//! started.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::error::VsphereError;
use super::inventory::Store;
use super::{Ref, lease};

/// Until a machine that a failed lease left is gone.
const DESTROY_TIMEOUT: Duration = Duration::from_mins(5);
/// Faults of a machine that something else is busy with.
const HELD: &[&str] = &["TaskInProgress", "InvalidState", "MethodDisabled"];

/// By what a lease's machine is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `[datastore] directory/name.vmx`.
    pub vmx: String,
    /// Its instance UUID, which is set when it is made.
    pub instance: String,
    /// The server's name for its datacenter.
    pub datacenter: String,
    /// Directories that were made for it: datastore and path.
    #[serde(default)]
    pub directories: Vec<(String, String)>,
    /// The lease, once it is open.
    #[serde(default)]
    pub lease: Option<String>,
    /// The server's name for the machine, once it is known.
    #[serde(default)]
    pub machine: Option<String>,
    /// The server has said that it is complete.
    #[serde(default)]
    pub complete: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// Nothing is left.
    Gone,
    /// The machine is complete, and stays.
    Complete(Ref),
}

/// A machine that was found, and whether it is off and was never anything else.
struct Found {
    machine: Ref,
    off: bool,
}

/// The machine, where it is still there.
pub fn find(client: &Client, trace: &Trace) -> Result<Option<Ref>, VsphereError> {
    Ok(look(client, trace)?.map(|found| found.machine))
}

fn look(client: &Client, trace: &Trace) -> Result<Option<Found>, VsphereError> {
    let named = trace.machine.as_ref().map(|id| Ref::new("VirtualMachine", id));
    let by_uuid = client.search("FindByUuid", |w| {
        w.value("uuid", &trace.instance).value("vmSearch", true).value("instanceUuid", true);
    })?;
    let paths = ["config.instanceUuid", "config.files.vmPathName", "runtime.powerState"];
    for machine in by_uuid.into_iter().chain(named) {
        let known = match client.properties("VirtualMachine", std::slice::from_ref(&machine), &paths) {
            Err(error) if error.kind() == "ManagedObjectNotFound" => continue,
            known => known?,
        };
        let Some(known) = known.first() else { continue };
        let (instance, vmx) = (known.text("config.instanceUuid"), known.text("config.files.vmPathName"));
        if instance.eq_ignore_ascii_case(&trace.instance) && vmx == trace.vmx {
            return Ok(Some(Found { machine, off: known.text("runtime.powerState") == "poweredOff" }));
        }
    }
    Ok(None)
}

/// Undoes what is left of a lease that was not completed, and says what there is then. A lease that is still open is aborted.
pub fn settle(client: &Client, trace: &Trace) -> Result<Remains, VsphereError> {
    let open = trace.lease.as_ref().filter(|_| !trace.complete);
    let state = open.map(|id| Ref::new("HttpNfcLease", id)).map(|lease| {
        let state = client.properties_of(&lease, &["state"]).map(|lease| lease.text("state").to_owned());
        // One that can't be looked at may be another session's, which has ended with its service.
        if !matches!(state.as_deref(), Ok("done" | "error")) {
            lease::abort(client, &lease);
        }
        state
    });
    // A lease that can't be found is of no help: a server forgets those that are over.
    let completed = trace.complete || matches!(state, Some(Ok(state)) if state == "done");
    let Some(found) = look(client, trace)? else {
        remove_directories(client, trace)?;
        return Ok(Remains::Gone);
    };
    // Nobody can start a machine before its lease is complete.
    if completed || !found.off {
        return Ok(Remains::Complete(found.machine));
    }
    let what = format!("the half-made virtual machine {} can't be removed", trace.vmx);
    match client.run_task("Destroy_Task", &found.machine, DESTROY_TIMEOUT, &what, |_| {}) {
        // While its lease holds it, which can't be for long: nobody tells its progress any more.
        Err(error) if HELD.contains(&error.kind()) => {
            Err(VsphereError::Ended { what, why: format!("its upload still holds it: {error}") })
        }
        Err(error) if error.kind() != "ManagedObjectNotFound" => Err(error),
        _ => {
            remove_directories(client, trace)?;
            Ok(Remains::Gone)
        }
    }
}

/// Those that were made for a machine that is gone, as far as they are empty.
fn remove_directories(client: &Client, trace: &Trace) -> Result<(), VsphereError> {
    if trace.directories.is_empty() {
        return Ok(());
    }
    let datacenter = Ref::new("Datacenter", &trace.datacenter);
    let stores = client.stores_of(&datacenter)?;
    // One may lie in another.
    for (datastore, path) in trace.directories.iter().rev() {
        let Some(store) = Store::find(&stores, datastore) else { continue };
        if client.exists(store, path)? && client.is_empty(store, path)? {
            client.delete_file(&datacenter, &Store::path(datastore, path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::task::tests::{update, with_collector};
    use crate::vsphere::testing::{Script, fault, object, script_client};

    fn trace() -> Trace {
        Trace {
            vmx: "[ds1] web/web.vmx".into(),
            instance: "50133967-ae5a-052c-0140-e47ce07219ee".into(),
            datacenter: "dc-1".into(),
            directories: Vec::new(),
            lease: Some("l-1".into()),
            machine: None,
            complete: false,
        }
    }

    fn script() -> Script {
        let script = Script::new();
        with_collector(&script);
        script.always("HttpNfcLeaseAbort", "");
        script.always("FindByUuid", "<returnval type=\"VirtualMachine\">vm-7</returnval>");
        script.always("Destroy_Task", "<returnval type=\"Task\">t-1</returnval>");
        script.always("WaitForUpdatesEx", &update(&[("info.state", "<val>success</val>")]));
        script
    }

    fn lease(script: &Script, state: &str) {
        let lease = object("HttpNfcLease", "l-1", &[("state", state)]);
        script.answer("RetrievePropertiesEx", &format!("<returnval>{lease}</returnval>"));
    }

    fn machine(script: &Script, instance: &str, vmx: &str, power: &str) {
        let properties = [
            ("config.instanceUuid", instance),
            ("config.files.vmPathName", vmx),
            ("runtime.powerState", power),
        ];
        let machine = object("VirtualMachine", "vm-7", &properties);
        script.answer("RetrievePropertiesEx", &format!("<returnval>{machine}</returnval>"));
    }

    #[test]
    fn an_open_lease_is_aborted_and_its_machine_removed() {
        let script = script();
        lease(&script, "ready");
        machine(&script, &trace().instance, &trace().vmx, "poweredOff");
        assert_eq!(settle(&script_client(&script), &trace()).unwrap(), Remains::Gone);
        assert_eq!(script.requests("HttpNfcLeaseAbort")[0].text_at(&["_this"]), "l-1");
        assert_eq!(script.requests("Destroy_Task")[0].text_at(&["_this"]), "vm-7");
    }

    #[test]
    fn what_is_complete_or_somebody_elses_is_left_alone() {
        let vm = Ref::new("VirtualMachine", "vm-7");
        let cases = [
            ("done", trace().vmx.as_str(), "poweredOff", Remains::Complete(vm.clone())),
            ("error", trace().vmx.as_str(), "poweredOn", Remains::Complete(vm)),
            ("error", "[ds1] other/web.vmx", "poweredOff", Remains::Gone),
        ]
        .map(|(state, vmx, power, left)| (state, vmx.to_owned(), power, left));
        for (state, vmx, power, left) in cases {
            let script = script();
            lease(&script, state);
            machine(&script, &trace().instance, &vmx, power);
            assert_eq!(settle(&script_client(&script), &trace()).unwrap(), left, "{state} {vmx} {power}");
            assert!(
                script.requests("Destroy_Task").is_empty() && script.requests("HttpNfcLeaseAbort").is_empty()
            );
        }
        // Another machine has the UUID, and the one that is noted is gone.
        let script = script();
        script.fault("RetrievePropertiesEx", &fault("ManagedObjectNotFound", ""));
        machine(&script, "something-else", &trace().vmx, "poweredOff");
        script.fault("RetrievePropertiesEx", &fault("ManagedObjectNotFound", ""));
        let trace = Trace { machine: Some("vm-8".into()), ..trace() };
        assert_eq!(settle(&script_client(&script), &trace).unwrap(), Remains::Gone);
        assert!(script.requests("Destroy_Task").is_empty());
    }

    #[test]
    fn one_that_was_said_to_be_complete_is_whatever_became_of_its_lease() {
        let script = script();
        machine(&script, &trace().instance, &trace().vmx, "poweredOff");
        let noted = serde_json::to_string(&Trace { complete: true, ..trace() }).unwrap();
        let noted: Trace = serde_json::from_str(&noted).unwrap();
        let stays = Remains::Complete(Ref::new("VirtualMachine", "vm-7"));
        assert_eq!(settle(&script_client(&script), &noted).unwrap(), stays);
        assert!(
            script.requests("Destroy_Task").is_empty() && script.requests("HttpNfcLeaseAbort").is_empty()
        );
        // A trace of a version that did not note it.
        let before = noted_before();
        assert!(!before.complete && before.instance == trace().instance);
    }

    fn noted_before() -> Trace {
        let text = serde_json::to_value(trace()).unwrap();
        let mut fields = text.as_object().unwrap().clone();
        fields.remove("complete");
        serde_json::from_value(fields.into()).unwrap()
    }

    #[test]
    fn a_machine_that_can_not_be_removed_is_told() {
        let script = script();
        lease(&script, "error");
        machine(&script, &trace().instance, &trace().vmx, "poweredOff");
        script.fault(
            "Destroy_Task",
            &fault("NoPermission", "<privilegeId>VirtualMachine.Inventory.Delete</privilegeId>"),
        );
        let told = settle(&script_client(&script), &trace()).unwrap_err().to_string();
        assert!(
            told.starts_with("the half-made virtual machine [ds1] web/web.vmx can't be removed: "),
            "{told}"
        );
        // One that its lease still holds is only a matter of time.
        lease(&script, "error");
        machine(&script, &trace().instance, &trace().vmx, "poweredOff");
        script.fault("Destroy_Task", &fault("MethodDisabled", ""));
        assert!(settle(&script_client(&script), &trace()).unwrap_err().is_transient());
    }
}
