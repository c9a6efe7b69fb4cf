//! The journal of an import session: what a restart, or a kill -9, must find again (behaviour.md S9, S10).
//!
//! One append-only file per session, `<data-dir>/sessions/<id>/journal`:
//!
//! ```text
//! 0   8   magic "IFSJRNL" and a zero byte
//! 8   4   version, little-endian: 1
//! 12      frames:  0  4  length of the payload, little-endian
//!                  4  4  CRC-32C of those four bytes and the payload, little-endian
//!                  8     the payload: one record ([`record`])
//! ```
//!
//! A frame that is cut off or whose checksum is wrong ends the journal: it is the tail that a crash tore, and is removed.
//! A frame whose checksum is right but that is no record is an error, and nothing is removed: a newer version wrote it.
//!
//! - [`record`]: the records and their bytes
//! - [`fold`]: what of them still matters
//!
//! Knows [`crate::disk`]'s map and intents; nothing of SMB or datastores.

pub mod fold;
pub mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use record::{DecodeError, Digest, InventoryKind, LedgerKey, ObjectKind, Record};

use crate::disk::{DiskMap, IntentLog, Region};

const MAGIC: &[u8; 8] = b"IFSJRNL\0";
const VERSION: u32 = 1;
const HEADER: usize = 12;
const FRAME_HEADER: usize = 8;

/// Bytes appended but not yet in the file, over which an append writes them out itself.
const MAX_BUFFER: usize = 1024 * 1024;

/// Bytes of a journal that make a running service compact it: every FLUSH of a disk leaves a map.
const COMPACT_AT: u64 = 16 * 1024 * 1024;

/// Bytes of a journal that can be opened: several times what compaction lets one grow to.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The journal.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{0}: another importfs has this journal open")]
    Busy(PathBuf),
    /// It does not begin as a journal does.
    #[error("{0}: not a journal")]
    NotAJournal(PathBuf),
    /// It is of another version.
    #[error("{path}: version {version}, this service knows version 1")]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A record is intact but unknown.
    #[error("{path}: at byte {offset}: {source}")]
    Record {
        /// The journal.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        source: DecodeError,
    },
}

/// What the bytes of a journal hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Bytes up to the end of the last intact frame; what follows is torn.
    pub intact: usize,
}

/// Why bytes are not a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ReplayError {
    NotAJournal,
    Version(u32),
    Record { offset: usize, source: DecodeError },
}

/// Reads the bytes of a journal. A header that is cut off counts as torn.
pub fn replay(bytes: &[u8]) -> Result<Replayed, ReplayError> {
    let header = header();
    let Some((found, _)) = bytes.split_first_chunk::<HEADER>() else {
        let torn = header.starts_with(bytes);
        return if torn {
            Ok(Replayed { records: Vec::new(), intact: 0 })
        } else {
            Err(ReplayError::NotAJournal)
        };
    };
    if found[..MAGIC.len()] != *MAGIC {
        return Err(ReplayError::NotAJournal);
    }
    if *found != header {
        let [.., a, b, c, d] = *found;
        return Err(ReplayError::Version(u32::from_le_bytes([a, b, c, d])));
    }
    let mut records = Vec::new();
    let mut offset = HEADER;
    while let Some(payload) = frame_at(&bytes[offset..]) {
        let record = Record::decode(payload).map_err(|source| ReplayError::Record { offset, source })?;
        records.push(record);
        offset += FRAME_HEADER + payload.len();
    }
    Ok(Replayed { records, intact: offset })
}

/// The payload of the frame that `bytes` begins with, if it is intact.
fn frame_at(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > record::MAX_PAYLOAD {
        return None; // An empty payload is no record: zeros that a file system left behind are not frames.
    }
    let payload = rest.get(..size)?;
    (checksum_of(*length, payload) == u32::from_le_bytes(*checksum)).then_some(payload)
}

fn checksum_of(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Appends a record's frame.
fn put_frame(record: &Record, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER]);
    record.encode(out);
    let size = out.len() - start - FRAME_HEADER;
    if size > record::MAX_PAYLOAD {
        out.truncate(start);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a journal record is too large"));
    }
    let length = (size as u32).to_le_bytes();
    let checksum = checksum_of(length, &out[start + FRAME_HEADER..]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + FRAME_HEADER].copy_from_slice(&checksum);
    Ok(())
}

/// An open journal, shared by the threads of a session.
#[derive(Debug)]
pub struct Journal {
    /// What was appended and waits for a sync.
    pending: Mutex<Pending>,
    /// The file. Whoever syncs holds it: those who come meanwhile wait, and most then find their records synced already
    /// (group commit).
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Pending {
    frames: Vec<u8>,
    /// Records appended, ever.
    appended: u64,
    /// Records that are durable.
    synced: u64,
    /// A write or sync failed: what the file holds is not known any more, so nothing may be promised (a second fdatasync
    /// after a failed one may report success for data that is gone).
    failed: Option<io::ErrorKind>,
}

#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    length: u64,
    /// The length at which it is compacted next.
    compact_at: u64,
}

impl Journal {
    /// Opens or makes a journal, reads its records, removes a torn tail, and compacts it where that gains something. Its
    /// directory must exist.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io_error)?;
        lock(&file).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Busy(path.to_owned()),
            _ => io_error(error),
        })?;
        let bytes = read_all(&mut file).map_err(io_error)?;
        let Replayed { records, intact } = replay(&bytes).map_err(|error| match error {
            ReplayError::NotAJournal => OpenError::NotAJournal(path.to_owned()),
            ReplayError::Version(version) => OpenError::Version { path: path.to_owned(), version },
            ReplayError::Record { offset, source } => {
                OpenError::Record { path: path.to_owned(), offset: offset as u64, source }
            }
        })?;
        if intact < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - intact, "removing the journal's torn tail");
        }
        let mut log = Log { file, path: path.to_owned(), length: intact as u64, compact_at: COMPACT_AT };
        log.prepare(intact).map_err(io_error)?;
        let count = records.len();
        let records = fold::fold(records);
        if records.len() < count {
            log.replace(&records).map_err(io_error)?;
        }
        Ok((Self { pending: Mutex::default(), log: Mutex::new(log) }, records))
    }

    /// Appends a record. It is durable after the next [`Journal::sync`].
    pub fn append(&self, record: &Record) -> io::Result<()> {
        let full = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.check()?;
            put_frame(record, &mut pending.frames)?;
            pending.appended += 1;
            pending.frames.len() > MAX_BUFFER
        };
        if full { self.sync() } else { Ok(()) }
    }

    /// Makes durable all that was appended before the call.
    pub fn sync(&self) -> io::Result<()> {
        let target = self.pending.lock().unwrap_or_else(PoisonError::into_inner).appended;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (frames, appended) = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.check()?;
            if pending.synced >= target {
                return Ok(()); // Whoever held the log before synced these too.
            }
            (std::mem::take(&mut pending.frames), pending.appended)
        };
        let written = log.write(&frames);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => pending.synced = appended,
            Err(error) => {
                pending.failed = Some(error.kind());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Appends and syncs.
    pub fn record(&self, record: &Record) -> io::Result<()> {
        self.append(record)?;
        self.sync()
    }
}

impl Pending {
    fn check(&self) -> io::Result<()> {
        match self.failed {
            None => Ok(()),
            Some(kind) => {
                Err(io::Error::new(kind, "the session's journal failed before; restart the service"))
            }
        }
    }
}

impl Log {
    /// After replay: drops the torn tail, writes the header of a new journal, and goes to the end.
    fn prepare(&mut self, intact: usize) -> io::Result<()> {
        if self.file.metadata()?.len() != intact as u64 {
            self.file.set_len(intact as u64)?;
            self.file.sync_all()?;
        }
        self.file.seek(SeekFrom::Start(intact as u64))?;
        if intact == 0 {
            self.write(&header())?;
            sync_directory(&self.path)?;
        }
        Ok(())
    }

    /// Writes frames and makes them durable; compacts where the file has become long.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.file.write_all(frames)?;
        self.file.sync_data()?;
        self.length += frames.len() as u64;
        if self.length > self.compact_at {
            self.file.seek(SeekFrom::Start(0))?;
            let bytes = read_all(&mut self.file)?;
            let replayed = replay(&bytes).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the journal changed on disk: {error:?}"))
            })?;
            self.replace(&fold::fold(replayed.records))?;
        }
        Ok(())
    }

    /// Puts a journal of just these records in this one's place: durable beside it, then renamed.
    fn replace(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = header().to_vec();
        for record in records {
            put_frame(record, &mut bytes)?;
        }
        let temporary = self.path.with_extension("new");
        // One that a crash left behind holds nothing that this journal does not; it is written over.
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        lock(&file)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        sync_directory(&self.path)?;
        self.file = file;
        self.length = bytes.len() as u64;
        self.compact_at = COMPACT_AT.max(self.length * 2);
        Ok(())
    }
}

/// The lock goes with the open file: no second process, and none of this one, appends to the same journal.
fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?)
}

fn read_all(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
        .sync_all()
}

/// The intents and maps of one disk, in its session's journal.
#[derive(Debug, Clone)]
pub struct DiskJournal {
    journal: Arc<Journal>,
    disk: u32,
}

impl DiskJournal {
    /// For the disk of that number.
    pub fn new(journal: Arc<Journal>, disk: u32) -> Self {
        Self { journal, disk }
    }
}

impl IntentLog for DiskJournal {
    fn announce(&self, region: Region) -> io::Result<()> {
        self.journal.record(&Record::Intent { disk: self.disk, region })
    }

    fn checkpoint(&self, map: &DiskMap) -> io::Result<()> {
        self.journal.record(&Record::Map { disk: self.disk, map: map.clone() })
    }
}

#[cfg(test)]
mod tests;
