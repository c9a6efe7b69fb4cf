#![allow(clippy::unwrap_used)]
use super::*;
use crate::inventory::Store as WantedStore;
use crate::vsphere::testing::{Site, fault, script_client};

/// A key of the CFG, what is changed, part of the sentence that comes of it.
type Case<T> = (&'static str, fn(&mut T), &'static str);

fn wanted() -> Wanted {
    let store = WantedStore {
        key: "dsname".into(),
        name: "ds1".into(),
        size_key: "vmdk.0.size".into(),
        thick: 100,
        thin: 0,
    };
    Wanted {
        place: Place {
            datacenter: "dc".into(),
            folder: "Restored".into(),
            host: "esx1".into(),
            pool: "low".into(),
        },
        vm_name: "web".into(),
        register: true,
        whole: false,
        stop_on_conflict: true,
        unregisters: false,
        stores: vec![store],
    }
}

fn check_with(site: &Site, wanted: &Wanted) -> Checked {
    let client = script_client(&site.script());
    check(&client, "user", wanted)
}

/// The one problem that a change of the site or of what is wanted leads to.
fn only(site: &Site, wanted: &Wanted) -> (String, String) {
    let checked = check_with(site, wanted);
    assert_eq!(checked.problems.len(), 1, "{checked:?}");
    let problem = &checked.problems[0];
    (problem.key.clone(), problem.message.clone())
}

#[test]
fn nothing_is_in_the_way() {
    assert_eq!(check_with(&Site::new(), &wanted()), Checked::default());
    let mut by_uuid = wanted();
    by_uuid.stores[0].name = "4E3193A0-698e20ea-f9ef-180373f1beff".into();
    by_uuid.place = Place { datacenter: String::new(), ..Place::default() };
    let checked = check_with(&Site::new(), &by_uuid);
    assert_eq!(checked.problems, []);
    assert_eq!(checked.notes.len(), 1, "which cluster was taken is told: {checked:?}");
}

#[test]
fn login_and_reach() {
    let site = Site::new();
    let script = site.script();
    script.fault("Login", &fault("InvalidLogin", ""));
    let checked = check(&script_client(&script), "user", &wanted());
    assert_eq!(checked.problems.len(), 1);
    assert_eq!(checked.problems[0].key, "servername");
    assert!(checked.problems[0].message.contains("the user name or the password is wrong"), "{checked:?}");
}

#[test]
fn a_server_that_goes_away_is_told_as_such() {
    let script = Site::new().script();
    for _ in 0..3 {
        script.lost("CreateContainerView");
    }
    let checked = check(&script_client(&script), "user", &wanted());
    assert_eq!(checked.problems.len(), 1, "{checked:?}");
    assert_eq!(checked.problems[0].key, "servername");
    assert!(checked.problems[0].message.contains("the connection to hv:443 was lost: cut"), "{checked:?}");
}

#[test]
fn each_name_that_is_not_there() {
    let cases: [Case<Wanted>; 7] = [
        (
            "datacenter",
            |w| w.place.datacenter = "nowhere".into(),
            "hv:443 has no datacenter 'nowhere'; it has: dc",
        ),
        (
            "dsname",
            |w| w.stores[0].name = "ds9".into(),
            "datacenter 'dc' has no datastore 'ds9'; it has: ds1, ds2",
        ),
        (
            "folder",
            |w| w.place.folder = "Restored/none".into(),
            "'Restored' has no folder 'none' for virtual machines",
        ),
        (
            "hostsystem",
            |w| w.place.host = "esx9".into(),
            "datacenter 'dc' has no host 'esx9'; it has: esx1, esx2",
        ),
        (
            "resourcepool",
            |w| w.place.pool = "high".into(),
            "there is no resource pool 'high'; there are: alone/Resources, ",
        ),
        (
            "vmname",
            |w| w.vm_name = "taken".into(),
            "a virtual machine 'taken' is in that folder already; choose another",
        ),
        ("vmname", |w| w.vm_name = "n".repeat(81), "is longer than 80 characters"),
    ];
    for (key, change, part) in cases {
        let mut wanted = self::wanted();
        change(&mut wanted);
        let (found, message) = only(&Site::new(), &wanted);
        assert_eq!(found, key, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let mut renamed = wanted();
    (renamed.vm_name, renamed.stop_on_conflict) = ("taken".into(), false);
    assert_eq!(check_with(&Site::new(), &renamed).problems, []);
}

#[test]
fn each_state_that_is_wrong() {
    let cases: [Case<Site>; 7] = [
        ("dsname", |s| s.accessible = false, "no host reaches the datastore 'ds1'; connect it"),
        ("dsname", |s| s.maintenance = "inMaintenance", "the datastore 'ds1' is in maintenance mode"),
        ("vmdk.0.size", |s| s.free = 99, "thick disks need 100 bytes on 'ds1', 99 are free"),
        (
            "dsname",
            |s| s.access = "readOnly",
            "the host 'esx1' can't write to the datastore 'ds1'; mount it there",
        ),
        ("hostsystem", |s| s.connection = "disconnected", "the host 'esx1' is disconnected; connect it"),
        ("hostsystem", |s| s.host_maintenance = true, "the host 'esx1' is in maintenance mode"),
        (
            "resourcepool",
            |s| s.denied = "Resource.AssignVMToPool",
            "the account 'user' lacks Resource.AssignVMToPool on the resource pool",
        ),
    ];
    for (key, change, part) in cases {
        let mut site = Site::new();
        change(&mut site);
        let (found, message) = only(&site, &wanted());
        assert_eq!(found, key, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn without_registration_only_datastores_matter_and_room_for_thin_disks_is_a_note() {
    let mut wanted = wanted();
    wanted.register = false;
    wanted.place.folder = "none".into();
    wanted.stores[0].thin = 2_000_000;
    let checked = check_with(&Site::new(), &wanted);
    assert_eq!(checked.problems, []);
    assert!(checked.notes[0].starts_with("ds1 has 1000000 bytes free, the disks may grow to"), "{checked:?}");
}

#[test]
fn only_the_privileges_of_the_way_that_is_taken_are_needed() {
    let missing = |denied: &'static str, whole: bool| {
        let mut site = Site::new();
        site.denied = denied;
        let problems = check_with(&site, &Wanted { whole, ..wanted() }).problems;
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    for (privilege, files, lease) in [
        ("VApp.Import", &[][..], &["folder", "resourcepool"][..]),
        ("VirtualMachine.Inventory.Delete", &[], &["folder"]),
        ("VirtualMachine.Inventory.Register", &["folder"], &[]),
        ("Resource.AssignVMToPool", &["resourcepool"], &["resourcepool"]),
    ] {
        assert_eq!(missing(privilege, false), files, "{privilege}");
        assert_eq!(missing(privilege, true), lease, "{privilege}");
    }
}

#[test]
fn a_free_host_is_told_before_the_data_comes() {
    let mut site = Site::new();
    site.edition = "esxBasic";
    let (key, message) = only(&site, &wanted());
    assert_eq!(key, "servername");
    assert!(message.contains("the licence of a free ESXi"), "{message}");
    let unregistered = Wanted { register: false, ..wanted() };
    assert_eq!(check_with(&site, &unregistered).problems, []);
    site.edition = "esxEssentials";
    assert_eq!(check_with(&site, &wanted()).problems, []);
}

#[test]
fn all_at_once() {
    let mut site = Site::new();
    site.free = 1;
    site.denied = "Datastore.Browse";
    let mut wanted = wanted();
    wanted.place.folder = "none".into();
    wanted.place.host = "esx9".into();
    let keys: Vec<_> = check_with(&site, &wanted).problems.into_iter().map(|problem| problem.key).collect();
    assert_eq!(keys, ["vmdk.0.size", "folder", "hostsystem", "dsname"]);
}

#[test]
fn a_pool_of_another_host_and_one_of_several() {
    let mut wanted = wanted();
    wanted.place.host = "esx2".into();
    let (key, message) = only(&Site::new(), &wanted);
    assert_eq!(key, "resourcepool");
    assert!(
        message.contains("'low' is not one of that host's; it is at: cluster/Resources/low"),
        "{message}"
    );
    wanted.place.host = String::new();
    wanted.place.pool = "Resources".into();
    let (_, message) = only(&Site::new(), &wanted);
    assert!(message.contains("write one with its path: alone/Resources, cluster/Resources"), "{message}");
    wanted.place.pool = "alone/Resources".into();
    assert_eq!(check_with(&Site::new(), &wanted).problems, []);
}

#[test]
fn what_replaces_a_machine_needs_a_privilege_more() {
    let site = Site { denied: UNREGISTER, ..Site::new() };
    let mut wanted = wanted();
    assert_eq!(check_with(&site, &wanted).problems, []);
    wanted.unregisters = true;
    let (key, message) = only(&site, &wanted);
    assert!(key == "folder" && message.contains("lacks VirtualMachine.Inventory.Unregister"), "{message}");
}

#[test]
fn privileges_are_documented_and_in_the_role() {
    let page = include_str!("../../../docs/vsphere.md");
    let role = include_str!("../../../packaging/vsphere-role.txt");
    let needed: Vec<_> = PRIVILEGES
        .iter()
        .map(|(.., privilege)| privilege)
        .chain(crate::vsphere::appliance::PRIVILEGES)
        .chain([&UNREGISTER])
        .chain([&crate::vsphere::snapshots::PRIVILEGE, &crate::vsphere::snapshots::REMOVE_PRIVILEGE])
        .collect();
    for privilege in &needed {
        assert!(page.contains(&format!("`{privilege}`")), "docs/vsphere.md lacks {privilege}");
        assert!(role.lines().any(|line| line == **privilege), "packaging/vsphere-role.txt lacks {privilege}");
    }
    for line in role.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(needed.iter().any(|privilege| **privilege == line), "{line} is not needed");
    }
}
