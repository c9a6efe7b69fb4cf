//! The accounts file from arbitrary text.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(message) = importfs::users::check(text) {
        assert!(!message.is_empty());
    }
});
