//! A virtual disk while it is being imported: what arrives is scanned for zeros, put in order and handed to a driver.
//!
//! - [`error`]: what can go wrong
//! - [`zero`]: finding zeros at memory speed
//! - [`extent_map`]: sets of byte ranges
//! - [`order`]: which of several overlapping operations goes first
//! - [`hold`]: the bounded buffer where small writes are put together
//! - [`intent`]: what must be durable before a write may be
//! - [`statistics`]: the numbers of the `stats:` line
//! - [`digest`]: of what was written
//! - [`writer`]: [`ImportDisk`], which joins them
//!
//! Knows the [`crate::datastore::Disk`] trait and nothing of SMB, sessions, CFG files or vSphere. Calls block; any number
//! of threads may use one disk.

pub mod digest;
pub mod error;
pub mod extent_map;
mod hold;
pub mod intent;
mod order;
mod state;
pub mod statistics;
#[cfg(test)]
mod tests;
pub mod writer;
pub mod zero;

pub use error::DiskError;
pub use extent_map::{ExtentMap, Rounding};
pub use intent::{DiskMap, IntentLog, Progress, Region};
pub use statistics::Statistics;
pub use writer::{Completion, ImportDisk, Options};
