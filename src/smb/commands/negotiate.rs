//! NEGOTIATE (MS-SMB2 3.3.5.3, 3.3.5.4): dialect, cipher, signing algorithm.

use smb_proto::Status;
use smb_proto::auth::spnego;
use smb_proto::conn::negotiate::{self as conn, Policy};
use smb_proto::frame::Smb1Negotiate;
use smb_proto::msg::ioctl::validate_negotiate;
use smb_proto::msg::negotiate::{self as wire, Context};

use crate::smb::connection::{Connection, Negotiated};
use crate::smb::request::{Failure, Outcome, Reply};
use crate::smb::server::{Encryption, PAYLOAD_BYTES_MAX, Server};

/// Answers the client's NEGOTIATE; a second one ends the connection (3.3.5.4).
pub fn handle(server: &Server, connection: &Connection, message: &[u8], now: u64) -> Outcome {
    settle(server, connection, &wire::Request::decode(message)?, now)
}

/// Agrees with what a client offers, for good.
fn settle(server: &Server, connection: &Connection, request: &wire::Request<'_>, now: u64) -> Outcome {
    let settings = &server.settings;
    let policy = Policy {
        min_dialect: settings.min_dialect,
        max_dialect: settings.max_dialect,
        signing_required: settings.signing_required,
        encryption: settings.encryption != Encryption::Off,
        multichannel: settings.multichannel.is_some(),
    };
    let agreed = conn::agree(request, &policy)?;
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    let answered = validate_negotiate::Response {
        capabilities: agreed.capabilities,
        server_guid: settings.guid,
        security_mode: agreed.security_mode,
        dialect: agreed.dialect,
    };
    let offered = validate_negotiate::Request {
        capabilities: request.capabilities,
        client_guid: request.client_guid,
        security_mode: request.security_mode,
        dialects: request.dialects.clone(),
    };
    let negotiated = Negotiated {
        offered,
        answered,
        dialect: agreed.dialect,
        cipher: agreed.cipher.map_or(0, |cipher| cipher as u16),
        signing: agreed.signing as u16,
    };
    connection.negotiated.set(negotiated).map_err(|_| Failure::Disconnect)?;
    Ok(response(&answered, agreed.contexts(&salt), now))
}

/// Answers an SMB1 NEGOTIATE (3.3.5.3): who knows 2.1 or later is told to come again, in SMB2 (3.3.5.3.1); who knows only 2.0.2 has
/// negotiated that (3.3.5.3.2).
pub fn multi_protocol(server: &Server, connection: &Connection, offer: Smb1Negotiate, now: u64) -> Outcome {
    let settings = &server.settings;
    if offer.smb2_wildcard && settings.max_dialect > wire::DIALECT_202 {
        let required = if settings.signing_required { wire::SIGNING_REQUIRED } else { 0 };
        let answered = validate_negotiate::Response {
            capabilities: 0,
            server_guid: settings.guid,
            security_mode: wire::SIGNING_ENABLED | required,
            dialect: wire::DIALECT_WILDCARD,
        };
        return Ok(response(&answered, Vec::new(), now));
    }
    let request = wire::Request {
        security_mode: wire::SIGNING_ENABLED,
        capabilities: 0,
        client_guid: [0; 16],
        dialects: if offer.smb2_002 { vec![wire::DIALECT_202] } else { Vec::new() },
        contexts: Vec::new(),
    };
    settle(server, connection, &request, now)
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
