//! Which operations the two interfaces have, what they are told, and what their answers have in common.

use std::time::Duration;

use super::ndr::{Decoder, Encoder};
use super::{Interface, srvsvc, wkssvc};
use crate::codec::DecodeError;

/// ERROR_ACCESS_DENIED.
pub(super) const ACCESS_DENIED: u32 = 5;
/// ERROR_INVALID_LEVEL.
pub(super) const INVALID_LEVEL: u32 = 124;
/// PLATFORM_ID_NT.
pub(super) const PLATFORM_NT: u32 = 500;
/// The Windows version told, 10.0: clients switch features by it.
pub(super) const VERSION: (u32, u32) = (10, 0);

/// A share as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareInfo {
    /// Its name.
    pub name: String,
    /// A remark for people.
    pub remark: String,
    /// Type (MS-SRVS 2.2.2.4): 0 disk, 3 IPC, with bit 31 for special ones.
    pub kind: u32,
}

/// What the services tell about this server.
pub trait Provider {
    /// The shares that the caller may see.
    fn shares(&self) -> Vec<ShareInfo>;
    /// The server's NetBIOS name.
    fn server_name(&self) -> String;
    /// Its workgroup or domain.
    fn domain(&self) -> String;
    /// A remark for people.
    fn comment(&self) -> String;
    /// The time of day, since 1970-01-01 UTC.
    fn now(&self) -> Duration;
}

/// Runs an operation: the result's stub, `None` for an operation that is not there.
pub(super) fn call(
    interface: Interface,
    operation: u16,
    stub: &[u8],
    provider: &dyn Provider,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let known = match interface {
        Interface::Srvsvc => srvsvc::OPERATIONS,
        Interface::Wkssvc => wkssvc::OPERATIONS,
    };
    if !known.contains(&operation) {
        return Ok(None);
    }
    let mut stub = Decoder::new(stub);
    let _server = stub.unique_string()?; // every operation here begins with ServerName
    match interface {
        Interface::Srvsvc => srvsvc::call(operation, &mut stub, provider),
        Interface::Wkssvc => wkssvc::call(operation, &mut stub, provider),
    }
}

/// A level's discriminant, no structure, and the error.
pub(super) fn refused(level: u32, error: u32) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u32(level);
    out.null();
    out.u32(error);
    out.finish()
}

/// What the pointers lead to, then success.
pub(super) fn done(mut out: Encoder) -> Vec<u8> {
    out.flush();
    out.u32(0);
    out.finish()
}
