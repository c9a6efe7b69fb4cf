//! What the kernel's errors mean to an SMB client: one table.

use rustix::io::Errno;
use smb_proto::Status;

/// The NT status for an errno, with the context-free meaning. Where a step knows better (a missing parent is
/// OBJECT_PATH_NOT_FOUND), it says so itself.
const TABLE: &[(Errno, Status)] = &[
    (Errno::PERM, Status::ACCESS_DENIED),
    (Errno::ACCESS, Status::ACCESS_DENIED),
    // The descriptor was opened for reading only, because the file system allowed no more.
    (Errno::BADF, Status::ACCESS_DENIED),
    (Errno::NOENT, Status::OBJECT_NAME_NOT_FOUND),
    (Errno::STALE, Status::FILE_DELETED),
    (Errno::EXIST, Status::OBJECT_NAME_COLLISION),
    (Errno::NOTDIR, Status::NOT_A_DIRECTORY),
    (Errno::ISDIR, Status::FILE_IS_A_DIRECTORY),
    (Errno::NOTEMPTY, Status::DIRECTORY_NOT_EMPTY),
    // A symbolic link that somebody put where a file was: clients never see links.
    (Errno::LOOP, Status::ACCESS_DENIED),
    (Errno::NAMETOOLONG, Status::OBJECT_NAME_INVALID),
    (Errno::INVAL, Status::INVALID_PARAMETER),
    (Errno::ILSEQ, Status::OBJECT_NAME_INVALID),
    (Errno::NOSPC, Status::DISK_FULL),
    (Errno::DQUOT, Status::DISK_FULL),
    (Errno::FBIG, Status::DISK_FULL),
    (Errno::MFILE, Status::TOO_MANY_OPENED_FILES),
    (Errno::NFILE, Status::TOO_MANY_OPENED_FILES),
    (Errno::MLINK, Status::INSUFFICIENT_RESOURCES),
    (Errno::NOMEM, Status::INSUFFICIENT_RESOURCES),
    (Errno::XDEV, Status::NOT_SAME_DEVICE),
    (Errno::ROFS, Status::MEDIA_WRITE_PROTECTED),
    (Errno::TXTBSY, Status::SHARING_VIOLATION),
    (Errno::BUSY, Status::SHARING_VIOLATION),
    (Errno::IO, Status::IO_DEVICE_ERROR),
    (Errno::TIMEDOUT, Status::IO_TIMEOUT),
    (Errno::OPNOTSUPP, Status::NOT_SUPPORTED),
    (Errno::NOSYS, Status::NOT_SUPPORTED),
];

/// Translates, and logs what the table does not know.
pub(super) fn status(error: Errno) -> Status {
    if let Some((_, status)) = TABLE.iter().find(|(known, _)| *known == error) {
        return *status;
    }
    tracing::warn!(%error, "a directory share met an error that it has no status for");
    Status::UNSUCCESSFUL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_one_status_and_it_is_an_error() {
        for (index, (error, status)) in TABLE.iter().enumerate() {
            assert!(status.is_error());
            assert!(TABLE[..index].iter().all(|(other, _)| other != error), "{error} twice");
        }
        assert_eq!(status(Errno::DQUOT), Status::DISK_FULL);
    }
}
