//! CREATE (MS-SMB2 3.3.5.9; MS-FSA 2.1.5.1).

mod app_instance;
mod durable;

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::fscc::{access, attributes};
use smb_proto::msg::create::context::{
    self, Contexts, LEASE_FLAG_BREAK_IN_PROGRESS, LEASE_FLAG_PARENT_KEY_SET, Lease, LeaseV2,
};
use smb_proto::msg::create::{self as wire, disposition, oplock, options};
use smb_proto::msg::negotiate::{DIALECT_210, DIALECT_300};

use self::durable::Asked;
use super::{ATTRIBUTES_SETTABLE, extended, network_open_of};
use crate::smb::breaks;
use crate::smb::gate::Intent;
use crate::smb::name;
use crate::smb::open::Open;
use crate::smb::open_table::NewOpen;
use crate::smb::oplock::{Asker, Granted, LeaseKey, Wanted, level_of};
use crate::smb::request::{Failure, Outcome, Reply, Request};
use crate::smb::share::{CreateAction, Disposition, FileKey, ObjectKind, OpenRequest, Opened, Refusal};

/// Highest ImpersonationLevel: Delegate (2.2.13).
const IMPERSONATION_MAX: u32 = 3;
/// CreateOptions that mean something (MS-SMB2 2.2.13); others are INVALID_PARAMETER.
const OPTIONS_VALID: u32 = 0x00FF_FFFF;
/// Bits of DesiredAccess that exist (2.2.13.1).
const ACCESS_VALID: u32 = 0xF31F_01FF;
/// A CreateOption that Windows answers with NOT_SUPPORTED (MS-SMB2 3.3.5.9: FILE_RESERVED).
const OPTION_RESERVED: u32 = 0x80;
/// Attributes of no file: a volume's label, a device (MS-FSA 2.1.5.1).
const ATTRIBUTES_INVALID: u32 = 0x08 | 0x40;
/// Shortest name of a create context (3.3.5.9).
const CONTEXT_NAME_MIN: usize = 4;

/// Handles a CREATE.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.tree.check()?;
    let durability = Asked::decode(message.contexts, request.connection.dialect())?;
    match durability {
        Asked::Back(_) | Asked::BackV2(_) => return durable::reconnect(request, &message, durability),
        Asked::V2(asked) => {
            if let Some(answer) = durable::replay(request, &message, asked)? {
                return answer;
            }
        }
        Asked::V1 | Asked::No => {}
    }
    check(&message)?;
    let open_request = open_request(&message)?;
    if open_request.desired_access & access::ALL & !request.tree.maximal_access != 0 {
        return Err(Status::ACCESS_DENIED.into());
    }
    let app = app_instance::decode(message.contexts, request.connection.dialect())?;
    if let Some(asked) = app {
        app_instance::take_over(request, asked, &open_request)?;
    }
    let lease = leasing(request, &message)?;
    if lease.is_some() {
        request.server.enter_leaser(request.connection);
    }
    let wanted = match (message.oplock_level, lease) {
        (oplock::LEASE, Some(asked)) => wanted_lease(request, &asked),
        (oplock::LEASE, None) => Wanted::Oplock(oplock::NONE),
        (level, _) => Wanted::Oplock(level),
    };
    let delete_on_close = message.options & options::DELETE_ON_CLOSE != 0;
    let intent = Intent {
        share: message.share_access,
        overwrites: replaces(message.disposition),
        deletes: delete_on_close,
        lease: match wanted {
            Wanted::Lease { key, .. } => Some(key),
            Wanted::Oplock(_) => None,
        },
        again: request.async_id.is_some(),
    };
    let share = &request.tree.entry.share;
    request
        .server
        .evict_all(&share.closed_before(&open_request.path), Asker { open: 0, lease: intent.lease })?;
    let mut gate = request.server.opens.gate(request.session.id, intent)?;
    let opened = share.open(&open_request, &request.session.caller(), &mut gate);
    request.server.send_breaks(gate.take_breaks());
    let opened = opened.map_err(|refusal| match (refusal, gate.waits_for()) {
        (Refusal::Status(status), _) => status.into(),
        (Refusal::Wait, Some(entry)) => breaks::park(entry),
        (Refusal::Wait, None) => Failure::Status(Status::INTERNAL_ERROR), // only the gate says so
    })?;
    if delete_on_close {
        // MS-FSA 2.1.5.1.2: what can't be deleted can't be opened to be deleted.
        opened.file.check_delete().or_else(|status| match status {
            Status::DIRECTORY_NOT_EMPTY => Ok(()),
            other => Err(other),
        })?;
    }
    let Opened { file, action, granted, maximal } = opened;
    let create_guid = match durability {
        Asked::V2(asked) => Some(asked.create_guid),
        _ => None,
    };
    let new = NewOpen {
        tree_id: request.tree.id,
        connection: Arc::downgrade(request.connection),
        wanted,
        parent_lease: parent_lease(request, lease),
        owner: durable::owner(request, create_guid, app),
        share: Arc::clone(&request.tree.entry),
        action,
        granted,
        options: message.options,
        delete_on_close,
        file,
    };
    let (open, cached) = request.server.opens.insert(gate, new)?;
    if let Some(reservation) = request.reservation.take() {
        reservation.fulfil(open.id.volatile);
    }
    durable::make_durable(&open, durability, cached);
    match action {
        CreateAction::Created => request.server.told_added(&open),
        CreateAction::Opened => {}
        CreateAction::Superseded | CreateAction::Overwritten => {
            request.server.told_overwritten(&open);
            let (path, superseded) = (name::display(&open.file.path()), action == CreateAction::Superseded);
            request.server.overwrites.note(request.session, &path, superseded);
        }
    }
    let level = if open.lease.is_some() { oplock::LEASE } else { level_of(cached.state) };
    let maximal = maximal & request.tree.maximal_access;
    respond(request, &message, &Answer { open: &open, action, level, cached, lease, durable: true, maximal })
}

/// What a CREATE is answered about its open.
struct Answer<'a> {
    open: &'a Arc<Open>,
    action: CreateAction,
    level: u8,
    cached: Granted,
    /// The lease as it was asked for.
    lease: Option<Lease>,
    /// Durability is told of.
    durable: bool,
    /// MaximalAccess.
    maximal: u32,
}

/// Makes the response (2.2.14).
fn respond(request: &mut Request<'_>, message: &wire::Request<'_>, answer: &Answer<'_>) -> Outcome {
    let Answer { open, cached, .. } = *answer;
    request.related.file_id = Some(open.id);
    // A tree that went away meanwhile, or a file without numbers: the open must not outlive this request.
    let metadata = request.tree.check().and_then(|()| open.file.metadata()).inspect_err(|_| {
        request.server.close_open(open);
    })?;
    let mut contexts = context::Writer::new();
    answer_contexts(message.contexts, &open.entry.key, answer.maximal, &mut contexts);
    if let Some(asked) = answer.lease.filter(|_| open.lease.is_some()) {
        contexts.push(context::RQLS, &granted_lease(&asked, cached).encode());
    }
    if answer.durable {
        durable::push_granted(open, message.contexts, &mut contexts);
    }
    let response = wire::Response {
        oplock_level: answer.level,
        flags: 0,
        create_action: answer.action as u32,
        file: network_open_of(&metadata),
        file_id: open.id,
        contexts: contexts.contexts(),
    };
    Ok(Reply::success(|out| response.encode(out)))
}

/// The lease that is asked for, where the dialect has leases of that kind (3.3.5.9.8, 3.3.5.9.11).
fn leasing(request: &Request<'_>, message: &wire::Request<'_>) -> Result<Option<Lease>, Failure> {
    let dialect = request.connection.dialect();
    let Some(data) = message.contexts.find(context::RQLS) else { return Ok(None) };
    if message.oplock_level != oplock::LEASE || dialect < DIALECT_210 {
        return Ok(None);
    }
    let lease = Lease::decode(data)?;
    Ok(Some(lease).filter(|lease| lease.v2.is_none() || dialect >= DIALECT_300))
}

/// The lease that the client says it has on the directory (3.3.5.9.11).
fn parent_lease(request: &Request<'_>, asked: Option<Lease>) -> Option<LeaseKey> {
    let asked = asked.filter(|asked| asked.flags & LEASE_FLAG_PARENT_KEY_SET != 0)?;
    Some(LeaseKey { client: request.connection.client_guid(), key: asked.v2?.parent_key })
}

fn wanted_lease(request: &Request<'_>, asked: &Lease) -> Wanted {
    let client = request.connection.client_guid();
    let key = LeaseKey { client, key: asked.key };
    Wanted::Lease { key, state: asked.state, epoch: asked.v2.map(|v2| v2.epoch) }
}

/// The lease as it is answered: in its own version, which may not be the one asked for now.
fn granted_lease(asked: &Lease, granted: Granted) -> Lease {
    let parent = asked.v2.filter(|_| asked.flags & LEASE_FLAG_PARENT_KEY_SET != 0 && granted.epoch.is_some());
    let breaking = if granted.breaking { LEASE_FLAG_BREAK_IN_PROGRESS } else { 0 };
    Lease {
        key: asked.key,
        state: granted.state,
        flags: breaking | if parent.is_some() { LEASE_FLAG_PARENT_KEY_SET } else { 0 },
        v2: granted
            .epoch
            .map(|epoch| LeaseV2 { parent_key: parent.map_or([0; 16], |v2| v2.parent_key), epoch }),
    }
}

fn replaces(disposition: u32) -> bool {
    matches!(disposition, disposition::SUPERSEDE | disposition::OVERWRITE | disposition::OVERWRITE_IF)
}

/// What can be refused without looking at the share (3.3.5.9, MS-FSA 2.1.5.1).
fn check(message: &wire::Request<'_>) -> Result<(), Status> {
    let has = |bit: u32| message.options & bit != 0;
    if message.impersonation_level > IMPERSONATION_MAX {
        return Err(Status::BAD_IMPERSONATION_LEVEL);
    }
    if message.desired_access & !ACCESS_VALID != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    if message.share_access & !7 != 0
        || message.disposition > disposition::OVERWRITE_IF
        || message.options & !OPTIONS_VALID != 0
        || message.file_attributes & ATTRIBUTES_INVALID != 0
        || message.contexts.iter().any(|context| context.name.len() < CONTEXT_NAME_MIN)
        || (has(options::DIRECTORY_FILE) && has(options::NON_DIRECTORY_FILE))
    {
        return Err(Status::INVALID_PARAMETER);
    }
    if has(options::OPEN_BY_FILE_ID) || has(options::RESERVE_OPFILTER) || has(OPTION_RESERVED) {
        return Err(Status::NOT_SUPPORTED);
    }
    if has(options::DIRECTORY_FILE) && replaces(message.disposition) {
        return Err(Status::INVALID_PARAMETER);
    }
    if message.desired_access == 0 {
        return Err(Status::ACCESS_DENIED);
    }
    if has(options::DELETE_ON_CLOSE) {
        let wanted = access::map_generic(message.desired_access);
        if wanted & (access::DELETE | access::MAXIMUM_ALLOWED) == 0 {
            return Err(Status::INVALID_PARAMETER);
        }
        if message.file_attributes & attributes::READONLY != 0 && message.disposition != disposition::OPEN {
            return Err(Status::CANNOT_DELETE);
        }
    }
    Ok(())
}

fn open_request(message: &wire::Request<'_>) -> Result<OpenRequest, Failure> {
    let contexts = message.contexts;
    // No previous versions are kept, so none is ever found (3.3.5.9.9).
    if contexts.find(context::TWRP).is_some() {
        return Err(Status::OBJECT_NAME_NOT_FOUND.into());
    }
    let allocation_size = contexts.find(context::ALSI).map(context::decode_allocation_size).transpose()?;
    let extended_attributes = match contexts.find(context::EXTA) {
        Some(data) => extended::decode(data)?,
        None => Vec::new(),
    };
    let kind = match message.options & (options::DIRECTORY_FILE | options::NON_DIRECTORY_FILE) {
        options::DIRECTORY_FILE => ObjectKind::Directory,
        options::NON_DIRECTORY_FILE => ObjectKind::File,
        _ => ObjectKind::Any,
    };
    Ok(OpenRequest {
        path: name::parse(message.name)?,
        disposition: match message.disposition {
            disposition::SUPERSEDE => Disposition::Supersede,
            disposition::OPEN => Disposition::Open,
            disposition::CREATE => Disposition::Create,
            disposition::OPEN_IF => Disposition::OpenIf,
            disposition::OVERWRITE => Disposition::Overwrite,
            _ => Disposition::OverwriteIf,
        },
        kind,
        desired_access: access::map_generic(message.desired_access),
        attributes: message.file_attributes & ATTRIBUTES_SETTABLE,
        options: message.options,
        allocation_size,
        security: contexts.find(context::SECD).map(<[u8]>::to_vec),
        extended_attributes,
    })
}

/// The contexts that are answered (3.3.5.9.5, 3.3.5.9.13); unknown ones are ignored.
fn answer_contexts(asked: Contexts<'_>, key: &FileKey, maximal: u32, out: &mut context::Writer) {
    if asked.find(context::MXAC).is_some() {
        out.push(context::MXAC, &context::encode_maximal_access(Status::SUCCESS.0, maximal));
    }
    if asked.find(context::QFID).is_some() {
        out.push(context::QFID, &context::encode_disk_id(key.file, key.volume));
    }
}
