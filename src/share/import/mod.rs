//! The share `import`: the engine of import sessions behind the traits of [`crate::smb::share`].
//!
//! Translates names, dispositions, times and errors; decides nothing about imports.

mod node;
mod security;
mod status;

use std::sync::Arc;

use smb_proto::Status;

use crate::import::{self, Engine, How, ImportError, Session};
use crate::smb::share::{
    Caller, CreateAction, Disposition, FileKey, FileTime, ObjectKind, Observer, OpenGate, OpenRequest,
    Opened, OwnChange, Refusal, Share, SharePath, ShareTraits, Volume,
};
use node::Node;

/// FileSystemAttributes (MS-FSCC 2.5.1): case preserved, Unicode, persistent ACLs (NetBackup asks before it writes
/// descriptors), sparse files. No named streams.
const FILE_SYSTEM_ATTRIBUTES: u32 = 0x2 | 0x4 | 0x8 | 0x40;
/// UTF-16 units of a name.
const NAME_MAX: u32 = 240;
/// The volume in file keys: no device number is as high.
const VOLUME: u64 = u64::MAX - 1;
/// FILE_READ_DATA (MS-SMB2 2.2.13.1.1).
const READ_DATA: u32 = 0x1;
/// FILE_WRITE_DATA and FILE_APPEND_DATA.
const WRITE_DATA: u32 = 0x2 | 0x4;
/// FILE_ALL_ACCESS.
const ALL: u32 = 0x001F_01FF;
/// MAXIMUM_ALLOWED (MS-SMB2 2.2.13.1).
const MAXIMUM_ALLOWED: u32 = 0x0200_0000;

/// The import share.
pub struct ImportShare {
    engine: Arc<Engine>,
    label: String,
}

impl ImportShare {
    /// Serves the engine's sessions; `label` is the volume's name.
    pub fn new(engine: Arc<Engine>, label: &str) -> Self {
        Self { engine, label: label.to_owned() }
    }
}

/// What a disposition does to a file that exists (MS-SMB2 2.2.13).
fn on_existing(disposition: Disposition) -> Result<(CreateAction, bool), Status> {
    match disposition {
        Disposition::Create => Err(Status::OBJECT_NAME_COLLISION),
        Disposition::Open | Disposition::OpenIf => Ok((CreateAction::Opened, false)),
        Disposition::Supersede => Ok((CreateAction::Superseded, true)),
        Disposition::Overwrite | Disposition::OverwriteIf => Ok((CreateAction::Overwritten, true)),
    }
}

fn creates(disposition: Disposition) -> bool {
    !matches!(disposition, Disposition::Open | Disposition::Overwrite)
}

impl ImportShare {
    fn open_directory(
        &self,
        session: Arc<Session>,
        created: bool,
        request: &OpenRequest,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        if request.kind == ObjectKind::File {
            return Err(Status::FILE_IS_A_DIRECTORY.into());
        }
        let action = if created {
            CreateAction::Created
        } else {
            match request.disposition {
                Disposition::Create => return Err(Status::OBJECT_NAME_COLLISION.into()),
                Disposition::Open | Disposition::OpenIf => CreateAction::Opened,
                _ => return Err(Status::INVALID_PARAMETER.into()),
            }
        };
        let node = Node::directory(Arc::clone(&self.engine), session);
        if created {
            node.secure(request);
        }
        let granted = granted(request.desired_access);
        gate.admit(&node.file_key(), !created, granted)?;
        Ok(Opened { file: Arc::new(node), action, granted, maximal: ALL })
    }

    fn open_data(
        &self,
        session: &Arc<Session>,
        name: &str,
        request: &OpenRequest,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        if request.kind == ObjectKind::Directory {
            return Err(Status::NOT_A_DIRECTORY.into());
        }
        let granted = granted(request.desired_access);
        let status = |error| Refusal::Status(status::status(&error));
        let Some(info) = session.find(name) else {
            if !creates(request.disposition) {
                return Err(Status::OBJECT_NAME_NOT_FOUND.into());
            }
            let file = session.create(name).map_err(status)?;
            let node = Node::file(Arc::clone(&self.engine), file);
            node.secure(request);
            gate.admit(&node.file_key(), false, granted)?;
            let file = Arc::new(node);
            return Ok(Opened { file, action: CreateAction::Created, granted, maximal: ALL });
        };
        let (action, truncate) = on_existing(request.disposition)?;
        // MAXIMUM_ALLOWED on the service's own file means reading; asked for outright, writing is refused.
        let writable = !info.own || request.desired_access & MAXIMUM_ALLOWED == 0;
        let how = if truncate || (granted & WRITE_DATA != 0 && writable) {
            How::Write
        } else if granted & READ_DATA != 0 {
            How::Read
        } else {
            How::Attributes
        };
        if how == How::Write && info.own {
            return Err(Status::ACCESS_DENIED.into());
        }
        gate.admit(&node::key(info.number), true, granted)?;
        let by_maximum = request.desired_access & MAXIMUM_ALLOWED != 0 && !truncate;
        let file = match session.open_file(name, how) {
            // Of a registered machine no more than that is allowed.
            Err(ImportError::OfMachine { .. }) if by_maximum => session.open_file(name, How::Read),
            file => file,
        };
        let file = file.map_err(status)?;
        if truncate {
            file.set_len(0).map_err(status)?;
        }
        let file = Arc::new(Node::file(Arc::clone(&self.engine), file));
        Ok(Opened { file, action, granted, maximal: ALL })
    }
}

/// Every account may do everything here; what a file's kind forbids is refused where it is tried.
fn granted(desired: u32) -> u32 {
    if desired & MAXIMUM_ALLOWED != 0 { ALL } else { desired }
}

impl Share for ImportShare {
    fn observe(&self, observer: Observer) {
        self.engine.listen(move |session, name, change| {
            let mut components = session.to_vec();
            components.push(name.to_owned());
            let change = match change {
                import::OwnChange::Added => OwnChange::Added,
                import::OwnChange::Removed => OwnChange::Removed,
                import::OwnChange::Modified => OwnChange::Modified,
            };
            observer(&SharePath { components, stream: None }, change);
        });
    }

    fn traits(&self) -> ShareTraits {
        ShareTraits {
            attributes: FILE_SYSTEM_ATTRIBUTES,
            file_system: "NTFS".to_owned(),
            name_max: NAME_MAX,
            is_slow: true,
        }
    }

    fn volume(&self) -> Result<Volume, Status> {
        let space = self.engine.space();
        Ok(Volume {
            label: self.label.clone(),
            serial: VOLUME as u32,
            created: FileTime(self.engine.session(&[]).map_or(0, |root| root.directory_info().times.created)),
            total: space.total,
            free: space.available,
            available: space.available,
        })
    }

    fn open(
        &self,
        request: &OpenRequest,
        _caller: &Caller,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        if request.path.stream.as_ref().is_some_and(|stream| !stream.is_empty()) {
            return Err(Status::OBJECT_NAME_INVALID.into());
        }
        let path = &request.path.components;
        if let Some(session) = self.engine.session(path) {
            return self.open_directory(session, false, request, gate);
        }
        let Some((name, parent)) = path.split_last() else {
            return Err(Status::OBJECT_NAME_NOT_FOUND.into());
        };
        let Some(session) = self.engine.session(parent) else {
            return Err(Status::OBJECT_PATH_NOT_FOUND.into());
        };
        if request.kind == ObjectKind::Directory && session.find(name).is_none() {
            if !creates(request.disposition) {
                return Err(Status::OBJECT_NAME_NOT_FOUND.into());
            }
            let made = self.engine.create_directory(path).map_err(|error| status::status(&error))?;
            return self.open_directory(made, true, request, gate);
        }
        self.open_data(&session, name, request, gate)
    }

    /// A VMX comes after the extents and differentials, a differential after its extent.
    fn closed_before(&self, path: &SharePath) -> Vec<FileKey> {
        let Some((name, parent)) = path.components.split_last() else { return Vec::new() };
        let last = [".vmx", ".pancbt"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        let Some(session) =
            self.engine.session(parent).filter(|session| last && session.find(name).is_none())
        else {
            return Vec::new();
        };
        session
            .list()
            .iter()
            .filter(|info| !info.own && !info.directory)
            .map(|info| node::key(info.number))
            .collect()
    }
}
