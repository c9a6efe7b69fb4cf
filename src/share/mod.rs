//! The kinds of share behind the SMB server: each implements the traits of [`crate::smb::share`].

pub mod directory;
pub mod import;
pub mod ipc;
