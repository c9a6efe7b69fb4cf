//! What the SMB server asks of a share: the only thing it knows of what lies behind one.
//!
//! Calls block; the server makes them off its async threads and bounds how many run at once. A share keeps no share
//! modes, locks, oplocks or delete-pending marks: those are the server's, in its open table, keyed by [`FileKey`].
//! Errors are NT statuses, because the client is who must understand them; a share logs its own detail.

use std::sync::Arc;

use smb_proto::Status;

/// 100-nanosecond intervals since 1601-01-01 UTC (MS-DTYP 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct FileTime(pub u64);

/// Identifies a file or directory (and one of its streams) for as long as it exists, across names and opens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The volume: distinct for each device behind any share, so that two shares of one directory agree.
    pub volume: u64,
    /// The file's number on that volume; what clients see as FileId.
    pub file: u64,
    /// The named stream, empty for the file itself: whatever tells the share its streams apart.
    pub stream: String,
}

/// A name relative to the share's root, already checked for syntax: components without `\`, `/`, NUL, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharePath {
    /// From the root down; empty means the root itself.
    pub components: Vec<String>,
    /// The part behind `:`, where the client named a stream; empty for `::$DATA`, which is the file's data and no directory.
    pub stream: Option<String>,
}

/// CreateDisposition (MS-SMB2 2.2.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Disposition {
    Supersede,
    Open,
    Create,
    OpenIf,
    Overwrite,
    OverwriteIf,
}

/// CreateAction of the response (MS-SMB2 2.2.14): what an open did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum CreateAction {
    Superseded = 0,
    Opened = 1,
    Created = 2,
    Overwritten = 3,
}

/// What kind of object the client insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ObjectKind {
    Any,
    File,
    Directory,
}

/// Who is asking, for access checks and logs.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account as configured.
    pub user: Arc<str>,
    /// The client's address, for logs.
    pub peer: Arc<str>,
}

/// A CREATE, as far as a share is concerned.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// What to open.
    pub path: SharePath,
    /// What to do if it exists, or does not.
    pub disposition: Disposition,
    /// File, directory or either.
    pub kind: ObjectKind,
    /// DesiredAccess after generic bits were mapped (MS-SMB2 2.2.13.1); may hold MAXIMUM_ALLOWED.
    pub desired_access: u32,
    /// FileAttributes for a new file.
    pub attributes: u32,
    /// CreateOptions, for those that a share heeds (write-through, delete on close, backup intent).
    pub options: u32,
    /// AllocationSize context, bytes to reserve in a new or overwritten file.
    pub allocation_size: Option<u64>,
    /// The security descriptor for a new file, self-relative (MS-DTYP 2.4.6).
    pub security: Option<Vec<u8>>,
    /// Extended attributes for a new file: name and value.
    pub extended_attributes: Vec<(String, Vec<u8>)>,
}

/// Why an open cannot go ahead now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client gets this status.
    Status(Status),
    /// The server parks the request and asks the share again later (a break that must be acknowledged first).
    Wait,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// The server's say while an open is under way. The share calls it once, when it knows which file is meant and before it
/// changes anything (truncates, supersedes): share modes, delete-pending and oplocks are decided here.
pub trait OpenGate {
    /// `existed` tells an existing file from one that this call has just created. `granted` is the access that the
    /// file's security grants of what was desired, MAXIMUM_ALLOWED resolved.
    fn admit(&mut self, key: &FileKey, existed: bool, granted: u32) -> Result<(), Refusal>;

    /// Asked before a name is entered into the directory `key` by a rename.
    fn admit_entry(&mut self, _key: &FileKey) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A file that was opened.
pub struct Opened {
    /// The open file.
    pub file: Arc<dyn File>,
    /// What happened.
    pub action: CreateAction,
    /// The access granted, as given to [`OpenGate::admit`].
    pub granted: u32,
    /// All that the caller could have been granted.
    pub maximal: u32,
}

/// What a share can do; becomes FileFsAttributeInformation and decides which requests are passed on.
#[derive(Debug, Clone)]
pub struct ShareTraits {
    /// FileSystemAttributes (MS-FSCC 2.5.1).
    pub attributes: u32,
    /// FileSystemName, such as `NTFS`: clients decide by it.
    pub file_system: String,
    /// Longest component, in UTF-16 units.
    pub name_max: u32,
    /// Whether an open, a close or a query may take longer than a local disk's latency, so that it must not hold up the
    /// connection's other requests.
    pub is_slow: bool,
}

/// A volume's numbers (MS-FSCC 2.5).
#[derive(Debug, Clone, Default)]
pub struct Volume {
    /// Label, shown by Explorer.
    pub label: String,
    /// Serial number.
    pub serial: u32,
    /// Creation time.
    pub created: FileTime,
    /// Size in bytes.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Bytes that this caller may still use.
    pub available: u64,
}

/// What is known of a file (MS-FSCC 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The file's number, as in [`FileKey::file`].
    pub file: u64,
    /// FileAttributes; never 0 on the wire (NORMAL), which the server sees to.
    pub attributes: u32,
    /// End of file, bytes.
    pub size: u64,
    /// Bytes that it occupies.
    pub allocation: u64,
    /// Creation.
    pub created: FileTime,
    /// Last access.
    pub accessed: FileTime,
    /// Last write.
    pub written: FileTime,
    /// Last change of data or metadata.
    pub changed: FileTime,
    /// Names that lead to it.
    pub links: u32,
    /// Bytes that its extended attributes take.
    pub ea_size: u32,
    /// The reparse tag, where the attribute says so.
    pub reparse_tag: u32,
}

/// FileBasicInformation to set; `None` leaves a field alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct BasicChange {
    pub attributes: Option<u32>,
    pub created: Option<FileTime>,
    pub accessed: Option<FileTime>,
    pub written: Option<FileTime>,
    pub changed: Option<FileTime>,
}

/// One name of a directory.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The name as stored.
    pub name: String,
    /// What it leads to.
    pub metadata: Metadata,
}

/// One stream of a file (FileStreamInformation).
#[derive(Debug, Clone)]
pub struct StreamEntry {
    /// `::$DATA` or `:name:$DATA`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes occupied.
    pub allocation: u64,
}

/// The names of a directory, in an order that stays the same while it is read; `.` and `..` included.
pub trait Listing: Send {
    /// The next name, `None` at the end. Names removed meanwhile are left out.
    fn next(&mut self) -> Result<Option<DirEntry>, Status>;
    /// Starts again, with what is there now.
    fn rewind(&mut self) -> Result<(), Status>;
}

/// An open file or directory. Dropping it releases it; [`File::close`] is where late errors are told.
pub trait File: Send + Sync {
    /// Its identity; the same for every open of the same file.
    fn key(&self) -> FileKey;
    /// Where it is now, after renames: names as stored.
    fn path(&self) -> SharePath;
    /// Whether it is a directory.
    fn is_directory(&self) -> bool;
    /// Whether no client may cache it: it changes without any client's doing (the service's own logs), or its close does
    /// something, and clients put off the close of what they cache.
    fn is_uncached(&self) -> bool {
        false
    }
    /// Its numbers now.
    fn metadata(&self) -> Result<Metadata, Status>;

    /// Reads at `offset`; fewer bytes than asked only at the end of file. Never touches bytes past what it returns.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Status>;
    /// Writes all of `data`, extending the file. `write_through`: durable before it returns.
    fn write_at(&self, data: &[u8], offset: u64, write_through: bool) -> Result<(), Status>;
    /// Makes durable what was written.
    fn flush(&self) -> Result<(), Status>;
    /// Sets the end of file, in constant time.
    fn set_end_of_file(&self, size: u64) -> Result<(), Status>;
    /// FileAllocationInformation: reserves, or truncates below the end of file.
    fn set_allocation(&self, size: u64) -> Result<(), Status>;
    /// Sets times and attributes.
    fn set_basic(&self, change: &BasicChange) -> Result<(), Status>;

    /// The names below a directory that match nothing but being there; the server matches patterns.
    fn list(&self) -> Result<Box<dyn Listing>, Status>;
    /// Renames. `gate` is asked about an existing target before it is replaced.
    fn rename(&self, to: &SharePath, replace: bool, gate: &mut dyn OpenGate) -> Result<(), Refusal>;
    /// Makes another name for a file (FileLinkInformation).
    fn link(&self, _to: &SharePath, _replace: bool) -> Result<(), Status> {
        Err(Status::NOT_SUPPORTED)
    }
    /// Whether it may be deleted: read-only, not empty, or the share's own.
    fn check_delete(&self) -> Result<(), Status>;
    /// Deletes it. Called at the last close of a file marked for it.
    fn delete(&self) -> Result<(), Status>;
    /// Deletes the file that this is a stream of: it was marked for it, and this is the last open of any of its streams.
    fn delete_base(&self) -> Result<(), Status> {
        Err(Status::NOT_SUPPORTED)
    }

    /// The security descriptor, self-relative; `parts` as in AdditionalInformation (MS-SMB2 2.2.37).
    fn security(&self, parts: u32) -> Result<Vec<u8>, Status>;
    /// Replaces the parts of the security descriptor that `parts` names.
    fn set_security(&self, parts: u32, descriptor: &[u8]) -> Result<(), Status>;
    /// Extended attributes.
    fn extended_attributes(&self) -> Result<Vec<(String, Vec<u8>)>, Status> {
        Ok(Vec::new())
    }
    /// Sets or (with an empty value) removes extended attributes.
    fn set_extended_attributes(&self, _attributes: &[(String, Vec<u8>)]) -> Result<(), Status> {
        Err(Status::EAS_NOT_SUPPORTED)
    }
    /// The streams, the unnamed one first.
    fn streams(&self) -> Result<Vec<StreamEntry>, Status>;
    /// FSCTL_SET_SPARSE.
    fn set_sparse(&self, sparse: bool) -> Result<(), Status>;
    /// FSCTL_SET_ZERO_DATA: the range `from..to` reads as zeros, the file's size stays.
    fn zero_range(&self, from: u64, to: u64) -> Result<(), Status>;
    /// FSCTL_QUERY_ALLOCATED_RANGES: (offset, length) of what may hold data within `from..to`, at most `max`.
    /// Each range lies inside the asked one; `true` where there are more.
    fn allocated_ranges(&self, from: u64, to: u64, max: usize) -> Result<(Vec<(u64, u64)>, bool), Status>;

    /// The last call of an open that a client closed (or lost: `clean` is false). Its status goes into the response.
    fn close(&self, clean: bool) -> Result<(), Status>;
}

/// A change that no client made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OwnChange {
    Added,
    Removed,
    Modified,
}

/// Who is told of such changes. Never calls back into the share.
pub type Observer = Box<dyn Fn(&SharePath, OwnChange) + Send + Sync>;

/// One share's file system.
pub trait Share: Send + Sync {
    /// Has `observer` told of files that change without any client's doing, those of [`File::is_uncached`]; once,
    /// before anything is opened.
    fn observe(&self, _observer: Observer) {}
    /// What it can do.
    fn traits(&self) -> ShareTraits;
    /// Its volume.
    fn volume(&self) -> Result<Volume, Status>;
    /// Opens or creates.
    fn open(
        &self,
        request: &OpenRequest,
        caller: &Caller,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal>;
    /// The files that must be closed before this one can be made: clients are asked first to close what they only keep open in
    /// their caches.
    fn closed_before(&self, _path: &SharePath) -> Vec<FileKey> {
        Vec::new()
    }
}
