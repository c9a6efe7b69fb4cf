//! Properties of the codecs: no bytes panic, and what is encoded decodes to itself.
#![allow(clippy::unwrap_used)]

mod common;

use proptest::collection::vec;
use proptest::prelude::*;
use smb_proto::fscc::info::NetworkOpen;
use smb_proto::fscc::{directory, ea, info, security, set, stream};
use smb_proto::msg::create::context::{Lease, LeaseV2, Writer};
use smb_proto::msg::{self, FileId, oplock_break};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Flags, Header, Status, frame};

/// The header that every body is encoded behind.
fn header(command: u16) -> Vec<u8> {
    let header = Header {
        credit_charge: 1,
        status: Status::SUCCESS,
        command: Command(command),
        credits: 1,
        flags: Flags::default(),
        next_command: 0,
        message_id: 1,
        async_id: 0,
        tree_id: 1,
        session_id: 1,
        signature: [0; 16],
    };
    let mut out = Vec::new();
    header.encode(&mut out);
    out
}

/// Encodes behind a header, decodes, compares.
macro_rules! round_trip {
    ($path:ident :: $kind:ident, $value:expr) => {{
        let value = $value;
        let mut wire = header(0);
        value.encode(&mut wire);
        prop_assert_eq!(msg::$path::$kind::decode(&wire).unwrap(), value);
    }};
}

fn file_id() -> impl Strategy<Value = FileId> {
    any::<(u64, u64)>().prop_map(|(persistent, volatile)| FileId { persistent, volatile })
}

/// Every response decoder; none may panic.
fn decode_responses(message: &[u8]) {
    let _ = msg::negotiate::Response::decode(message);
    let _ = msg::session_setup::Response::decode(message);
    let _ = msg::tree_connect::Response::decode(message);
    let _ = msg::create::Response::decode(message);
    let _ = msg::close::Response::decode(message);
    let _ = msg::read::Response::decode(message);
    let _ = msg::write::Response::decode(message);
    let _ = msg::ioctl::Response::decode(message);
    let _ = msg::query_directory::Response::decode(message);
    let _ = msg::change_notify::Response::decode(message);
    let _ = msg::query_info::Response::decode(message);
    let _ = msg::oplock_break::LeaseNotification::decode(message);
    let _ = msg::error::Response::decode(message);
}

proptest! {
    #[test]
    fn no_bytes_panic(command in 0_u16..20, size in any::<u16>(), body in vec(any::<u8>(), 0..300)) {
        const SIZES: [u16; 16] = [4, 9, 17, 24, 25, 32, 33, 36, 41, 44, 48, 49, 57, 60, 65, 89];
        let mut message = header(command);
        message.extend_from_slice(&SIZES[usize::from(size) % SIZES.len()].to_le_bytes());
        message.extend_from_slice(&body);
        let _ = common::decode_request(&message);
        decode_responses(&message);
        let _ = common::decode_request(&body);
    }

    #[test]
    fn no_structure_panics(data in vec(any::<u8>(), 0..200)) {
        for class in 0..=u8::MAX {
            let _ = set::Set::decode(class, &data);
            let _ = directory::decode_names(class, &data);
        }
        let _ = ea::decode(&data);
        let _ = ea::decode_names(&data);
        let _ = stream::decode(&data);
        let _ = security::SecurityDescriptor::decode(&data);
        let _ = msg::change_notify::decode_events(&data);
        let _ = frame::Kind::of(&data);
        let _ = frame::Smb1Negotiate::decode(&data);
    }

    #[test]
    fn negotiate(
        dialects in vec(any::<u16>(), 1..8),
        salt in vec(any::<u8>(), 0..40),
        ciphers in vec(any::<u16>(), 0..5),
        kind in 0x200_u16..,
    ) {
        use msg::negotiate::{Context, DIALECT_311, Request, Response};
        let contexts = vec![
            Context::Preauth { algorithms: vec![1], salt: &salt },
            Context::Encryption(ciphers.clone()),
            Context::Compression { flags: 1, algorithms: ciphers.clone() },
            Context::Signing(ciphers.clone()),
            Context::NetName(Utf16(&salt)),
            Context::Transport(1),
            Context::Rdma(ciphers),
            Context::Posix(&salt),
            Context::Unknown { kind, data: &salt },
        ];
        let mut dialects = dialects;
        dialects.push(DIALECT_311);
        round_trip!(negotiate::Request, Request {
            security_mode: 1, capabilities: 0x7F, client_guid: [7; 16], dialects, contexts: contexts.clone(),
        });
        round_trip!(negotiate::Response, Response {
            security_mode: 3, dialect: DIALECT_311, server_guid: [9; 16], capabilities: 0x7F,
            max_transact_size: 1 << 20, max_read_size: 1 << 23, max_write_size: 1 << 23,
            system_time: 1, server_start_time: 0, security_buffer: &salt, contexts,
        });
    }

    #[test]
    fn sessions_and_trees(token in vec(any::<u8>(), 0..300), path in ".{0,40}", flags in any::<u16>()) {
        round_trip!(session_setup::Request, msg::session_setup::Request {
            flags: 1, security_mode: 2, capabilities: 1, channel: 0, previous_session_id: 77, security_buffer: &token,
        });
        round_trip!(session_setup::Response, msg::session_setup::Response {
            session_flags: flags, security_buffer: &token,
        });
        let path = utf16::encode(&path);
        round_trip!(tree_connect::Request, msg::tree_connect::Request { flags, path: Utf16(&path) });
        round_trip!(tree_connect::Response, msg::tree_connect::Response {
            share_type: 1, share_flags: 0x30, capabilities: 0x10, maximal_access: 0x001F_01FF,
        });
    }

    #[test]
    fn create(
        name in ".{0,40}",
        file_id in file_id(),
        contexts in vec((vec(any::<u8>(), 4..17), vec(any::<u8>(), 0..60)), 0..6),
        options in any::<u32>(),
    ) {
        let mut writer = Writer::new();
        for (name, data) in &contexts {
            writer.push(name, data);
        }
        let list: Vec<_> = writer.contexts().iter().map(|c| (c.name.to_vec(), c.data.to_vec())).collect();
        prop_assert_eq!(&list, &contexts);
        let name = utf16::encode(&name);
        round_trip!(create::Request, msg::create::Request {
            oplock_level: 0xFF, impersonation_level: 2, desired_access: options, file_attributes: 0x80,
            share_access: 7, disposition: 3, options, name: Utf16(&name), contexts: writer.contexts(),
        });
        round_trip!(create::Response, msg::create::Response {
            oplock_level: 9, create_action: 1, file: NetworkOpen { end_of_file: 5, ..NetworkOpen::default() }, file_id, contexts: writer.contexts(),
            ..msg::create::Response::default()
        });
    }

    #[test]
    fn app_instances(id in any::<[u8; 16]>(), high in any::<u64>(), low in any::<u64>()) {
        use smb_proto::msg::create::context::{AppVersion, decode_app_instance_id, encode_app_instance_id};
        prop_assert_eq!(decode_app_instance_id(&encode_app_instance_id(id)).unwrap(), id);
        let version = AppVersion { high, low };
        prop_assert_eq!(AppVersion::decode(&version.encode()).unwrap(), version);
    }

    #[test]
    fn leases(key in any::<[u8; 16]>(), state in 0_u32..8, epoch in any::<u16>(), v2 in any::<bool>()) {
        let v2 = v2.then_some(LeaseV2 { parent_key: key, epoch });
        let lease = Lease { key, state, flags: 4, v2 };
        prop_assert_eq!(Lease::decode(&lease.encode()).unwrap(), lease);
        round_trip!(oplock_break::Request, oplock_break::Request::Lease(oplock_break::Lease { flags: 0, key, state }));
        round_trip!(oplock_break::LeaseNotification, oplock_break::LeaseNotification {
            new_epoch: epoch, flags: 1, key, current_state: 7, new_state: state,
        });
    }

    #[test]
    fn reads_and_writes(data in vec(any::<u8>(), 0..500), file_id in file_id(), offset in any::<u64>()) {
        round_trip!(read::Request, msg::read::Request {
            padding: 0x50, flags: 0, length: 1 << 20, offset, file_id, minimum_count: 1, channel: 0,
            remaining_bytes: 0, channel_info: &[],
        });
        round_trip!(read::Response, msg::read::Response { data: &data });
        let mut wire = header(9);
        let request = msg::write::Request {
            offset, file_id, channel: 0, remaining_bytes: 3, flags: 1, data_offset: 112, data: &data, channel_info: &[],
        };
        request.encode(&mut wire);
        let decoded = msg::write::Request::decode(&wire).unwrap();
        prop_assert_eq!(decoded.data, &data[..]);
        prop_assert_eq!(decoded.data_offset, if data.is_empty() { 0 } else { 112 });
        prop_assert_eq!((decoded.offset, decoded.file_id), (offset, file_id));
        round_trip!(write::Response, msg::write::Response { count: offset as u32 });
    }

    #[test]
    fn the_other_commands(data in vec(any::<u8>(), 0..200), file_id in file_id(), number in any::<u32>()) {
        round_trip!(close::Request, msg::close::Request { flags: 1, file_id });
        round_trip!(flush::Request, msg::flush::Request { file_id });
        let lock = msg::lock::Element { offset: u64::MAX, length: 1, flags: number };
        round_trip!(lock::Request, msg::lock::Request { lock_sequence: number, file_id, locks: vec![lock; 3] });
        round_trip!(ioctl::Request, msg::ioctl::Request {
            ctl_code: number, file_id, max_input_response: 0, max_output_response: 4096, flags: 1, input: &data,
        });
        round_trip!(ioctl::Response, msg::ioctl::Response { ctl_code: number, file_id, output: &data });
        round_trip!(query_directory::Request, msg::query_directory::Request {
            info_class: 37, flags: 1, file_index: number, file_id, output_buffer_length: number, pattern: Utf16(&data),
        });
        round_trip!(query_info::Request, msg::query_info::Request {
            info_type: 1, info_class: 5, output_buffer_length: number, additional_information: 7, flags: 0, file_id,
            input: &data,
        });
        round_trip!(query_info::Response, msg::query_info::Response { data: &data });
        round_trip!(set_info::Request, msg::set_info::Request {
            info_type: 1, info_class: 20, additional_information: number, file_id, data: &data,
        });
        round_trip!(change_notify::Request, msg::change_notify::Request {
            flags: 1, output_buffer_length: number, file_id, completion_filter: 0xFFF,
        });
        round_trip!(error::Response, msg::error::Response { context_count: 1, data: &data });
    }

    #[test]
    fn names_of_a_rename(name in ".{0,40}", flags in any::<u32>()) {
        let name = utf16::encode(&name);
        let target = set::Target { flags, root_directory: 0, name: Utf16(&name) };
        let mut wire = Vec::new();
        target.encode(&mut wire);
        prop_assert_eq!(set::Set::decode(info::class::RENAME_EX, &wire).unwrap(), set::Set::Rename(target));
    }

    #[test]
    fn extended_attributes(list in vec((vec(1_u8.., 1..20), vec(any::<u8>(), 0..30)), 0..5)) {
        let list: Vec<_> = list.iter().map(|(name, value)| ea::Ea { flags: 0, name, value }).collect();
        let mut wire = Vec::new();
        ea::encode(&list, &mut wire);
        prop_assert_eq!(ea::decode(&wire).unwrap(), list);
    }
}

#[test]
fn buffers_that_point_into_the_header_are_refused() {
    let mut wire = header(9);
    let data = [1; 32];
    let file_id = FileId::default();
    let request = msg::write::Request {
        offset: 0,
        file_id,
        channel: 0,
        remaining_bytes: 0,
        flags: 0,
        data_offset: 112,
        data: &data,
        channel_info: &[],
    };
    request.encode(&mut wire);
    for offset in [0_u16, 63, 111, 145, u16::MAX] {
        wire[66..68].copy_from_slice(&offset.to_le_bytes());
        assert!(msg::write::Request::decode(&wire).is_err(), "DataOffset {offset}");
    }
    wire[66..68].copy_from_slice(&113_u16.to_le_bytes());
    wire.push(0);
    assert!(msg::write::Request::decode(&wire).is_ok());
}
