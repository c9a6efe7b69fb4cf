//! The frame's header, the kinds of message, an SMB1 NEGOTIATE, the SMB2 header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::{Header, frame};

fuzz_target!(|data: &[u8]| {
    if let Some((head, _)) = data.split_first_chunk() {
        if let Ok(len) = frame::decode_length(*head, 1 << 20) {
            assert!(len <= 1 << 20);
            assert_eq!(frame::encode_length(len).expect("a length that was announced"), *head);
        }
    }
    let _ = frame::Kind::of(data);
    let _ = frame::Smb1Negotiate::decode(data);
    if let Ok(header) = Header::decode(data) {
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(Header::decode(&out), Ok(header));
    }
});
