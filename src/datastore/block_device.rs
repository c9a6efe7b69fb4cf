//! The write path of hotadd: a disk that is attached to the appliance's own virtual machine and written as a block device. Who
//! attaches and detaches it is not known here.
//!
//! A device is found by its SCSI address or by the disk's UUID below a sysfs root, never as 'the newest': a wrong match would
//! overwrite another disk. It is written with O_DIRECT, so that what is acknowledged does not wait in this machine's memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::filter::Aligned;
use super::{Disk, Provisioning};

/// Alignment of buffers that every device takes for O_DIRECT (open(2)).
const BUFFER_ALIGNMENT: usize = 4096;
/// Bytes copied into an aligned buffer at a time.
const PIECE: usize = 1024 * 1024;
/// Buffers that a device keeps: one for each of the requests that a client has under way at once.
const BUFFERS_MAX: usize = 8;
/// Block of a stand-in that is a plain file: that of the file systems which tests run on.
const FILE_BLOCK: u64 = 4096;
/// SCSI devices looked at: a virtual machine has at most 4 controllers of 64 disks.
const DEVICES_MAX: usize = 1024;

/// Where devices are looked for; others than the defaults are for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// `/sys`
    pub sysfs: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: "/sys".into(), dev: "/dev".into() }
    }
}

/// Which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// By host, channel, target and logical unit.
    Address {
        /// The SCSI host that Linux made for the controller.
        host: u32,
        /// 0 on VMware's controllers.
        channel: u32,
        /// The unit on the virtual controller.
        target: u32,
        /// 0 on VMware's disks.
        lun: u32,
    },
    /// By `ddb.uuid` or `backing.uuid` of the disk (needs `disk.EnableUUID` in the appliance's own VMX).
    Uuid(String),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address { host, channel, target, lun } => {
                write!(f, "SCSI address {host}:{channel}:{target}:{lun}")
            }
            Self::Uuid(uuid) => write!(f, "UUID {uuid}"),
        }
    }
}

/// The device file of the disk. [`io::ErrorKind::NotFound`] where there is none (yet), [`io::ErrorKind::InvalidData`] where
/// several answer to it.
pub fn find(roots: &Roots, wanted: &Wanted) -> io::Result<PathBuf> {
    let devices = roots.sysfs.join("bus/scsi/devices");
    let found = match wanted {
        Wanted::Address { host, channel, target, lun } => {
            names(&devices.join(format!("{host}:{channel}:{target}:{lun}")).join("block"))?
        }
        Wanted::Uuid(uuid) => {
            let uuid = hex(uuid);
            let mut found = Vec::new();
            for device in names(&devices)? {
                let device = devices.join(device);
                let wwid = std::fs::read_to_string(device.join("wwid")).unwrap_or_default();
                let same = wwid.trim().strip_prefix("naa.").is_some_and(|id| hex(id) == uuid);
                if same && !uuid.is_empty() {
                    found.extend(names(&device.join("block"))?);
                }
            }
            found
        }
    };
    match &found[..] {
        [name] => Ok(roots.dev.join(name)),
        [] => {
            let told = format!("no block device has the {wanted}");
            Err(io::Error::new(io::ErrorKind::NotFound, told))
        }
        several => {
            let told = format!("several block devices have the {wanted}: {}", several.join(", "));
            Err(io::Error::new(io::ErrorKind::InvalidData, told))
        }
    }
}

/// Names in a directory, none where it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.take(DEVICES_MAX).map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The hexadecimal digits of an identifier, whatever stands between them.
fn hex(text: &str) -> String {
    text.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect()
}

/// Opens a device of exactly `size` bytes. `fresh`: the disk was made just now, so that it reads as zeros.
pub fn open(path: &Path, size: u64, provisioning: Provisioning, fresh: bool) -> io::Result<Box<dyn Disk>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // O_EXCL on a block device: nobody has it mounted, and nobody can while it is written.
    let exclusive = if std::fs::metadata(path).map_err(named)?.file_type().is_block_device() {
        OFlags::EXCL
    } else {
        OFlags::empty()
    };
    let direct = rustix::fs::open(path, flags | exclusive | OFlags::DIRECT, Mode::empty());
    let file = match direct {
        // A file system without O_DIRECT holds a stand-in; devices all have it.
        Err(Errno::INVAL) => rustix::fs::open(path, flags | exclusive, Mode::empty()),
        other => other,
    };
    let file = File::from(file.map_err(|error| named(error.into()))?);
    let block = match rustix::fs::ioctl_blksszget(&file) {
        Ok(block) => u64::from(block),
        Err(_) => FILE_BLOCK,
    };
    let found = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|error| named(error.into()))?;
    if found != size {
        let told = format!("it has {found} bytes, the disk {size}");
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, told)));
    }
    let thin = provisioning == Provisioning::Thin;
    let device = BlockDevice { file, size, thin, fresh, buffers: Mutex::default() };
    Ok(Box::new(Aligned::new(Box::new(device), block.min(FILE_BLOCK))?))
}

/// A device; ranges are whole blocks.
struct BlockDevice {
    file: File,
    size: u64,
    thin: bool,
    fresh: bool,
    /// Buffers that are not in use: making one costs as much as writing it.
    buffers: Mutex<Vec<Buffer>>,
}

/// A buffer of which `PIECE` bytes begin at an aligned address.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; PIECE + BUFFER_ALIGNMENT];
        let start = bytes.as_ptr().align_offset(BUFFER_ALIGNMENT);
        Self { bytes, start }
    }

    fn part(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + length]
    }
}

impl BlockDevice {
    fn buffer(&self) -> Buffer {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(Buffer::new)
    }

    fn give_back(&self, buffer: Buffer) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }
}

fn is_aligned(data: &[u8]) -> bool {
    data.as_ptr().align_offset(BUFFER_ALIGNMENT) == 0
}

impl Disk for BlockDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if is_aligned(buffer) {
            return self.file.read_exact_at(buffer, offset);
        }
        let mut aligned = self.buffer();
        for (piece, at) in buffer.chunks_mut(PIECE).zip((offset..).step_by(PIECE)) {
            let part = aligned.part(piece.len());
            self.file.read_exact_at(part, at)?;
            piece.copy_from_slice(part);
        }
        self.give_back(aligned);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if is_aligned(data) {
            return self.file.write_all_at(data, offset);
        }
        let mut aligned = self.buffer();
        for (piece, at) in data.chunks(PIECE).zip((offset..).step_by(PIECE)) {
            let part = aligned.part(piece.len());
            part.copy_from_slice(piece);
            self.file.write_all_at(part, at)?;
        }
        self.give_back(aligned);
        Ok(())
    }

    /// fallocate(2) on a block device is BLKZEROOUT, with discard where that is known to leave zeros (Linux 4.9).
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let give_back = [FallocateFlags::PUNCH_HOLE].into_iter().filter(|_| self.thin);
        for how in give_back.chain([FallocateFlags::ZERO_RANGE]) {
            match rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                other => return Ok(other?),
            }
        }
        let mut zeros = Buffer::new();
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(PIECE as u64);
            self.file.write_all_at(zeros.part(part as usize), at)?;
            at += part;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn fresh_reads_zero(&self) -> bool {
        self.fresh
    }

    /// Only the hypervisor knows; the size is an upper bound.
    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SIZE: u64 = 3 << 20;

    /// A sysfs with disks of those addresses and identifiers, and files as their devices.
    fn machine(disks: &[(&str, &str, &str)]) -> (tempfile::TempDir, Roots) {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { sysfs: root.path().join("sys"), dev: root.path().join("dev") };
        std::fs::create_dir(&roots.dev).unwrap();
        for (address, wwid, name) in disks {
            let device = roots.sysfs.join("bus/scsi/devices").join(address);
            std::fs::create_dir_all(device.join("block").join(name)).unwrap();
            std::fs::write(device.join("wwid"), format!("{wwid}\n")).unwrap();
            File::create(roots.dev.join(name)).unwrap().set_len(SIZE).unwrap();
        }
        (root, roots)
    }

    #[test]
    fn a_device_is_found_by_address_or_uuid_and_never_guessed() {
        let uuid = "naa.6000c2934fb0b3ca5e0ae0c0db1f0f11";
        let (_root, roots) = machine(&[
            ("2:0:0:0", "naa.6000c29aaaaaaaaaaaaaaaaaaaaaaaaa", "sda"),
            ("3:0:1:0", uuid, "sdb"),
            ("3:0:2:0", "t10.ATA whatever", "sdc"),
            ("3:0:3:0", "naa.6000c29aaaaaaaaaaaaaaaaaaaaaaaaa", "sdd"),
        ]);
        let address = |target| Wanted::Address { host: 3, channel: 0, target, lun: 0 };
        assert_eq!(find(&roots, &address(1)).unwrap(), roots.dev.join("sdb"));
        assert_eq!(find(&roots, &address(7)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let by = |text: &str| find(&roots, &Wanted::Uuid(text.into()));
        assert_eq!(by("6000C293-4fb0-b3ca-5e0a-e0c0db1f0f11").unwrap(), roots.dev.join("sdb"));
        assert_eq!(by("60 00 C2 93 4f b0 b3 ca-5e 0a e0 c0 db 1f 0f 11").unwrap(), roots.dev.join("sdb"));
        assert_eq!(by("6000C293-4fb0-b3ca-5e0a-e0c0db1f0f12").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(by("").unwrap_err().kind(), io::ErrorKind::NotFound);
        let several = by("6000c29a-aaaa-aaaa-aaaa-aaaaaaaaaaaa").unwrap_err();
        assert!(several.kind() == io::ErrorKind::InvalidData && several.to_string().contains("sda, sdd"));
    }

    #[test]
    fn any_range_is_written_read_and_zeroed() {
        let (_root, roots) = machine(&[("3:0:1:0", "naa.6", "sdb")]);
        let path = roots.dev.join("sdb");
        assert_eq!(
            open(&path, SIZE - 1, Provisioning::Thin, true).err().unwrap().kind(),
            io::ErrorKind::InvalidData
        );
        for provisioning in [Provisioning::Thin, Provisioning::Thick] {
            let disk = open(&path, SIZE, provisioning, true).unwrap();
            assert!(disk.fresh_reads_zero());
            let data: Vec<u8> = (0..SIZE).map(|at| at as u8 | 1).collect();
            // Odd places and lengths, aligned or not in memory.
            disk.write_at(&data[1..2_500_000], 1).unwrap();
            disk.zero(1000, 1_200_000).unwrap();
            disk.flush().unwrap();
            let mut read = vec![9; SIZE as usize];
            disk.read_at(&mut read, 0).unwrap();
            assert!(read[1..1000] == data[1..1000] && read[1000..1_201_000].iter().all(|byte| *byte == 0));
            assert!(read[1_201_000..2_500_000] == data[1_201_000..2_500_000]);
            assert!(disk.write_at(&[0; 2], SIZE - 1).is_err());
            disk.zero(0, SIZE).unwrap();
        }
    }
}
