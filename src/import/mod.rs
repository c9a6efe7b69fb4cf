//! Import sessions: what arrives in a directory of the share becomes a virtual machine on a datastore.
//!
//! - [`formats`]: the texts that sessions read and write

pub mod formats;
