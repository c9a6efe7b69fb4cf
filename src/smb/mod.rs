//! The SMB server: sessions, trees, opens, locks, and one file per command.
//!
//! Knows the protocol crate and, of what it serves, only the traits in [`share`]. Knows nothing of imports, datastores
//! or vSphere. The tables that outlive a connection (sessions, opens, locks) are one [`server::Server`] value.
//! A reader starts with [`request`]: what a command's handler is given and may answer.

mod answer;
pub mod app_instance;
pub mod audit;
pub mod breaks;
pub mod buffer;
pub mod changes;
pub mod channel_sequence;
pub mod charge;
pub mod commands;
pub mod connection;
pub mod directory_lease;
pub mod dispatch;
pub mod durable;
pub mod file_entry;
pub mod gate;
pub mod guessing;
pub mod job;
pub mod keys;
pub mod limits;
pub mod lock;
pub mod name;
pub mod notify;
pub mod open;
pub mod open_table;
pub mod oplock;
mod outbox;
pub mod pattern;
pub mod request;
pub mod running;
mod scavenger;
pub mod seldom;
pub mod server;
pub mod session;
pub mod share;
pub mod share_mode;
pub mod transport;
pub mod tree;
pub mod unheard;
