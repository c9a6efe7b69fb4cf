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
    assert_eq!(check::problems(&Config::embedded(Path::new("data"))), Vec::<String>::new());
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
