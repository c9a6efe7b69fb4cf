//! The configuration file from arbitrary text: it is read, or the error says something.
#![no_main]

use std::path::Path;

use importfs::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(Path::new("importfs.toml"), text) {
        assert!(error.to_string().contains("importfs.toml"), "{error}");
    }
});
