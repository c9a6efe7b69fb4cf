//! Import sessions: what a client copies into the share becomes a virtual machine on datastores.
//!
//! - [`engine`]: all sessions, by their place in the share; [`session`]: one of them; [`file`]: an open file of it
//! - [`state`]: the steps cfg → extents → differentials → vmx; [`plan`]: where everything goes
//! - [`commit`]: what a CFG, VMX or descriptor does when it is closed; [`merge`]: differentials
//! - [`formats`]: the texts; [`rewrite`]: VMX and descriptors as they go out; [`log`]: import.log
//!
//! On [`crate::disk`], [`crate::pancbt`], [`crate::journal`] and the traits of [`crate::datastore`]. No SMB, no sockets, no
//! tokio: calls block, and errors are sentences ([`ImportError`]).

mod commit;
pub mod engine;
pub mod error;
pub mod file;
pub mod formats;
mod log;
mod merge;
pub mod plan;
mod rewrite;
pub mod session;
mod state;

pub use engine::{DatastoreEntry, Engine, EngineSettings, Hypervisor, SESSIONS_MAX, Snapshot};
pub use error::ImportError;
pub use file::{How, ImportFile};
pub use session::{Info, Session, Times};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
