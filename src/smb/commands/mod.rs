//! One file per command. What a command needs of a session and a tree comes in its [`super::request::Request`].

pub mod change_notify;
pub mod close;
pub mod create;
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

use smb_proto::fscc::{attributes, info};
use smb_proto::msg::FileId;
use smb_proto::{Command, Status};

use super::open::Open;
use super::request::{Outcome, Request};
use super::share::Metadata;

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

/// The open that a request names, remembered for what follows in its compound (MS-SMB2 3.3.5.2.7.2).
fn open_of(request: &mut Request<'_>, id: FileId) -> Result<Arc<Open>, Status> {
    let id = request.resolve(id)?;
    request.related.file_id = Some(id);
    request.server.opens.get(id, request.session.id, request.tree.id)
}

/// Attributes as clients see them: NORMAL stands for none (MS-FSCC 2.6).
fn wire_attributes(metadata: &Metadata) -> u32 {
    if metadata.attributes == 0 { attributes::NORMAL } else { metadata.attributes }
}

/// Times and attributes in their wire form.
fn basic_of(metadata: &Metadata) -> info::Basic {
    info::Basic {
        creation_time: metadata.created.0,
        last_access_time: metadata.accessed.0,
        last_write_time: metadata.written.0,
        change_time: metadata.changed.0,
        attributes: wire_attributes(metadata),
    }
}
