//! What a configuration leads to: its hypervisors with their datastores opened, and the import engine on them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::config::{
    self, APPLIANCE_THIS, Config, DatastoreConfig, HypervisorConfig, HypervisorKind, NbdConfig, Thick, Writer,
};
use crate::datastore::block_device::Roots;
use crate::datastore::hotadd::HotaddOptions;
use crate::datastore::hotadd::appliance::{self, Appliance};
use crate::datastore::hotadd::ledger::{self, Ledger};
use crate::datastore::nbd::{ClientOptions, NbdOptions, Tls};
use crate::datastore::nfc::NfcOptions;
use crate::datastore::{
    Datastore, DirectoryDatastore, HotaddDatastore, NbdDatastore, NfcDatastore, stream_optimized,
};
use crate::disk::Options;
use crate::disk::digest::Algorithm;
use crate::import::{DatastoreEntry, Engine, EngineSettings, Hypervisor, Hypervisors, NameRules, OnConflict};
use crate::inventory::Inventory;
use crate::tls::{Identity, Thumbprint, Trust};
use crate::vsphere::Account;
use crate::vsphere::manager::Manager;

/// Writes shorter than this, in bytes, are gathered; longer ones go straight on, as they are worth an operation each.
const GATHER_BELOW: u64 = 64 << 10;

/// Environment: a directory whose `sys` and `dev` stand for this machine's. For tests of hotadd.
const MACHINE_ROOT: &str = "IMPORTFS_MACHINE_ROOT";

/// The import engine of a configuration. Replays the journals of all sessions.
pub(super) fn engine(config: &Config) -> Result<Engine, Failure> {
    make_default_datastores(config)?;
    let import = &config.import;
    let settings = EngineSettings {
        data_dir: config.server.data_dir.clone(),
        hypervisors: wired(config, true)?,
        disk_options: Options {
            grain: import.skip_grain,
            hold_below: import.coalesce.min(GATHER_BELOW) as usize,
            window: import.coalesce,
            keep_alive: Duration::from_secs(import.keep_alive_seconds),
            ..Options::default()
        },
        max_sessions: import.max_sessions,
        stage_bytes_max: stage_limit(config),
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
        register_retry: Duration::from_secs(import.register_retry_seconds),
    };
    Engine::new(settings).map_err(|error| Failure::Usage(error.to_string()))
}

/// Bytes of the stage; `None`: as much as its file system has.
pub(super) fn stage_limit(config: &Config) -> Option<u64> {
    Some(config.import.stage_max_bytes).filter(|bytes| *bytes > 0)
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

/// Which server is trusted.
fn trust(thumbprint: Option<&str>, ca_file: Option<&Path>) -> Result<Trust, String> {
    match (thumbprint, ca_file) {
        (Some(thumbprint), _) => Thumbprint::parse(thumbprint).map(Trust::Thumbprint),
        (None, Some(ca_file)) => Trust::authorities(ca_file),
        (None, None) => Err("neither thumbprint nor ca-file".to_owned()),
    }
}

/// What an address with `nbds` needs.
fn nbd_tls(nbd: &NbdConfig) -> Result<Option<Tls>, String> {
    if nbd.thumbprint.is_none() && nbd.ca_file.is_none() {
        return Ok(None);
    }
    let trust = trust(nbd.thumbprint.as_deref(), nbd.ca_file.as_deref())?;
    let identity = match (&nbd.client_certificate, &nbd.client_key) {
        (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
        _ => None,
    };
    let config = trust.client_config_of(identity).map_err(|error| format!("client-certificate: {error}"))?;
    Ok(Some(Tls { config: Arc::new(config), name: nbd.server_name.clone() }))
}

/// The manager of a vSphere hypervisor. Nothing is sent before it is asked something.
pub(super) fn manager(hypervisor: &HypervisorConfig) -> Result<Option<Arc<Manager>>, Failure> {
    let (Some(url), Some(username), Some(password_file)) =
        (&hypervisor.url, &hypervisor.username, &hypervisor.password_file)
    else {
        return Ok(None);
    };
    let wrong = |why: String| Failure::Usage(format!("hypervisor {}: {why}", hypervisor.name));
    let trust = trust(hypervisor.thumbprint.as_deref(), hypervisor.ca_file.as_deref()).map_err(wrong)?;
    let account = Account { username: username.clone(), password_file: password_file.clone() };
    let manager = Manager::new(url, &trust, account).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Arc::new(manager)))
}

/// The hypervisors, their datastores opened. Changes nothing.
pub(super) fn hypervisors(config: &Config) -> Result<Hypervisors, Failure> {
    wired(config, false)
}

/// [`hypervisors`]; those of a service that runs undo by and by what an earlier run of it left (`serving`).
fn wired(config: &Config, serving: bool) -> Result<Hypervisors, Failure> {
    let mut found = Vec::new();
    for hypervisor in &config.hypervisors {
        let manager = manager(hypervisor)?;
        let appliance = appliance(config, hypervisor, manager.as_deref(), serving)?;
        let mut datastores = Vec::new();
        for store in &hypervisor.datastores {
            datastores.push(datastore(hypervisor, store, manager.as_ref(), appliance.as_ref())?);
        }
        found.push(Hypervisor {
            inventory: manager.map(|manager| manager as Arc<dyn Inventory>),
            name: hypervisor.name.clone(),
            aliases: hypervisor.aliases.clone(),
            datastores,
        });
    }
    Ok(Hypervisors(found))
}

/// The virtual machine that this is, where a datastore of its hypervisor is written by hotadd.
fn appliance(
    config: &Config,
    hypervisor: &HypervisorConfig,
    manager: Option<&Manager>,
    serving: bool,
) -> Result<Option<Arc<Appliance>>, Failure> {
    let mut stores = hypervisor.datastores.iter();
    let (Some(manager), true) = (manager, stores.any(|store| store.written(hypervisor).0 == Writer::Hotadd))
    else {
        return Ok(None);
    };
    let roots = match std::env::var_os(MACHINE_ROOT) {
        Some(root) => Roots { sysfs: Path::new(&root).join("sys"), dev: Path::new(&root).join("dev") },
        None => Roots::default(),
    };
    let place = appliance::Place {
        configured: hypervisor.appliance.clone().filter(|text| text != APPLIANCE_THIS),
        roots,
        ledger: Ledger::of(&config.server.data_dir),
    };
    let appliance = Appliance::new(Arc::clone(manager.client()), place, serving);
    let appliance =
        appliance.map_err(|error| Failure::file(&config.server.data_dir.join(ledger::FOLDER), error));
    Ok(Some(Arc::new(appliance?)))
}

/// A datastore with its driver.
fn datastore(
    hypervisor: &HypervisorConfig,
    store: &DatastoreConfig,
    manager: Option<&Arc<Manager>>,
    appliance: Option<&Arc<Appliance>>,
) -> Result<DatastoreEntry, Failure> {
    let name = &store.name;
    let (writer, why) = store.written(hypervisor);
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
            let wrong = |why: String| Failure::Usage(format!("datastore {name}: nbd: {why}"));
            let client = ClientOptions {
                connections: nbd.connections,
                retry: Duration::from_secs(nbd.retry_seconds),
                tls: nbd_tls(nbd).map_err(wrong)?,
            };
            let options = NbdOptions {
                template: nbd.uri.clone(),
                client,
                fresh_reads_zero: nbd.fresh_reads_zero,
                existing_disks: nbd.existing_disks,
            };
            let opened = NbdDatastore::new(name, options, Arc::new(directory()?));
            Arc::new(opened.map_err(|why| Failure::Usage(format!("datastore {name}: nbd.uri: {why}")))?)
        }
        Writer::Auto | Writer::Directory => Arc::new(directory()?),
        Writer::Hotadd => {
            let appliance = appliance.ok_or_else(|| missing("kind = \"vsphere\""))?;
            let hotadd = store.hotadd.clone().unwrap_or_default();
            let options = HotaddOptions {
                eager: hotadd.thick == Thick::Eager,
                device_wait: Duration::from_secs(hotadd.device_seconds),
            };
            Arc::new(HotaddDatastore::new(name, Arc::clone(appliance), options))
        }
        Writer::Nfc => {
            let client = manager.ok_or_else(|| missing("kind = \"vsphere\""))?.client();
            let nfc = store.nfc.clone().unwrap_or_default();
            let default = stream_optimized::Options::default();
            let threads = nfc.threads.unwrap_or(default.threads);
            let stream = stream_optimized::Options { level: nfc.level, threads };
            let options = NfcOptions { stream, retry: Duration::from_secs(nfc.retry_seconds) };
            Arc::new(NfcDatastore::new(Arc::clone(client), name, store.uuid.as_deref(), options))
        }
    };
    // Where there is nothing but directories, nobody asks.
    let choice = hypervisor.kind == HypervisorKind::Vsphere || store.nbd.is_some();
    let written = choice.then(|| format!("{name} is written by \"{}\": {why}", writer.as_str()));
    Ok(DatastoreEntry { name: name.clone(), uuid: store.uuid.clone(), store: driver, written })
}
