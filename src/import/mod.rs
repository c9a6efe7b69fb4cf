//! Import sessions: what a client copies into the share becomes a virtual machine on datastores.
//!
//! - [`engine`]: all sessions, by their place in the share; [`session`]: one of them; [`file`]: an open file of it;
//!   [`info`]: what is known of one; [`flow`]: bytes on their way
//! - [`state`]: the steps cfg → extents → differentials → vmx; [`plan`]: where everything goes
//! - [`hypervisor`]: where it can go; [`preflight`]: what a CFG means there, all errors at once, nothing changed
//! - [`snapshot`]: how far everything is, for whoever shows it; [`replay`], what the journals tell of that
//! - [`commit`]: what a CFG or descriptor does when it is closed; [`registration`]: what a VMX does; [`merge`]: differentials
//! - [`machine`]: what may not be changed any more once it is registered
//! - [`overwrite`]: what would be replaced; [`swap`]: how a restored machine takes its place; [`clear`]: what goes then
//! - [`ledger`]: what a session made on datastores; [`registered`]: virtual machines in it; [`orphans`]: what sessions that never completed left on datastores
//! - [`into_snapshot`]: restores into a snapshot of a virtual machine that exists
//! - [`staging`]: disks that wait until their machine is complete; [`pushing`]: how that gets to its datastores;
//!   [`making`], [`release`]: disks are made, and given back while nobody writes them
//! - [`moves`]: directories that are renamed; [`names`]: deleting and renaming files; [`news`]: what is told of the
//!   service's own files; [`patience`]: how long a client is held; [`formats`]: the texts; [`log`]: import.log
//!
//! On [`crate::disk`], [`crate::pancbt`], [`crate::journal`] and the traits of [`crate::datastore`] and
//! [`crate::inventory`]. No SMB, no sockets, no tokio: calls block, and errors are sentences ([`ImportError`]).

mod clear;
mod commit;
pub mod engine;
pub mod error;
#[cfg(test)]
mod fake;
pub mod file;
mod flow;
pub mod formats;
pub mod hypervisor;
pub mod info;
mod into_snapshot;
mod ledger;
mod log;
mod machine;
mod making;
mod merge;
mod moves;
mod names;
mod news;
pub mod orphans;
mod overwrite;
mod patience;
pub mod plan;
pub mod preflight;
mod pushing;
mod registered;
mod registration;
mod release;
mod replay;
mod rooms;
pub mod session;
pub mod snapshot;
mod staging;
#[cfg(test)]
mod staging_tests;
mod state;
mod swap;

pub use engine::{Engine, EngineSettings, SESSIONS_MAX};
pub use error::ImportError;
pub use file::{How, ImportFile};
pub use formats::cfg::OnConflict;
pub use formats::names::Rules as NameRules;
pub use hypervisor::{DatastoreEntry, Hypervisor, Hypervisors};
pub use info::{Info, Times};
pub use log::LOG_BYTES_MAX;
pub use news::OwnChange;
pub use orphans::{Cleaned, Orphan, OrphanSession};
pub use session::Session;
pub use snapshot::{DiskSnapshot, SessionSnapshot, Snapshot};
pub use staging::check_stage;

#[cfg(test)]
mod held_tests;
#[cfg(test)]
mod orphans_tests;
#[cfg(test)]
mod overwrite_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod tests;
