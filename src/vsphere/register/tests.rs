#![allow(clippy::unwrap_used)]
use super::*;
use crate::inventory::{Inventory as _, Place};
use crate::vsphere::manager::Manager;
use crate::vsphere::task::tests::{update, with_collector};
use crate::vsphere::testing::{Script, Site, fault, object, script_client};

fn vm() -> Registration {
    Registration {
        place: Place {
            datacenter: "dc".into(),
            folder: "Restored".into(),
            host: "esx1".into(),
            pool: "low".into(),
        },
        vm_name: "we/b".into(),
        datastore: "ds1".into(),
        vmx: "web/web.vmx".into(),
        datastores: vec!["ds1".into()],
        same_machine: true,
    }
}

const DONE: [(&str, &str); 2] =
    [("info.state", "<val>success</val>"), ("info.result", "<val type=\"VirtualMachine\">vm-7</val>")];

fn script() -> Script {
    let script = Site::new().script();
    with_collector(&script);
    script.always("FindByDatastorePath", "");
    script
}

fn found(script: &Script) {
    script.answer("FindByDatastorePath", "<returnval type=\"VirtualMachine\">vm-7</returnval>");
}

#[test]
fn a_vmx_is_registered_with_its_folder_pool_host_and_name() {
    let script = script();
    script.answer("RegisterVM_Task", "<returnval type=\"Task\">t-1</returnval>");
    script.answer("WaitForUpdatesEx", &update(&DONE));
    let done = register(&script_client(&script), &vm()).unwrap();
    assert_eq!((done.id.as_str(), done.before, done.notes.len()), ("vm-7", false, 0));
    let request = &script.requests("RegisterVM_Task")[0];
    let order: Vec<_> =
        request.children.iter().map(|child| (child.name.as_str(), child.text.as_str())).collect();
    assert_eq!(
        order,
        [
            ("_this", "f-1"),
            ("path", "[ds1] web/web.vmx"),
            ("name", "we%2fb"),
            ("asTemplate", "false"),
            ("pool", "p-low"),
            ("host", "h-1")
        ]
    );
}

#[test]
fn one_that_is_registered_stays_as_it_is() {
    let script = script();
    found(&script);
    let done = Manager::over(script_client(&script)).register(&vm()).unwrap();
    assert!(done.before);
    assert!(script.requests("RegisterVM_Task").is_empty());
}

#[test]
fn a_line_that_breaks_does_not_register_twice() {
    let script = script();
    script.lost("RegisterVM_Task");
    script.answer("FindByDatastorePath", "");
    found(&script);
    let done = register(&script_client(&script), &vm()).unwrap();
    assert_eq!((done.before, script.requests("RegisterVM_Task").len()), (false, 1));
    // It had not arrived: once more.
    let script = self::script();
    script.lost("RegisterVM_Task");
    script.answer("RegisterVM_Task", "<returnval type=\"Task\">t-1</returnval>");
    script.answer("WaitForUpdatesEx", &update(&DONE));
    register(&script_client(&script), &vm()).unwrap();
    assert_eq!(script.requests("RegisterVM_Task").len(), 2);
}

#[test]
fn each_failure_names_the_virtual_machine_and_says_what_to_do() {
    let cases = [
        ("DuplicateName", "<name>web</name>", "the name 'web' is taken"),
        ("NoDiskSpace", "<datastore>ds1</datastore>", "the datastore 'ds1' is full"),
        ("InsufficientResourcesFault", "", "no room for it"),
        ("InvalidArgument", "<invalidProperty>host</invalidProperty>", "does not take the value of host"),
        ("AlreadyExists", "<name>vm-9</name>", "'vm-9' exists in the inventory already"),
    ];
    for (kind, inside, part) in cases {
        let script = script();
        script.answer("RegisterVM_Task", "<returnval type=\"Task\">t-1</returnval>");
        let error = format!("<val><fault xsi:type=\"{kind}\">{inside}</fault><localizedMessage/></val>");
        script.answer(
            "WaitForUpdatesEx",
            &update(&[("info.state", "<val>error</val>"), ("info.error", &error)]),
        );
        let told = register(&script_client(&script), &vm()).unwrap_err().to_string();
        assert!(
            told.starts_with("the virtual machine 'we/b' can't be registered from [ds1] web/web.vmx: "),
            "{told}"
        );
        assert!(told.contains(part), "{told}");
    }
    let script = script();
    script.fault("RegisterVM_Task", &fault("RestrictedVersion", ""));
    let told = register(&script_client(&script), &vm()).unwrap_err().to_string();
    assert!(told.contains("a free ESXi"), "{told}");
}

#[test]
fn moved_or_copied_is_answered_and_nothing_else() {
    let question = |id: &str| {
        let choice = |key: u8, label: &str| {
            format!(
                "<choiceInfo><key>{key}</key><label>{label}</label><summary>{label}</summary></choiceInfo>"
            )
        };
        let choices = [choice(0, "Cancel"), choice(1, "I _Moved It"), choice(2, "I Co_pied It")].concat();
        format!(
            "<val><id>8</id><text>{id}: This virtual machine might have been moved or copied.</text><choice>{choices}</choice></val>"
        )
    };
    for (same_machine, key) in [(true, "1"), (false, "2")] {
        let script = script();
        found(&script);
        let page = object(
            "VirtualMachine",
            "vm-7",
            &[("name", "web"), ("runtime.question", &question("msg.uuid.altered"))],
        );
        script.answer_properties("VirtualMachine", &page);
        script.answer("AnswerVM", "");
        let done = register(&script_client(&script), &Registration { same_machine, ..vm() }).unwrap();
        assert_eq!(script.requests("AnswerVM")[0].text_at(&["answerChoice"]), key);
        assert!(done.notes[0].contains("moved or copied was answered"), "{done:?}");
        assert!(done.notes[1].contains("in the inventory as 'web'"), "{done:?}");
    }
    let script = script();
    found(&script);
    let page =
        object("VirtualMachine", "vm-7", &[("runtime.question", &question("msg.hbacommon.outofspace"))]);
    script.answer_properties("VirtualMachine", &page);
    let done = register(&script_client(&script), &vm()).unwrap();
    assert!(done.notes[0].contains("waits for an answer: msg.hbacommon.outofspace"), "{done:?}");
    assert!(script.requests("AnswerVM").is_empty());
}

#[test]
fn identities_in_use_by_others() {
    assert_eq!(
        canonical("56 4d 8a 00 00 00 00 00-00 00 00 00 00 00 00 01").unwrap(),
        "564d8a00-0000-0000-0000-000000000001"
    );
    assert_eq!(canonical("nonsense"), None);
    let script = script();
    script.always("FindByUuid", "<returnval type=\"VirtualMachine\">vm-9</returnval>");
    let manager = Manager::over(script_client(&script));
    let uuid = "564d8a00-0000-0000-0000-000000000001";
    let used = manager.identities("dc", "ds1", "web/web.vmx", (uuid, "")).unwrap();
    assert!(used.bios && !used.instance);
    script.always("FindByDatastorePath", "<returnval type=\"VirtualMachine\">vm-9</returnval>");
    assert!(
        !manager.identities("dc", "ds1", "web/web.vmx", (uuid, uuid)).unwrap().bios,
        "it is the same one"
    );
}
