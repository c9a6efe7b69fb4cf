//! The directory driver: a datastore that is a local directory (or a mounted NFS or VMFS export of one).
//!
//! Extents are sparse files; thick ones have their space reserved by `fallocate`, thin ones give it back by punching
//! holes. Every path is walked component by component without following symbolic links ([`super::confined`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::confined::{self, Root};
use super::{Capabilities, Datastore, Disk, DiskSpec, Provisioning, Space};

/// Disks written at the same time: a local file system takes as many as there are; this bounds open files.
const MAX_PARALLEL_DISKS: usize = 64;

/// Zeros written at a time where the file system can neither punch nor zero a range.
const ZEROS: &[u8] = &[0; 256 * 1024];

/// `st_blocks` counts these, whatever the file system's own block is (stat(3type)).
const STAT_BLOCK: u64 = 512;

/// Permissions of extents and other files: the virtual machine's disks are nobody else's business.
const FILE_MODE: u32 = 0o600;

/// A directory as a datastore.
#[derive(Debug)]
pub struct DirectoryDatastore {
    root: Root,
}

impl DirectoryDatastore {
    /// Opens the directory, which must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: Root::open(path)? })
    }

    fn disk_path(spec: &DiskSpec) -> String {
        if spec.directory.is_empty() {
            spec.extent.clone()
        } else {
            format!("{}/{}", spec.directory, spec.extent)
        }
    }

    /// Gives a new extent its size and, if thick, its space.
    fn provision(&self, file: &File, spec: &DiskSpec) -> io::Result<()> {
        file.set_len(spec.size)?;
        if spec.provisioning == Provisioning::Thick && spec.size > 0 {
            match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, spec.size) {
                Ok(()) => {}
                // The file system cannot reserve; at least what cannot fit is refused now and not after hours.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let available = self.space()?.available;
                    if available < spec.size {
                        let message = format!("{} bytes are needed, {available} are free", spec.size);
                        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        file.sync_all()
    }
}

impl Datastore for DirectoryDatastore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_write: true,
            fresh_reads_zero: true,
            sparse: true,
            punch: true,
            resumable: true,
            makes_descriptor: false,
            existing_disks: false,
            max_parallel_disks: MAX_PARALLEL_DISKS,
        }
    }

    fn space(&self) -> io::Result<Space> {
        let numbers = rustix::fs::fstatvfs(self.root.directory())?;
        Ok(Space {
            total: numbers.f_blocks.saturating_mul(numbers.f_frsize),
            available: numbers.f_bavail.saturating_mul(numbers.f_frsize),
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.root.exists(path)
    }

    /// Inode number and time of birth: an inode number alone is used again soon.
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        let (parent, name) = self.root.parent(path)?;
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(&parent, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        // A file system without times of birth (NFS before 4.2) can't tell two files apart that had one number.
        Ok(born.then(|| format!("{}.{}.{}", found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec)))
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.root.create_directory(path)
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let path = Self::disk_path(spec);
        let (parent, name) = self.root.parent(&path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = confined::open_file(&parent, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        let made = self.provision(&file, spec).and_then(|()| Ok(rustix::fs::fsync(&parent)?));
        if let Err(error) = made {
            // Half-made and ours alone: O_EXCL says that this call created it.
            let _ = rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty());
            return Err(error);
        }
        Ok(Box::new(DirectoryDisk::new(file, spec)))
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let path = Self::disk_path(spec);
        let (parent, name) = self.root.parent(&path)?;
        let file = confined::open_file(&parent, name, OFlags::RDWR, Mode::empty())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != spec.size {
            let message = format!("it is not an extent of {} bytes, but has {}", spec.size, metadata.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Box::new(DirectoryDisk::new(file, spec)))
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        // Always the same name, so that what a kill leaves behind goes when the file is put again.
        let temporary = format!(".{name}.tmp");
        match rustix::fs::unlinkat(&parent, temporary.as_str(), rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = confined::open_file(&parent, &temporary, flags, Mode::from_raw_mode(FILE_MODE))?;
        let placed = file
            .write_all(contents)
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(rustix::fs::renameat(&parent, temporary.as_str(), &parent, name)?));
        if let Err(error) = placed {
            let _ = rustix::fs::unlinkat(&parent, temporary.as_str(), rustix::fs::AtFlags::empty());
            return Err(error);
        }
        Ok(rustix::fs::fsync(&parent)?)
    }

    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let (parent, name) = self.root.parent(path)?;
        let file = confined::open_file(&parent, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut contents = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut contents)?;
        if contents.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(contents)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty())?;
        Ok(rustix::fs::fsync(&parent)?)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::REMOVEDIR)?;
        Ok(rustix::fs::fsync(&parent)?)
    }

    fn can_swap(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        let (parent, name) = self.root.parent(path)?;
        let directory = confined::enter(&parent, name)?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if found.len() == limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let status = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            found.push((name, FileType::from_raw_mode(status.st_mode).is_dir()));
        }
        found.sort();
        Ok(found)
    }

    fn move_directory(&self, from: &str, to: &str) -> io::Result<()> {
        let (old, from) = self.root.parent(from)?;
        let (new, to) = self.root.parent(to)?;
        match rustix::fs::renameat_with(&old, from, &new, to, RenameFlags::NOREPLACE) {
            // NFS and others know no such flag. Renaming replaces an empty directory at most.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::statat(&new, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                    Err(Errno::NOENT) => rustix::fs::renameat(&old, from, &new, to)?,
                    Err(error) => return Err(error.into()),
                }
            }
            moved => moved?,
        }
        rustix::fs::fsync(&new)?;
        Ok(rustix::fs::fsync(&old)?)
    }
}

/// An extent file.
#[derive(Debug)]
struct DirectoryDisk {
    file: File,
    size: u64,
    provisioning: Provisioning,
    /// Held by writes of [`TURN_MIN`] and more.
    turn: Mutex<()>,
}

/// Writes of this many bytes and more take turns: the kernel writes one at a time into a file's pages, and has the others wait for it
/// with a busy processor.
const TURN_MIN: usize = 1 << 20;

impl DirectoryDisk {
    fn new(file: File, spec: &DiskSpec) -> Self {
        Self { file, size: spec.size, provisioning: spec.provisioning, turn: Mutex::new(()) }
    }

    /// A file never grows here: what lies outside is a mistake of the caller, not a larger disk.
    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Disk for DirectoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        let _turn =
            (data.len() >= TURN_MIN).then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        // A thick disk keeps its space; a thin one gives it back.
        let flags = match self.provisioning {
            Provisioning::Thin => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Provisioning::Thick => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, length),
            Err(error) => Err(error.into()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * STAT_BLOCK)
    }
}

impl DirectoryDisk {
    fn write_zeros(&self, mut offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        while offset < end {
            let part = (end - offset).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..part as usize], offset)?;
            offset += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn spec(provisioning: Provisioning) -> DiskSpec {
        let (extent, descriptor) = ("x-flat.vmdk".into(), "x.vmdk".into());
        DiskSpec { directory: "vm".into(), extent, descriptor, size: 8 * MIB, provisioning }
    }

    fn datastore() -> (tempfile::TempDir, DirectoryDatastore) {
        let directory = tempfile::tempdir().unwrap();
        let datastore = DirectoryDatastore::open(directory.path()).unwrap();
        datastore.create_directory("vm").unwrap();
        (directory, datastore)
    }

    #[test]
    fn thin_disks_stay_thin_and_punch() {
        let (_directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        assert_eq!(disk.allocated().unwrap(), 0);
        disk.write_at(&vec![7; MIB as usize], MIB).unwrap();
        disk.flush().unwrap();
        let full = disk.allocated().unwrap();
        disk.zero(MIB, MIB / 2).unwrap();
        disk.flush().unwrap();
        assert!(disk.allocated().unwrap() <= full, "punching takes no space");
        let mut bytes = vec![1; 2 * MIB as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        let half = (MIB + MIB / 2) as usize;
        assert!(bytes[..half].iter().all(|byte| *byte == 0) && bytes[half..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn thick_disks_keep_their_space_when_zeroed() {
        let (_directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thick)).unwrap();
        let reserved = disk.allocated().unwrap();
        disk.write_at(&[7; 8192], 4096).unwrap();
        disk.zero(4096, 4096).unwrap();
        let mut bytes = [1; 8192];
        disk.read_at(&mut bytes, 4096).unwrap();
        assert!(bytes[..4096] == [0; 4096] && bytes[4096..] == [7; 4096]);
        assert!(disk.allocated().unwrap() >= reserved);
    }

    #[test]
    fn creation_is_exclusive_and_opening_checks_the_size() {
        let (_directory, datastore) = datastore();
        let spec = spec(Provisioning::Thin);
        assert_eq!(datastore.open_disk(&spec).err().unwrap().kind(), io::ErrorKind::NotFound);
        drop(datastore.create_disk(&spec).unwrap());
        assert_eq!(datastore.create_disk(&spec).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert!(datastore.open_disk(&spec).is_ok());
        let other = DiskSpec { size: MIB, ..spec };
        assert_eq!(datastore.open_disk(&other).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_lies_outside_a_disk() {
        let (_directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        assert!(disk.write_at(&[1], 8 * MIB).is_err());
        assert!(disk.zero(u64::MAX, 2).is_err());
        assert!(disk.read_at(&mut [0; 2], 8 * MIB - 1).is_err());
    }

    #[test]
    fn an_identity_stays_with_its_object_and_no_other_gets_it() {
        let (directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        let of = |path: &str| datastore.identity(path).unwrap();
        let (extent, folder) = (of("vm/x-flat.vmdk"), of("vm"));
        if extent.is_none() {
            return; // A file system without times of birth: everything is kept.
        }
        disk.write_at(&[1; 512], 0).unwrap();
        std::fs::rename(directory.path().join("vm"), directory.path().join("other")).unwrap();
        assert!(of("other/x-flat.vmdk") == extent && of("other") == folder);
        assert_eq!(datastore.identity("vm").unwrap_err().kind(), io::ErrorKind::NotFound);
        datastore.create_directory("vm").unwrap();
        datastore.put_file("vm/x-flat.vmdk", b"another").unwrap();
        assert!(of("vm/x-flat.vmdk") != extent && of("vm") != folder);
    }

    #[test]
    fn directories_move_with_what_is_open_in_them_and_never_onto_another() {
        let (directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        datastore.create_directory("vm/sub").unwrap();
        assert_eq!(
            datastore.list("vm", 2).unwrap(),
            [("sub".to_owned(), true), ("x-flat.vmdk".to_owned(), false)]
        );
        assert_eq!(datastore.list("vm", 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        datastore.create_directory("taken").unwrap();
        assert_eq!(
            datastore.move_directory("vm", "taken").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists,
            "not even onto an empty one"
        );
        datastore.move_directory("vm", "taken/vm").unwrap();
        disk.write_at(&[7; 512], 0).unwrap();
        assert_eq!(std::fs::read(directory.path().join("taken/vm/x-flat.vmdk")).unwrap()[..512], [7; 512]);
        assert_eq!(datastore.move_directory("vm", "other").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("taken", directory.path().join("link")).unwrap();
        assert!(datastore.list("link", 9).is_err() && datastore.move_directory("link/vm", "vm").is_err());
    }

    #[test]
    fn small_files_are_replaced_whole() {
        let (directory, datastore) = datastore();
        std::fs::write(directory.path().join("vm/.a.vmx.tmp"), "left by a kill").unwrap();
        datastore.put_file("vm/a.vmx", b"old").unwrap();
        datastore.put_file("vm/a.vmx", b"new").unwrap();
        assert_eq!(datastore.get_file("vm/a.vmx", 3).unwrap(), b"new");
        assert_eq!(datastore.get_file("vm/a.vmx", 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            std::fs::read_dir(directory.path().join("vm")).unwrap().count(),
            1,
            "no temporary is left"
        );
        datastore.remove_file("vm/a.vmx").unwrap();
        datastore.remove_directory("vm").unwrap();
        assert!(!datastore.exists("vm").unwrap());
    }

    #[test]
    fn a_disk_below_a_link_is_refused() {
        let (directory, datastore) = datastore();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        let spec = DiskSpec { directory: "link".into(), ..spec(Provisioning::Thin) };
        assert_eq!(datastore.create_disk(&spec).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(datastore.put_file("link/x", b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
