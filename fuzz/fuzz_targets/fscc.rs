//! File system structures: the first byte chooses the class.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::fscc::{directory, ea, fsctl, set, stream};

fuzz_target!(|data: &[u8]| {
    let Some((class, data)) = data.split_first() else { return };
    let _ = set::Set::decode(*class, data);
    let _ = directory::decode_names(*class, data);
    let _ = stream::decode(data);
    let _ = ea::decode_names(data);
    if let Ok(list) = ea::decode(data) {
        let mut out = Vec::new();
        ea::encode(&list, &mut out);
        assert_eq!(ea::decode(&out).as_deref(), Ok(&list[..]));
    }
    if let Ok(copy) = fsctl::CopyChunk::decode(data) {
        assert!(copy.chunks.len() * 24 <= data.len());
    }
    let _ = fsctl::decode_trim(data);
    let _ = fsctl::decode_zero_data(data);
    let _ = fsctl::decode_allocated_ranges(data);
    let _ = fsctl::decode_dfs_referral(data);
    let _ = fsctl::decode_pipe_wait(data);
});
