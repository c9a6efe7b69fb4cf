//! NEGOTIATE (MS-SMB2 3.3.5.3, 3.3.5.4): dialect, cipher, signing algorithm.

use smb_proto::Status;
use smb_proto::auth::spnego;
use smb_proto::msg::ioctl::validate_negotiate;
use smb_proto::msg::negotiate::{self as wire, Context};

use crate::smb::connection::{Connection, Negotiated};
use crate::smb::request::{Failure, Outcome, Reply};
use crate::smb::server::{Encryption, PAYLOAD_BYTES_MAX, Server};

const DIALECTS: [u16; 5] =
    [wire::DIALECT_311, wire::DIALECT_302, wire::DIALECT_300, wire::DIALECT_210, wire::DIALECT_202];
/// Ours, the fastest first; the server's choice among what the client offers (3.3.5.4).
const CIPHERS: [u16; 4] =
    [wire::CIPHER_AES128_GCM, wire::CIPHER_AES256_GCM, wire::CIPHER_AES128_CCM, wire::CIPHER_AES256_CCM];
const SIGNING: [u16; 3] = [wire::SIGNING_AES_GMAC, wire::SIGNING_AES_CMAC, wire::SIGNING_HMAC_SHA256];

fn first_common(ours: &[u16], offered: &[u16]) -> Option<u16> {
    ours.iter().copied().find(|id| offered.contains(id))
}

/// The cipher, 0 for none.
fn cipher(server: &Server, dialect: u16, request: &wire::Request<'_>) -> u16 {
    if server.settings.encryption == Encryption::Off || dialect < wire::DIALECT_300 {
        return 0;
    }
    if dialect < wire::DIALECT_311 {
        let offered = request.capabilities & wire::CAP_ENCRYPTION != 0;
        return if offered { wire::CIPHER_AES128_CCM } else { 0 };
    }
    let offered = request.contexts.iter().find_map(|context| match context {
        Context::Encryption(ids) => first_common(&CIPHERS, ids),
        _ => None,
    });
    offered.unwrap_or(0)
}

/// The signing algorithm: negotiated in 3.1.1 only.
fn signing(dialect: u16, request: &wire::Request<'_>) -> (u16, bool) {
    if dialect < wire::DIALECT_300 {
        return (wire::SIGNING_HMAC_SHA256, false);
    }
    let offered = request.contexts.iter().find_map(|context| match context {
        Context::Signing(ids) if dialect == wire::DIALECT_311 => first_common(&SIGNING, ids),
        _ => None,
    });
    (offered.unwrap_or(wire::SIGNING_AES_CMAC), offered.is_some())
}

fn capabilities(server: &Server, dialect: u16, cipher: u16, offered: u32) -> u32 {
    // Only to who offers it (3.3.5.4): impacket, which does not, fails on a server that says it has them.
    let directories = if dialect >= wire::DIALECT_300 { offered & wire::CAP_DIRECTORY_LEASING } else { 0 };
    let large = if dialect >= wire::DIALECT_210 { wire::CAP_LARGE_MTU | wire::CAP_LEASING } else { 0 };
    let encryption = cipher != 0 && (wire::DIALECT_300..wire::DIALECT_311).contains(&dialect);
    // 3.3.5.4: where both sides can.
    let channels = server.settings.multichannel.is_some() && dialect >= wire::DIALECT_300;
    let channels = if channels { offered & wire::CAP_MULTI_CHANNEL } else { 0 };
    large | directories | channels | if encryption { wire::CAP_ENCRYPTION } else { 0 }
}

/// Answers the client's NEGOTIATE; a second one ends the connection (3.3.5.4).
pub fn handle(server: &Server, connection: &Connection, message: &[u8], now: u64) -> Outcome {
    let request = wire::Request::decode(message)?;
    let settings = &server.settings;
    let spoken = |d: &u16| (settings.min_dialect..=settings.max_dialect).contains(d);
    let ours: Vec<u16> = DIALECTS.into_iter().filter(spoken).collect();
    let dialect = first_common(&ours, &request.dialects).ok_or(Status::NOT_SUPPORTED)?;
    let cipher = cipher(server, dialect, &request);
    let (algorithm, signing_negotiated) = signing(dialect, &request);
    let mut contexts = Vec::new();
    let mut salt = [0; 32];
    if dialect == wire::DIALECT_311 {
        let sha512 = |c: &Context<'_>| matches!(c, Context::Preauth { algorithms, .. } if algorithms.contains(&wire::HASH_SHA512));
        if !request.contexts.iter().any(sha512) {
            return Err(Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP.into());
        }
        getrandom::fill(&mut salt).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        contexts.push(Context::Preauth { algorithms: vec![wire::HASH_SHA512], salt: &salt });
        if cipher != 0 {
            contexts.push(Context::Encryption(vec![cipher]));
        }
        if signing_negotiated {
            contexts.push(Context::Signing(vec![algorithm]));
        }
    }
    let required = if settings.signing_required { wire::SIGNING_REQUIRED } else { 0 };
    let answered = validate_negotiate::Response {
        capabilities: capabilities(server, dialect, cipher, request.capabilities),
        server_guid: settings.guid,
        security_mode: wire::SIGNING_ENABLED | required,
        dialect,
    };
    let offered = validate_negotiate::Request {
        capabilities: request.capabilities,
        client_guid: request.client_guid,
        security_mode: request.security_mode,
        dialects: request.dialects.clone(),
    };
    let negotiated = Negotiated { offered, answered, dialect, cipher, signing: algorithm };
    connection.negotiated.set(negotiated).map_err(|_| Failure::Disconnect)?;
    Ok(response(&answered, contexts, now))
}

/// The answer to an SMB1 NEGOTIATE that offers SMB2 (3.3.5.3.1): come again, in SMB2.
pub fn multi_protocol(server: &Server, now: u64) -> Reply {
    let required = if server.settings.signing_required { wire::SIGNING_REQUIRED } else { 0 };
    let answered = validate_negotiate::Response {
        capabilities: 0,
        server_guid: server.settings.guid,
        security_mode: wire::SIGNING_ENABLED | required,
        dialect: wire::DIALECT_WILDCARD,
    };
    response(&answered, Vec::new(), now)
}

fn response(answered: &validate_negotiate::Response, contexts: Vec<Context<'_>>, now: u64) -> Reply {
    let hint = spnego::hint();
    let large = answered.capabilities & wire::CAP_LARGE_MTU != 0;
    let size = if large { PAYLOAD_BYTES_MAX } else { 64 << 10 };
    let response = wire::Response {
        security_mode: answered.security_mode,
        dialect: answered.dialect,
        server_guid: answered.server_guid,
        capabilities: answered.capabilities,
        max_transact_size: size,
        max_read_size: size,
        max_write_size: size,
        system_time: now,
        server_start_time: 0,
        security_buffer: &hint,
        contexts,
    };
    Reply::success(|out| response.encode(out))
}
