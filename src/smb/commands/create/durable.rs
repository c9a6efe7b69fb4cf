//! Durable opens in CREATE: what is asked for, an open that is had back (MS-SMB2 3.3.5.9.7, 3.3.5.9.12), a CREATE that is sent
//! again (3.3.5.9.10).

use std::sync::Arc;
use std::time::Duration;

use smb_proto::msg::FileId;
use smb_proto::msg::create::context::{
    self, AppInstance, Contexts, DurableV2Reconnect, DurableV2Request, Lease, decode_durable_reconnect,
    decode_durable_request,
};
use smb_proto::msg::create::{self as wire, oplock};
use smb_proto::msg::negotiate::{DIALECT_210, DIALECT_300};
use smb_proto::{Flags, Status};

use super::{Answer, respond};
use crate::smb::durable::{self, Claim, DURABLE_V1, Known, Owner};
use crate::smb::name;
use crate::smb::open::{Open, locked};
use crate::smb::oplock::{Granted, level_of};
use crate::smb::request::{Failure, Outcome, Request, WakeKey};
use crate::smb::server::ShareKind;
use crate::smb::share::CreateAction;

/// How long the loss of a connection may take to be seen, on a busy server, after its client has come back on another.
const LOSS_SEEN_MAX: Duration = Duration::from_millis(500);

/// What a CREATE says of durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing.
    No,
    /// DHnQ.
    V1,
    /// DH2Q.
    V2(DurableV2Request),
    /// DHnC.
    Back(FileId),
    /// DH2C.
    BackV2(DurableV2Reconnect),
}

impl Asked {
    /// Reads the contexts; which of them can't stand together, 3.3.5.9.6 to 3.3.5.9.12 say.
    pub(super) fn decode(contexts: Contexts<'_>, dialect: u16) -> Result<Self, Failure> {
        let v2 = |name| contexts.find(name).filter(|_| dialect >= DIALECT_300);
        let (query, back) = (contexts.find(context::DHNQ), contexts.find(context::DHNC));
        let (query_v2, back_v2) = (v2(context::DH2Q), v2(context::DH2C));
        if let Some(data) = query {
            decode_durable_request(data)?;
        }
        Ok(match (back, back_v2, query_v2) {
            (Some(data), None, None) => Self::Back(decode_durable_reconnect(data)?),
            (None, Some(data), None) if query.is_none() => Self::BackV2(DurableV2Reconnect::decode(data)?),
            (None, None, Some(data)) if query.is_none() => Self::V2(DurableV2Request::decode(data)?),
            (None, None, None) if query.is_some() => Self::V1,
            (None, None, None) => Self::No,
            _ => return Err(Status::INVALID_PARAMETER.into()),
        })
    }
}

/// Whose an open of this request is.
pub(super) fn owner(
    request: &Request<'_>,
    create_guid: Option<[u8; 16]>,
    app_instance: Option<AppInstance>,
) -> Owner {
    let user = Arc::clone(&request.session.caller().user);
    Owner { user, client: request.connection.client_guid(), create_guid, app_instance }
}

/// The lease of a request that wants an open back: it says whose, whatever level is asked for.
fn lease_key(request: &Request<'_>, contexts: Contexts<'_>) -> Result<Option<[u8; 16]>, Failure> {
    if request.connection.dialect() < DIALECT_210 {
        return Ok(None);
    }
    Ok(contexts.find(context::RQLS).map(Lease::decode).transpose()?.map(|lease| lease.key))
}

/// Gives an open back to a client that lost its connection. Of the request's other fields, only the name of a leased file
/// counts.
pub(super) fn reconnect(request: &mut Request<'_>, message: &wire::Request<'_>, asked: Asked) -> Outcome {
    let (id, guid) = match asked {
        Asked::Back(id) => (id, None),
        Asked::BackV2(back) => (back.file_id, Some(back.create_guid)),
        _ => return Err(Status::INTERNAL_ERROR.into()),
    };
    let open = request.server.opens.by_id(id.persistent).ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
    take_back(request, message, &open, guid)?;
    answer(request, message, &open, CreateAction::Opened, None)
}

fn take_back(
    request: &Request<'_>,
    message: &wire::Request<'_>,
    open: &Arc<Open>,
    guid: Option<[u8; 16]>,
) -> Result<(), Failure> {
    if !Arc::ptr_eq(&open.share, &request.tree.entry) || request.tree.entry.kind == ShareKind::Pipe {
        return Err(Status::OBJECT_NAME_NOT_FOUND.into());
    }
    let claim = Claim {
        owner: owner(request, guid, None),
        lease: lease_key(request, message.contexts)?,
        by_guid: guid.is_some(),
    };
    durable::check_claim(&open.owner, open.lease.map(|lease| lease.key), &claim)?;
    if locked(&open.life).away.is_none() {
        // Another connection has it; but its client may be back before we have seen that one break.
        let lost = Failure::Status(Status::OBJECT_NAME_NOT_FOUND);
        let key = WakeKey::File(open.entry.key.clone());
        let wait = Failure::Park { key, timeout: Some(LOSS_SEEN_MAX) };
        return Err(if request.timed_out { lost } else { wait });
    }
    if open.lease.is_some() {
        let named = name::parse(message.name)?;
        let folded = |components: &[String]| components.join("\\").to_lowercase();
        if folded(&named.components) != folded(&open.file.path().components) {
            return Err(Status::INVALID_PARAMETER.into());
        }
        request.server.enter_leaser(request.connection);
    }
    let connection = Arc::downgrade(request.connection);
    Ok(request.server.opens.take_back(open, request.session.id, request.tree.id, connection)?)
}

/// Whether a CREATE of version 2 is a new one, and then its GUID is reserved; otherwise its answer, where it was sent before.
pub(super) fn replay(
    request: &mut Request<'_>,
    message: &wire::Request<'_>,
    asked: DurableV2Request,
) -> Result<Option<Outcome>, Failure> {
    if request.reservation.is_some() {
        return Ok(None); // it has waited, and goes on
    }
    let guids = &request.server.opens.guids;
    let id = match guids.look_up(request.connection.client_guid(), asked.create_guid) {
        Known::New(reservation) => {
            *request.reservation = Some(reservation);
            return Ok(None);
        }
        Known::Pending => return Err(Status::FILE_NOT_AVAILABLE.into()),
        Known::Open(id) => id,
    };
    let again = request.header.flags.contains(Flags::REPLAY_OPERATION);
    let open = request.server.opens.by_id(id).filter(|_| again).ok_or(Status::DUPLICATE_OBJECTID)?;
    if locked(&open.life).away.is_some() {
        take_back(request, message, &open, Some(asked.create_guid))?;
    } else if open.session_id() != request.session.id {
        return Err(Status::DUPLICATE_OBJECTID.into());
    } else if let Some(key) = lease_key(request, message.contexts)?
        && open.lease.map(|lease| lease.key) != Some(key)
    {
        return Err(Status::ACCESS_DENIED.into());
    }
    // Windows answers with the level that is asked for now, and calls it durable by that.
    let level = message.oplock_level;
    Ok(Some(answer(request, message, &open, open.action, Some(level))))
}

/// The answer about an open that there is already.
fn answer(
    request: &mut Request<'_>,
    message: &wire::Request<'_>,
    open: &Arc<Open>,
    action: CreateAction,
    level: Option<u8>,
) -> Outcome {
    let lease = message.contexts.find(context::RQLS).map(Lease::decode).transpose()?;
    let cached = open.entry.with_oplocks(|held| held.granted_to(open.asker()));
    let held_level = if open.lease.is_some() { oplock::LEASE } else { level_of(cached.state) };
    let level = level.unwrap_or(held_level);
    let durable = matches!(level, oplock::BATCH | oplock::LEASE);
    respond(request, message, &Answer { open, action, level, cached, lease, durable, maximal: open.granted })
}

/// Makes a new open durable, if it was granted what that takes (3.3.5.9.6, 3.3.5.9.10).
pub(super) fn make_durable(open: &Open, asked: Asked, cached: Granted) {
    let time = match asked {
        Asked::V1 => DURABLE_V1,
        Asked::V2(asked) => durable::granted_v2(asked.timeout_ms),
        Asked::No | Asked::Back(_) | Asked::BackV2(_) => return,
    };
    if cached.state & context::LEASE_HANDLE != 0 {
        locked(&open.life).durable = Some(time);
    }
}

/// The context that says so.
pub(super) fn push_granted(open: &Open, asked: Contexts<'_>, out: &mut context::Writer) {
    let Some(time) = locked(&open.life).durable else { return };
    if open.owner.create_guid.is_some() && asked.find(context::DH2Q).is_some() {
        let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        out.push(context::DH2Q, &context::encode_durable_v2_response(ms, 0));
    } else if asked.find(context::DHNQ).is_some() && asked.find(context::DHNC).is_none() {
        out.push(context::DHNQ, &context::encode_durable_response());
    }
}
