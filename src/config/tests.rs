#![allow(clippy::unwrap_used)]
use std::path::Path;

use proptest::prelude::*;

use super::*;

const SAMPLE: &str = include_str!("../../packaging/importfs.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("importfs.toml"), text)
}

#[test]
fn the_packaged_sample_is_valid() {
    let config = parse(SAMPLE).unwrap();
    assert_eq!(config.shares.len(), 2);
    assert_eq!(config.hypervisors[0].datastores[0].name, "datastore1");
}

#[test]
fn the_embedded_default_has_no_problems() {
    assert_eq!(check::problems(&Config::embedded(Path::new("data"))), Vec::new());
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() {
    let error = parse("[server]\nname = \"A\"\nlissten = []\n").unwrap_err().to_string();
    assert!(error.starts_with("importfs.toml: "), "{error}");
    assert!(error.contains("line 3") && error.contains("lissten"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line() {
    let error = parse("[smb]\nsigning = \"maybe\"\n").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("maybe"), "{error}");
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "[server]\nname = \"a name that is too long\"\n[import]\nskip-grain = 5\n";
    let error = parse(text).unwrap_err().to_string();
    for key in ["server.name", "import.skip-grain", "share:"] {
        assert!(error.contains(key), "{key} missing in: {error}");
    }
}

#[test]
fn two_shares_that_differ_in_case_are_one_too_many() {
    let share = |name| format!("[[share]]\nname = \"{name}\"\nkind = \"directory\"\npath = \"/srv\"\n");
    let error = parse(&(share("Staging") + &share("staging"))).unwrap_err().to_string();
    assert!(error.contains("'staging' is there already"), "{error}");
}

#[test]
fn an_error_names_file_line_and_key() {
    let head = "[[hypervisor]]\nname = \"a\"\nkind = \"directory\"\n";
    let store = |name: &str| format!("[[hypervisor.datastore]]\nname = \"{name}\"\npath = \"/x\"\n");
    let share = "[[share]]\nname = \"import\"\nkind = \"import\"\n";
    for (text, told) in [
        ("[smb]\nlisten = 1\n", "importfs.toml: line 2: smb.listen: unknown field `listen`"),
        (
            "[server]\nname = 7\n",
            "importfs.toml: line 2: server.name: invalid type: integer `7`, expected a string",
        ),
        (
            "[server]\nlisten = [\"nowhere\"]\n",
            "importfs.toml: line 2: server.listen: invalid socket address",
        ),
        ("[smb]\n\nmin-dialect = \"1.0\"\n", "importfs.toml: line 3: smb.min-dialect: unknown variant `1.0`"),
        ("[import]\nskip-grain = 5\n", "importfs.toml: line 2: import.skip-grain: 5 is not a power of two"),
        (
            "[limits]\nframe-seconds = 0\n",
            "importfs.toml: line 2: limits.frame-seconds: at least 1 is needed",
        ),
        (
            "[limits]\n\nframe-seconds = -1\n",
            "importfs.toml: line 3: limits.frame-seconds: invalid value: integer `-1`",
        ),
        ("[server]\nname = \"x\n", "importfs.toml: line 2: "),
        ("[[share]]\nname = \"x\"\n", "importfs.toml: line 1: share: missing field `kind`"),
        (
            &format!("{share}{head}{}{}", store("one"), store("One")),
            "importfs.toml: line 11: hypervisor.datastore.name: 'One' is empty or names two datastores of 'a'",
        ),
        (&format!("{share}{head}"), "importfs.toml: line 4: hypervisor.datastore: 'a' has no datastore"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.lines().any(|line| line.starts_with(told)), "{told}\n{error}");
    }
}

/// The keys that a table knows, as its own error lists them.
fn known_keys(table: &str) -> Vec<String> {
    let error = parse(&format!("{table}\nno-such-key = 1\n")).unwrap_err().to_string();
    let listed = error.split("expected").nth(1).unwrap_or_default();
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_sample_documents_every_key_and_is_valid_with_all_of_them() {
    let uncommented: Vec<_> = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .collect();
    let text = uncommented.join("\n");
    parse(&text).unwrap();
    assert!(uncommented.iter().filter(|line| SAMPLE.contains(&format!("\n#{line}\n"))).count() > 3);
    let nested =
        ["[hypervisor.datastore.nbd]", "[hypervisor.datastore.nfc]", "[hypervisor.datastore.hotadd]"];
    for table in [
        "[server]",
        "[smb]",
        "[limits]",
        "[import]",
        "[[share]]",
        "[[hypervisor]]",
        "[[hypervisor.datastore]]",
        nested[0],
        nested[1],
        nested[2],
    ] {
        let section = text.split(table).nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let above = if nested.contains(&table) { "[[hypervisor.datastore]]\n" } else { "" };
        let keys = known_keys(
            &format!("{above}{table}")
                .replace("[[hypervisor.datastore]]", "[[hypervisor]]\n[[hypervisor.datastore]]"),
        );
        assert!(keys.len() >= 2, "{table}: {keys:?}");
        for key in keys.iter().filter(|key| !["datastore", "nbd", "nfc", "hotadd"].contains(&key.as_str())) {
            let everywhere = text.lines().any(|line| line.starts_with(&format!("{key} = ")));
            assert!(
                section.contains(&format!("\n{key} = "))
                    // What belongs to one kind only stands in that one's example.
                    || (["[[share]]", "[[hypervisor]]", nested[0]].contains(&table) && everywhere),
                "{table} {key}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_an_answer_not_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_mutation_of_the_sample_is_an_answer(at in 0..SAMPLE.len(), byte in 0u8..128) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = parse(&text);
        }
    }
}

#[test]
fn a_vsphere_hypervisor_says_whom_it_trusts() {
    let parse = |more: &str| {
        let text = format!(
            "[[share]]\nname = \"import\"\nkind = \"import\"\n[[hypervisor]]\nname = \"vc\"\nkind = \"vsphere\"\n{more}\n\
             [[hypervisor.datastore]]\nname = \"ds1\"\npath = \"/srv/ds1\"\n"
        );
        parse(&text).map_err(|error| error.to_string())
    };
    let login = "url = \"https://vc/sdk\"\nusername = \"u\"\npassword-file = \"/p\"\n";
    let sha1 = "AB:".repeat(19) + "AB";
    parse(&format!("{login}thumbprint = \"{sha1}\"")).unwrap();
    parse(&format!("{login}ca-file = \"/ca.pem\"")).unwrap();
    for (more, part) in [
        (login.to_owned(), "either thumbprint or ca-file"),
        (format!("{login}thumbprint = \"{sha1}\"\nca-file = \"/ca.pem\""), "either thumbprint or ca-file"),
        (format!("{login}thumbprint = \"AB:CD\""), "neither a SHA-256 thumbprint"),
        (format!("thumbprint = \"{sha1}\""), "hypervisor.password-file: kind = \"vsphere\" needs it"),
        (login.replace("https", "http") + "ca-file = \"/ca.pem\"", "no https:// address"),
    ] {
        let error = parse(&more).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let text = "[[hypervisor]]\nname = \"a\"\nkind = \"directory\"\nusername = \"u\"\n";
    let error = Config::parse(Path::new("x"), text).unwrap_err().to_string();
    assert!(error.contains("line 4") && error.contains("it belongs to kind = \"vsphere\""), "{error}");
}

#[test]
fn a_datastore_says_how_it_is_written() {
    let parse = |kind: &str, more: &str| {
        let login =
            "url = \"https://vc/sdk\"\nusername = \"u\"\npassword-file = \"/p\"\nca-file = \"/ca.pem\"\n";
        let text = format!(
            "[[share]]\nname = \"import\"\nkind = \"import\"\n[[hypervisor]]\nname = \"vc\"\nkind = \"{kind}\"\n{}\
             [[hypervisor.datastore]]\nname = \"ds1\"\n{more}",
            if kind == "vsphere" { login } else { "" }
        );
        self::parse(&text).map_err(|error| error.to_string())
    };
    let written = |kind: &str, more: &str| {
        let hypervisor = &parse(kind, more).unwrap().hypervisors[0];
        hypervisor.datastores[0].written(hypervisor).0
    };
    let (path, nbd) = ("path = \"/x\"\n", "[hypervisor.datastore.nbd]\nuri = \"nbd://h/x\"\n");
    assert_eq!(written("vsphere", path), Writer::Directory);
    assert_eq!(written("vsphere", &format!("{path}{nbd}")), Writer::Nbd);
    assert_eq!(written("vsphere", "writer = \"hotadd\"\n"), Writer::Hotadd);
    assert_eq!(written("vsphere", ""), Writer::Nfc);
    assert_eq!(
        written("vsphere", &format!("{path}writer = \"nfc\"\n[hypervisor.datastore.nfc]\nlevel = 0\n")),
        Writer::Nfc
    );
    assert_eq!(written("directory", &format!("{path}writer = \"directory\"\n")), Writer::Directory);
    for (kind, more, part) in [
        ("directory", String::new(), "datastore.path: 'ds1' needs the path"),
        (
            "vsphere",
            format!("{path}writer = \"directory\"\n{nbd}"),
            "datastore.nbd: it belongs to writer = \"nbd\"",
        ),
        ("vsphere", format!("{path}writer = \"nbd\"\n"), "datastore.nbd: writer = \"nbd\" needs the table"),
        (
            "vsphere",
            format!("{path}[hypervisor.datastore.nfc]\nlevel = 10\n"),
            "datastore.nfc.level: 10 is not from 0 to 9",
        ),
        ("vsphere", "[hypervisor.datastore.nfc]\nthreads = 0\n".into(), "nfc.threads: 0 is not from 1 to 16"),
        (
            "vsphere",
            "[hypervisor.datastore.nfc]\nretry-seconds = 0\n".into(),
            "retry-seconds: 0 is not from 1 to 86400",
        ),
        ("directory", "writer = \"nfc\"\n".into(), "datastore.writer: "),
        ("directory", "writer = \"hotadd\"\n".into(), "\"hotadd\" attaches disks to a virtual machine"),
        (
            "vsphere",
            "writer = \"hotadd\"\n[hypervisor.datastore.hotadd]\ndevice-seconds = 0\n".into(),
            "device-seconds: 0 is not from 1 to 600",
        ),
        (
            "vsphere",
            format!("{path}[hypervisor.datastore.hotadd]\nthick = \"eager\"\n"),
            "datastore.hotadd: it belongs to writer = \"hotadd\"",
        ),
    ] {
        let error = parse(kind, &more).unwrap_err();
        assert!(error.contains(part), "{part}\n{error}");
    }
}
