//! Extended attributes of clients: `user.ea.NAME`, their names folded to upper case as NTFS does.

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use smb_proto::Status;

use super::attributes::Dos;
use super::errors::status;
use super::file::DirectoryFile;
use super::lookup::stat_of;

/// Where clients' extended attributes live.
const PREFIX: &str = "user.ea.";
/// Longest list of names, and longest value, that Linux has (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const XATTR_MAX: usize = 65_536;
/// An EA's name is counted by one byte (MS-FSCC 2.4.16), and Linux takes 255 bytes with the prefix.
const NAME_MAX: usize = 255 - PREFIX.len();
/// FILE_FULL_EA_INFORMATION before name and value: next offset, flags, name length, value length (MS-FSCC 2.4.16).
const ENTRY_HEADER: usize = 8;

impl DirectoryFile {
    /// All extended attributes of clients, in the order of their names.
    pub(super) fn load_eas(&self) -> Result<Vec<(String, Vec<u8>)>, Status> {
        let mut list = vec![0; XATTR_MAX];
        let length = match rustix::fs::flistxattr(self.whole(), &mut list[..]) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            other => other.map_err(status)?,
        };
        let mut eas = Vec::new();
        for name in list[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok())
        {
            let Some(client) = name.strip_prefix(PREFIX) else { continue };
            let mut value = vec![0; XATTR_MAX];
            match rustix::fs::fgetxattr(self.whole(), name, &mut value[..]) {
                Ok(length) => {
                    value.truncate(length);
                    value.shrink_to_fit();
                    eas.push((client.to_owned(), value));
                }
                Err(Errno::NODATA) => {}
                Err(error) => return Err(status(error)),
            }
        }
        eas.sort();
        Ok(eas)
    }

    /// Sets or removes them, and notes their size for listings.
    pub(super) fn store_eas(&self, eas: &[(String, Vec<u8>)]) -> Result<(), Status> {
        let size = |eas: &[(String, Vec<u8>)]| {
            eas.iter().map(|(name, value)| ENTRY_HEADER + name.len() + 1 + value.len()).sum::<usize>()
        };
        let before = self.load_eas()?;
        let kept: Vec<_> = before
            .into_iter()
            .filter(|(own, _)| !eas.iter().any(|(name, _)| own.eq_ignore_ascii_case(name)))
            .collect();
        if size(&kept) + size(eas) > XATTR_MAX {
            return Err(Status::EA_TOO_LARGE);
        }
        for (name, value) in eas {
            if name.is_empty()
                || name.len() > NAME_MAX
                || !name.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            {
                return Err(Status::INVALID_PARAMETER);
            }
            let name = format!("{PREFIX}{}", name.to_ascii_uppercase());
            let done = if value.is_empty() {
                rustix::fs::fremovexattr(self.whole(), name)
            } else {
                rustix::fs::fsetxattr(self.whole(), name, value, XattrFlags::empty())
            };
            match done {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(Errno::OPNOTSUPP) => return Err(Status::EAS_NOT_SUPPORTED),
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => return Err(Status::EA_TOO_LARGE),
                Err(error) => return Err(status(error)),
            }
        }
        let size = size(&self.load_eas()?);
        let stat = stat_of(self.whole())?;
        let dos = Dos { ea_size: u32::try_from(size).unwrap_or(u32::MAX), ..Dos::load(self.whole(), &stat) };
        dos.store(self.whole())
    }
}
