//! The operations of wkssvc (MS-WKST 3.2.4) that clients ask a file server.

use super::ndr::{Decoder, Encoder};
use super::service::{ACCESS_DENIED, INVALID_LEVEL, PLATFORM_NT, Provider, VERSION, done, refused};
use crate::codec::DecodeError;

/// NetSetupWorkgroupName (MS-WKST 2.2.3.2): the name is a workgroup's.
const JOINED_WORKGROUP: u32 = 2;

/// The operations that are there.
pub(super) const OPERATIONS: &[u16] = &[0, 20];

/// Runs an operation whose ServerName has been read.
pub(super) fn call(
    operation: u16,
    stub: &mut Decoder<'_>,
    provider: &dyn Provider,
) -> Result<Option<Vec<u8>>, DecodeError> {
    Ok(match operation {
        0 => Some(workstation_get_info(stub, provider)?),
        20 => Some(join_information(provider)),
        _ => None,
    })
}

/// NetrWkstaGetInfo (MS-WKST 3.2.4.1): WKSTA_INFO_100, 101, 102 (2.2.5.1 to 2.2.5.3).
fn workstation_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let level = stub.u32()?;
    if level == 502 {
        return Ok(refused(level, ACCESS_DENIED)); // settings of a redirector: for administrators, and there is none here
    }
    if !matches!(level, 100..=102) {
        return Ok(refused(level, INVALID_LEVEL));
    }
    let mut out = Encoder::default();
    out.u32(level);
    out.pointer();
    out.u32(PLATFORM_NT);
    out.string_pointer(&provider.server_name());
    out.string_pointer(&provider.domain());
    out.u32(VERSION.0);
    out.u32(VERSION.1);
    if level > 100 {
        out.string_pointer(""); // lanroot
    }
    if level == 102 {
        out.u32(0); // logged-on users
    }
    Ok(done(out))
}

/// NetrGetJoinInformation (MS-WKST 3.2.4.13).
fn join_information(provider: &dyn Provider) -> Vec<u8> {
    let mut out = Encoder::default();
    out.string_pointer(&provider.domain());
    out.flush();
    out.u32(JOINED_WORKGROUP);
    done(out)
}
