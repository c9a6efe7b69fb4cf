#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::vsphere::xml::Element;

const VMX: &str = r#".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "web"
guestOS = "centos7-64"
annotation = "one|22two|22"
numvcpus = "4"
cpuid.coresPerSocket = "2"
memSize = "4096"
mem.hotadd = "TRUE"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "web.vmdk"
scsi0:3.fileName = "/vmfs/volumes/4e31-aa/other/web_1.vmdk"
scsi0:3.mode = "independent-persistent"
scsi0:9.fileName = "gone.vmdk"
scsi0:9.present = "FALSE"
sata0.present = "TRUE"
sata0:0.fileName = "cd.iso"
ide1:0.fileName = "old.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:00:00:01"
ethernet1.present = "TRUE"
ethernet1.networkName = "gone"
uuid.bios = "50 13 39 67 ae 5a 05 2c-01 40 e4 7c e0 72 19 ee"
vc.uuid = "50 13 39 67 ae 5a 05 2c-01 40 e4 7c e0 72 19 ef"
uuid.action = "keep"
guestinfo.role = "a&b"
disk.EnableUUID = "TRUE"
sched.swap.derivedName = "/x"
parallel0.fileName = "thin"
"#;

fn disks() -> Vec<DiskSpec> {
    let disk = |datastore: &str, directory: &str, descriptor: &str, thin| DiskSpec {
        datastore: datastore.into(),
        directory: directory.into(),
        descriptor: descriptor.into(),
        size: 3 * 1024 * 1024 + 512,
        thin,
    };
    vec![
        disk("ds2", "other", "web_1.vmdk", true),
        disk("ds1", "web", "web.vmdk", false),
        disk("ds1", "web", "old.vmdk", true),
    ]
}

fn spec(vmx: &str) -> Result<(Spec, Element), String> {
    let networks = [("VM Network".to_owned(), Ref::new("Network", "net-1"))];
    let disks = disks();
    let wanted = Wanted {
        name: "we%2fb",
        vmx_path: "[ds1] web/web.vmx",
        disks: &disks,
        networks: &networks,
        instance: "an-instance",
        nvram: Some("web.nvram"),
    };
    let spec = build(&Settings::parse(vmx.as_bytes()), &wanted)?;
    let tree = Element::parse(format!("<s xmlns:xsi=\"x\">{}</s>", spec.body).as_bytes()).unwrap();
    Ok((spec, tree))
}

#[test]
fn a_machine_with_its_devices_in_the_order_of_the_api() {
    let (spec, tree) = spec(VMX).unwrap();
    let order: Vec<_> = tree.children.iter().map(|child| child.name.as_str()).collect();
    let head = [
        "name",
        "version",
        "uuid",
        "instanceUuid",
        "guestId",
        "annotation",
        "files",
        "numCPUs",
        "numCoresPerSocket",
    ];
    assert_eq!(order[..9], head);
    assert_eq!(order[9..11], ["memoryMB", "memoryHotAddEnabled"]);
    assert_eq!(order[order.len() - 2..], ["bootOptions", "firmware"]);
    let text = |name: &str| tree.text_at(&[name]).to_owned();
    assert_eq!(
        (text("name"), text("version"), text("guestId")),
        ("we%2fb".into(), "vmx-13".into(), "centos7_64Guest".into())
    );
    assert_eq!(
        (text("annotation"), text("firmware"), text("memoryMB")),
        ("one\"two\"".into(), "efi".into(), "4096".into())
    );
    assert_eq!(text("uuid"), "50133967-ae5a-052c-0140-e47ce07219ee");
    assert!(tree.flag_at(&["bootOptions", "efiSecureBootEnabled"]));
    let devices: Vec<_> = tree.all("deviceChange").filter_map(|change| change.child("device")).collect();
    let kinds: Vec<_> = devices.iter().map(|device| device.xsi_type.as_str()).collect();
    assert_eq!(
        kinds,
        ["ParaVirtualSCSIController", "VirtualDisk", "VirtualDisk", "VirtualDisk", "VirtualVmxnet3"]
    );
    let disk = |n: usize| {
        let device = devices[n];
        let at = |way: &[&str]| device.text_at(way).to_owned();
        (
            at(&["backing", "fileName"]),
            at(&["backing", "diskMode"]),
            at(&["controllerKey"]),
            at(&["unitNumber"]),
            at(&["backing", "thinProvisioned"]),
        )
    };
    let strings = |a: &str, b: &str, c: &str, d: &str, e: &str| {
        (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned(), e.to_owned())
    };
    assert_eq!(disk(1), strings("[ds2] other/web_1.vmdk", "independent_persistent", "1000", "3", "true"));
    assert_eq!(disk(2), strings("[ds1] web/web.vmdk", "persistent", "1000", "0", "false"));
    assert_eq!(disk(3), strings("[ds1] web/old.vmdk", "persistent", "201", "0", "true"));
    assert_eq!(devices[1].text_at(&["capacityInBytes"]), "3146240");
    assert_eq!(
        spec.addresses,
        ["ParaVirtualSCSIController0:3", "ParaVirtualSCSIController0:0", "VirtualIDEController1:0"]
    );
    assert_eq!(devices[4].text_at(&["macAddress"]), "00:50:56:00:00:01");
    let extra: Vec<_> =
        tree.all("extraConfig").map(|e| (e.text_at(&["key"]), e.text_at(&["value"]))).collect();
    assert_eq!(extra, [("disk.enableuuid", "TRUE"), ("guestinfo.role", "a&b"), ("nvram", "web.nvram")]);
}

#[test]
fn what_can_not_be_carried_over_is_told() {
    let (spec, _) = spec(VMX).unwrap();
    assert_eq!(
        spec.notes[0],
        "vmx: network card 1 is left out, the network 'gone' does not exist there; add it by hand"
    );
    assert_eq!(
        spec.notes[1],
        "vmx: not carried over: parallel0.filename, sata0:0.filename, scsi0:9.filename"
    );
    let (unknown, tree) = self::spec(&VMX.replace("centos7-64", "plan 9")).unwrap();
    assert!(unknown.notes[0].contains("the guest system 'plan 9' is not known"), "{unknown:?}");
    assert_eq!(tree.text_at(&["guestId"]), "otherGuest64");
    let error = self::spec(&VMX.replace("\"web.vmdk\"", "\"none.vmdk\"")).unwrap_err();
    assert_eq!(error, "no device of the VMX uses the disk web.vmdk; correct the CFG");
}

#[test]
fn a_copy_gets_identities_of_its_own() {
    let (spec, tree) = spec(&VMX.replace("\"keep\"", "\"create\"")).unwrap();
    assert!(tree.child("uuid").is_none());
    assert_eq!((tree.text_at(&["instanceUuid"]), spec.instance.as_str()), ("an-instance", "an-instance"));
    let nvram = tree.all("extraConfig").find(|option| option.text_at(&["key"]) == "nvram").unwrap();
    assert_eq!(nvram.text_at(&["value"]), "web.nvram");
}

#[test]
fn guest_systems() {
    let cases = [
        ("other", "otherGuest"),
        ("other-64", "otherGuest64"),
        ("otherlinux-64", "otherLinux64Guest"),
        ("other3xlinux-64", "other3xLinux64Guest"),
        ("centos-64", "centos64Guest"),
        ("centos7-64", "centos7_64Guest"),
        ("rhel6", "rhel6Guest"),
        ("debian10-64", "debian10_64Guest"),
        ("ubuntu-64", "ubuntu64Guest"),
        ("oraclelinux7-64", "oracleLinux7_64Guest"),
        ("windows9-64", "windows9_64Guest"),
        ("windows9srv-64", "windows9Server64Guest"),
        ("windows2019srv-64", "windows2019srv_64Guest"),
        ("winnetstandard-64", "winNetStandard64Guest"),
        ("winxppro", "winXPProGuest"),
        ("longhorn-64", "winLonghorn64Guest"),
    ];
    for (vmx, api) in cases {
        assert_eq!(guest_id(vmx).as_deref(), Some(api));
    }
    assert_eq!((guest_id(""), guest_id("a b"), guest_id("-64")), (None, None, None));
}

proptest! {
    #[test]
    fn any_vmx_is_a_spec_or_a_sentence(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = [VMX.as_bytes(), &bytes].concat();
        let disks = disks();
        let wanted =
            Wanted { name: "n", vmx_path: "[d] n", disks: &disks, networks: &[], instance: "i", nvram: None };
        if let Ok(spec) = build(&Settings::parse(&text), &wanted) {
            let tree = format!("<s xmlns:xsi=\"x\" xmlns:xsd=\"y\">{}</s>", spec.body);
            prop_assert!(Element::parse(tree.as_bytes()).is_ok());
            prop_assert_eq!(spec.addresses.len(), 3);
        }
    }
}
