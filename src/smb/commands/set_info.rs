//! SET_INFO (MS-SMB2 3.3.5.21): of a file (MS-FSA 2.1.5.14) or its security.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smb_proto::Status;
use smb_proto::fscc::security::part;
use smb_proto::fscc::set::{self, Set, Target};
use smb_proto::fscc::{access, attributes, info};
use smb_proto::msg::change_notify::filter;
use smb_proto::msg::create::share_access;
use smb_proto::msg::query_info::info_type;
use smb_proto::msg::set_info as wire;

use super::{ATTRIBUTES_SETTABLE, extended, open_of};
use crate::smb::audit;
use crate::smb::breaks;
use crate::smb::file_entry::FileEntry;
use crate::smb::name;
use crate::smb::open::{Open, locked};
use crate::smb::open_table::OpenTable;
use crate::smb::oplock::{Asker, Break};
use crate::smb::request::{Failure, Outcome, Reply, Request};
use crate::smb::share::{BasicChange, FileKey, FileTime, OpenGate, Refusal};
use crate::smb::share_mode::ShareMode;

/// Mode bits that may be set (MS-FSCC 2.4.31).
const MODE_SETTABLE: u32 = 0x0000_003E;

/// Handles a SET_INFO.
pub fn handle(request: &mut Request<'_>) -> Outcome {
    let message = wire::Request::decode(request.message)?;
    request.check_payload(message.data.len() as u64)?;
    let open = open_of(request, message.file_id)?;
    match message.info_type {
        info_type::FILE => {
            let set =
                Set::decode(message.info_class, message.data).map_err(|_| Status::INFO_LENGTH_MISMATCH)?;
            file(request, &open, &set)?;
        }
        info_type::SECURITY => {
            security(&open, message.additional_information, message.data)?;
            request.server.told_modified(&open, filter::SECURITY);
        }
        info_type::FILESYSTEM | info_type::QUOTA => return Err(Status::NOT_SUPPORTED.into()),
        _ => return Err(Status::INVALID_PARAMETER.into()),
    }
    Ok(Reply::success(|out| wire::Response.encode(out)))
}

fn file(request: &Request<'_>, open: &Open, set: &Set<'_>) -> Result<(), Failure> {
    match *set {
        Set::Basic(new) => {
            open.require(access::WRITE_ATTRIBUTES)?;
            let change = basic_change(&new, open.file.is_directory())?;
            open.file.set_basic(&change)?;
            request.server.told_basic(open, &change);
        }
        Set::Rename(target) => rename(request, open, &target)?,
        Set::Link(target) => {
            let to = name::parse_target(target.name)?;
            open.file.link(&to, target.flags & set::RENAME_REPLACE_IF_EXISTS != 0)?;
            request.server.told_linked(open, &to);
        }
        Set::Disposition(flags) => {
            open.require(access::DELETE)?;
            let delete = flags & set::DISPOSITION_DELETE != 0;
            if delete {
                open.file.check_delete()?;
                request.server.evict(open)?;
            }
            open.entry.set_delete_pending(delete);
            request.server.told_deleting(open);
        }
        Set::Position(position) => open.position.store(position, Ordering::Relaxed),
        Set::Mode(mode) if mode & !MODE_SETTABLE != 0 => return Err(Status::INVALID_PARAMETER.into()),
        Set::Mode(mode) => locked(&open.state).mode = mode,
        Set::Allocation(size) => {
            sizeable(open, size)?;
            request.server.changing(open);
            open.file.set_allocation(size)?;
            request.server.told_resized(open);
        }
        Set::EndOfFile(size) => {
            sizeable(open, size)?;
            request.server.changing(open);
            open.file.set_end_of_file(size)?;
            request.server.told_resized(open);
        }
        // Needs a privilege that no client of ours has (MS-FSA 2.1.5.14.14).
        Set::ValidDataLength(_) => return Err(Status::PRIVILEGE_NOT_HELD.into()),
        Set::FullEa(data) => {
            open.require(access::WRITE_EA)?;
            open.file.set_extended_attributes(&extended::decode(data)?)?;
            request.server.told_modified(open, filter::EA);
        }
        Set::Unknown(_) => return Err(Status::INVALID_INFO_CLASS.into()),
    }
    Ok(())
}

/// FileBasicInformation (MS-FSA 2.1.5.14.2): 0, -1 and -2 leave a time alone (the last two also steer its automatic updates,
/// which the share's file system does as it likes); any other negative time is refused.
fn basic_change(new: &info::Basic, directory: bool) -> Result<BasicChange, Status> {
    let time = |value: u64| match value as i64 {
        -2..=0 => Ok(None),
        time if time < 0 => Err(Status::INVALID_PARAMETER),
        _ => Ok(Some(FileTime(value))),
    };
    if new.attributes & attributes::DIRECTORY != 0 && !directory {
        return Err(Status::INVALID_PARAMETER);
    }
    if new.attributes & attributes::TEMPORARY != 0 && directory {
        return Err(Status::INVALID_PARAMETER);
    }
    Ok(BasicChange {
        attributes: (new.attributes != 0).then_some(new.attributes & ATTRIBUTES_SETTABLE),
        created: time(new.creation_time)?,
        accessed: time(new.last_access_time)?,
        written: time(new.last_write_time)?,
        changed: time(new.change_time)?,
    })
}

/// Who may change a file's size, and to what (MS-FSA 2.1.5.14.1, 2.1.5.14.4).
fn sizeable(open: &Open, size: u64) -> Result<(), Status> {
    open.require(access::WRITE_DATA)?;
    match i64::try_from(size) {
        Ok(_) if !open.file.is_directory() => Ok(()),
        _ => Err(Status::INVALID_PARAMETER),
    }
}

/// What a rename would replace must not be open (MS-FSA 2.1.5.15.11); who only keeps it open in his cache is asked to close it.
struct RenameGate<'t> {
    opens: &'t OpenTable,
    asker: Asker,
    breaks: Vec<Break>,
    waits_for: Option<Arc<FileEntry>>,
}

impl OpenGate for RenameGate<'_> {
    fn admit(&mut self, key: &FileKey, _existed: bool, _granted: u32) -> Result<(), Refusal> {
        let Some(target) = self.opens.entry(key) else { return Ok(()) };
        let verdict = target.evict(self.asker, true);
        self.breaks.extend(verdict.breaks);
        if !verdict.wait {
            return Err(Status::ACCESS_DENIED.into());
        }
        self.waits_for = Some(target);
        Err(Refusal::Wait)
    }

    /// A rename opens the target's directory to add a file to it, and shares it for reading and writing only: who holds the
    /// directory to delete it, or shares it with no writer, bars the rename (MS-FSA 2.1.5.14.11).
    fn admit_entry(&mut self, key: &FileKey) -> Result<(), Refusal> {
        let mode = ShareMode { access: access::ADD_FILE, share: share_access::READ | share_access::WRITE };
        if self.opens.bars(key, mode) { Err(Status::SHARING_VIOLATION.into()) } else { Ok(()) }
    }
}

/// FileRenameInformation (MS-FSA 2.1.5.14.11).
fn rename(request: &Request<'_>, open: &Open, target: &Target<'_>) -> Result<(), Failure> {
    open.require(access::DELETE)?;
    if target.root_directory != 0 {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let to = name::parse_target(target.name)?;
    if open.file.is_directory() {
        request.server.evict_below(open)?;
    }
    if open.base.is_none() && open.entry.has_open_streams() {
        return Err(Status::ACCESS_DENIED.into()); // as NTFS
    }
    request.server.evict(open)?;
    let replace = target.flags & set::RENAME_REPLACE_IF_EXISTS != 0;
    let opens = &request.server.opens;
    let mut gate = RenameGate { opens, asker: open.asker(), breaks: Vec::new(), waits_for: None };
    let was = open.file.path();
    let renamed = open.file.rename(&to, replace, &mut gate);
    request.server.send_breaks(gate.breaks);
    renamed.map_err(|refusal| match (refusal, gate.waits_for) {
        (Refusal::Status(status), _) => status.into(),
        (Refusal::Wait, Some(entry)) => breaks::park(&entry),
        (Refusal::Wait, None) => Failure::Status(Status::INTERNAL_ERROR), // only the gate says so
    })?;
    request.server.told_renamed(open, &was);
    audit::renamed(request.session, &name::display(&was), &name::display(&to), replace);
    Ok(())
}

/// The security descriptor (3.3.5.21.3): each part needs its own access.
fn security(open: &Open, parts: u32, descriptor: &[u8]) -> Result<(), Status> {
    let needs = [
        (part::OWNER | part::GROUP | part::LABEL, access::WRITE_OWNER),
        (part::DACL, access::WRITE_DAC),
        (part::SACL, access::ACCESS_SYSTEM_SECURITY),
    ];
    for (_, needed) in needs.iter().filter(|(which, _)| parts & which != 0) {
        open.require(*needed)?;
    }
    open.file.set_security(parts, descriptor)
}
