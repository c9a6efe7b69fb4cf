//! The directory driver: a datastore that is a local directory (or a mounted NFS or VMFS export of one).
//!
//! Extents are sparse files; thick ones have their space reserved by `fallocate`, thin ones give it back by punching
//! holes. Every path is walked component by component without following symbolic links ([`super::confined`]). An extent's file is open
//! while it is used ([`extent`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::confined::{self, Root};
use super::{Capabilities, Datastore, Disk, DiskSpec, Provisioning, Space};

mod extent;

use extent::{Extent, Identity, Place};

/// Disks written at the same time: a local file system takes as many as there are; this bounds open files.
const MAX_PARALLEL_DISKS: usize = 64;

/// Permissions of extents and other files: the virtual machine's disks are nobody else's business.
const FILE_MODE: u32 = 0o600;

/// A directory as a datastore.
#[derive(Debug)]
pub struct DirectoryDatastore {
    tree: Arc<Tree>,
}

/// The directory, as the datastore and its extents see it.
#[derive(Debug)]
struct Tree {
    root: Root,
    /// Where the extents are that have a handle. Held for reading while one is opened, for writing while a directory is moved, so that a
    /// path is never of before the move and its file of after.
    places: RwLock<Vec<Weak<Place>>>,
}

impl Tree {
    /// A place that follows the moves of its directories.
    fn place(&self, path: String) -> Arc<Place> {
        let place = Arc::new(Place::new(path));
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if places.len() == places.capacity() {
            // Seldom, as there may be thousands: as many more are let in as are left.
            places.retain(|known| known.strong_count() > 0);
            let left = places.len();
            places.reserve(left.max(1));
        }
        places.push(Arc::downgrade(&place));
        place
    }
}

impl DirectoryDatastore {
    /// Opens the directory, which must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let tree = Tree { root: Root::open(path)?, places: RwLock::default() };
        Ok(Self { tree: Arc::new(tree) })
    }

    fn extent(&self, path: String, file: File, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let place = self.tree.place(path);
        Ok(Box::new(Extent::new(&self.tree, place, file, spec)?))
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
            new_disks: true,
            max_parallel_disks: MAX_PARALLEL_DISKS,
        }
    }

    fn space(&self) -> io::Result<Space> {
        let numbers = rustix::fs::fstatvfs(self.tree.root.directory())?;
        Ok(Space {
            total: numbers.f_blocks.saturating_mul(numbers.f_frsize),
            available: numbers.f_bavail.saturating_mul(numbers.f_frsize),
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.tree.root.exists(path)
    }

    /// Inode number and time of birth: an inode number alone is used again soon. None of a file system without times of birth (NFS before
    /// 4.2): it can't tell two files apart that had one number.
    fn identity(&self, path: &str) -> io::Result<Option<String>> {
        let (parent, name) = self.tree.root.parent(path)?;
        Ok(Identity::at(&parent, name)?.lasting())
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.tree.root.create_directory(path)
    }

    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let path = Self::disk_path(spec);
        let (parent, name) = self.tree.root.parent(&path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = confined::open_file(&parent, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        let made = self.provision(&file, spec).and_then(|()| Ok(rustix::fs::fsync(&parent)?));
        if let Err(error) = made {
            // Half-made and ours alone: O_EXCL says that this call created it.
            let _ = rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty());
            return Err(error);
        }
        self.extent(path, file, spec)
    }

    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let path = Self::disk_path(spec);
        let (parent, name) = self.tree.root.parent(&path)?;
        let file = confined::open_file(&parent, name, OFlags::RDWR, Mode::empty())?;
        self.extent(path, file, spec)
    }

    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        let (parent, name) = self.tree.root.parent(path)?;
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
        let (parent, name) = self.tree.root.parent(path)?;
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
        let (parent, name) = self.tree.root.parent(path)?;
        rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty())?;
        Ok(rustix::fs::fsync(&parent)?)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.tree.root.parent(path)?;
        rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::REMOVEDIR)?;
        Ok(rustix::fs::fsync(&parent)?)
    }

    fn can_swap(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        let (parent, name) = self.tree.root.parent(path)?;
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
        let (old, from_name) = self.tree.root.parent(from)?;
        let (new, to_name) = self.tree.root.parent(to)?;
        {
            let places = self.tree.places.write().unwrap_or_else(PoisonError::into_inner);
            match rustix::fs::renameat_with(&old, from_name, &new, to_name, RenameFlags::NOREPLACE) {
                // NFS and others know no such flag. Renaming replaces an empty directory at most.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    match rustix::fs::statat(&new, to_name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                        Err(Errno::NOENT) => rustix::fs::renameat(&old, from_name, &new, to_name)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                moved => moved?,
            }
            places.iter().filter_map(Weak::upgrade).for_each(|place| place.follow(from, to));
        }
        rustix::fs::fsync(&new)?;
        Ok(rustix::fs::fsync(&old)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::datastore::Adapter;

    const MIB: u64 = 1024 * 1024;

    fn spec(provisioning: Provisioning) -> DiskSpec {
        let (extent, descriptor) = ("x-flat.vmdk".into(), "x.vmdk".into());
        DiskSpec {
            directory: "vm".into(),
            extent,
            descriptor,
            size: 8 * MIB,
            provisioning,
            adapter: Adapter::default(),
            machine: None,
        }
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

    /// Names below `directory` that this process has open.
    fn held(directory: &Path) -> Vec<std::path::PathBuf> {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        open.filter(|path| path.starts_with(directory) && path != directory).collect()
    }

    #[test]
    fn a_released_extent_is_closed_and_opened_again_where_it_is_then() {
        let (directory, datastore) = datastore();
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        disk.write_at(&[5; 4096], 4096).unwrap();
        let allocated = disk.allocated().unwrap();
        assert_eq!(held(directory.path()).len(), 1);
        disk.release().unwrap();
        assert_eq!(held(directory.path()), [] as [std::path::PathBuf; 0]);
        disk.flush().unwrap();
        assert_eq!(disk.allocated().unwrap(), allocated);
        assert_eq!(held(directory.path()), [] as [std::path::PathBuf; 0], "to look is not to open");
        // Moved as a machine that takes another's place is; one whose name only begins alike stays.
        datastore.create_directory("vm2").unwrap();
        let other = DiskSpec { directory: "vm2".into(), ..spec(Provisioning::Thin) };
        let other = datastore.create_disk(&other).unwrap();
        other.release().unwrap();
        datastore.move_directory("vm", "new").unwrap();
        assert_eq!(disk.allocated().unwrap(), allocated);
        disk.write_at(&[6; 4096], 0).unwrap();
        other.write_at(&[7; 4096], 0).unwrap();
        assert_eq!(
            std::fs::read(directory.path().join("new/x-flat.vmdk")).unwrap()[..8192],
            [[6; 4096], [5; 4096]].concat()
        );
        disk.release().unwrap();
        assert_eq!(held(directory.path()), [directory.path().join("vm2/x-flat.vmdk")]);
        drop((disk, other));
        for _ in 0..100 {
            datastore.open_disk(&DiskSpec { directory: "vm2".into(), ..spec(Provisioning::Thin) }).unwrap();
        }
        assert!(datastore.tree.places.read().unwrap().len() < 20, "places of disks that are gone go");
    }

    #[test]
    fn what_took_a_released_extents_place_is_never_written() {
        let (directory, datastore) = datastore();
        let at = directory.path().join("vm/x-flat.vmdk");
        let disk = datastore.create_disk(&spec(Provisioning::Thin)).unwrap();
        disk.release().unwrap();
        let aside = directory.path().join("aside");
        std::fs::rename(&at, &aside).unwrap();
        let error = disk.write_at(&[1; 512], 0).unwrap_err();
        assert!(
            error.kind() == io::ErrorKind::NotFound && error.to_string().contains("vm/x-flat.vmdk"),
            "{error}"
        );
        std::fs::write(&at, vec![3; 8 * MIB as usize]).unwrap();
        for error in [
            disk.write_at(&[1; 512], 0).unwrap_err(),
            disk.zero(0, 512).unwrap_err(),
            disk.read_at(&mut [0; 512], 0).unwrap_err(),
        ] {
            assert!(error.to_string().contains("is not the file any more"), "{error}");
        }
        std::fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink("../aside", &at).unwrap();
        assert_eq!(disk.write_at(&[1; 512], 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::remove_file(&at).unwrap();
        std::fs::rename(&aside, &at).unwrap();
        disk.write_at(&[1; 512], 0).unwrap();
        disk.release().unwrap();
        // The same file, made shorter.
        std::fs::File::options().write(true).open(&at).unwrap().set_len(512).unwrap();
        assert_eq!(disk.write_at(&[1; 512], 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
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
