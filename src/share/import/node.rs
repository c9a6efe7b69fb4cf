//! An open file or directory of the import share.

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::fscc::security::part;

use super::status::status;
use super::{VOLUME, security};
use crate::import::{Engine, ImportError, ImportFile, Info, Session, Times};
use crate::smb::share::{
    BasicChange, DirEntry, File, FileKey, FileTime, Listing, Metadata, OpenGate, OpenRequest, Refusal,
    SharePath, StreamEntry,
};

/// FILE_ATTRIBUTE_READONLY, DIRECTORY and ARCHIVE (MS-FSCC 2.6).
const READONLY: u32 = 0x1;
const DIRECTORY: u32 = 0x10;
const ARCHIVE: u32 = 0x20;
/// Attributes that a client may set and read back: hidden, system, archive, normal, sparse, not indexed.
const SETTABLE: u32 = 0x2 | 0x4 | 0x20 | 0x80 | 0x200 | 0x2000;

enum Kind {
    Directory(Arc<Session>),
    File(ImportFile),
}

/// An open.
pub(super) struct Node {
    engine: Arc<Engine>,
    kind: Kind,
}

/// The key of a file number.
pub(super) fn key(number: u64) -> FileKey {
    FileKey { volume: VOLUME, file: number, stream: String::new() }
}

fn nt<T>(outcome: Result<T, ImportError>) -> Result<T, Status> {
    outcome.map_err(|error| status(&error))
}

fn metadata(info: &Info) -> Metadata {
    let kind = if info.directory { DIRECTORY } else { 0 } | if info.own { READONLY } else { 0 };
    let plain = if info.directory || info.own { 0 } else { ARCHIVE };
    Metadata {
        file: info.number,
        attributes: kind | if info.attributes == 0 { plain } else { info.attributes },
        size: info.size,
        allocation: info.allocation,
        created: FileTime(info.times.created),
        accessed: FileTime(info.times.accessed),
        written: FileTime(info.times.written),
        changed: FileTime(info.times.changed),
        links: 1,
        ea_size: 0,
        reparse_tag: 0,
    }
}

fn apply(change: &BasicChange, times: &mut Times) {
    let fields = [
        (change.created, &mut times.created),
        (change.accessed, &mut times.accessed),
        (change.written, &mut times.written),
        (change.changed, &mut times.changed),
    ];
    for (new, field) in fields {
        if let Some(FileTime(new)) = new {
            *field = new;
        }
    }
}

impl Node {
    pub(super) fn directory(engine: Arc<Engine>, session: Arc<Session>) -> Self {
        Self { engine, kind: Kind::Directory(session) }
    }

    pub(super) fn file(engine: Arc<Engine>, file: ImportFile) -> Self {
        Self { engine, kind: Kind::File(file) }
    }

    pub(super) fn file_key(&self) -> FileKey {
        match &self.kind {
            Kind::Directory(session) => key(session.directory_info().number),
            Kind::File(file) => key(file.number()),
        }
    }

    fn data(&self) -> Result<&ImportFile, Status> {
        match &self.kind {
            Kind::Directory(_) => Err(Status::INVALID_DEVICE_REQUEST),
            Kind::File(file) => Ok(file),
        }
    }

    /// A new one gets the descriptor that its CREATE carries (MS-SMB2 2.2.13.2.2).
    pub(super) fn secure(&self, request: &OpenRequest) {
        if let Some(descriptor) = &request.security {
            let _ = self.set_security(part::OWNER | part::GROUP | part::DACL, descriptor); // never an error
        }
    }

    fn kept_security(&self) -> Arc<[u8]> {
        match &self.kind {
            Kind::Directory(session) => session.kept_security(),
            Kind::File(file) => file.kept_security(),
        }
    }

    fn info(&self) -> Result<Info, Status> {
        match &self.kind {
            Kind::Directory(session) => Ok(session.directory_info()),
            Kind::File(file) => nt(file.info()),
        }
    }
}

impl File for Node {
    fn key(&self) -> FileKey {
        self.file_key()
    }

    fn path(&self) -> SharePath {
        let components = match &self.kind {
            Kind::Directory(session) => session.components(),
            Kind::File(file) => {
                let mut components = file.session().components();
                components.push(file.name().to_owned());
                components
            }
        };
        SharePath { components, stream: None }
    }

    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// A CFG or VMX is read when it is closed, and the next step waits for that.
    fn is_uncached(&self) -> bool {
        match &self.kind {
            Kind::Directory(_) => true,
            Kind::File(file) => !file.is_bulk(),
        }
    }

    fn metadata(&self) -> Result<Metadata, Status> {
        Ok(metadata(&self.info()?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Status> {
        nt(self.data()?.read_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64, write_through: bool) -> Result<(), Status> {
        let file = self.data()?;
        nt(file.write_at(data, offset))?;
        if write_through { nt(file.flush()) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), Status> {
        match &self.kind {
            Kind::Directory(_) => Ok(()),
            Kind::File(file) => nt(file.flush()),
        }
    }

    fn set_end_of_file(&self, size: u64) -> Result<(), Status> {
        nt(self.data()?.set_len(size))
    }

    fn set_allocation(&self, size: u64) -> Result<(), Status> {
        // MS-FSA 2.1.5.15.1: a size below the end of file cuts the file; space for more is the datastore's affair.
        let file = self.data()?;
        if size < nt(file.info())?.size { nt(file.set_len(size)) } else { Ok(()) }
    }

    fn set_basic(&self, change: &BasicChange) -> Result<(), Status> {
        match &self.kind {
            Kind::Directory(session) => session.set_directory_times(|times| apply(change, times)),
            Kind::File(file) => file.set_basic(|times, attributes| {
                apply(change, times);
                *attributes = change.attributes.map_or(*attributes, |new| new & SETTABLE);
            }),
        }
        Ok(())
    }

    fn list(&self) -> Result<Box<dyn Listing>, Status> {
        let Kind::Directory(session) = &self.kind else { return Err(Status::INVALID_PARAMETER) };
        let mut names =
            Names { engine: Arc::clone(&self.engine), session: Arc::clone(session), entries: Vec::new() };
        names.rewind()?;
        Ok(Box::new(names))
    }

    fn rename(&self, to: &SharePath, _replace: bool, _gate: &mut dyn OpenGate) -> Result<(), Refusal> {
        let file = match &self.kind {
            // That nothing below is open, the server has seen to (MS-FSA 2.1.5.15.11).
            Kind::Directory(session) => {
                return Ok(nt(self.engine.rename_directory(session, &to.components))?);
            }
            Kind::File(file) => file,
        };
        let Some((name, parent)) = to.components.split_last() else {
            return Err(Status::OBJECT_NAME_INVALID.into());
        };
        if parent != file.session().components() {
            return Err(Status::NOT_SAME_DEVICE.into());
        }
        Ok(nt(file.session().rename(file.name(), name))?)
    }

    fn check_delete(&self) -> Result<(), Status> {
        match &self.kind {
            Kind::Directory(session) => nt(self.engine.check_remove_directory(&session.components())),
            Kind::File(_) => Ok(()),
        }
    }

    fn delete(&self) -> Result<(), Status> {
        match &self.kind {
            Kind::Directory(session) => nt(self.engine.remove_directory(&session.components())),
            Kind::File(file) => nt(file.session().delete(file.name())),
        }
    }

    fn security(&self, parts: u32) -> Result<Vec<u8>, Status> {
        Ok(security::shown(&self.kept_security(), parts))
    }

    fn set_security(&self, parts: u32, descriptor: &[u8]) -> Result<(), Status> {
        let Some(new) = security::replaced(&self.kept_security(), parts, descriptor) else { return Ok(()) };
        match &self.kind {
            Kind::Directory(session) => session.keep_security(new),
            Kind::File(file) => file.keep_security(new),
        }
        Ok(())
    }

    fn streams(&self) -> Result<Vec<StreamEntry>, Status> {
        match &self.kind {
            Kind::Directory(_) => Ok(Vec::new()),
            Kind::File(file) => {
                let info = nt(file.info())?;
                let (size, allocation) = (info.size, info.allocation);
                Ok(vec![StreamEntry { name: "::$DATA".to_owned(), size, allocation }])
            }
        }
    }

    fn set_sparse(&self, _sparse: bool) -> Result<(), Status> {
        self.data().map(|_| ())
    }

    fn zero_range(&self, from: u64, to: u64) -> Result<(), Status> {
        nt(self.data()?.zero_range(from, to))
    }

    fn allocated_ranges(&self, from: u64, to: u64, max: usize) -> Result<(Vec<(u64, u64)>, bool), Status> {
        Ok(self.data()?.allocated_ranges(from, to, max))
    }

    fn close(&self, clean: bool) -> Result<(), Status> {
        match &self.kind {
            Kind::Directory(_) => Ok(()),
            Kind::File(file) => nt(file.close(clean)),
        }
    }
}

/// A directory's names, last first: taken once, since a session has few.
struct Names {
    engine: Arc<Engine>,
    session: Arc<Session>,
    entries: Vec<DirEntry>,
}

impl Listing for Names {
    fn next(&mut self) -> Result<Option<DirEntry>, Status> {
        Ok(self.entries.pop())
    }

    fn rewind(&mut self) -> Result<(), Status> {
        let own = metadata(&self.session.directory_info());
        let dots = [".", ".."].map(|name| DirEntry { name: name.to_owned(), metadata: own });
        let below = self.engine.directories(&self.session.components());
        let below = below.iter().map(|session| session.directory_info());
        let infos = below.chain(self.session.list());
        let named = infos.map(|info| DirEntry { name: info.name.clone(), metadata: metadata(&info) });
        self.entries = dots.into_iter().chain(named).collect();
        self.entries.reverse();
        Ok(())
    }
}
