//! What the tests of the codecs share: every request decoder behind one function.

use smb_proto::codec::DecodeError;
use smb_proto::{Command, Header, msg};

/// Decodes `message` as its header's command says; `None` for a command that there is none of.
pub(crate) fn decode_request(message: &[u8]) -> Option<Result<(), DecodeError>> {
    let header = match Header::decode(message) {
        Ok(header) => header,
        Err(error) => return Some(Err(error)),
    };
    Some(match header.command {
        Command::NEGOTIATE => msg::negotiate::Request::decode(message).map(drop),
        Command::SESSION_SETUP => msg::session_setup::Request::decode(message).map(drop),
        Command::LOGOFF => msg::logoff::Request::decode(message).map(drop),
        Command::TREE_CONNECT => msg::tree_connect::Request::decode(message).map(drop),
        Command::TREE_DISCONNECT => msg::tree_disconnect::Request::decode(message).map(drop),
        Command::CREATE => msg::create::Request::decode(message).map(|request| decode_contexts(&request)),
        Command::CLOSE => msg::close::Request::decode(message).map(drop),
        Command::FLUSH => msg::flush::Request::decode(message).map(drop),
        Command::READ => msg::read::Request::decode(message).map(drop),
        Command::WRITE => msg::write::Request::decode(message).map(drop),
        Command::LOCK => msg::lock::Request::decode(message).map(drop),
        Command::IOCTL => msg::ioctl::Request::decode(message).map(|request| decode_ioctl(&request)),
        Command::CANCEL => msg::cancel::Request::decode(message).map(drop),
        Command::ECHO => msg::echo::Request::decode(message).map(drop),
        Command::QUERY_DIRECTORY => msg::query_directory::Request::decode(message).map(drop),
        Command::CHANGE_NOTIFY => msg::change_notify::Request::decode(message).map(drop),
        Command::QUERY_INFO => msg::query_info::Request::decode(message).map(drop),
        Command::SET_INFO => msg::set_info::Request::decode(message).map(|request| decode_set(&request)),
        Command::OPLOCK_BREAK => msg::oplock_break::Request::decode(message).map(drop),
        _ => return None,
    })
}

/// Runs every context decoder over every context: none may panic on another's data.
fn decode_contexts(request: &msg::create::Request<'_>) {
    use msg::create::context as c;
    for context in request.contexts.iter() {
        let data = context.data;
        let _ = c::decode_maximal_access(data);
        let _ = c::decode_allocation_size(data);
        let _ = c::decode_timewarp(data);
        let _ = c::decode_durable_request(data);
        let _ = c::decode_durable_reconnect(data);
        let _ = c::DurableV2Request::decode(data);
        let _ = c::DurableV2Reconnect::decode(data);
        let _ = c::Lease::decode(data);
        let _ = c::decode_app_instance_id(data);
        let _ = c::AppVersion::decode(data);
    }
    let _ = request.name.decode();
}

fn decode_ioctl(request: &msg::ioctl::Request<'_>) {
    use smb_proto::fscc::fsctl as f;
    let input = request.input;
    let _ = msg::ioctl::validate_negotiate::Request::decode(input);
    let _ = f::CopyChunk::decode(input);
    let _ = f::decode_resiliency(input);
    let _ = f::decode_zero_data(input);
    let _ = f::decode_allocated_ranges(input);
    let _ = f::decode_trim(input);
    let _ = f::decode_dfs_referral(input);
    let _ = f::decode_pipe_wait(input);
}

fn decode_set(request: &msg::set_info::Request<'_>) {
    use smb_proto::fscc;
    for class in 0..=80 {
        let _ = fscc::set::Set::decode(class, request.data);
    }
    let _ = fscc::ea::decode(request.data);
    let _ = fscc::ea::decode_names(request.data);
    let _ = fscc::security::SecurityDescriptor::decode(request.data);
}
