//! CREATE (MS-SMB2 3.3.5.9; MS-FSA 2.1.5.1). No oplock or lease is granted yet (docs/deviations.md), which the standard
//! leaves to the server.

use smb_proto::Status;
use smb_proto::fscc::{access, attributes, ea};
use smb_proto::msg::create::context::{self, Contexts};
use smb_proto::msg::create::{self as wire, disposition, oplock, options};

use super::wire_attributes;
use crate::smb::name;
use crate::smb::open::NewOpen;
use crate::smb::request::{Failure, Outcome, Reply, Request, WakeKey};
use crate::smb::share::{Disposition, FileKey, ObjectKind, OpenRequest, Opened};

/// Highest ImpersonationLevel: Delegate (2.2.13).
const IMPERSONATION_MAX: u32 = 3;
/// CreateOptions that mean something (MS-SMB2 2.2.13); others are INVALID_PARAMETER.
const OPTIONS_VALID: u32 = 0x00FF_FFFF;
/// Bits of DesiredAccess that exist (2.2.13.1).
const ACCESS_VALID: u32 = 0xF31F_01FF;
/// Attributes that a new file may be given (MS-FSCC 2.6).
const ATTRIBUTES_SETTABLE: u32 = attributes::READONLY
    | attributes::HIDDEN
    | attributes::SYSTEM
    | attributes::ARCHIVE
    | attributes::TEMPORARY
    | attributes::OFFLINE
    | attributes::NOT_CONTENT_INDEXED;

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
    check(&message)?;
    let open_request = open_request(&message)?;
    if open_request.desired_access & access::ALL & !request.tree.maximal_access != 0 {
        return Err(Status::ACCESS_DENIED.into());
    }
    let share = &request.tree.entry.share;
    let mut gate = request.server.opens.gate(request.session.id, message.share_access)?;
    let opened = share.open(&open_request, &request.session.caller(), &mut gate).map_err(|refusal| {
        // A share that asks to wait has told the gate nothing yet; the tree's own key stands for 'ask again'.
        let key = FileKey { volume: 0, file: 0, stream: String::new() };
        Failure::from_refusal(refusal, WakeKey::File(key), Some(std::time::Duration::from_secs(1)))
    })?;
    let delete_on_close = message.options & options::DELETE_ON_CLOSE != 0;
    if delete_on_close {
        // MS-FSA 2.1.5.1.2: what can't be deleted can't be opened to be deleted.
        opened.file.check_delete().or_else(|status| match status {
            Status::DIRECTORY_NOT_EMPTY => Ok(()),
            other => Err(other),
        })?;
    }
    let Opened { file, action, granted, maximal } = opened;
    let new = NewOpen {
        session_id: request.session.id,
        tree_id: request.tree.id,
        granted,
        options: message.options,
        delete_on_close,
        file,
    };
    let open = request.server.opens.insert(gate, new)?;
    request.related.file_id = Some(open.id);
    // A tree that went away meanwhile, or a file without numbers: the open must not outlive this request.
    let metadata = request.tree.check().and_then(|()| open.file.metadata()).inspect_err(|_| {
        let _ = request.server.opens.close(&open, false);
    })?;
    let mut contexts = context::Writer::new();
    answer_contexts(message.contexts, &open.entry.key, maximal & request.tree.maximal_access, &mut contexts);
    let response = wire::Response {
        oplock_level: oplock::NONE,
        flags: 0,
        create_action: action as u32,
        creation_time: metadata.created.0,
        last_access_time: metadata.accessed.0,
        last_write_time: metadata.written.0,
        change_time: metadata.changed.0,
        allocation_size: metadata.allocation,
        end_of_file: metadata.size,
        file_attributes: wire_attributes(&metadata),
        file_id: open.id,
        contexts: contexts.contexts(),
    };
    Ok(Reply::success(|out| response.encode(out)))
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
    let replaces = matches!(
        message.disposition,
        disposition::SUPERSEDE | disposition::OVERWRITE | disposition::OVERWRITE_IF
    );
    if has(options::DIRECTORY_FILE) && replaces {
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
        Some(data) => ea::decode(data)?
            .iter()
            .map(|ea| (String::from_utf8_lossy(ea.name).into_owned(), ea.value.to_vec()))
            .collect(),
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
