//! Import errors as NT statuses.
//!
//! | import | status | what clients do |
//! |---|---|---|
//! | unsupported type, own file, second CFG, not in the CFG | ACCESS_DENIED | give up on the file |
//! | a step out of order, a file of a registered VM | MEDIA_WRITE_PROTECTED | give up; robocopy's retry would not help |
//! | past the disk's size, a cache file too large, datastore full, a limit | DISK_FULL | give up on the job |
//! | refused contents (VMX, descriptor, differential) | INVALID_PARAMETER | report the file as failed |
//! | the hypervisor does not register the VM | IO_DEVICE_ERROR | report the VMX as failed |
//! | not found, exists, directory or not | the same in NT terms | |
//! | in use | SHARING_VIOLATION | try again: the only one where that helps |
//! | any other failure of a datastore | IO_DEVICE_ERROR | report |

use std::io::ErrorKind;

use smb_proto::Status;

use crate::import::ImportError;

/// The status for an error.
pub(super) fn status(error: &ImportError) -> Status {
    match error {
        ImportError::UnsupportedType(_)
        | ImportError::SecondCfg { .. }
        | ImportError::NotInCfg(_)
        | ImportError::OwnFile(_) => Status::ACCESS_DENIED,
        ImportError::OutOfOrder { .. } | ImportError::OfMachine { .. } => Status::MEDIA_WRITE_PROTECTED,
        ImportError::NotFound(_) => Status::OBJECT_NAME_NOT_FOUND,
        ImportError::PathNotFound(_) => Status::OBJECT_PATH_NOT_FOUND,
        ImportError::Exists(_) => Status::OBJECT_NAME_COLLISION,
        ImportError::IsDirectory(_) => Status::FILE_IS_A_DIRECTORY,
        ImportError::NotADirectory(_) => Status::NOT_A_DIRECTORY,
        ImportError::NotEmpty(_) => Status::DIRECTORY_NOT_EMPTY,
        ImportError::InUse(_) => Status::SHARING_VIOLATION,
        ImportError::Limit { .. } | ImportError::TooLarge { .. } => Status::DISK_FULL,
        ImportError::Refused { .. } => Status::INVALID_PARAMETER,
        _ => match error.kind() {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => {
                Status::DISK_FULL
            }
            Some(ErrorKind::NotFound) => Status::OBJECT_NAME_NOT_FOUND,
            Some(ErrorKind::PermissionDenied) => Status::ACCESS_DENIED,
            Some(ErrorKind::ReadOnlyFilesystem) => Status::MEDIA_WRITE_PROTECTED,
            _ => Status::IO_DEVICE_ERROR,
        },
    }
}
