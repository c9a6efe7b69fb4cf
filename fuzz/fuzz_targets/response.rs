//! The client half: every response, from a body behind an empty header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::header::HEADER_LEN;
use smb_proto::msg;

fuzz_target!(|body: &[u8]| {
    let mut message = vec![0; HEADER_LEN];
    message.extend_from_slice(body);
    let _ = msg::negotiate::Response::decode(&message);
    let _ = msg::session_setup::Response::decode(&message);
    let _ = msg::tree_connect::Response::decode(&message);
    let _ = msg::create::Response::decode(&message);
    let _ = msg::close::Response::decode(&message);
    let _ = msg::read::Response::decode(&message);
    let _ = msg::write::Response::decode(&message);
    let _ = msg::ioctl::Response::decode(&message);
    let _ = msg::oplock_break::Response::decode(&message);
    let _ = msg::oplock_break::LeaseNotification::decode(&message);
    let _ = msg::error::Response::decode(&message);
    if let Ok(response) = msg::query_directory::Response::decode(&message) {
        assert!(response.data.len() <= body.len());
    }
    if let Ok(response) = msg::change_notify::Response::decode(&message) {
        let _ = msg::change_notify::decode_events(response.data);
    }
});
