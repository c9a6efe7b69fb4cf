//! CREATE by the rules of MS-FSA 2.1.5.1: which object is meant, whether it may be opened, and only then its change.
//!
//! `O_TRUNC` is never given to the kernel: the gate (share modes, oplocks) must have its say about an existing file
//! before that file is touched, and about a new one after it exists.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode, OFlags, Statx};
use rustix::io::Errno;
use smb_proto::Status;

use super::Volume;
use super::area::Streams;
use super::attributes::{self, ARCHIVE, Dos, HIDDEN, READONLY, SETTABLE, SYSTEM, TEMPORARY};
use super::errors::status;
use super::file::DirectoryFile;
use super::lookup::{Found, stat_of};
use super::namespace::{key_of, parent_of};
use super::security::{
    self, ALL, APPEND_DATA, DELETE, DELETE_CHILD, Descriptor, LIST_DIRECTORY, MAXIMUM_ALLOWED,
    READ_ATTRIBUTES, WRITE_DATA,
};
use super::streams;
use crate::smb::share::{
    Caller, CreateAction, Disposition, FileKey, ObjectKind, OpenGate, OpenRequest, Opened, Refusal, SharePath,
};

/// FILE_DELETE_ON_CLOSE of CreateOptions (MS-SMB2 2.2.13).
const DELETE_ON_CLOSE: u32 = 0x1000;
/// How often a name is looked up again that appeared or vanished between two steps; only a hostile loop needs more.
const ATTEMPTS: usize = 8;

/// One step lost a race for the name: look again.
enum Step {
    Again,
    Refused(Refusal),
}

impl From<Status> for Step {
    fn from(status: Status) -> Self {
        Self::Refused(status.into())
    }
}

/// A gate for the file that is made along with a stream.
struct Unasked;

impl OpenGate for Unasked {
    fn admit(&mut self, _key: &FileKey, _existed: bool, _granted: u32) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Where the open takes place.
struct Place<'a> {
    volume: &'a Arc<Volume>,
    request: &'a OpenRequest,
    caller: &'a Caller,
    parent: OwnedFd,
}

/// Opens or creates what `request` names.
pub(super) fn open(
    volume: &Arc<Volume>,
    request: &OpenRequest,
    caller: &Caller,
    gate: &mut dyn OpenGate,
) -> Result<Opened, Refusal> {
    if streams::named(&request.path).is_some() && request.kind == ObjectKind::Directory {
        return Err(Status::NOT_A_DIRECTORY.into());
    }
    if !volume.has_streams {
        streams::refuse_named(&request.path)?;
    }
    let (parent, name) = if request.path.components.is_empty() {
        (volume.root.try_clone().map_err(|_| Status::INSUFFICIENT_RESOURCES)?, ".")
    } else {
        parent_of(volume, &request.path.components)?
    };
    let place = Place { volume, request, caller, parent };
    for _ in 0..ATTEMPTS {
        let found = volume.index.find(&place.parent, name)?;
        let step = match (found, streams::named(&request.path)) {
            (Some(found), None) => place.open_existing(&found, gate),
            (Some(found), Some(stream)) => place.open_stream(&found, stream, gate),
            (None, None) => place.create(name, gate),
            (None, Some(stream)) => place.create_with_stream(name, stream, gate),
        };
        match step {
            Ok(opened) => return Ok(opened),
            Err(Step::Again) => {}
            Err(Step::Refused(refusal)) => return Err(refusal),
        }
    }
    Err(Status::SHARING_VIOLATION.into())
}

/// Opens without following links or blocking on what is no file; for reading only where writing is not allowed.
fn descriptor(parent: &OwnedFd, name: &str, directory: bool) -> Result<OwnedFd, Errno> {
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if directory {
        return rustix::fs::openat(parent, name, common | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    }
    match rustix::fs::openat(parent, name, common | OFlags::RDWR, Mode::empty()) {
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM | Errno::TXTBSY) => {
            rustix::fs::openat(parent, name, common | OFlags::RDONLY, Mode::empty())
        }
        other => other,
    }
}

impl Place<'_> {
    fn overwrites(&self) -> bool {
        use Disposition::{Overwrite, OverwriteIf, Supersede};
        matches!(self.request.disposition, Supersede | Overwrite | OverwriteIf)
    }

    /// MS-FSA 2.1.5.1.2.
    fn open_existing(&self, found: &Found, gate: &mut dyn OpenGate) -> Result<Opened, Step> {
        let directory = attributes::is_directory(&found.stat);
        if self.request.disposition == Disposition::Create {
            return Err(Status::OBJECT_NAME_COLLISION.into());
        }
        // `::$DATA` is data, which a directory has none of.
        match (self.request.kind, directory) {
            (ObjectKind::Directory, _) if self.request.path.stream.is_some() => {
                return Err(Status::NOT_A_DIRECTORY.into());
            }
            (_, true) if self.request.path.stream.is_some() => {
                return Err(Status::FILE_IS_A_DIRECTORY.into());
            }
            (ObjectKind::File, true) => return Err(Status::FILE_IS_A_DIRECTORY.into()),
            (ObjectKind::Directory, false) => return Err(Status::NOT_A_DIRECTORY.into()),
            _ => {}
        }
        if directory && self.overwrites() {
            return Err(Status::OBJECT_NAME_COLLISION.into());
        }
        let (fd, stat) = self.enter(found)?;
        let dos = Dos::load(&fd, &stat);
        let (granted, maximal) = self.grant(&fd, dos, directory)?;
        gate.admit(&key_of(&stat), true, granted).map_err(Step::Refused)?;
        let file = DirectoryFile::new(self.volume.clone(), fd, &stat, directory);
        let action = if self.overwrites() { self.overwrite(&file, dos)? } else { CreateAction::Opened };
        Ok(Opened { file: Arc::new(file), action, granted, maximal })
    }

    /// Opens what was found; another thing under its name by now means to look again.
    fn enter(&self, found: &Found) -> Result<(OwnedFd, Statx), Step> {
        let directory = attributes::is_directory(&found.stat);
        let fd = descriptor(&self.parent, &found.name, directory).map_err(|error| match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => Step::Again,
            other => status(other).into(),
        })?;
        let stat = stat_of(&fd)?;
        if key_of(&stat) == key_of(&found.stat) { Ok((fd, stat)) } else { Err(Step::Again) }
    }

    /// A named stream of a file that is there (MS-FSA 2.1.5.1).
    fn open_stream(&self, found: &Found, name: &str, gate: &mut dyn OpenGate) -> Result<Opened, Step> {
        use Disposition::{Create, Open, Overwrite, Supersede};
        let disposition = self.request.disposition;
        let (base, stat) = self.enter(found)?;
        let directory = attributes::is_directory(&stat);
        let make = !matches!(disposition, Open | Overwrite);
        // Its attributes and its security are the file's.
        let (granted, maximal) = self.grant_stream(&base, Dos::load(&base, &stat), directory)?;
        let (fd, existed) = streams::open_or_make(self.volume, &base, name, make)?
            .ok_or(Step::from(Status::OBJECT_NAME_NOT_FOUND))?;
        if existed && disposition == Create {
            return Err(Status::OBJECT_NAME_COLLISION.into());
        }
        let key = streams::key(&key_of(&stat), &fd)?;
        let file = DirectoryFile::of_stream(Arc::clone(self.volume), base, fd, key.clone());
        if let Err(refusal) = gate.admit(&key, existed, granted) {
            if !existed && let Err(error) = file.remove_stream() {
                tracing::warn!(name, %error, "a refused new stream could not be removed again");
            }
            return Err(Step::Refused(refusal));
        }
        let action = match (existed, self.overwrites()) {
            (false, _) => CreateAction::Created,
            (true, false) => CreateAction::Opened,
            (true, true) => {
                rustix::fs::ftruncate(&file.fd, 0).map_err(status)?;
                if disposition == Supersede { CreateAction::Superseded } else { CreateAction::Overwritten }
            }
        };
        Ok(Opened { file: Arc::new(file), action, granted, maximal })
    }

    /// A named stream of a file that is not there: the file is made with it.
    fn create_with_stream(&self, name: &str, stream: &str, gate: &mut dyn OpenGate) -> Result<Opened, Step> {
        let request = OpenRequest {
            path: SharePath { stream: None, ..self.request.path.clone() },
            kind: ObjectKind::File,
            allocation_size: None,
            ..self.request.clone()
        };
        let parent = self.parent.try_clone().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        let place = Place { volume: self.volume, request: &request, caller: self.caller, parent };
        // The file has no open of its own: what the gate says of the stream is said of both.
        let made = place.create(name, &mut Unasked)?;
        let Some(found) = self.volume.index.find(&self.parent, name)? else { return Err(Step::Again) };
        let opened = self.open_stream(&found, stream, gate);
        if matches!(opened, Err(Step::Refused(_)))
            && let Err(error) = made.file.delete()
        {
            tracing::warn!(name, %error, "the file of a refused new stream could not be removed again");
        }
        opened
    }

    /// The access granted on a stream: as on its file, but that emptying it takes nothing from the file's marks.
    fn grant_stream(&self, base: &OwnedFd, dos: Dos, directory: bool) -> Result<(u32, u32), Status> {
        let marks = Dos { attributes: dos.attributes & !(HIDDEN | SYSTEM), ..dos };
        self.grant(base, marks, directory)
    }

    /// The access granted on an existing file, and the most that could be: its attributes first, then its security (MS-FSA 2.1.5.1.2.1).
    fn grant(&self, fd: &OwnedFd, dos: Dos, directory: bool) -> Result<(u32, u32), Status> {
        let request = self.request;
        let readonly = dos.attributes & READONLY != 0;
        let writes = WRITE_DATA | APPEND_DATA;
        if readonly && request.options & DELETE_ON_CLOSE != 0 {
            return Err(Status::CANNOT_DELETE);
        }
        if readonly && !directory && (self.overwrites() || request.desired_access & writes != 0) {
            return Err(Status::ACCESS_DENIED);
        }
        // An overwrite may not lose these marks unnoticed.
        let marks = dos.attributes & (HIDDEN | SYSTEM);
        if self.overwrites() && marks & !request.attributes != 0 {
            return Err(Status::ACCESS_DENIED);
        }
        let mut allowed = Descriptor::load(fd).allowed(self.caller);
        // What the directory lets the caller do to its entries.
        if allowed & DELETE == 0 && self.parent_allows(DELETE_CHILD) {
            allowed |= DELETE;
        }
        if allowed & READ_ATTRIBUTES == 0 && self.parent_allows(LIST_DIRECTORY) {
            allowed |= READ_ATTRIBUTES;
        }
        let needed = match request.disposition {
            Disposition::Supersede => DELETE | WRITE_DATA,
            Disposition::Overwrite | Disposition::OverwriteIf => WRITE_DATA,
            _ => 0,
        };
        if needed & !allowed != 0 {
            return Err(Status::ACCESS_DENIED);
        }
        if readonly && !directory {
            allowed &= !writes;
        }
        Ok((security::check(request.desired_access, allowed)?, allowed))
    }

    fn parent_allows(&self, access: u32) -> bool {
        super::lookup::readable(&self.parent)
            .is_ok_and(|parent| Descriptor::load(parent).allowed(self.caller) & access == access)
    }

    /// Empties a file and gives it the new attributes (MS-FSA 2.1.5.1.2: Overwrite, Supersede).
    fn overwrite(&self, file: &DirectoryFile, dos: Dos) -> Result<CreateAction, Status> {
        rustix::fs::ftruncate(&file.fd, 0).map_err(status)?;
        let superseded = self.request.disposition == Disposition::Supersede;
        Streams::clear(self.volume, &file.fd)?;
        let gone: Vec<_> = file.load_eas()?.into_iter().map(|(name, _)| (name, Vec::new())).collect();
        if !gone.is_empty() {
            file.store_eas(&gone)?;
        }
        // Overwriting adds to the attributes, superseding replaces them.
        let kept = if superseded { 0 } else { dos.attributes & SETTABLE };
        let attributes = kept | self.request.attributes & SETTABLE | ARCHIVE;
        Dos { attributes, created: dos.created, ..Dos::default() }.store(&file.fd)?;
        self.furnish(file)?;
        Ok(if superseded { CreateAction::Superseded } else { CreateAction::Overwritten })
    }

    /// MS-FSA 2.1.5.1.1.
    fn create(&self, name: &str, gate: &mut dyn OpenGate) -> Result<Opened, Step> {
        let request = self.request;
        if matches!(request.disposition, Disposition::Open | Disposition::Overwrite) {
            return Err(Status::OBJECT_NAME_NOT_FOUND.into());
        }
        let directory = request.kind == ObjectKind::Directory;
        if directory && request.attributes & TEMPORARY != 0 {
            return Err(Status::INVALID_PARAMETER.into());
        }
        if request.options & DELETE_ON_CLOSE != 0 && request.attributes & READONLY != 0 {
            return Err(Status::CANNOT_DELETE.into());
        }
        let (descriptor, granted, maximal) = self.grant_new(directory)?;
        let change = self.volume.index.before_change(&self.parent)?;
        let fd = self.make(name, directory)?;
        change.done(&self.parent, Some(name), None);
        let stat = stat_of(&fd)?;
        let file = DirectoryFile::new(self.volume.clone(), fd, &stat, directory);
        let finished = self.equip(&file, descriptor, directory).map_err(Refusal::from);
        let admitted = finished.and_then(|()| gate.admit(&key_of(&stat), false, granted));
        if let Err(refusal) = admitted {
            if let Err(error) = file.remove() {
                tracing::warn!(name, %error, "a refused new file could not be removed again");
            }
            return Err(Step::Refused(refusal));
        }
        Ok(Opened { file: Arc::new(file), action: CreateAction::Created, granted, maximal })
    }

    /// Whether the directory lets the caller create, and what the new file's descriptor grants: its creator gets what
    /// he desires, whatever the descriptor that he brings says.
    fn grant_new(&self, directory: bool) -> Result<(Option<Descriptor>, u32, u32), Status> {
        let readable = super::lookup::readable(&self.parent).map_err(status)?;
        let parent = Descriptor::stored(&readable);
        // FILE_ADD_SUBDIRECTORY and FILE_ADD_FILE share their bits with append and write.
        let needed = if directory { APPEND_DATA } else { WRITE_DATA };
        if parent.as_ref().is_some_and(|parent| parent.allowed(self.caller) & needed == 0) {
            return Err(Status::ACCESS_DENIED);
        }
        let descriptor = Descriptor::for_new(self.request.security.as_deref(), parent.as_ref(), directory)?;
        let allowed = descriptor.as_ref().map_or(ALL, |own| own.allowed(self.caller));
        let granted = if self.request.desired_access & MAXIMUM_ALLOWED != 0 {
            security::check(self.request.desired_access & !MAXIMUM_ALLOWED, ALL)? | allowed
        } else {
            security::check(self.request.desired_access, ALL)?
        };
        Ok((descriptor, granted, allowed))
    }

    fn make(&self, name: &str, directory: bool) -> Result<OwnedFd, Step> {
        let again = |error| match error {
            Errno::EXIST => Step::Again,
            other => Step::from(status(other)),
        };
        if directory {
            rustix::fs::mkdirat(&self.parent, name, Mode::from_raw_mode(0o755)).map_err(again)?;
            return descriptor(&self.parent, name, true).map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Step::Again,
                other => status(other).into(),
            });
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.parent, name, flags, Mode::from_raw_mode(0o644)).map_err(again)
    }

    /// What a new file is born with.
    fn equip(
        &self,
        file: &DirectoryFile,
        descriptor: Option<Descriptor>,
        directory: bool,
    ) -> Result<(), Status> {
        let archive = if directory { 0 } else { ARCHIVE };
        let attributes = self.request.attributes & SETTABLE | archive;
        // A plain new file is what is assumed of one without the extended attribute: no call for that.
        if attributes != archive {
            Dos { attributes, ..Dos::default() }.store(&file.fd)?;
        }
        match descriptor.map(|descriptor| descriptor.store(&file.fd)) {
            // Without extended attributes, everyone's default is all there is.
            None | Some(Ok(()) | Err(Status::NOT_SUPPORTED)) => {}
            Some(error) => error?,
        }
        self.furnish(file)
    }

    /// The create contexts that a new and an overwritten file share: extended attributes, allocation.
    fn furnish(&self, file: &DirectoryFile) -> Result<(), Status> {
        if !self.request.extended_attributes.is_empty() {
            file.store_eas(&self.request.extended_attributes)?;
        }
        match self.request.allocation_size {
            Some(size) if size > 0 && !file.directory => {
                match rustix::fs::fallocate(&file.fd, FallocateFlags::KEEP_SIZE, 0, size) {
                    // A reservation is a hint where the file system knows none.
                    Err(Errno::OPNOTSUPP) => Ok(()),
                    other => other.map_err(status),
                }
            }
            _ => Ok(()),
        }
    }
}
