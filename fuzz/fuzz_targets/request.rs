//! Every command's request: the first byte of the input chooses the command, the rest is the message's body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::header::{HEADER_LEN, PROTOCOL_ID};

#[path = "../../protocol/tests/common/mod.rs"]
mod common;

fuzz_target!(|data: &[u8]| {
    let Some((command, body)) = data.split_first() else { return };
    let _ = common::decode_request(data); // a whole message, as the seeds are
    let mut message = vec![0; HEADER_LEN];
    message[..4].copy_from_slice(&PROTOCOL_ID);
    message[4] = HEADER_LEN as u8;
    message[12] = command % 19;
    message.extend_from_slice(body);
    let _ = common::decode_request(&message);
});
