//! The engine: all sessions of the import share, by their place in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::ImportError;
use super::formats::cfg::OnConflict;
use super::formats::names::Rules as NameRules;
use super::hypervisor::{Hypervisor, Hypervisors};
use super::log::LOG_BYTES_MAX;
use super::news::{News, OwnChange};
use super::rooms::Rooms;
use super::session::{Session, fold_name};
use super::snapshot::Snapshot;
use super::state::State;
use crate::datastore::Space;
use crate::datastore::sink::Course;
use crate::datastore::stage::Stage;
use crate::disk::Options;
use crate::disk::digest::Algorithm;
use crate::journal::Record;

/// Components of a directory's path: VM directories lie at the top or one or two below.
pub(super) const DEPTH_MAX: usize = 8;
/// How long the end of the service waits for pushes that it calls off, and how often it looks: systemd gives it 90 seconds.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long a snapshot waits for sessions that wait for their datastores, all together.
const SNAPSHOT_MAX: Duration = Duration::from_millis(500);
const STOP_LOOK: Duration = Duration::from_millis(20);
/// Sessions unless the settings say otherwise.
pub const SESSIONS_MAX: usize = 1024;

/// What an engine runs with.
pub struct EngineSettings {
    /// The service's data directory; sessions are kept in `sessions` below it.
    pub data_dir: PathBuf,
    /// Where restores can go.
    pub hypervisors: Hypervisors,
    /// How disks are written; its intent log is replaced by each session's own.
    pub disk_options: Options,
    /// Most sessions at once.
    pub max_sessions: usize,
    /// Bytes of disks that may wait in the data directory until they are complete; `None`: what the file system has.
    pub stage_bytes_max: Option<u64>,
    /// What a CFG without `on-conflict` gets.
    pub on_conflict: OnConflict,
    /// Bytes of a session's import.log, after which it takes no more lines.
    pub log_bytes_max: u64,
    /// Bytes on their way to one disk at once.
    pub disk_bytes_in_flight: u64,
    /// Bytes on their way to all disks of a session at once.
    pub session_bytes_in_flight: u64,
    /// Further names that sessions accept or refuse.
    pub names: NameRules,
    /// A session in which nothing happens for this long is marked; zero marks none.
    pub idle: Duration,
    /// The digest of each finished disk that import.log gets; `None`: none is taken.
    pub digest: Option<Algorithm>,
    /// How long the close of a VMX is held while its hypervisor can't be reached.
    pub register_retry: Duration,
}

impl EngineSettings {
    /// The defaults, for a data directory and where restores can go.
    pub fn new(data_dir: PathBuf, hypervisors: Vec<Hypervisor>) -> Self {
        Self {
            data_dir,
            hypervisors: Hypervisors(hypervisors),
            disk_options: Options::default(),
            max_sessions: SESSIONS_MAX,
            stage_bytes_max: None,
            on_conflict: OnConflict::Stop,
            log_bytes_max: LOG_BYTES_MAX,
            disk_bytes_in_flight: 64 << 20,
            session_bytes_in_flight: 128 << 20,
            names: NameRules::default(),
            idle: Duration::ZERO,
            digest: None,
            register_retry: Duration::ZERO,
        }
    }
}

/// What all sessions have in common.
pub(super) struct Shared {
    pub(super) hypervisors: Hypervisors,
    pub(super) disk_options: Options,
    pub(super) on_conflict: OnConflict,
    pub(super) log_bytes_max: u64,
    pub(super) news: News,
    pub(super) rooms: Rooms,
    pub(super) stage: Stage,
    pub(super) disk_bytes_in_flight: u64,
    pub(super) session_bytes_in_flight: u64,
    pub(super) names: NameRules,
    pub(super) idle: Duration,
    pub(super) digest: Option<Algorithm>,
    pub(super) register_retry: Duration,
    /// Cancelled when the service ends.
    pub(super) stopping: Course,
    numbers: AtomicU64,
}

impl Shared {
    /// A number that no other file has had since the service started.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
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
    /// Held while directories are made, removed and renamed: what was looked up holds until it is done.
    pub(super) structure: Mutex<()>,
}

pub(super) fn folded(path: &[String]) -> Vec<String> {
    path.iter().map(|component| fold_name(component)).collect()
}

pub(super) fn shown(path: &[String]) -> String {
    format!("/{}", path.join("/"))
}

/// Whether the journal in a cache tells of nothing left behind: its session completed, or never made anything.
fn completed(cache: &std::path::Path) -> bool {
    crate::journal::Journal::open(&cache.join("journal")).is_ok_and(|(_, records)| {
        let history = super::replay::History::of(&records);
        let nothing = history.ledger.is_empty() && history.snapshots.is_empty();
        (history.completed || nothing) && history.left.is_none()
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
                on_conflict: settings.on_conflict,
                log_bytes_max: settings.log_bytes_max,
                news: News::default(),
                rooms: Rooms::default(),
                stage: Stage::new(settings.stage_bytes_max),
                disk_bytes_in_flight: settings.disk_bytes_in_flight,
                session_bytes_in_flight: settings.session_bytes_in_flight,
                names: settings.names,
                idle: settings.idle,
                digest: settings.digest,
                register_retry: settings.register_retry,
                stopping: Course::default(),
                numbers: AtomicU64::new(1),
            }),
            sessions_dir: settings.data_dir.join("sessions"),
            orphans_dir: settings.data_dir.join(super::orphans::FOLDER),
            max_sessions: settings.max_sessions,
            sessions: Mutex::default(),
            structure: Mutex::default(),
        };
        let name = engine.sessions_dir.display().to_string();
        fs::create_dir_all(&engine.sessions_dir).map_err(ImportError::io(&name))?;
        fs::create_dir_all(&engine.orphans_dir).map_err(ImportError::io(&name))?;
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&engine.sessions_dir).map_err(ImportError::io(&name))? {
            let cache = entry.map_err(ImportError::io(&name))?.path();
            match Session::open(&engine.shared, &cache, None) {
                Ok(Some((session, followers))) => {
                    unfinished.extend(followers.map(|from| (Arc::clone(&session), from)));
                    engine.lock().insert(folded(&session.components()), session);
                }
                Ok(None) => engine.clear_cache(&cache, completed(&cache)),
                Err(error) => tracing::error!("a session can't be taken up: {error}"),
            }
        }
        engine.finish_moves(unfinished)?;
        if !engine.lock().contains_key(&Vec::new()) {
            engine.add_session(&[])?;
        }
        engine.resume_pushes()?;
        Ok(engine)
    }

    /// Machines whose way to their datastores the end of the service cut short go on by themselves; what others left is undone.
    fn resume_pushes(&self) -> Result<(), ImportError> {
        let thread = || std::thread::Builder::new().name("resumed-push".into());
        let sessions: Vec<_> = self.lock().values().cloned().collect();
        for session in sessions {
            let vmx = session.cut_push().or_else(|| session.cut_swap());
            let path = session.display("");
            if vmx.is_some() || session.has_left() {
                let resume = move || session.resume(vmx.as_deref());
                thread().spawn(resume).map_err(ImportError::io(path))?;
            } else if session.must_clear() {
                thread().spawn(move || session.clear_old()).map_err(ImportError::io(path))?;
            }
        }
        let (shared, folder) = (Arc::clone(&self.shared), self.orphans_dir.clone());
        let name = folder.display().to_string();
        let undo = move || {
            super::pushing::until_undone(&shared.stopping, || {
                super::orphans::undo_pushes(&folder, &shared.hypervisors)
            });
        };
        thread().spawn(undo).map_err(ImportError::io(name))?;
        Ok(())
    }

    /// The service ends: pushes are called off, and have a moment to undo what they made. They begin again with the service.
    pub fn stop(&self) {
        let why = "the service ends; the upload begins again by itself when the service starts";
        self.shared.stopping.cancel(why);
        let mut pushing: Vec<_> = self.lock().values().cloned().collect();
        pushing.retain(|session| session.cancel_push(why));
        let begun = Instant::now();
        while pushing.iter().any(|session| !session.import_is_over()) && begun.elapsed() < STOP_MAX {
            std::thread::sleep(STOP_LOOK);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_session(&self, path: &[String]) -> Result<Arc<Session>, ImportError> {
        let cache = self.sessions_dir.join(uuid::Uuid::new_v4().to_string());
        let session = Session::open(&self.shared, &cache, Some(path))?.map(|(session, _)| session);
        let session = session.ok_or_else(|| ImportError::NotFound(shown(path)))?;
        self.lock().insert(folded(path), Arc::clone(&session));
        Ok(session)
    }

    /// Has `listener` told what the service itself changes: the session's path, the file's name, what happened. It is called
    /// with that session's lock held, so it must not ask the engine anything. Once.
    pub fn listen(&self, listener: impl Fn(&[String], &str, OwnChange) + Send + Sync + 'static) {
        self.shared.news.listen(Box::new(listener));
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
        let _held = self.structure.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_free(path)?;
        if path.len() > DEPTH_MAX {
            return Err(ImportError::Limit { what: "directories in one another", limit: DEPTH_MAX as u64 });
        }
        if self.lock().len() > self.max_sessions {
            return Err(ImportError::Limit { what: "sessions", limit: self.max_sessions as u64 });
        }
        self.add_session(path)
    }

    /// Whether a directory can have that path: nothing has it, and there is a directory that it lies in.
    pub(super) fn check_free(&self, path: &[String]) -> Result<(), ImportError> {
        let Some((name, parent)) = path.split_last() else { return Err(ImportError::Exists(shown(path))) };
        let Some(above) = self.session(parent) else { return Err(ImportError::PathNotFound(shown(path))) };
        if self.session(path).is_some() || above.find(name).is_some() {
            return Err(ImportError::Exists(shown(path)));
        }
        Ok(())
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
        if let Some(session) = self.session(path) {
            session.call_off()?;
        }
        // Where it waits for its datastore, that is waited for here: with the structure held, everybody would wait.
        self.check_remove_directory(path)?;
        let _held = self.structure.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_remove_directory(path)?;
        let Some(session) = self.session(path) else { return Ok(()) };
        session.end_swap()?;
        let completed = {
            let mut inner = session.lock();
            inner.removed = true;
            let complete = matches!(&inner.state, State::Receiving(all) if all.was_complete);
            (complete || (inner.ledger.is_empty() && inner.snapshots.is_empty())) && inner.left.is_none()
        };
        session.record(&Record::SessionRemoved)?;
        self.lock().remove(&folded(path));
        let cache = session.cache.clone();
        if let Err(error) = self.shared.stage.release(&cache) {
            tracing::warn!("{}: {error}", cache.display());
        }
        drop(session);
        self.clear_cache(&cache, completed);
        Ok(())
    }

    /// What a client sees of the share: the datastore with the least room of those that sessions still write to; where
    /// none does, of all. A client that looks for room before it copies is refused rather than stopped in the middle.
    pub fn space(&self) -> Space {
        let sessions: Vec<_> = self.lock().values().cloned().collect();
        let mut places: Vec<_> = sessions.iter().flat_map(|session| session.destinations()).collect();
        places.sort();
        places.dedup();
        let rooms = &self.shared.rooms;
        let stores = places.iter().filter_map(|(hypervisor, datastore)| {
            rooms.of(hypervisor, datastore, &self.shared.hypervisors.store(hypervisor, datastore).ok()?)
        });
        let every = self.shared.hypervisors.0.iter();
        let every = every.flat_map(|hypervisor| {
            hypervisor
                .datastores
                .iter()
                .filter_map(|entry| rooms.of(&hypervisor.name, &entry.name, &entry.store))
        });
        let least = stores.min_by_key(|space| space.available);
        least.or_else(|| every.min_by_key(|space| space.available)).unwrap_or_default()
    }

    /// Marks the sessions in which nothing has happened for as long as the settings say: a line in their log and in the
    /// service's, once each. Nothing is removed: whether a restore is still wanted, only its administrator knows.
    pub fn mark_idle(&self) {
        let sessions: Vec<_> = self.lock().values().cloned().collect();
        sessions.iter().for_each(|session| session.mark_idle());
    }

    /// All sessions now.
    pub fn snapshot(&self) -> Snapshot {
        let sessions: Vec<_> = self.lock().values().cloned().collect();
        let until = Instant::now() + SNAPSHOT_MAX;
        Snapshot::of(sessions.iter().map(|session| session.snapshot(until)))
    }
}
