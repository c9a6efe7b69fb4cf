#![allow(clippy::unwrap_used)]
use super::*;
use crate::vsphere::task::tests::with_collector;
use crate::vsphere::testing::{Script, fault, script_client};

const INFO: &str = "<val><lease type=\"HttpNfcLease\">l-1</lease><entity type=\"VirtualMachine\">vm-7</entity>\
    <deviceUrl><key>/7/a</key><importKey>/web/ParaVirtualSCSIController0:1</importKey><url>https://*/nfc/l-1/a.vmdk</url>\
    <sslThumbprint/><disk>true</disk></deviceUrl>\
    <deviceUrl><key>/7/b</key><importKey>/web/ParaVirtualSCSIController0:0</importKey><url>https://*/nfc/l-1/b.vmdk</url>\
    <sslThumbprint/><disk>true</disk></deviceUrl>\
    <deviceUrl><key>/7/n</key><importKey>/web/nvram</importKey><url>https://*/nfc/l-1/n</url><sslThumbprint/><disk>false</disk>\
    </deviceUrl></val>";

fn spec() -> Spec {
    Spec { body: "<name>web</name>".into(), addresses: Vec::new(), instance: "i".into(), notes: Vec::new() }
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

/// Pool, folder, host.
static HOME: std::sync::LazyLock<[Ref; 3]> = std::sync::LazyLock::new(|| {
    [Ref::new("ResourcePool", "p"), Ref::new("Folder", "f"), Ref::new("HostSystem", "h")]
});

fn home() -> Home<'static> {
    let [pool, folder, host] = &*HOME;
    Home { pool, folder, host: Some(host) }
}

fn open(client: &Arc<Client>) -> Result<Lease<'_>, VsphereError> {
    let made = |lease: &Ref| {
        assert_eq!(lease.id, "l-1");
        Ok(())
    };
    Lease::open(client, home(), &spec(), "web can't be made", &|| true, made)
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
fn dropped_it_is_aborted() {
    let script = script();
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>ready</val>"), ("info", INFO)]));
    let client = Arc::new(script_client(&script));
    drop(open(&client).unwrap());
    assert_eq!(script.requests("HttpNfcLeaseAbort").len(), 1);
}

#[test]
fn one_that_can_not_be_noted_or_is_not_wanted_is_aborted() {
    let script = script();
    let client = Arc::new(script_client(&script));
    let full = |_: &Ref| Err(VsphereError::Told("the journal is full".into()));
    let told = Lease::open(&client, home(), &spec(), "x", &|| true, full).err().unwrap().to_string();
    assert_eq!(told, "the journal is full");
    let gone = Lease::open(&client, home(), &spec(), "x", &|| false, |_| Ok(())).err().unwrap();
    assert_eq!(gone, VsphereError::Unwanted);
    assert_eq!(script.requests("HttpNfcLeaseAbort").len(), 2);
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
    meter.expect(10);
    let mut ones = io::repeat(1);
    let mut metered = Metered { source: &mut ones, meter: &meter };
    metered.read_exact(&mut [0; 5]).unwrap();
    assert_eq!((meter.percent(), meter.moved.load(Ordering::Relaxed)), (0, 5));
    meter.reach(5);
    assert_eq!(meter.percent(), 50);
    meter.reach(50);
    assert_eq!(meter.percent(), 99);
    meter.fail("the lease has ended".into());
    assert_eq!(metered.read(&mut [0; 5]).unwrap_err().to_string(), "the lease has ended");
    assert_eq!(Meter::default().percent(), 0);
}

#[test]
fn a_source_that_can_not_be_read_is_told_as_that() {
    struct Torn;
    impl Read for Torn {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("sector 7"))
        }
    }
    let script = script();
    script.answer("WaitForUpdatesEx", &update(&[("state", "<val>ready</val>"), ("info", INFO)]));
    let client = Arc::new(script_client(&script));
    let lease = open(&client).unwrap();
    let mut metered = Metered { source: &mut Torn, meter: lease.meter() };
    assert!(metered.read(&mut [0; 5]).is_err());
    let lost = VsphereError::Lost { server: "hv".into(), why: "body".into() };
    let told = lease.judge(Err(lost.clone()), "a.vmdk can't be uploaded").unwrap_err();
    assert_eq!(told.to_string(), "a.vmdk can't be uploaded: the staged disk can't be read: sector 7");
    assert!(!told.is_transient() && lease.judge(Err(lost), "a").unwrap_err().is_transient());
    for (status, transient, part) in
        [(404, true, "the lease has ended"), (507, false, "its datastore is full"), (503, true, "503")]
    {
        let told = lease.judge(Ok(Answer { status, text: String::new() }), "a").unwrap_err();
        assert!(told.is_transient() == transient && told.to_string().contains(part), "{told}");
    }
}
