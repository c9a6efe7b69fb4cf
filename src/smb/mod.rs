//! The SMB server: sessions, trees, opens, locks, and one file per command.
//!
//! Knows the protocol crate and, of what it serves, only the traits in [`share`]. Knows nothing of imports, datastores
//! or vSphere. The tables that outlive a connection (sessions, opens, locks) are one `Server` value.

pub mod share;
