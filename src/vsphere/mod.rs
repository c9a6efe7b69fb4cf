//! A client of the vSphere API: vCenter and standalone ESXi, over SOAP, with what an import needs and no more.
//!
//! - [`xml`], [`soap`]: bounded trees, envelopes; [`error`]: faults as sentences
//! - [`http`]: a trusted server ([`crate::tls`]), requests with bounded answers and waits
//! - [`client`]: login, calls, a session that is opened again when it is lost; [`property`], [`task`]: the property collector
//! - [`inventory`]: what the names of a CFG stand for; [`preflight`]: all that is in the way of an import
//! - [`register`]: a VMX on a datastore becomes a virtual machine; [`machines`]: those that are there;
//!   [`describe`]: one of them, for a CFG
//! - [`files`]: small files through `/folder`
//! - [`appliance`]: the virtual machine that this runs in, disks attached to it and detached; [`hardware`]: what it has
//! - [`virtual_disks`]: disks by themselves, attached to nothing
//! - [`lease`], [`spec`]: a virtual machine made from its VMX, its disks uploaded; [`trace`]: what of that is
//!   left after a failure
//! - [`manager`]: all that behind the trait that import sessions know ([`crate::inventory::Inventory`])
//!
//! Knows nothing of SMB and sessions. Calls block. Nothing here was seen running against a real ESXi host or vCenter: only
//! against govmomi's simulator (docs/vsphere.md says what that leaves open).

pub mod appliance;
pub mod client;
pub mod describe;
pub mod error;
pub mod files;
pub mod hardware;
pub mod http;
pub mod inventory;
mod keeper;
pub mod lease;
pub mod machines;
pub mod manager;
pub mod preflight;
pub mod property;
pub mod register;
pub mod snapshots;
pub mod soap;
pub mod spec;
pub mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace;
pub mod upload;
mod virtual_disks;
pub mod xml;

pub use client::{Account, Client};
pub use error::{Fault, VsphereError};

/// A managed object reference: a server's name for one of its objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ref {
    /// Its type (`VirtualMachine`).
    pub kind: String,
    /// Its id (`vm-42`).
    pub id: String,
}

impl Ref {
    /// One from its parts.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}
