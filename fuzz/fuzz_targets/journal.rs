//! A session's journal from arbitrary bytes: replay never panics, finds only whole frames, and its records survive being
//! encoded, folded and replayed.
#![no_main]

use importfs::journal::{Record, fold, replay};
use libfuzzer_sys::fuzz_target;

/// Sizes of the disk that maps are restored for; small ones clip the regions.
const SIZES: [u64; 3] = [0, 1 << 30, u64::MAX];

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::decode(data) {
        let mut payload = Vec::new();
        record.encode(&mut payload);
        assert_eq!(payload, data, "the encoding is canonical");
    }
    // With a right header in front the input is frames.
    let header = *b"IFSJRNL\0\x01\0\0\0";
    let bytes = [&header[..], data].concat();
    let Ok(replayed) = replay(&bytes) else { return };
    assert!(replayed.intact <= bytes.len());
    let again = replay(&bytes[..replayed.intact]).expect("the intact part is a journal");
    assert_eq!(again, replayed);
    for size in SIZES {
        let _ = fold::disk_map(&replayed.records, 0, size);
    }
    let folded = fold::fold(replayed.records);
    assert_eq!(fold::fold(folded.clone()), folded);
});
