//! The engine: all sessions of the import share, by their place in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::ImportError;
use super::formats::log_text::Event;
use super::session::{Content, Session, fold_name};
use super::state::{Stage, State};
use crate::datastore::{Datastore, Space};
use crate::disk::{Options, Statistics};
use crate::journal::Record;

/// Components of a directory's path: VM directories lie at the top or one or two below.
const DEPTH_MAX: usize = 8;
/// Sessions unless the settings say otherwise.
pub const SESSIONS_MAX: usize = 1024;

/// A datastore as a hypervisor knows it.
pub struct DatastoreEntry {
    /// Its name.
    pub name: String,
    /// Its UUID as in `/vmfs/volumes/<uuid>`.
    pub uuid: Option<String>,
    /// Its driver.
    pub store: Arc<dyn Datastore>,
}

/// What a CFG's servername names.
pub struct Hypervisor {
    /// Its name.
    pub name: String,
    /// Other names that CFG files use for it.
    pub aliases: Vec<String>,
    /// What it can write to. Names are unique among all hypervisors.
    pub datastores: Vec<DatastoreEntry>,
}

impl Hypervisor {
    /// The datastore of that name or UUID.
    pub(super) fn datastore(&self, dsname: &str) -> Option<&DatastoreEntry> {
        let same = |text: &str| text.eq_ignore_ascii_case(dsname);
        let named = self.datastores.iter().find(|entry| entry.name == dsname);
        named.or_else(|| self.datastores.iter().find(|entry| entry.uuid.as_deref().is_some_and(same)))
    }
}

/// What an engine runs with.
pub struct EngineSettings {
    /// The service's data directory; sessions are kept in `sessions` below it.
    pub data_dir: PathBuf,
    /// Where restores can go.
    pub hypervisors: Vec<Hypervisor>,
    /// How disks are written; its intent log is replaced by each session's own.
    pub disk_options: Options,
    /// Most sessions at once.
    pub max_sessions: usize,
}

/// What all sessions have in common.
pub(super) struct Shared {
    pub(super) hypervisors: Vec<Hypervisor>,
    pub(super) disk_options: Options,
    numbers: AtomicU64,
}

impl Shared {
    /// A number that no other file has had since the service started.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn hypervisor(&self, name: &str) -> Option<&Hypervisor> {
        let same = |other: &String| other.eq_ignore_ascii_case(name);
        self.hypervisors
            .iter()
            .find(|hypervisor| same(&hypervisor.name) || hypervisor.aliases.iter().any(same))
    }

    pub(super) fn datastore_of(&self, server: &str, dsname: &str) -> Option<&DatastoreEntry> {
        self.hypervisor(server)?.datastore(dsname)
    }

    /// The driver of a datastore that a plan names.
    pub(super) fn datastore(&self, name: &str) -> Result<Arc<dyn Datastore>, ImportError> {
        let mut entries = self.hypervisors.iter().flat_map(|hypervisor| &hypervisor.datastores);
        let found = entries.find(|entry| entry.name == name);
        found.map(|entry| Arc::clone(&entry.store)).ok_or_else(|| ImportError::NotFound(name.to_owned()))
    }
}

/// The sessions of the import share.
pub struct Engine {
    shared: Arc<Shared>,
    sessions_dir: PathBuf,
    /// Journals of sessions that were removed before they completed: what they left on datastores (S10).
    orphans_dir: PathBuf,
    max_sessions: usize,
    /// By the folded path.
    sessions: Mutex<BTreeMap<Vec<String>, Arc<Session>>>,
}

/// One disk in a [`Snapshot`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct DiskSnapshot {
    /// Its extent as the backup calls it.
    pub extent: String,
    /// Where it goes, as ESXi would show it.
    pub destination: String,
    /// `absent`, `receiving`, `complete` or `doubtful`.
    pub stage: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that came in.
    pub total: u64,
    /// Bytes passed to the driver.
    pub written: u64,
    /// Bytes skipped.
    pub skipped: u64,
    /// Bytes per second that came in.
    pub rate: u64,
    /// Seconds until it is whole at that rate; absent where nothing can be said.
    pub estimated_seconds: Option<u64>,
}

/// One session in a [`Snapshot`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct SessionSnapshot {
    /// Its path from the share's root.
    pub path: String,
    /// The virtual machine's name, empty before a CFG.
    pub vm_name: String,
    /// Whether its VMX is in place.
    pub imported: bool,
    /// Files open now.
    pub handles: usize,
    /// What stands in `.cfg.err`.
    pub errors: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiskSnapshot>,
}

/// What `importfs status` and the status page show.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Sessions by path; the root only where it has a CFG.
    pub sessions: Vec<SessionSnapshot>,
}

fn folded(path: &[String]) -> Vec<String> {
    path.iter().map(|component| fold_name(component)).collect()
}

fn shown(path: &[String]) -> String {
    format!("/{}", path.join("/"))
}

/// Whether the journal in a cache tells of nothing left behind: its session completed, or never made anything.
fn completed(cache: &std::path::Path) -> bool {
    crate::journal::Journal::open(&cache.join("journal")).is_ok_and(|(_, records)| {
        records.iter().any(|record| matches!(record, Record::VmxImported { .. }))
            || crate::journal::fold::ledger(&records).next().is_none()
    })
}

impl Engine {
    /// Opens the data directory and takes up every session in it. A session that can't be taken up is logged and left
    /// as it is: the others must go on.
    pub fn new(settings: EngineSettings) -> Result<Self, ImportError> {
        let engine = Self {
            shared: Arc::new(Shared {
                hypervisors: settings.hypervisors,
                disk_options: settings.disk_options,
                numbers: AtomicU64::new(1),
            }),
            sessions_dir: settings.data_dir.join("sessions"),
            orphans_dir: settings.data_dir.join("orphans"),
            max_sessions: settings.max_sessions,
            sessions: Mutex::default(),
        };
        let name = engine.sessions_dir.display().to_string();
        fs::create_dir_all(&engine.sessions_dir).map_err(ImportError::io(&name))?;
        fs::create_dir_all(&engine.orphans_dir).map_err(ImportError::io(&name))?;
        for entry in fs::read_dir(&engine.sessions_dir).map_err(ImportError::io(&name))? {
            let cache = entry.map_err(ImportError::io(&name))?.path();
            match Session::open(&engine.shared, &cache, None) {
                Ok(Some(session)) => {
                    engine.lock().insert(folded(&session.path), session);
                }
                Ok(None) => engine.clear_cache(&cache, completed(&cache)),
                Err(error) => tracing::error!("a session can't be taken up: {error}"),
            }
        }
        if !engine.lock().contains_key(&Vec::new()) {
            engine.add_session(&[])?;
        }
        Ok(engine)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_session(&self, path: &[String]) -> Result<Arc<Session>, ImportError> {
        let cache = self.sessions_dir.join(uuid::Uuid::new_v4().to_string());
        let session = Session::open(&self.shared, &cache, Some(path))?;
        let session = session.ok_or_else(|| ImportError::NotFound(shown(path)))?;
        self.lock().insert(folded(path), Arc::clone(&session));
        Ok(session)
    }

    /// Removes what a removed session left in the cache; its journal stays as long as it tells of orphans.
    fn clear_cache(&self, cache: &std::path::Path, completed: bool) {
        let journal = cache.join("journal");
        if let Some(name) = cache.file_name() {
            let kept = self.orphans_dir.join(name).with_extension("journal");
            if !completed && let Err(error) = fs::rename(&journal, &kept) {
                tracing::error!("{}: the ledger can't be kept: {error}", journal.display());
                return;
            }
        }
        if let Err(error) = fs::remove_dir_all(cache) {
            tracing::warn!("{}: {error}; it is removed at the next start", cache.display());
        }
    }

    /// The directory at `path`.
    pub fn session(&self, path: &[String]) -> Option<Arc<Session>> {
        self.lock().get(&folded(path)).cloned()
    }

    /// The directories directly below `path`.
    pub fn directories(&self, path: &[String]) -> Vec<Arc<Session>> {
        let parent = folded(path);
        let sessions = self.lock();
        let below = sessions.iter().filter(|(at, _)| at.len() == parent.len() + 1 && at.starts_with(&parent));
        below.map(|(_, session)| Arc::clone(session)).collect()
    }

    /// Makes a directory: a session that waits for its CFG.
    pub fn create_directory(&self, path: &[String]) -> Result<Arc<Session>, ImportError> {
        let (parent, name) = match path.split_last() {
            Some((name, parent)) => (parent, name),
            None => return Err(ImportError::Exists("/".to_owned())),
        };
        let Some(above) = self.session(parent) else { return Err(ImportError::PathNotFound(shown(path))) };
        if self.session(path).is_some() || above.find(name).is_some() {
            return Err(ImportError::Exists(shown(path)));
        }
        if path.len() > DEPTH_MAX {
            return Err(ImportError::Limit { what: "directories in one another", limit: DEPTH_MAX as u64 });
        }
        if self.lock().len() > self.max_sessions {
            return Err(ImportError::Limit { what: "sessions", limit: self.max_sessions as u64 });
        }
        self.add_session(path)
    }

    /// Whether a directory may go: nothing of the client's is in it.
    pub fn check_remove_directory(&self, path: &[String]) -> Result<(), ImportError> {
        let session = self.session(path).ok_or_else(|| ImportError::NotFound(shown(path)))?;
        if path.is_empty() {
            return Err(ImportError::InUse("the share's root".to_owned()));
        }
        if !self.directories(path).is_empty() || session.list().iter().any(|info| !info.own) {
            return Err(ImportError::NotEmpty(shown(path)));
        }
        if session.lock().handles > 0 {
            return Err(ImportError::InUse(shown(path)));
        }
        Ok(())
    }

    /// Removes a session and its cache, nothing from datastores (S8). The service's own files go with it.
    pub fn remove_directory(&self, path: &[String]) -> Result<(), ImportError> {
        self.check_remove_directory(path)?;
        let Some(session) = self.session(path) else { return Ok(()) };
        let completed = {
            let mut inner = session.lock();
            inner.removed = true;
            let imported = matches!(&inner.state, State::Receiving(all) if all.imported.is_some());
            imported || inner.ledger.is_empty()
        };
        session.record(&Record::SessionRemoved)?;
        self.lock().remove(&folded(path));
        let cache = session.cache.clone();
        drop(session);
        self.clear_cache(&cache, completed);
        Ok(())
    }

    /// What the first datastore has: the size that a client sees of the share.
    pub fn space(&self) -> Space {
        let mut entries = self.shared.hypervisors.iter().flat_map(|hypervisor| &hypervisor.datastores);
        entries.find_map(|entry| entry.store.space().ok()).unwrap_or_default()
    }

    /// All sessions now.
    pub fn snapshot(&self) -> Snapshot {
        let sessions: Vec<_> = self.lock().values().cloned().collect();
        let told = sessions.iter().map(|session| session.snapshot());
        Snapshot { sessions: told.filter(|s| s.path != "/" || !s.vm_name.is_empty()).collect() }
    }
}

impl Session {
    fn snapshot(&self) -> SessionSnapshot {
        let inner = self.lock();
        let mut snapshot = SessionSnapshot {
            path: self.display(""),
            vm_name: String::new(),
            imported: false,
            handles: inner.handles,
            errors: inner.cfg_errors.iter().chain(&inner.faults).cloned().collect(),
            disks: Vec::new(),
        };
        if let State::Receiving(receiving) = &inner.state {
            snapshot.vm_name.clone_from(&receiving.plan.taken.vm_name);
            snapshot.imported = receiving.imported.is_some();
            for slot in &receiving.disks {
                let numbers = slot.disk.as_ref().map_or_else(Statistics::default, |disk| disk.statistics());
                let left = slot.plan.size.saturating_sub(numbers.total);
                snapshot.disks.push(DiskSnapshot {
                    extent: slot.plan.extent.clone(),
                    destination: slot.plan.place.vmfs(&slot.plan.target_extent),
                    stage: match slot.stage {
                        Stage::Absent => "absent",
                        Stage::Receiving => "receiving",
                        Stage::Complete => "complete",
                        Stage::Doubtful => "doubtful",
                    },
                    size: slot.plan.size,
                    total: numbers.total,
                    written: numbers.written,
                    skipped: numbers.skipped,
                    rate: numbers.rate(),
                    estimated_seconds: (slot.stage == Stage::Receiving)
                        .then(|| left.checked_div(numbers.rate()))
                        .flatten(),
                });
            }
        }
        snapshot
    }

    /// Deletes a file of the client's from the session; what it led to on a datastore stays. Deleting one of the
    /// service's own succeeds and does nothing: a recursive delete asks for each file first and gives up at a refusal,
    /// while the directory itself goes with them in it (docs/decisions: own files).
    pub fn delete(&self, name: &str) -> Result<(), ImportError> {
        let mut inner = self.lock();
        let key = inner.key(name);
        match inner.files.get(&key).map(|entry| (entry.name.clone(), entry.content.clone())) {
            None => Err(ImportError::NotFound(self.display(name))),
            Some((_, Content::Own(_))) => Ok(()),
            Some((stored, content)) => {
                if matches!(content, Content::Small(..)) {
                    fs::remove_file(self.cached(&stored)).map_err(ImportError::io(self.display(name)))?;
                }
                inner.files.remove(&key);
                inner.aliases.retain(|_, target| *target != key);
                self.log.line(&Event::Note(&format!("Remove {}", self.display(&stored))).to_string());
                Ok(())
            }
        }
    }

    /// Renames a file: what copy tools do with their temporary names. Any other rename of data is refused, as the CFG
    /// says what each name means.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), ImportError> {
        let mut inner = self.lock();
        let (key, target) = (inner.key(from), fold_name(to));
        if key == target {
            inner.aliases.remove(&fold_name(from));
            return Ok(());
        }
        drop(inner);
        Err(self.refuse(ImportError::UnsupportedType(self.display(to))))
    }
}
