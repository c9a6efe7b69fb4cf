//! One file per command. What a command needs of a session and a tree comes in its [`super::request::Request`].

pub mod logoff;
pub mod negotiate;
pub mod session_setup;
pub mod tree_connect;
pub mod tree_disconnect;

use smb_proto::Command;

use super::request::{Outcome, Request};

/// A handler of a command that works on a tree.
pub type Handler = fn(&mut Request<'_>) -> Outcome;

/// The handler of a command that works on a tree; `None` for those that need none, and for unknown ones.
pub fn handler(command: Command) -> Option<Handler> {
    match command {
        Command::TREE_DISCONNECT => Some(tree_disconnect::handle),
        _ => None,
    }
}
