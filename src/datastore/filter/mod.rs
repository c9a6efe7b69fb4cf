//! Filters: wrappers around any disk or datastore, which stack.
//!
//! - [`aligned`]: any range over a driver that takes whole blocks
//! - [`fault`]: makes operations fail, the same ones for the same seed

pub mod aligned;
pub mod fault;

pub use aligned::Aligned;
pub use fault::{Fault, FaultDatastore, FaultPlan, Injector};
