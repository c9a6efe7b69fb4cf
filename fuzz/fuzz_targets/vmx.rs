//! A VMX from arbitrary bytes: unchanged it keeps every byte, rewritten it still is a VMX.
#![no_main]

use importfs::import::formats::cfg::{OnConflict, parse};
use importfs::import::formats::vmx::Vmx;
use libfuzzer_sys::fuzz_target;

const CFG: &[u8] = include_bytes!("../../tests/data/sample.cfg");

fuzz_target!(|data: &[u8]| {
    let Ok(mut vmx) = Vmx::parse(data) else { return };
    assert_eq!(vmx.to_bytes(), data);
    let cfg = parse(CFG, OnConflict::Stop).cfg.expect("the sample is right");
    if vmx.rewrite(&cfg, |name| name.len() % 2 == 0).is_ok() {
        let read = Vmx::parse(&vmx.to_bytes()).expect("still a VMX");
        assert_eq!(read.get("displayName"), Some(cfg.vm_name.as_str()));
    }
});
