//! An open file of a session: what a client writes into it, and what happens when it is closed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::error::ImportError;
use super::flow::Flow;
use super::formats::log_text::Event;
use super::formats::names::Kind;
use super::info::{Info, Times};
use super::machine::Looked;
use super::session::{Content, FILES_MAX, Inner, SMALL_MAX, Session, digest, fold_name};
use super::state::{Stage, State};
use crate::disk::{Completion, ImportDisk, Statistics};
use crate::journal::Record;
use crate::pancbt;

/// Bytes of a name: it is a file's name in the cache too, and gets suffixes there.
const NAME_BYTES_MAX: usize = 240;

/// Why a differential that is in its disk takes no more bytes.
pub(super) const MERGED: &str = "it was merged already; to merge it again, copy its extent first";

/// What an open is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Attributes, times, deletion: not logged.
    Attributes,
    /// Data is read.
    Read,
    /// Data is read and written.
    Write,
}

/// Where an open file's bytes go.
pub(super) enum Target {
    Small(Kind, File),
    Extent(usize, Arc<ImportDisk>, Arc<Flow>),
    Pancbt(usize, Arc<AtomicU64>, Mutex<Option<pancbt::Merger>>),
    Own(File),
    /// An extent whose disk left the stage with its machine.
    Gone,
}

/// An open file. [`ImportFile::close`] is where late errors are told; dropping it without is a lost client.
pub struct ImportFile {
    pub(super) session: Arc<Session>,
    pub(super) key: String,
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) target: Target,
    how: How,
    /// The numbers of a small file or differential; `closed` once the handle is.
    statistics: Mutex<Statistics>,
    finished: AtomicBool,
    /// A refused write or size was logged: one line a handle tells it.
    complained: AtomicBool,
}

impl Session {
    /// Makes a file. Refused are names that a session does not accept and steps out of order.
    pub fn create(self: &Arc<Self>, name: &str) -> Result<ImportFile, ImportError> {
        let path = self.display(name);
        self.log.line(&Event::Create(&path).to_string());
        let made = self.look(name).and_then(|looked| {
            self.make_ahead(name)?;
            Ok((self.create_entry(name, &path, &looked)?, looked))
        });
        let (existed, looked) = made.map_err(|error| self.refuse(error))?;
        let file = self.open_handle(name, How::Write, &looked)?;
        if existed {
            file.set_len(0)?;
        }
        Ok(file)
    }

    /// `true` where a temporary name stands for a file that exists: it comes anew, from its start.
    fn create_entry(self: &Arc<Self>, name: &str, path: &str, looked: &Looked) -> Result<bool, ImportError> {
        let mut inner = self.lock();
        if inner.removed {
            return Err(ImportError::NotFound(self.display("")));
        }
        if inner.files.len() >= FILES_MAX {
            return Err(ImportError::Limit { what: "files in a session", limit: FILES_MAX as u64 });
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(ImportError::UnsupportedType(path.to_owned()));
        }
        let known = self.shared.names.classify(name, inner.state.cfg());
        let key = fold_name(&known.name);
        if known.temporary {
            inner.aliases.insert(fold_name(name), key.clone());
        }
        if inner.files.contains_key(&key) {
            return if known.temporary { Ok(true) } else { Err(ImportError::Exists(path.to_owned())) };
        }
        if matches!(known.kind, Kind::Extent(_) | Kind::Pancbt { .. }) {
            Self::still(&inner, looked, path)?;
        }
        let content = self.make_content(&mut inner, known.kind, &known.name, path)?;
        self.insert(&mut inner, &known.name, content);
        Ok(false)
    }

    /// What a new file of that kind becomes; here the order of the steps is kept (S5).
    fn make_content(
        &self,
        inner: &mut Inner,
        kind: Kind,
        name: &str,
        path: &str,
    ) -> Result<Content, ImportError> {
        let in_error = Self::in_error(inner);
        let in_error = in_error.as_deref();
        Ok(match kind {
            // With a CFG that names neither, an extent or VMX is none of this session's.
            Kind::Unsupported => return Err(ImportError::UnsupportedType(path.to_owned())),
            Kind::Log | Kind::CfgErr | Kind::VmCfg => return Err(ImportError::OwnFile(path.to_owned())),
            Kind::Cfg => {
                if let Some(existing) = inner.cfg_name() {
                    return Err(ImportError::SecondCfg { path: path.to_owned(), existing });
                }
                Content::Small(kind, self.make_small(name)?)
            }
            Kind::Extent(number) => {
                inner.state.receiving(path, in_error)?.enter_extent(number, path)?;
                self.make_disk(inner, number)?;
                Content::Extent(number)
            }
            Kind::Pancbt { disk, index } => {
                let slot = inner.state.receiving(path, in_error)?.enter_differential(disk, path)?;
                if index < slot.merged {
                    let missing =
                        format!("{} differentials were merged; copy the extent again first", slot.merged);
                    return Err(ImportError::OutOfOrder { path: path.to_owned(), missing });
                }
                Content::Pancbt(disk, Arc::default())
            }
            Kind::Vmx => {
                inner.state.receiving(path, in_error)?.enter_vmx(path)?;
                Content::Small(kind, self.make_small(name)?)
            }
            Kind::Descriptor(_) | Kind::Nvram | Kind::Vmxf | Kind::Vmsd | Kind::Extra | Kind::AwaitsCfg => {
                inner.state.receiving(path, in_error)?;
                Content::Small(kind, self.make_small(name)?)
            }
        })
    }

    fn make_small(&self, name: &str) -> Result<Arc<Path>, ImportError> {
        let path = self.cached(name);
        File::create(&path).map_err(ImportError::io(self.display(name)))?;
        Ok(path.into())
    }

    fn open_small(&self, name: &str, cached: &Path, own: bool) -> Result<File, ImportError> {
        let opened = OpenOptions::new().read(true).write(!own).open(cached);
        opened.map_err(ImportError::io(self.display(name)))
    }

    /// The extent comes again from its start: whatever was wrong with it is over.
    pub(super) fn restart_extent(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        if let State::Receiving(receiving) = &mut inner.state
            && let Some(slot) = receiving.disks.get_mut(number)
        {
            slot.begin_extent();
            receiving.imported = None;
        }
        inner.forget_differentials(number);
        self.absolve(inner, number)?;
        self.record(&Record::ExtentIncomplete { disk: number as u32 })
    }

    /// What was wrong with a disk is over.
    pub(super) fn absolve(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let before = inner.faults.len();
        inner.faults.retain(|fault| fault.disk != Some(number));
        if inner.faults.len() < before { self.report(inner) } else { Ok(()) }
    }

    /// Opens a file that exists.
    pub fn open_file(self: &Arc<Self>, name: &str, how: How) -> Result<ImportFile, ImportError> {
        if how != How::Attributes {
            let line = Event::Open(&self.display(name)).to_string();
            if self.find(name).is_some_and(|info| info.own) {
                self.log.line_untold(&line);
            } else {
                self.log.line(&line);
            }
        }
        let looked = if how == How::Write { self.look(name) } else { Ok(Looked::default()) };
        let looked = looked.map_err(|error| self.refuse(error))?;
        self.open_handle(name, how, &looked)
    }

    fn open_handle(
        self: &Arc<Self>,
        name: &str,
        how: How,
        looked: &Looked,
    ) -> Result<ImportFile, ImportError> {
        let mut inner = self.lock();
        let key = inner.key(name);
        let entry =
            inner.files.get(&key).cloned().ok_or_else(|| ImportError::NotFound(self.display(name)))?;
        let in_error = Self::in_error(&inner);
        let path = self.display(&entry.name);
        let writing = how == How::Write;
        if writing && matches!(entry.content, Content::Extent(_) | Content::Pancbt(..)) {
            Self::still(&inner, looked, &path).map_err(|error| self.refuse(error))?;
        }
        let target = match entry.content {
            Content::Own(_) if writing => return Err(self.refuse(ImportError::OwnFile(path))),
            Content::Own(cached) => Target::Own(self.open_small(&entry.name, &cached, true)?),
            Content::Small(kind, cached) => {
                if writing && kind == Kind::Vmx {
                    let entered = inner.state.receiving(&path, in_error.as_deref());
                    entered
                        .and_then(|receiving| receiving.enter_vmx(&path))
                        .map_err(|error| self.refuse(error))?;
                }
                Target::Small(kind, self.open_small(&entry.name, &cached, false)?)
            }
            Content::Extent(number) => self
                .open_extent(&mut inner, number, &path, in_error.as_deref().filter(|_| writing), writing)
                .map_err(|error| self.refuse(error))?,
            Content::Pancbt(number, bytes) => {
                let mut merger = None;
                if writing {
                    let fresh = bytes.load(Ordering::Relaxed) == 0;
                    let entered = inner.state.receiving(&path, in_error.as_deref());
                    let slot = entered
                        .and_then(|receiving| receiving.enter_differential(number, &path))
                        .map_err(|error| self.refuse(error))?;
                    if fresh {
                        slot.merging = true;
                        merger = Some(pancbt::Merger::new(self.cache.join(format!("spill-{number}"))));
                    }
                }
                Target::Pancbt(number, bytes, Mutex::new(merger))
            }
        };
        inner.handles += 1;
        drop(inner);
        Ok(ImportFile {
            session: Arc::clone(self),
            key,
            name: entry.name,
            number: entry.number,
            target,
            how,
            statistics: Mutex::default(),
            finished: AtomicBool::new(false),
            complained: AtomicBool::new(false),
        })
    }
}

impl Session {
    /// Reading and looking stay possible while a CFG is wrong, while the machine is on its way and after it has arrived; only data is
    /// refused.
    fn open_extent(
        &self,
        inner: &mut Inner,
        number: usize,
        path: &str,
        in_error: Option<&str>,
        writing: bool,
    ) -> Result<Target, ImportError> {
        if writing {
            self.stage_again(inner, number, path, in_error)?;
            inner.state.receiving(path, in_error)?.enter_extent(number, path)?;
        }
        let missing = || ImportError::NotInCfg(path.to_owned());
        let State::Receiving(receiving) = &mut inner.state else { return Err(missing()) };
        let staged = self.is_staged(&receiving.plan);
        let slot = receiving.disks.get_mut(number).ok_or_else(missing)?;
        let Some(disk) = slot.disk.clone() else {
            return if staged { Ok(Target::Gone) } else { Err(ImportError::NotFound(path.to_owned())) };
        };
        slot.writers += usize::from(writing);
        Ok(Target::Extent(number, disk, Arc::clone(&slot.flow)))
    }
}

impl ImportFile {
    /// Whether it is an extent or a differential: gigabytes, whose copy should survive a lost connection.
    pub fn is_bulk(&self) -> bool {
        matches!(self.target, Target::Extent(..) | Target::Pancbt(..))
    }

    /// Its number, the same for every open of the file.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its name as stored.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn display(&self) -> String {
        self.session.display(&self.name)
    }

    /// What is known of it now.
    pub fn info(&self) -> Result<Info, ImportError> {
        let inner = self.session.lock();
        let entry = inner.files.get(&self.key).ok_or_else(|| ImportError::NotFound(self.display()))?;
        Ok(self.session.info(&inner, entry))
    }

    /// Changes times and attributes, kept for clients that look whether they stuck.
    pub fn set_basic(&self, change: impl FnOnce(&mut Times, &mut u32)) {
        if let Some(entry) = self.session.lock().files.get_mut(&self.key) {
            change(&mut entry.times, &mut entry.attributes);
        }
    }

    /// Its security descriptor as the share encodes it; empty where none was written, or the file is gone.
    pub fn kept_security(&self) -> Arc<[u8]> {
        let inner = self.session.lock();
        inner.files.get(&self.key).map(|entry| Arc::clone(&entry.security)).unwrap_or_default()
    }

    /// Keeps it for as long as the service runs.
    pub fn keep_security(&self, descriptor: Vec<u8>) {
        if let Some(entry) = self.session.lock().files.get_mut(&self.key) {
            entry.security = descriptor.into();
        }
    }

    /// Reads at `offset`; fewer bytes than asked only at the end of file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ImportError> {
        match &self.target {
            Target::Small(_, file) | Target::Own(file) => {
                let mut done = 0;
                while done < buffer.len() {
                    let read = file
                        .read_at(&mut buffer[done..], offset + done as u64)
                        .map_err(ImportError::io(self.display()))?;
                    if read == 0 {
                        break;
                    }
                    done += read;
                }
                Ok(done)
            }
            Target::Extent(_, disk, _) => {
                disk.read_at(buffer, offset).map_err(ImportError::disk(self.display()))
            }
            // It was merged as it came, or brought to its datastore; the file itself is kept nowhere.
            Target::Pancbt(..) | Target::Gone => Err(ImportError::OwnFile(self.display())),
        }
    }

    /// Writes all of `data`.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), ImportError> {
        self.write(data, offset).map_err(|error| self.complain(error))
    }

    /// Logs the first refusal of a handle: a client that goes on writing must not fill the log.
    fn complain(&self, error: ImportError) -> ImportError {
        if self.complained.swap(true, Ordering::AcqRel) {
            return error;
        }
        self.session.refuse(error)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), ImportError> {
        let end = offset.saturating_add(data.len() as u64);
        match &self.target {
            Target::Own(_) | Target::Gone => return Err(ImportError::OwnFile(self.display())),
            Target::Extent(number, disk, flow) => {
                self.check_writes()?;
                self.reopen_extent(*number)?;
                // The disk's first, then the session's: nobody waits in a circle.
                let _to_disk = flow.enter(data.len() as u64);
                let _of_session = self.session.flow.enter(data.len() as u64);
                return disk.write_at(data, offset).map_err(ImportError::disk(self.display()));
            }
            Target::Small(..) if end > SMALL_MAX => {
                return Err(ImportError::TooLarge { path: self.display(), limit: SMALL_MAX });
            }
            Target::Small(_, file) => {
                file.write_all_at(data, offset).map_err(ImportError::io(self.display()))?;
            }
            Target::Pancbt(number, bytes, merger) => {
                self.merge(*number, merger, data, offset)?;
                bytes.fetch_max(end, Ordering::Relaxed);
            }
        }
        let mut statistics = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        statistics.total += data.len() as u64;
        statistics.written += data.len() as u64;
        statistics.incoming += 1;
        statistics.outgoing += 1;
        statistics.first_write.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// A handle that asked for all that is allowed reads where its virtual machine is registered.
    fn check_writes(&self) -> Result<(), ImportError> {
        if self.how == How::Write {
            return Ok(());
        }
        let why = "it was opened for reading, as that was all that is allowed".to_owned();
        Err(ImportError::OfMachine { path: self.display(), why })
    }

    /// Data for an extent that was whole makes it incomplete until it is closed again; a doubtful one takes none.
    fn reopen_extent(&self, number: usize) -> Result<(), ImportError> {
        let mut inner = self.session.lock();
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        match slot.stage {
            Stage::Receiving => return Ok(()),
            Stage::Doubtful => {
                let missing = slot.missing().unwrap_or_default();
                return Err(ImportError::OutOfOrder { path: self.display(), missing });
            }
            Stage::Complete | Stage::Absent => {}
        }
        slot.begin_extent();
        receiving.imported = None;
        inner.forget_differentials(number);
        drop(inner);
        self.session.record(&Record::ExtentIncomplete { disk: number as u32 })
    }

    /// Sets the end of file, in constant time for a growing one.
    pub fn set_len(&self, size: u64) -> Result<(), ImportError> {
        self.set_end(size).map_err(|error| self.complain(error))
    }

    fn set_end(&self, size: u64) -> Result<(), ImportError> {
        let path = self.display();
        match &self.target {
            Target::Own(_) | Target::Gone => Err(ImportError::OwnFile(path)),
            Target::Pancbt(_, bytes, _) => {
                // A differential's size is known from its own end record; a client that announces it loses nothing.
                if size == 0 && bytes.load(Ordering::Relaxed) > 0 {
                    return Err(ImportError::OutOfOrder { path, missing: MERGED.into() });
                }
                Ok(())
            }
            Target::Small(..) if size > SMALL_MAX => Err(ImportError::TooLarge { path, limit: SMALL_MAX }),
            Target::Small(_, file) => {
                if size < file.metadata().map_or(0, |metadata| metadata.len()) {
                    self.session.log.line(&Event::Truncate(&path, size).to_string());
                }
                file.set_len(size).map_err(ImportError::io(path))?;
                let mut statistics = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
                statistics.first_write.get_or_insert_with(Instant::now);
                Ok(())
            }
            Target::Extent(number, disk, _) => {
                self.check_writes()?;
                let old = disk.end_of_file();
                if size < old {
                    self.session.log.line(&Event::Truncate(&path, size).to_string());
                    if size == 0 {
                        self.session.restart_extent(&mut self.session.lock(), *number)?;
                    } else {
                        self.reopen_extent(*number)?;
                    }
                }
                disk.set_size(size).map_err(ImportError::disk(path))
            }
        }
    }

    /// FSCTL_SET_ZERO_DATA.
    pub fn zero_range(&self, from: u64, to: u64) -> Result<(), ImportError> {
        self.zero(from, to).map_err(|error| self.complain(error))
    }

    fn zero(&self, from: u64, to: u64) -> Result<(), ImportError> {
        let Target::Extent(number, disk, _) = &self.target else {
            return Err(ImportError::Refused { path: self.display(), why: "it is no extent".into() });
        };
        self.check_writes()?;
        self.reopen_extent(*number)?;
        disk.zero_range(from, to).map_err(ImportError::disk(self.display()))
    }

    /// FSCTL_QUERY_ALLOCATED_RANGES: (offset, length), and whether there are more.
    pub fn allocated_ranges(&self, from: u64, to: u64, max: usize) -> (Vec<(u64, u64)>, bool) {
        match &self.target {
            Target::Extent(_, disk, _) => disk.allocated_ranges(from, to, max),
            _ => {
                let end = self.info().map_or(0, |info| info.size).min(to);
                (if from < end { vec![(from, end - from)] } else { Vec::new() }, false)
            }
        }
    }

    /// Makes durable what was written. A CFG or VMX that is flushed is not taken up yet: it may be half of one.
    pub fn flush(&self) -> Result<(), ImportError> {
        match &self.target {
            Target::Extent(_, disk, _) => disk.flush().map_err(ImportError::disk(self.display())),
            Target::Small(_, file) => file.sync_all().map_err(ImportError::io(self.display())),
            Target::Pancbt(..) | Target::Own(_) | Target::Gone => Ok(()),
        }
    }

    /// The end of the open. `clean`: the client closed it; without, it was lost and nothing of it is taken up.
    pub fn close(&self, clean: bool) -> Result<(), ImportError> {
        if self.finished.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let outcome = self.finish(clean);
        self.session.lock().handles -= 1;
        if let (Target::Extent(number, ..) | Target::Pancbt(number, ..), true) =
            (&self.target, self.how != How::Attributes)
        {
            self.session.release_unused(*number);
        }
        outcome.map_err(|error| self.session.refuse(error))
    }

    fn finish(&self, clean: bool) -> Result<(), ImportError> {
        let numbers = {
            let mut statistics = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
            statistics.closed = Some(Instant::now());
            *statistics
        };
        let wrote = numbers.first_write.is_some();
        match &self.target {
            Target::Extent(number, disk, _) if self.how == How::Write => {
                self.finish_extent(*number, disk, clean)
            }
            Target::Pancbt(number, bytes, merger) if self.how == How::Write => {
                let length = bytes.load(Ordering::Relaxed);
                let outcome = self.finish_merge(*number, merger, length, wrote && clean);
                if outcome.is_err() {
                    bytes.store(0, Ordering::Relaxed);
                }
                self.log_statistics(&numbers);
                outcome
            }
            Target::Small(kind, file) if wrote => {
                file.sync_all().map_err(ImportError::io(self.display()))?;
                if !clean {
                    let why = "the client was lost before it closed the file; copy it again".into();
                    return Err(ImportError::Refused { path: self.display(), why });
                }
                self.session.log.line(&Event::Flush(&self.display()).to_string());
                let length = file.metadata().map_or(0, |metadata| metadata.len());
                let mut bytes = vec![0; length.min(SMALL_MAX) as usize];
                let read = self.read_at(&mut bytes, 0)?;
                bytes.truncate(read);
                let stored = Record::FileStored { name: self.name.clone(), length, digest: digest(&bytes) };
                self.session.record(&stored)?;
                let outcome = self.session.commit_small(*kind, &self.name, &bytes);
                self.log_statistics(&numbers);
                outcome
            }
            _ => Ok(()),
        }
    }

    /// The last writer of an extent is gone: whether it is whole. A client that was lost may have announced a size whose
    /// bytes it never sent: then only what arrived counts.
    fn finish_extent(&self, number: usize, disk: &ImportDisk, clean: bool) -> Result<(), ImportError> {
        if !clean && self.session.is_receiving(number) {
            disk.forget_declared_end();
        }
        // Several handles may write one extent; only the last of them ends the copy.
        let flushed = disk.flush();
        let mut inner = self.session.lock();
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        slot.writers = slot.writers.saturating_sub(1);
        let touched = slot.stage == Stage::Receiving;
        let last = slot.writers == 0;
        flushed.map_err(ImportError::disk(self.display()))?;
        if !touched || !last {
            return Ok(());
        }
        let completion = disk.close().map_err(ImportError::disk(self.display()))?;
        self.session.log.line(&Event::Flush(&self.display()).to_string());
        if completion == Completion::Complete {
            // The descriptor first: a crash between the two may not leave a whole disk that nobody can open.
            self.session.put_descriptor(&mut inner, number)?;
            self.session.record(&Record::ExtentComplete { disk: number as u32 })?;
            if let State::Receiving(receiving) = &mut inner.state
                && let Some(slot) = receiving.disks.get_mut(number)
            {
                slot.stage = Stage::Complete;
            }
        } else {
            self.session.record(&Record::ExtentIncomplete { disk: number as u32 })?;
            let missing = slot.missing().unwrap_or_default();
            self.session.log.line(&missing);
        }
        drop(inner);
        self.log_statistics(&disk.statistics());
        Ok(())
    }

    fn log_statistics(&self, numbers: &Statistics) {
        if numbers.first_write.is_some() {
            self.session.log.line(&Event::Stats(&self.display(), numbers.into()).to_string());
        }
    }
}

impl Drop for ImportFile {
    fn drop(&mut self) {
        if let Err(error) = self.close(false) {
            tracing::debug!("{error}");
        }
    }
}
