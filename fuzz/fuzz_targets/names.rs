//! Names, rename targets and patterns as clients send them: what passes leads nowhere else, and matching always ends.
#![no_main]

use importfs::import::formats::names::classify;
use importfs::smb::name;
use importfs::smb::pattern::Pattern;
use importfs::smb::share::SharePath;
use libfuzzer_sys::fuzz_target;
use smb_proto::utf16::Utf16;

fn check(path: &SharePath) {
    for part in &path.components {
        assert!(!matches!(part.as_str(), "" | "." | ".."), "{path:?}");
        assert!(!part.contains(['*', '?', '<', '>', '|', '"']), "{path:?}");
    }
    // A stream's name may hold more than a file's (MS-FSCC 2.1.5.3).
    for part in path.components.iter().chain(&path.stream) {
        assert!(!part.contains(['\\', '/', '\0', ':']), "{path:?}");
        assert!(!part.is_empty() && part.encode_utf16().count() <= 255, "{path:?}");
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(path) = name::parse(Utf16(data)) {
        check(&path);
        let shown: Vec<u8> = name::display(&path).encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(name::parse(Utf16(&shown)), Ok(path.clone()), "what is shown leads to the same file");
        if let Some(last) = path.components.last() {
            let _ = classify(last, None);
            if let Some(pattern) = Pattern::new(last) {
                assert!(pattern.matches(last), "a name matches itself");
            }
        }
    }
    if let Ok(path) = name::parse_target(Utf16(data)) {
        check(&path);
    }
    let text = String::from_utf8_lossy(data);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, "a file.txt"));
    if let Some(pattern) = Pattern::new(pattern) {
        let name: String = name.chars().take(255).collect();
        let _ = pattern.matches(&name);
    }
    assert!(Pattern::new("*").is_some_and(|all| all.matches(&text)));
});
