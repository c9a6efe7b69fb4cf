//! Why the import share refuses something, as sentences for a backup administrator.

use std::io;

use crate::disk::DiskError;

/// A refusal or a failure. `share::import` maps each to an NT status; none that is permanent may look retryable there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The name is none that a session accepts.
    #[error("Cannot create {0} of unsupported file type")]
    UnsupportedType(String),
    /// A second CFG in one directory.
    #[error(
        "Cannot create {path}: the session has its CFG already, {existing}; one directory restores one VM"
    )]
    SecondCfg {
        /// What was to be made.
        path: String,
        /// The CFG that is there.
        existing: String,
    },
    /// A step came before one that it needs.
    #[error("Cannot accept {path} yet: {missing}")]
    OutOfOrder {
        /// What was to be written.
        path: String,
        /// What has to come first.
        missing: String,
    },
    /// The CFG names no such disk, descriptor or VMX.
    #[error("Cannot create {0}: the session's CFG does not name it")]
    NotInCfg(String),
    /// The service's own file.
    #[error("{0} is kept by the service and can't be changed")]
    OwnFile(String),
    /// Nothing has that name.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A component before the last is missing.
    #[error("the directory of {0} does not exist")]
    PathNotFound(String),
    /// Something has that name already.
    #[error("{0} exists already")]
    Exists(String),
    /// A file was meant, and it is a directory.
    #[error("{0} is a directory")]
    IsDirectory(String),
    /// A directory was meant, and it is a file.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// A directory that still has files of the client.
    #[error("{0} is not empty")]
    NotEmpty(String),
    /// The session is in use and can't go.
    #[error("{0} is in use")]
    InUse(String),
    /// A table is full.
    #[error("{what}: at most {limit} are allowed")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A write or size past what the file may have.
    #[error("{path} may have at most {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// Its bound in bytes.
        limit: u64,
    },
    /// The file arrived, and what it says can't be carried out.
    #[error("{path}: {why}")]
    Refused {
        /// The file.
        path: String,
        /// A sentence.
        why: String,
    },
    /// All data is in place, and the hypervisor did not take the virtual machine.
    #[error("{path}: {why}; nothing is lost: when that is mended, copy the VMX again")]
    Unregistered {
        /// The VMX.
        path: String,
        /// A sentence.
        why: String,
    },
    /// It belongs to a virtual machine that is in the inventory.
    #[error("Cannot change {path}: {why}")]
    OfMachine {
        /// What was to be written.
        path: String,
        /// A sentence.
        why: String,
    },
    /// A disk or its datastore failed.
    #[error("{path}: {source}")]
    Disk {
        /// The extent as the client names it.
        path: String,
        /// What happened.
        #[source]
        source: DiskError,
    },
    /// A datastore or the session's cache failed.
    #[error("{path}: {source}")]
    Io {
        /// What it was about.
        path: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl ImportError {
    /// Attaches a name to an error of the operating system or of a driver.
    pub(super) fn io(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Attaches a name to an error of a disk.
    pub(super) fn disk(path: impl Into<String>) -> impl FnOnce(DiskError) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }

    /// The kind of the error beneath, where there is one.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            Self::Disk { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}
