//! The operations of srvsvc (MS-SRVS 3.1.4) and wkssvc (MS-WKST 3.2.4) that clients ask a file server.

use super::Interface;
use super::ndr::{Decoder, Encoder};
use crate::codec::DecodeError;

/// ERROR_INVALID_LEVEL.
const INVALID_LEVEL: u32 = 124;
/// NERR_NetNameNotFound.
const SHARE_NOT_FOUND: u32 = 2310;
/// PLATFORM_ID_NT.
const PLATFORM_NT: u32 = 500;
/// SV_TYPE_WORKSTATION, SV_TYPE_SERVER and SV_TYPE_NT (MS-SRVS 2.2.2.7).
const SERVER_TYPE: u32 = 0x0000_1003;
/// The Windows version told, 10.0: clients switch features by it.
const VERSION: (u32, u32) = (10, 0);
/// No limit of uses (SHI_USES_UNLIMITED).
const UNLIMITED: u32 = u32::MAX;

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
}

/// Runs an operation: the result's stub, `None` for an operation that is not there.
pub(super) fn call(
    interface: Interface,
    operation: u16,
    stub: &[u8],
    provider: &dyn Provider,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut stub = Decoder::new(stub);
    let _server = stub.unique_string()?; // every operation here begins with ServerName
    match (interface, operation) {
        (Interface::Srvsvc, 15) => share_enum(&mut stub, provider).map(Some),
        (Interface::Srvsvc, 16) => share_get_info(&mut stub, provider).map(Some),
        (Interface::Srvsvc, 21) => server_get_info(&mut stub, provider).map(Some),
        (Interface::Wkssvc, 0) => workstation_get_info(&mut stub, provider).map(Some),
        _ => Ok(None),
    }
}

/// The members of SHARE_INFO_0, 1, 2, 501, 502 and 1005 (MS-SRVS 2.2.4.22 to 2.2.4.29); false for another level.
fn put_share(out: &mut Encoder, level: u32, share: &ShareInfo) -> bool {
    if level == 1005 {
        out.u32(0); // no DFS, no caching flags
        return true;
    }
    out.string_pointer(&share.name);
    if level == 0 {
        return true;
    }
    out.u32(share.kind);
    out.string_pointer(&share.remark);
    match level {
        1 => {}
        501 => out.u32(0),
        2 | 502 => {
            out.u32(0); // permissions: unused
            out.u32(UNLIMITED);
            out.u32(0); // current uses
            out.string_pointer(""); // the local path is nobody's business
            out.null(); // no password
            if level == 502 {
                out.u32(0); // no security descriptor
                out.null();
            }
        }
        _ => return false,
    }
    true
}

/// NetrShareEnum (MS-SRVS 3.1.4.8): everything at once, whatever the preferred length.
fn share_enum(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let (level, _discriminant) = (stub.u32()?, stub.u32()?);
    let shares = provider.shares();
    let known = matches!(level, 0 | 1 | 2 | 501 | 502);
    let mut out = Encoder::default();
    out.u32(level);
    out.u32(level);
    out.pointer();
    let listed: &[ShareInfo] = if known { &shares } else { &[] };
    out.u32(listed.len() as u32);
    if known {
        out.pointer();
        out.u32(listed.len() as u32);
    } else {
        out.null();
    }
    for share in listed {
        put_share(&mut out, level, share);
    }
    out.flush();
    out.u32(listed.len() as u32); // TotalEntries
    out.null(); // ResumeHandle: there is no more
    out.u32(if known { 0 } else { INVALID_LEVEL });
    Ok(out.finish())
}

/// NetrShareGetInfo (MS-SRVS 3.1.4.10).
fn share_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let name = stub.string()?;
    let level = stub.u32()?;
    let shares = provider.shares();
    let Some(share) = shares.iter().find(|share| share.name.to_lowercase() == name.to_lowercase()) else {
        return Ok(refused(level, SHARE_NOT_FOUND));
    };
    let mut out = Encoder::default();
    out.u32(level);
    out.pointer();
    if !put_share(&mut out, level, share) {
        return Ok(refused(level, INVALID_LEVEL));
    }
    Ok(done(out))
}

/// NetrServerGetInfo (MS-SRVS 3.1.4.17): SERVER_INFO_100, 101, 102 (2.2.4.40 to 2.2.4.42).
fn server_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let level = stub.u32()?;
    if !matches!(level, 100..=102) {
        return Ok(refused(level, INVALID_LEVEL));
    }
    let mut out = Encoder::default();
    out.u32(level);
    out.pointer();
    out.u32(PLATFORM_NT);
    out.string_pointer(&provider.server_name());
    if level > 100 {
        out.u32(VERSION.0);
        out.u32(VERSION.1);
        out.u32(SERVER_TYPE);
        out.string_pointer(&provider.comment());
    }
    if level == 102 {
        out.u32(UNLIMITED); // users
        out.u32(15); // minutes to the disconnection of an idle session
        [0, 240, 3000, 0].into_iter().for_each(|value| out.u32(value)); // visible; announce, delta; licences
        out.string_pointer("");
    }
    Ok(done(out))
}

/// NetrWkstaGetInfo (MS-WKST 3.2.4.1): WKSTA_INFO_100, 101, 102 (2.2.5.1 to 2.2.5.3).
fn workstation_get_info(stub: &mut Decoder<'_>, provider: &dyn Provider) -> Result<Vec<u8>, DecodeError> {
    let level = stub.u32()?;
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

/// A level's discriminant, no structure, and the error.
fn refused(level: u32, error: u32) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u32(level);
    out.null();
    out.u32(error);
    out.finish()
}

/// What the pointers lead to, then success.
fn done(mut out: Encoder) -> Vec<u8> {
    out.flush();
    out.u32(0);
    out.finish()
}
