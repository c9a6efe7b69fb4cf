//! The house rules that a compiler does not keep: who may know whom, how long files and functions grow.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines: past that, a file is split along what changes together.
const FILE_LINES_MAX: usize = 700;
/// Longest function, in lines: it fits a screen, give or take a match over every information class.
const FUNCTION_LINES_MAX: usize = 100;

/// A layer's folder, and what its code may not name (docs/architecture.md says why).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("protocol/src", &["tokio", "std::fs", "std::net", "SystemTime::now", "Instant::now", "importfs::"]),
    ("src/smb", &["crate::share", "crate::import", "crate::datastore", "crate::disk", "crate::vsphere"]),
    ("src/import", &["tokio", "crate::smb", "crate::share", "smb_proto", "crate::vsphere"]),
    ("src/disk", &["tokio", "crate::smb", "crate::share", "crate::import", "smb_proto", "crate::vsphere"]),
    ("src/pancbt", &["tokio", "crate::smb", "crate::share", "crate::import", "crate::disk", "smb_proto"]),
    ("src/journal", &["tokio", "crate::smb", "crate::share", "crate::import", "smb_proto"]),
    ("src/datastore", &["tokio", "crate::smb", "crate::share", "crate::import", "crate::disk", "smb_proto"]),
    ("src/share/directory", &["crate::import", "crate::datastore", "crate::disk"]),
    (
        "src/admin",
        &[
            "crate::smb",
            "crate::share",
            "crate::disk",
            "crate::datastore",
            "import::engine",
            "import::session",
        ],
    ),
    (
        "src/vsphere",
        &[
            "tokio",
            "crate::smb",
            "crate::share",
            "crate::import",
            "crate::disk",
            "crate::datastore",
            "smb_proto",
        ],
    ),
    ("src/config", &["tokio", "crate::smb", "crate::import", "crate::share"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "protocol", "tests", "examples", "benches", "fuzz"] {
        sources(&root.join(folder), &mut found);
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn layers_know_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (folder, forbidden) in FORBIDDEN {
        let mut found = Vec::new();
        sources(&root.join(folder), &mut found);
        for path in found {
            // The client half and tests may use what they like.
            if path.ends_with("testing.rs") || path.to_string_lossy().contains("tests") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
                for word in forbidden.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{}: {folder} may not know {word}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for path in all_sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            // rustfmt puts a function's closing brace at the indent of its first line.
            match &begun {
                Some((start, at, name)) if indent == *at && code == "}" => {
                    if number - start > FUNCTION_LINES_MAX {
                        long.push(format!(
                            "{}:{}: {} lines: {name}",
                            path.display(),
                            start + 1,
                            number - start
                        ));
                    }
                    begun = None;
                }
                None if code.contains("fn ")
                    && !is_comment(line)
                    && !code.ends_with(';')
                    && !code.ends_with('}') =>
                {
                    begun = Some((number, indent, code.to_owned()));
                }
                _ => {}
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let mute: Vec<_> = all_sources()
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            !(first.starts_with("//!") || first.starts_with("#![") || path.ends_with("tests.rs"))
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(mute.is_empty(), "no module documentation: {}", mute.join(", "));
}

/// What may panic on a value: bytes from outside must never reach one, and nothing that is shipped has one.
const PANICS: [&str; 6] =
    [".unwrap()", ".expect(\"", ".unwrap_err()", ".expect_err(\"", "unreachable!(", "panic!("];

#[test]
fn nothing_that_is_shipped_unwraps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut shipped, mut wrong) = (Vec::new(), Vec::new());
    sources(&root.join("src"), &mut shipped);
    sources(&root.join("protocol/src"), &mut shipped);
    // The client half of the protocol, and modules that only a build for tests has.
    let for_tests = ["testing.rs", "import/fake.rs", "import/simulation.rs"];
    shipped.retain(|path| {
        !path.to_string_lossy().contains("tests") && !for_tests.iter().any(|name| path.ends_with(name))
    });
    assert!(shipped.len() > 100, "the sources were not found");
    for path in shipped {
        let text = fs::read_to_string(&path).unwrap();
        let tests = text.find("#[cfg(test)]\n#[allow").or_else(|| text.find("#[cfg(test)]\nmod tests"));
        let code = &text[..tests.unwrap_or(text.len())]; // tests come last in a file
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            for word in PANICS.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
