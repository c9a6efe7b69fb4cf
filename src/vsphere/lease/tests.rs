#![allow(clippy::unwrap_used)]
use super::*;
use crate::vsphere::task::tests::with_collector;
use crate::vsphere::testing::{Script, fault, object, script_client};

const INFO: &str = "<val><lease type=\"HttpNfcLease\">l-1</lease><entity type=\"VirtualMachine\">vm-7</entity>\
    <deviceUrl><key>/7/a</key><importKey>/web/ParaVirtualSCSIController0:1</importKey><url>https://*/nfc/l-1/a.vmdk</url>\
    <sslThumbprint/><disk>true</disk></deviceUrl>\
    <deviceUrl><key>/7/b</key><importKey>/web/ParaVirtualSCSIController0:0</importKey><url>https://*/nfc/l-1/b.vmdk</url>\
    <sslThumbprint/><disk>true</disk></deviceUrl>\
    <deviceUrl><key>/7/n</key><importKey>/web/nvram</importKey><url>https://*/nfc/l-1/n</url><sslThumbprint/><disk>false</disk>\
    </deviceUrl></val>";

fn spec() -> Spec {
    Spec { body: "<name>web</name>".into(), addresses: Vec::new(), notes: Vec::new() }
}

fn update(properties: &[(&str, &str)]) -> String {
    crate::vsphere::task::tests::update(properties)
}

fn script() -> Script {
    let script = Script::new();
    with_collector(&script);
    script.always("ImportVApp", "<returnval type=\"HttpNfcLease\">l-1</returnval>");
    script.always("HttpNfcLeaseProgress", "");
    script.always("HttpNfcLeaseComplete", "");
    script.always("HttpNfcLeaseAbort", "");
    script
}

fn open(client: &Arc<Client>) -> Result<Lease<'_>, VsphereError> {
    let (pool, folder, host) =
        (Ref::new("ResourcePool", "p"), Ref::new("Folder", "f"), Ref::new("HostSystem", "h"));
    Lease::open(client, &pool, &folder, Some(&host), &spec(), "web can't be made")
}

#[test]
fn opened_when_ready_and_completed() {
    let script = script();
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>initializing</val>")]));
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>ready</val>"), ("info", INFO)]));
    let client = Arc::new(script_client(&script));
    let lease = open(&client).unwrap();
    let request = &script.requests("ImportVApp")[0];
    assert_eq!(request.child("spec").unwrap().xsi_type, "VirtualMachineImportSpec");
    assert_eq!(request.text_at(&["spec", "configSpec", "name"]), "web");
    assert_eq!((request.text_at(&["folder"]), request.text_at(&["host"])), ("f", "h"));
    assert!(lease.device("ParaVirtualSCSIController0:0").unwrap().url.ends_with("b.vmdk"));
    let told = lease.device("VirtualLsiLogicController0:0").unwrap_err().to_string();
    assert!(told.contains("no place for the disk at VirtualLsiLogicController0:0, only for Para"), "{told}");
    assert_eq!(lease.complete("x").unwrap(), Ref::new("VirtualMachine", "vm-7"));
    let methods = script.methods();
    assert!(
        methods.ends_with(&["HttpNfcLeaseProgress".into(), "HttpNfcLeaseComplete".into()]),
        "{methods:?}"
    );
    assert_eq!(script.requests("HttpNfcLeaseProgress")[0].text_at(&["percent"]), "100");
    assert!(script.requests("HttpNfcLeaseAbort").is_empty());
}

#[test]
fn dropped_it_is_aborted_and_its_machine_removed() {
    let script = script();
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>ready</val>"), ("info", INFO)]));
    let client = Arc::new(script_client(&script));
    let lease = open(&client).unwrap();
    // The server left the machine.
    script.answer_properties("VirtualMachine", &object("VirtualMachine", "vm-7", &[("name", "web")]));
    script.answer("Destroy_Task", "<returnval type=\"Task\">t-1</returnval>");
    script.answer("WaitForUpdatesEx", &update(&[("info.state", "<val>success</val>")]));
    drop(lease);
    assert_eq!(script.requests("HttpNfcLeaseAbort").len(), 1);
    assert_eq!(script.requests("Destroy_Task")[0].text_at(&["_this"]), "vm-7");
    // The server removed it.
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>ready</val>"), ("info", INFO)]));
    script.fault("RetrievePropertiesEx", &fault("ManagedObjectNotFound", ""));
    drop(open(&client).unwrap());
    assert_eq!((script.requests("HttpNfcLeaseAbort").len(), script.requests("Destroy_Task").len()), (2, 1));
}

#[test]
fn one_that_never_becomes_ready_is_aborted() {
    let script = script();
    let error =
        "<val><fault xsi:type=\"NoDiskSpace\"><datastore>ds1</datastore></fault><localizedMessage/></val>";
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>error</val>"), ("error", error)]));
    let client = Arc::new(script_client(&script));
    let told = open(&client).err().unwrap().to_string();
    assert!(told.starts_with("web can't be made: the datastore 'ds1' is full"), "{told}");
    assert_eq!(script.requests("HttpNfcLeaseAbort").len(), 1);
    script.fault("ImportVApp", &fault("RestrictedVersion", ""));
    assert!(open(&client).err().unwrap().to_string().contains("a free ESXi"));
}

#[test]
fn progress_never_says_that_it_is_over_and_a_dead_lease_ends_the_upload() {
    let meter = Arc::new(Meter::default());
    meter.total.store(10, Ordering::Relaxed);
    let mut metered = Metered { source: io::repeat(1), meter: Arc::clone(&meter) };
    metered.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(meter.percent(), 50);
    metered.read_exact(&mut [0; 50]).unwrap();
    assert_eq!(meter.percent(), 99);
    meter.broken.store(true, Ordering::Relaxed);
    assert!(metered.read(&mut [0; 5]).is_err());
    assert_eq!(Meter::default().percent(), 0);
}
