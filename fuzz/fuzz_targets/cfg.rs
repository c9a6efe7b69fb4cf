//! A CFG from arbitrary bytes: it is read, or has at least one error; what is read survives being written as .vmcfg.
#![no_main]

use importfs::import::formats::cfg::{OnConflict, parse, render_problems};
use importfs::import::formats::names::classify;
use importfs::import::formats::{log_text, vmcfg};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse(data, OnConflict::Stop).cfg {
        Ok(cfg) => {
            let text = vmcfg::render(&cfg);
            let again = parse(text.as_bytes(), OnConflict::Stop).cfg.expect("a .vmcfg is a CFG");
            assert!(cfg.changed_destinations(&again).is_empty(), "it leads to the same places");
            assert_eq!(vmcfg::render(&again), text);
            assert!(log_text::session_block("/", &cfg).len() == 9 + 2 * cfg.disks.len());
            let _ = classify(&cfg.vmx_name, Some(&cfg));
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert_eq!(render_problems("x.cfg", &problems).lines().count(), problems.len() + 1);
        }
    }
});
