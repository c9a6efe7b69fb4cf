//! importfs: an SMB2/3 server whose share turns copied backup files into restored virtual machines.
//!
//! Layers, each knowing only those below it (`tests/tidy.rs` keeps that):
//!
//! - [`cli`], [`admin`]: commands, snapshots; [`config`]: the configuration file
//! - [`share`]: the kinds of share: [`share::import`], [`share::directory`], [`share::ipc`]
//! - [`smb`]: the server, on the protocol crate and the [`smb::share`] traits
//! - [`import`]: import sessions; on [`disk`], [`pancbt`], [`journal`]
//! - [`datastore`]: drivers and filters; [`inventory`]: a hypervisor's inventory as a trait, [`vsphere`]: behind it
//! - [`tls`]: which servers are trusted, and who we are to them
//! - [`turns`]: large writes of one file, one at a time; for those who write files

pub mod admin;
pub mod cli;
pub mod config;
pub mod datastore;
pub mod disk;
pub mod import;
pub mod inventory;
pub mod journal;
pub mod pancbt;
pub mod share;
pub mod smb;
pub mod tls;
pub mod turns;
pub mod users;
pub mod vsphere;
