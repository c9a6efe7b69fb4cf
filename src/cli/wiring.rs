//! What a configuration leads to: its hypervisors with their datastores opened, and the import engine on them.

use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::config::{self, Config, DatastoreConfig, HypervisorConfig, HypervisorKind, Writer};
use crate::datastore::nbd::{ClientOptions, NbdOptions};
use crate::datastore::{Datastore, DirectoryDatastore, NbdDatastore};
use crate::disk::Options;
use crate::disk::digest::Algorithm;
use crate::import::{DatastoreEntry, Engine, EngineSettings, Hypervisor, Hypervisors, NameRules, OnConflict};
use crate::inventory::Inventory;
use crate::vsphere::Account;
use crate::vsphere::manager::Manager;
use crate::vsphere::tls::{Thumbprint, Trust};

/// Writes shorter than this, in bytes, are gathered; longer ones go straight on, as they are worth an operation each.
const GATHER_BELOW: u64 = 64 << 10;

/// The import engine of a configuration. Replays the journals of all sessions.
pub(super) fn engine(config: &Config) -> Result<Engine, Failure> {
    make_default_datastores(config)?;
    let import = &config.import;
    let settings = EngineSettings {
        data_dir: config.server.data_dir.clone(),
        hypervisors: hypervisors(config)?,
        disk_options: Options {
            grain: import.skip_grain,
            hold_below: import.coalesce.min(GATHER_BELOW) as usize,
            window: import.coalesce,
            keep_alive: Duration::from_secs(import.keep_alive_seconds),
            ..Options::default()
        },
        max_sessions: import.max_sessions,
        stage_bytes_max: Some(import.stage_max_bytes).filter(|bytes| *bytes > 0),
        on_conflict: on_conflict(config),
        digest: match import.digest {
            config::DigestAlgorithm::None => None,
            config::DigestAlgorithm::Sha256 => Some(Algorithm::Sha256),
            config::DigestAlgorithm::Sha512 => Some(Algorithm::Sha512),
        },
        log_bytes_max: import.log_max_bytes,
        disk_bytes_in_flight: import.disk_bytes_in_flight,
        session_bytes_in_flight: import.session_bytes_in_flight,
        names: NameRules { pass: import.pass_names.clone(), refuse: import.refuse_names.clone() },
        idle: Duration::from_secs(import.session_idle_days.saturating_mul(24 * 60 * 60)),
    };
    Engine::new(settings).map_err(|error| Failure::Usage(error.to_string()))
}

/// What a CFG without `on-conflict` gets.
pub(super) fn on_conflict(config: &Config) -> OnConflict {
    match config.import.on_conflict {
        config::OnConflict::Stop => OnConflict::Stop,
        config::OnConflict::Rename => OnConflict::Rename,
    }
}

/// The embedded default's datastore is made on the first start; a configured one is made by nobody but its administrator,
/// because an unmounted NFS path would fill the root file system.
fn make_default_datastores(config: &Config) -> Result<(), Failure> {
    let stores = config.hypervisors.iter().flat_map(|hypervisor| &hypervisor.datastores);
    for store in stores.filter(|store| store.embedded) {
        if let Some(path) = &store.path {
            std::fs::create_dir_all(path).map_err(|e| Failure::file(path, e))?;
        }
    }
    Ok(())
}

/// The inventory of a vSphere hypervisor. Nothing is sent before it is asked something.
fn inventory(hypervisor: &HypervisorConfig) -> Result<Option<Arc<dyn Inventory>>, Failure> {
    let (Some(url), Some(username), Some(password_file)) =
        (&hypervisor.url, &hypervisor.username, &hypervisor.password_file)
    else {
        return Ok(None);
    };
    let wrong = |why: String| Failure::Usage(format!("hypervisor {}: {why}", hypervisor.name));
    let trust = match (&hypervisor.thumbprint, &hypervisor.ca_file) {
        (Some(thumbprint), _) => Trust::Thumbprint(Thumbprint::parse(thumbprint).map_err(wrong)?),
        (None, Some(ca_file)) => Trust::authorities(ca_file).map_err(wrong)?,
        (None, None) => return Err(wrong("neither thumbprint nor ca-file".into())),
    };
    let account = Account { username: username.clone(), password_file: password_file.clone() };
    let manager = Manager::new(url, &trust, account).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Arc::new(manager)))
}

/// The hypervisors, their datastores opened. Changes nothing.
pub(super) fn hypervisors(config: &Config) -> Result<Hypervisors, Failure> {
    let mut found = Vec::new();
    for hypervisor in &config.hypervisors {
        found.push(Hypervisor {
            inventory: inventory(hypervisor)?,
            name: hypervisor.name.clone(),
            aliases: hypervisor.aliases.clone(),
            datastores: hypervisor
                .datastores
                .iter()
                .map(|store| datastore(hypervisor, store))
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(Hypervisors(found))
}

/// A datastore with its driver.
fn datastore(hypervisor: &HypervisorConfig, store: &DatastoreConfig) -> Result<DatastoreEntry, Failure> {
    let name = &store.name;
    let (writer, why) = store.written(hypervisor.kind);
    let missing = |what: &str| {
        Failure::Usage(format!("datastore {name}: writer = \"{}\" needs {what}", writer.as_str()))
    };
    let directory = || {
        let path = store.path.as_ref().ok_or_else(|| missing("a path"))?;
        DirectoryDatastore::open(path).map_err(|error| {
            Failure::Usage(format!("datastore {name}: {}: {error}; is it mounted?", path.display()))
        })
    };
    let driver: Arc<dyn Datastore> = match writer {
        Writer::Nbd => {
            let nbd = store.nbd.as_ref().ok_or_else(|| missing("the table nbd"))?;
            let client =
                ClientOptions { connections: nbd.connections, retry: Duration::from_secs(nbd.retry_seconds) };
            let fresh_reads_zero = nbd.fresh_reads_zero;
            let options = NbdOptions { template: nbd.uri.clone(), client, fresh_reads_zero };
            let opened = NbdDatastore::new(name, options, Arc::new(directory()?));
            Arc::new(opened.map_err(|why| Failure::Usage(format!("datastore {name}: nbd.uri: {why}")))?)
        }
        Writer::Auto | Writer::Directory => Arc::new(directory()?),
        Writer::Nfc | Writer::Hotadd => return Err(missing("a later version")),
    };
    // Where there is nothing but directories, nobody asks.
    let choice = hypervisor.kind == HypervisorKind::Vsphere || store.nbd.is_some();
    let written = choice.then(|| format!("{name} is written by \"{}\": {why}", writer.as_str()));
    Ok(DatastoreEntry { name: name.clone(), uuid: store.uuid.clone(), store: driver, written })
}
