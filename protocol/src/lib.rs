//! SMB 2.0.2 to 3.1.1 as a library that does no input or output.
//!
//! The promise: nothing in this crate knows of sockets, files, threads, clocks or an async runtime. Bytes and the time
//! come in; decoded requests, encoded responses and decisions go out. Every decoder borrows from the frame it reads,
//! checks each offset and length against that frame, keeps unknown enumeration values as they came, allocates nothing
//! that a peer's claimed size could inflate, and never panics on any input.
//!
//! A reader starts with [`header::Header`] (what every message begins with) and [`msg`] (one file per command).

pub mod auth;
pub mod codec;
pub mod conn;
pub mod crypto;

pub mod frame;
pub mod fscc;
pub mod header;
pub mod msg;
pub mod rpc;
pub mod status;
#[cfg(feature = "testing")]
pub mod testing;
pub mod utf16;

pub use codec::{DecodeError, Reader};
pub use header::{Command, Flags, Header};
pub use status::Status;
