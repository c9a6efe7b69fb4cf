//! A disk descriptor from arbitrary bytes: whatever it says, the one that we write from it fits the CFG's disk.
#![no_main]

use importfs::import::formats::cfg::{OnConflict, parse};
use importfs::import::formats::descriptor::{Descriptor, render};
use libfuzzer_sys::fuzz_target;

const CFG: &[u8] = include_bytes!("../../tests/data/sample.cfg");

fuzz_target!(|data: &[u8]| {
    let Ok(found) = Descriptor::parse(data) else { return };
    let cfg = parse(CFG, OnConflict::Stop).cfg.expect("the sample is right");
    let disk = &cfg.disks[0];
    let _ = found.faults(disk);
    let text = render(disk, Some(&found), 1);
    let ours = Descriptor::parse(text.as_bytes()).expect("our own descriptor");
    assert!(ours.faults(disk).is_empty(), "{text}");
});
