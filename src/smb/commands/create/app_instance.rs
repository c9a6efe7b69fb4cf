//! Application instance ids in CREATE (MS-SMB2 3.3.5.9.13).

use smb_proto::Status;
use smb_proto::fscc::access;
use smb_proto::msg::create::context::{self, AppInstance, AppVersion, Contexts};
use smb_proto::msg::create::options;
use smb_proto::msg::negotiate::{DIALECT_300, DIALECT_311};

use crate::smb::app_instance::check_version;
use crate::smb::request::{Failure, Request};
use crate::smb::share::{Disposition, FileKey, ObjectKind, OpenGate, OpenRequest, Refusal, SharePath};

/// The id and version that a CREATE comes with, as far as the dialect has them.
pub(super) fn decode(contexts: Contexts<'_>, dialect: u16) -> Result<Option<AppInstance>, Failure> {
    let find = |name, since| contexts.find(name).filter(|_| dialect >= since);
    let Some(id) = find(context::APP_INSTANCE_ID, DIALECT_300) else { return Ok(None) };
    let version = find(context::APP_INSTANCE_VERSION, DIALECT_311).map(AppVersion::decode).transpose()?;
    Ok(Some(AppInstance { id: context::decode_app_instance_id(id)?, version }))
}

/// Closes what the same application has left open of this file on another machine.
pub(super) fn take_over(request: &Request<'_>, asked: AppInstance, new: &OpenRequest) -> Result<(), Failure> {
    let server = request.server;
    let client = request.connection.client_guid();
    let found = server.opens.apps.of(asked.id).into_iter().filter_map(|open| server.opens.by_id(open));
    let found: Vec<_> = found
        .filter(|open| {
            open.owner.client != client && std::sync::Arc::ptr_eq(&open.share, &request.tree.entry)
        })
        .filter(|open| same_path(&open.file.path(), &new.path))
        .collect();
    for open in &found {
        check_version(open.owner.app_instance.and_then(|app| app.version), asked.version)?;
    }
    if !found.is_empty() && may_read(request, new) {
        found.iter().for_each(|open| server.close_open(open));
    }
    Ok(())
}

fn same_path(one: &SharePath, other: &SharePath) -> bool {
    let folded = |path: &SharePath| {
        let stream = path.stream.as_deref().unwrap_or_default();
        format!("{}:{stream}", path.components.join("\\")).to_lowercase()
    };
    folded(one) == folded(other)
}

/// Looks what its security grants of a file, and opens nothing.
#[derive(Default)]
struct Look(Option<u32>);

impl OpenGate for Look {
    fn admit(&mut self, _key: &FileKey, _existed: bool, granted: u32) -> Result<(), Refusal> {
        self.0 = Some(granted);
        Err(Status::ACCESS_DENIED.into())
    }
}

/// Whether this user could read the file.
fn may_read(request: &Request<'_>, new: &OpenRequest) -> bool {
    let look = OpenRequest {
        path: new.path.clone(),
        disposition: Disposition::Open,
        kind: ObjectKind::Any,
        desired_access: access::MAXIMUM_ALLOWED,
        attributes: 0,
        options: new.options & options::OPEN_FOR_BACKUP_INTENT,
        allocation_size: None,
        security: None,
        extended_attributes: Vec::new(),
    };
    let mut gate = Look::default();
    let _opens_nothing = request.tree.entry.share.open(&look, &request.session.caller(), &mut gate);
    let granted = gate.0.unwrap_or(0) & request.tree.maximal_access;
    let read = access::map_generic(access::GENERIC_READ);
    granted & read == read
}
