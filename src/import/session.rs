//! One import session: a directory of the share, its files, and how far they are.
//!
//! Locking: `inner` is held for bookkeeping and for the short work at a CLOSE (CFG, VMX), which are one at a time by
//! nature; never while data moves, so that extents are written in parallel.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::engine::Shared;
use super::error::ImportError;
use super::flow::Flow;
use super::formats::cfg::render_problems;
use super::formats::descriptor::Descriptor;
use super::formats::names::{Kind, classify};
use super::info::{Face, Times, file_time};
use super::into_snapshot::Snapshot;
use super::ledger::{Ledger, Made};
use super::log::SessionLog;
use super::making::Makings;
use super::news::OwnChange;
use super::plan::Plan;
use super::registered::Registered;
use super::replay::{DiskHistory, History};
use super::state::{DiskSlot, Receiving, Stage, State};
use crate::datastore::{self, Datastore};
use crate::disk::{ImportDisk, Options};
use crate::journal::fold::Left;
use crate::journal::{Digest, DiskJournal, Journal, LedgerKey, ObjectKind, Record};

/// Files a session may hold: a CFG, a VMX, 60 disks with extent, descriptor and a chain each, and room.
pub(super) const FILES_MAX: usize = 1024;
/// Bytes of a file that is kept in the cache: CFG, VMX, descriptors and nvram are kilobytes.
pub(super) const SMALL_MAX: u64 = 16 << 20;
/// The log's name.
pub(super) const LOG_NAME: &str = "import.log";

/// What a client's file is.
#[derive(Clone)]
pub(super) enum Content {
    /// Kept in the session's cache, there.
    Small(Kind, Arc<Path>),
    /// The extent of that disk.
    Extent(usize),
    /// A differential of that disk: bytes that came.
    Pancbt(usize, Arc<AtomicU64>),
    /// The service's own, there.
    Own(Arc<Path>),
}

/// A file of the session.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) times: Times,
    pub(super) attributes: u32,
    /// What the share keeps of a security descriptor; empty where none was written.
    pub(super) security: Arc<[u8]>,
    pub(super) content: Content,
}

/// Something wrong that a person should see in `.cfg.err`, besides the errors of the CFG that stop the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The file that it is about, folded: gone when that file comes right.
    pub(super) file: String,
    /// The disk that it is about: gone when its extent comes again.
    pub(super) disk: Option<usize>,
    /// A sentence.
    pub(super) text: String,
}

/// What changes under the lock.
pub(super) struct Inner {
    pub(super) files: BTreeMap<String, Entry>,
    pub(super) state: State,
    /// Errors of the CFG: while there are any, data is refused.
    pub(super) cfg_errors: Vec<String>,
    pub(super) faults: Vec<Fault>,
    /// The name that a copy tool used, and the one that it is going to use.
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) handles: usize,
    pub(super) removed: bool,
    /// It was told that nothing happens in it.
    pub(super) idle_told: bool,
    /// Objects made on datastores, for a crash between making and recording.
    pub(super) ledger: Ledger,
    /// Virtual machines that were registered.
    pub(super) registered: Vec<Registered>,
    /// Snapshots that were made of virtual machines.
    pub(super) snapshots: Vec<Snapshot>,
    /// What a push made, or left, that is not complete.
    pub(super) left: Option<Left>,
}

/// How often a lock is looked at that may not be waited for.
const LOCK_LOOK: Duration = Duration::from_millis(1);

/// A session, and [`History::followers`].
type Opened = (Arc<Session>, Option<Vec<String>>);

/// One import session.
pub struct Session {
    pub(super) shared: Arc<Shared>,
    /// Components from the share's root. Taken last and held for moments: a line of the log needs it.
    path: Arc<Mutex<Vec<String>>>,
    pub(super) number: u64,
    pub(super) cache: PathBuf,
    pub(super) log: SessionLog,
    pub(super) journal: Arc<Journal>,
    /// Held while a VMX is imported: registering takes long, and a second close of the VMX must not register twice.
    pub(super) importing: Mutex<()>,
    /// Disks that are being made and take long.
    pub(super) making: Makings,
    /// Bytes on their way to all its disks.
    pub(super) flow: Flow,
    /// What is seen of it by who must not wait for it.
    pub(super) face: Face,
    inner: Mutex<Inner>,
}

impl Session {
    /// Opens the session whose cache is `cache`, replaying its journal; `path` is for a new one. `None` where the
    /// client had removed it. Beside it, the path from which a crash kept sessions below from following it.
    pub(super) fn open(
        shared: &Arc<Shared>,
        cache: &Path,
        path: Option<&[String]>,
    ) -> Result<Option<Opened>, ImportError> {
        let shown = cache.display().to_string();
        fs::create_dir_all(cache.join("files")).map_err(ImportError::io(&shown))?;
        let (journal, records) = Journal::open(&cache.join("journal"))
            .map_err(|error| ImportError::Refused { path: shown.clone(), why: error.to_string() })?;
        let mut history = History::of(&records);
        if history.removed {
            return Ok(None);
        }
        let path: Vec<String> = match (&history.path, path) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => {
                let directory = path.join("/");
                journal.record(&Record::SessionCreated { directory }).map_err(ImportError::io(&shown))?;
                path.to_vec()
            }
            // A crash came between making the directory and the first record: nothing was acknowledged.
            (None, None) => return Ok(None),
        };
        let path = Arc::new(Mutex::new(path));
        let log =
            SessionLog::open(&cache.join(LOG_NAME), shared.log_bytes_max, Self::log_grown(shared, &path))
                .map_err(ImportError::io(&shown))?;
        let inner = Inner {
            files: BTreeMap::new(),
            state: State::Cfg,
            cfg_errors: Vec::new(),
            faults: Vec::new(),
            aliases: BTreeMap::new(),
            handles: 0,
            removed: false,
            idle_told: false,
            ledger: Ledger::default(),
            registered: Vec::new(),
            snapshots: Vec::new(),
            left: None,
        };
        let session = Arc::new(Self {
            shared: Arc::clone(shared),
            path,
            number: shared.next_number(),
            cache: cache.to_owned(),
            log,
            journal: Arc::new(journal),
            importing: Mutex::new(()),
            making: Makings::default(),
            flow: Flow::new(shared.session_bytes_in_flight),
            face: Face::default(),
            inner: Mutex::new(inner),
        });
        let followers = history.followers.take();
        session.replay(history)?;
        Ok(Some((session, followers)))
    }

    fn log_grown(shared: &Arc<Shared>, path: &Arc<Mutex<Vec<String>>>) -> impl Fn() + Send + Sync + 'static {
        let (shared, path) = (Arc::clone(shared), Arc::clone(path));
        move || {
            let now = path.lock().unwrap_or_else(PoisonError::into_inner).clone();
            shared.news.tell(&now, LOG_NAME, OwnChange::Modified);
        }
    }

    /// Takes up what the journal and the cache hold.
    fn replay(self: &Arc<Self>, history: History) -> Result<(), ImportError> {
        let mut inner = self.lock();
        inner.ledger = history.ledger;
        inner.registered = history.registered;
        inner.snapshots = history.snapshots;
        inner.left = history.left;
        if history.plan.is_none() {
            self.forget_unmade(&mut inner)?;
        }
        let own = self.cache.join(LOG_NAME);
        self.insert_file(&mut inner, LOG_NAME, &own, Content::Own)?;
        let mut faults = Vec::new();
        if let Some(plan) = history.plan {
            let mut receiving = Receiving::new(plan, self.shared.disk_bytes_in_flight);
            receiving.imported = history.imported;
            receiving.was_complete = history.completed;
            if let Some(swap) = &history.swap {
                self.settle_swap(&receiving.plan, swap);
            }
            receiving.swap = history.swap;
            let plan = receiving.plan.clone();
            let imported = receiving.imported.is_some();
            let staged = self.is_staged(&receiving.plan);
            if staged
                && receiving.imported.is_none()
                && let Err(problem) = self.reserve_stage(&receiving.plan)
            {
                self.log.error(&format!("after a restart: {problem}"));
            }
            for (number, told) in history.disks.into_iter().enumerate() {
                // Its disks left the stage with the machine.
                if staged
                    && receiving.imported.is_some()
                    && let Some(slot) = receiving.disks.get_mut(number)
                {
                    slot.stage = told.stage;
                    let name = slot.plan.extent.clone();
                    self.insert(&mut inner, &name, Content::Extent(number));
                    continue;
                }
                if let Some(slot) = receiving.disks.get_mut(number) {
                    let lost = self.replay_disk(&mut inner, &plan, number, slot, told);
                    faults.extend(lost.filter(|_| !imported));
                }
            }
            inner.state = State::Receiving(Box::new(receiving));
            self.replay_differentials(&mut inner, &history.files);
        }
        let shown = self.display("");
        for entry in fs::read_dir(self.cache.join("files")).map_err(ImportError::io(&shown))? {
            let entry = entry.map_err(ImportError::io(&shown))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = self.shared.names.classify(&name, inner.state.cfg()).kind;
            if kind.is_own() {
                if kind == Kind::CfgErr {
                    self.replay_errors(&mut inner, &entry.path());
                }
                self.insert_file(&mut inner, &name, &entry.path(), Content::Own)?;
                continue;
            }
            let length = entry.metadata().map_or(0, |metadata| metadata.len());
            let stored = history.files.iter().rev().find(|(stored, _)| *stored == name);
            if stored.is_none_or(|(_, stored)| *stored != length) {
                self.log
                    .line(&format!("after a restart: {} was not closed; copy it again", self.display(&name)));
            }
            if let Kind::Descriptor(number) = kind
                && let State::Receiving(receiving) = &mut inner.state
                && let Some(slot) = receiving.disks.get_mut(number)
            {
                slot.descriptor =
                    fs::read(entry.path()).ok().and_then(|bytes| Descriptor::parse(&bytes).ok());
            }
            self.insert_file(&mut inner, &name, &entry.path(), |path| Content::Small(kind, path))?;
        }
        faults.retain(|fault| !inner.faults.contains(fault));
        if !faults.is_empty() {
            inner.faults.append(&mut faults);
            self.report(&mut inner)?;
        }
        Ok(())
    }

    /// A kill came before an object was made: what has its path from now on is another session's, which must not be taken for this
    /// one's.
    fn forget_unmade(&self, inner: &mut Inner) -> Result<(), ImportError> {
        for key in inner.ledger.unknown() {
            let store = self.shared.hypervisors.store(&key.hypervisor, &key.datastore);
            if store.is_ok_and(|store| matches!(store.exists(&key.path), Ok(false))) {
                self.strike(inner, &key)?;
            }
        }
        Ok(())
    }

    /// Takes up a `.cfg.err`: the CFG's errors, which stop the session unless data is there already, and others.
    fn replay_errors(&self, inner: &mut Inner, path: &Path) {
        let text = fs::read_to_string(path).unwrap_or_default();
        let stops = !matches!(&inner.state, State::Receiving(all) if all.has_data());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let of_cfg = line.starts_with("line ") || line.starts_with("not in the file: ");
            if of_cfg && stops {
                inner.cfg_errors.push(line.to_owned());
                continue;
            }
            let cfg = path.file_stem().map(|stem| fold_name(&stem.to_string_lossy())).unwrap_or_default();
            let named = line.split(": ").next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            let whole = |disk: usize| match &inner.state {
                State::Receiving(all) => {
                    all.disks.get(disk).is_some_and(|slot| slot.stage == Stage::Complete)
                }
                State::Cfg => false,
            };
            // Whatever else is wrong came of a VMX, though its sentence may name a disk that is whole, or what lies on the datastore.
            let vmx = inner.state.cfg().map_or(named, |cfg| &cfg.vmx_name);
            let (file, disk) = match classify(named, inner.state.cfg()).kind {
                _ if of_cfg => (cfg, None),
                Kind::Cfg => (fold_name(named), None),
                Kind::Pancbt { disk, .. } => (fold_name(named), Some(disk)),
                Kind::Extent(disk) if !whole(disk) => (fold_name(named), Some(disk)),
                _ => (fold_name(vmx), None),
            };
            if let State::Receiving(all) = &mut inner.state
                && let Some(slot) = disk.and_then(|number| all.disks.get_mut(number))
                && slot.stage == Stage::Complete
            {
                slot.refused = Some(named.to_owned());
            }
            inner.faults.push(Fault { file, disk, text: line.to_owned() });
        }
    }

    /// Takes up one disk; what a crash left in doubt is marked and logged. One that can't be had is needed again: why.
    fn replay_disk(
        &self,
        inner: &mut Inner,
        plan: &Plan,
        number: usize,
        slot: &mut DiskSlot,
        told: DiskHistory,
    ) -> Option<Fault> {
        let map = told.map?;
        let existing = slot.existing;
        let opened =
            self.shared.hypervisors.store(&plan.hypervisor, &slot.plan.place.datastore).and_then(|store| {
                let opened = if store.capabilities().random_write {
                    let spec = slot.plan.spec();
                    let made = inner.ledger.made(plan, &slot.plan.place.datastore, &store.disk_path(&spec));
                    match made {
                        Made::Known(known) => store.open_known(&spec, known),
                        Made::Not if !existing => Err(datastore::replaced()),
                        _ => store.open_disk(&spec),
                    }
                } else {
                    self.shared.stage.open_disk(&self.cache, number, slot.plan.size)
                };
                // It is the right one, and closed again: of hundreds of disks hardly one is written soon.
                let disk = opened.and_then(|disk| disk.release().map(|()| disk));
                let disk = disk.map_err(ImportError::io(self.display(&slot.plan.extent)))?;
                let capabilities = store.capabilities();
                let fresh =
                    capabilities.fresh_reads_zero || disk.fresh_reads_zero() || !capabilities.random_write;
                let fresh = fresh && !existing;
                Ok(ImportDisk::restore(disk, self.disk_options(number, fresh), &map))
            });
        match opened {
            Ok(disk) => slot.disk = Some(Arc::new(disk)),
            Err(error) => {
                let text = error.to_string();
                self.log.error(&format!("after a restart: {text}"));
                return Some(Fault { file: fold_name(&slot.plan.extent), disk: Some(number), text });
            }
        }
        (slot.stage, slot.merged, slot.target) = (told.stage, told.merged, told.target);
        if let Some(missing) = slot.missing() {
            self.log.line(&format!("after a restart: {missing}"));
        }
        let name = slot.plan.extent.clone();
        self.insert(inner, &name, Content::Extent(number));
        None
    }

    /// Lists the differentials again that are merged into disks as they stand.
    fn replay_differentials(&self, inner: &mut Inner, stored: &[(String, u64)]) {
        for (name, length) in stored {
            let State::Receiving(receiving) = &inner.state else { return };
            let Kind::Pancbt { disk, index } = classify(name, Some(&receiving.plan.taken)).kind else {
                continue;
            };
            if receiving.disks.get(disk).is_some_and(|slot| index < slot.merged) {
                self.insert(inner, name, Content::Pancbt(disk, Arc::new(AtomicU64::new(*length))));
            }
        }
    }

    /// Whether data of a disk's extent is still awaited.
    pub(super) fn is_receiving(&self, number: usize) -> bool {
        let inner = self.lock();
        let State::Receiving(receiving) = &inner.state else { return false };
        receiving.disks.get(number).is_some_and(|slot| slot.stage == Stage::Receiving)
    }

    /// How a disk of this session is written.
    pub(super) fn disk_options(&self, number: usize, fresh_reads_zero: bool) -> Options {
        Options {
            fresh_reads_zero,
            intents: Some(Arc::new(DiskJournal::new(Arc::clone(&self.journal), number as u32))),
            ..self.shared.disk_options.clone()
        }
    }

    /// The state, whatever a panic elsewhere left: every change of it is made whole under the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, but nobody waits past `until` for one who waits for a datastore.
    pub(super) fn lock_until(&self, until: Instant) -> Option<MutexGuard<'_, Inner>> {
        loop {
            match self.inner.try_lock() {
                Ok(inner) => return Some(inner),
                Err(TryLockError::Poisoned(inner)) => return Some(inner.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_LOOK),
            }
        }
    }

    /// Its number in the data directory.
    pub(super) fn id(&self) -> String {
        self.cache.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A name as the log shows it: from the share's root.
    pub(super) fn display(&self, name: &str) -> String {
        let mut components = self.components();
        if !name.is_empty() {
            components.push(name.to_owned());
        }
        format!("/{}", components.join("/"))
    }

    /// Logs a refusal once and hands it on.
    #[track_caller]
    pub(super) fn refuse(&self, error: ImportError) -> ImportError {
        self.log.error(&error.to_string());
        error
    }

    pub(super) fn insert(&self, inner: &mut Inner, name: &str, content: Content) {
        let entry = Entry {
            name: name.to_owned(),
            number: self.shared.next_number(),
            times: Times::now(),
            attributes: 0,
            security: Arc::default(),
            content,
        };
        inner.files.insert(fold_name(name), entry);
        self.face.lock().times.written = file_time(SystemTime::now());
    }

    fn insert_file(
        &self,
        inner: &mut Inner,
        name: &str,
        path: &Path,
        content: impl FnOnce(Arc<Path>) -> Content,
    ) -> Result<(), ImportError> {
        let found = fs::metadata(path).map_err(ImportError::io(name))?;
        self.insert(inner, name, content(path.into()));
        if let (Ok(time), Some(entry)) = (found.modified(), inner.files.get_mut(&fold_name(name))) {
            entry.times = Times::at(time);
        }
        Ok(())
    }

    /// Where a client's small file lies in the cache.
    pub(super) fn cached(&self, name: &str) -> PathBuf {
        self.cache.join("files").join(name)
    }

    /// Writes one of the service's own files anew, or removes it.
    pub(super) fn put_own(
        &self,
        inner: &mut Inner,
        name: &str,
        text: Option<&str>,
    ) -> Result<(), ImportError> {
        let path = self.cached(name);
        match text {
            None => {
                if inner.files.remove(&fold_name(name)).is_some() {
                    self.shared.news.tell(&self.components(), name, OwnChange::Removed);
                }
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(ImportError::io(name)(error))
                    }
                    _ => Ok(()),
                }
            }
            Some(text) => {
                let known = inner.files.contains_key(&fold_name(name));
                fs::write(&path, text).map_err(ImportError::io(name))?;
                self.insert_file(inner, name, &path, Content::Own)?;
                let change = if known { OwnChange::Modified } else { OwnChange::Added };
                self.shared.news.tell(&self.components(), name, change);
                Ok(())
            }
        }
    }

    /// Writes `.cfg.err` from the session's errors, or removes it where there are none.
    pub(super) fn report(&self, inner: &mut Inner) -> Result<(), ImportError> {
        let Some(cfg) = inner.cfg_name() else { return Ok(()) };
        let (name, lines) = (format!("{cfg}.err"), inner.errors());
        if lines.is_empty() {
            return self.put_own(inner, &name, None);
        }
        let text = render_problems(&cfg, &lines);
        self.put_own(inner, &name, Some(&text))
    }

    /// What a refusal of data names: the `.cfg.err`, where the CFG has errors.
    pub(super) fn in_error(inner: &Inner) -> Option<String> {
        if inner.cfg_errors.is_empty() {
            return None;
        }
        Some(inner.cfg_name().map_or_else(|| "import.log".to_owned(), |name| format!("{name}.err")))
    }

    /// Its path from the share's root, now: its directory may be renamed.
    pub fn components(&self) -> Vec<String> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The directory has another path. Its record, and the engine's table, are the caller's.
    pub(super) fn set_components(&self, path: Vec<String>) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// Records an object before it is made on a datastore.
    pub(super) fn note_object(
        &self,
        inner: &mut Inner,
        key: &LedgerKey,
        kind: ObjectKind,
    ) -> Result<(), ImportError> {
        inner.ledger.note(key);
        self.record(&Record::LedgerCreated { key: key.clone(), kind })
    }

    /// Records a virtual machine before it is registered, and again after.
    pub(super) fn note_machine(&self, machine: Registered) -> Result<(), ImportError> {
        let record = machine.record();
        let mut inner = self.lock();
        inner.registered.retain(|known| known.vmx != machine.vmx || known.hypervisor != machine.hypervisor);
        inner.registered.push(machine);
        self.record(&record)
    }

    /// Records by what an object that was just made is recognised. A crash before that leaves an object which nobody removes
    /// by itself.
    pub(super) fn note_identity(
        &self,
        inner: &mut Inner,
        store: &dyn Datastore,
        key: &LedgerKey,
    ) -> Result<(), ImportError> {
        match store.identity(&key.path) {
            Ok(Some(identity)) => {
                inner.ledger.recognise(key, &identity);
                self.record(&Record::LedgerIdentity { key: key.clone(), identity })
            }
            Ok(None) => Ok(()),
            // The object is there, and the session does not need to know: its orphan could only not be removed.
            Err(error) => {
                tracing::warn!("[{}] {}: it could not be looked at: {error}", key.datastore, key.path);
                Ok(())
            }
        }
    }

    /// Appends a record, durable with the next one that is.
    pub(super) fn append(&self, record: &Record) -> Result<(), ImportError> {
        self.journal.append(record).map_err(ImportError::io(self.display("")))
    }

    /// Makes a record durable.
    pub(super) fn record(&self, record: &Record) -> Result<(), ImportError> {
        self.journal.record(record).map_err(ImportError::io(self.display("")))
    }
}

impl Inner {
    /// All errors, those of the CFG first.
    pub(super) fn errors(&self) -> Vec<String> {
        self.cfg_errors.iter().chain(self.faults.iter().map(|fault| &fault.text)).cloned().collect()
    }

    pub(super) fn key(&self, name: &str) -> String {
        let folded = fold_name(name);
        self.aliases.get(&folded).cloned().unwrap_or(folded)
    }

    pub(super) fn cfg_name(&self) -> Option<String> {
        let mut files = self.files.values();
        files
            .find(|entry| matches!(entry.content, Content::Small(Kind::Cfg, _)))
            .map(|entry| entry.name.clone())
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.files.get(&self.key(name))
    }

    /// A disk's extent comes again: its differentials will have to follow it again, under the same names.
    pub(super) fn forget_differentials(&mut self, number: usize) {
        self.files.retain(|_, entry| !matches!(&entry.content, Content::Pancbt(disk, _) if *disk == number));
    }
}

/// SHA-256 of a small file.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Names are compared as SMB clients do, in any case.
pub(super) fn fold_name(name: &str) -> String {
    name.to_lowercase()
}
