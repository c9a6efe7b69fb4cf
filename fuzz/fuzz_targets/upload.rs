//! A host's answer to an upload, as far as it has come: a head that is whole has a status, and more bytes do not change it.
#![no_main]

use importfs::vsphere::upload::head_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = head_of(data);
    for end in 0..data.len().min(512) {
        if let Some(early) = head_of(&data[..end]) {
            let later = whole.as_ref().expect("what was an answer stays one");
            assert_eq!(early.status, later.status);
        }
    }
    if let Some(answer) = whole {
        assert!(!(100..200).contains(&answer.status));
    }
});
