//! One file per command. What a command needs of a session and a tree comes in its [`super::request::Request`].

pub mod change_notify;
pub mod close;
pub(super) mod copy_chunk;
pub mod create;
mod extended;
pub mod flush;
pub mod ioctl;
pub mod lock;
pub mod logoff;
pub mod negotiate;
pub mod oplock_break;
pub mod query_directory;
pub mod query_info;
pub mod read;
pub mod session_setup;
pub mod set_info;
pub mod tree_connect;
pub mod tree_disconnect;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smb_proto::fscc::{attributes, info};
use smb_proto::msg::FileId;
use smb_proto::msg::negotiate::DIALECT_300;
use smb_proto::{Command, Flags, Status};

use super::open::Open;
use super::request::{Outcome, Request};
use super::share::Metadata;

/// Attributes that clients may give a file (MS-FSCC 2.6); the others follow from what it is.
const ATTRIBUTES_SETTABLE: u32 = attributes::READONLY
    | attributes::HIDDEN
    | attributes::SYSTEM
    | attributes::ARCHIVE
    | attributes::TEMPORARY
    | attributes::OFFLINE
    | attributes::NOT_CONTENT_INDEXED;

/// A handler of a command that works on a tree.
pub type Handler = fn(&mut Request<'_>) -> Outcome;

/// The handler of a command that works on a tree; `None` for those that need none, and for unknown ones.
pub fn handler(command: Command) -> Option<Handler> {
    Some(match command {
        Command::CREATE => create::handle,
        Command::CLOSE => close::handle,
        Command::FLUSH => flush::handle,
        Command::READ => read::handle,
        Command::WRITE => write::handle,
        Command::LOCK => lock::handle,
        Command::IOCTL => ioctl::handle,
        Command::QUERY_DIRECTORY => query_directory::handle,
        Command::CHANGE_NOTIFY => change_notify::handle,
        Command::QUERY_INFO => query_info::handle,
        Command::SET_INFO => set_info::handle,
        Command::OPLOCK_BREAK => oplock_break::handle,
        Command::TREE_DISCONNECT => tree_disconnect::handle,
        _ => return None,
    })
}

/// The open that a request names, remembered for what follows in its compound (MS-SMB2 3.3.5.2.7.2). The request counts among
/// those under way on it (3.3.5.2.10).
fn open_of(request: &mut Request<'_>, id: FileId) -> Result<Arc<Open>, Status> {
    let id = request.resolve(id)?;
    request.related.file_id = Some(id);
    let open = request.server.opens.get(id, request.session.id, request.tree.id)?;
    if open.fresh.load(Ordering::Relaxed) && open.fresh.swap(false, Ordering::AcqRel) {
        // Its client knows it: the same CREATE makes another open from now on (3.3.5.9.10).
        request.server.opens.guids.remove(&open.owner, open.id.volatile);
    }
    if request.connection.dialect() >= DIALECT_300 && request.async_id.is_none() {
        let header = request.header;
        let modifies = matches!(header.command, Command::WRITE | Command::SET_INFO | Command::IOCTL);
        let replay = header.flags.contains(Flags::REPLAY_OPERATION);
        request.outstanding = open.sequence.begin(header.status.0 as u16, replay, modifies)?;
    }
    Ok(open)
}

/// Times and attributes in their wire form: NORMAL stands for no attribute (MS-FSCC 2.6).
fn basic_of(metadata: &Metadata) -> info::Basic {
    info::Basic {
        creation_time: metadata.created.0,
        last_access_time: metadata.accessed.0,
        last_write_time: metadata.written.0,
        change_time: metadata.changed.0,
        attributes: if metadata.attributes == 0 { attributes::NORMAL } else { metadata.attributes },
    }
}

/// What CREATE and CLOSE tell of a file.
fn network_open_of(metadata: &Metadata) -> info::NetworkOpen {
    info::NetworkOpen {
        basic: basic_of(metadata),
        allocation_size: metadata.allocation,
        end_of_file: metadata.size,
    }
}
