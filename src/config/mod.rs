//! The configuration file: one TOML file, unknown keys refused with file, line and key.
//!
//! Parsing yields values that are checked ([`Config`]); nothing else in the program validates settings again. Without
//! a file, [`Config::embedded`] is what `importfs serve` runs with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

mod check;
mod locate;

/// Largest configuration file that is read, in bytes: a thousand hypervisors fit, a wrong path to a disk image doesn't.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Where the embedded default listens.
pub const DEFAULT_PORT: u16 = 4450;

/// What is wrong with a configuration, in a sentence with file, line and key.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}", told(path, problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// All that was found.
        problems: Vec<ConfigProblem>,
    },
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The line, counted from 1; `None` where something is missing.
    pub line: Option<usize>,
    /// The key with its tables, such as `hypervisor.datastore.name`; empty where the line has none.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// A line for each, file, line and key first.
fn told(path: &Path, problems: &[ConfigProblem]) -> String {
    let told = problems.iter().map(|problem| {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
        format!("{}: {line}{key}{}", path.display(), problem.message)
    });
    told.collect::<Vec<_>>().join("\n")
}

/// The whole file.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `[server]`
    #[serde(default)]
    pub server: ServerConfig,
    /// `[smb]`
    #[serde(default)]
    pub smb: SmbConfig,
    /// `[limits]`
    #[serde(default)]
    pub limits: LimitsConfig,
    /// `[import]`
    #[serde(default)]
    pub import: ImportConfig,
    /// `[[share]]`
    #[serde(default, rename = "share")]
    pub shares: Vec<ShareConfig>,
    /// `[[hypervisor]]`
    #[serde(default, rename = "hypervisor")]
    pub hypervisors: Vec<HypervisorConfig>,
}

/// `[server]`: addresses, data, name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServerConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Sessions, journal, users.
    pub data_dir: PathBuf,
    /// The NetBIOS-style name that clients see.
    pub name: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 445)],
            data_dir: PathBuf::from("/var/lib/importfs"),
            name: "IMPORTFS".into(),
        }
    }
}

/// A dialect, as written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Dialect {
    /// SMB 2.0.2
    #[serde(rename = "2.0.2")]
    Smb202 = 0x0202,
    /// SMB 2.1
    #[serde(rename = "2.1")]
    Smb21 = 0x0210,
    /// SMB 3.0
    #[serde(rename = "3.0")]
    Smb30 = 0x0300,
    /// SMB 3.0.2
    #[serde(rename = "3.0.2")]
    Smb302 = 0x0302,
    /// SMB 3.1.1
    #[serde(rename = "3.1.1")]
    Smb311 = 0x0311,
}

/// Whether messages must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// Every message, whatever the client asks for.
    Required,
    /// Where the client asks for it.
    Enabled,
}

/// Whether messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Clients that cannot are refused.
    Required,
    /// Offered; a client that encrypts is answered encrypted.
    Desired,
    /// Not offered.
    Off,
}

/// `[smb]`: what is negotiated.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SmbConfig {
    /// Oldest dialect accepted.
    pub min_dialect: Dialect,
    /// Newest dialect offered.
    pub max_dialect: Dialect,
    /// Signing policy.
    pub signing: Signing,
    /// Encryption policy.
    pub encryption: Encryption,
    /// Whether a session may use several connections at once (SMB 3).
    pub multichannel: bool,
    /// Addresses of this server that clients may open such connections to, besides the one that they know already.
    pub channel_addresses: Vec<IpAddr>,
}

impl Default for SmbConfig {
    fn default() -> Self {
        Self {
            min_dialect: Dialect::Smb202,
            max_dialect: Dialect::Smb311,
            signing: Signing::Enabled,
            encryption: Encryption::Desired,
            multichannel: true,
            channel_addresses: Vec::new(),
        }
    }
}

/// Which digest of its disks a restore gets in its import.log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestAlgorithm {
    /// None is taken.
    None,
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

/// What happens when a destination exists, in a CFG that does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// It is an error.
    Stop,
    /// Another directory is taken.
    Rename,
}

/// `[limits]`: what clients may take of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LimitsConfig {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address.
    pub connections_per_address: usize,
    /// Sessions of one connection.
    pub sessions_per_connection: usize,
    /// Seconds within which a client must have logged in.
    pub login_seconds: u64,
    /// Bytes that it may have sent by then.
    pub login_bytes: u64,
    /// Seconds without a request after which a session counts as lost.
    pub idle_seconds: u64,
    /// Seconds within which a request that was begun must have arrived whole.
    pub frame_seconds: u64,
    /// Bytes of large frames and answers in memory at once, over all connections.
    pub bytes_in_flight: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            sessions_per_connection: 256,
            login_seconds: 30,
            login_bytes: 1 << 20,
            idle_seconds: 900,
            frame_seconds: 60,
            bytes_in_flight: 128 << 20,
        }
    }
}

/// `[import]`: how import sessions behave.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ImportConfig {
    /// Zeros are skipped in aligned pieces of this many bytes; a power of two from 4096 to 16 MiB.
    pub skip_grain: u64,
    /// Small writes are gathered up to this many bytes.
    pub coalesce: u64,
    /// Seconds without outgoing data after which a driver is kept alive.
    pub keep_alive_seconds: u64,
    /// Most sessions at once.
    pub max_sessions: usize,
    /// Bytes of disks that may wait in the data directory until they are complete; 0: what its file system has.
    pub stage_max_bytes: u64,
    /// What a CFG without `on-conflict` gets.
    pub on_conflict: OnConflict,
    /// Disks are read back when the VMX has arrived, and their digest stands in import.log.
    pub digest: DigestAlgorithm,
    /// Bytes to which a session's import.log grows.
    pub log_max_bytes: u64,
    /// Bytes on their way to one disk at once.
    pub disk_bytes_in_flight: u64,
    /// Bytes on their way to all disks of a session at once.
    pub session_bytes_in_flight: u64,
    /// Days without activity after which a session is marked in logs and `status`; 0 marks none.
    pub session_idle_days: u64,
    /// Seconds for which the close of a VMX is held while its hypervisor can't be reached; 0 tries once.
    pub register_retry_seconds: u64,
    /// Patterns of further names that are passed through beside the VMX.
    pub pass_names: Vec<String>,
    /// Patterns of names that are refused.
    pub refuse_names: Vec<String>,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            skip_grain: 64 << 10,
            coalesce: 1 << 20,
            keep_alive_seconds: 60,
            max_sessions: 1024,
            stage_max_bytes: 0,
            on_conflict: OnConflict::Stop,
            digest: DigestAlgorithm::None,
            log_max_bytes: 64 << 20,
            disk_bytes_in_flight: 64 << 20,
            session_bytes_in_flight: 128 << 20,
            session_idle_days: 30,
            register_retry_seconds: 120,
            pass_names: Vec::new(),
            refuse_names: Vec::new(),
        }
    }
}

/// What stands behind a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareKind {
    /// Import sessions.
    Import,
    /// A plain directory.
    Directory,
}

/// `[[share]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShareConfig {
    /// What clients call it.
    pub name: String,
    /// What it is.
    pub kind: ShareKind,
    /// The directory, for `kind = "directory"`.
    pub path: Option<PathBuf>,
    /// Shown in listings.
    #[serde(default)]
    pub comment: String,
    /// `required` refuses clients that do not encrypt.
    pub encryption: Option<Encryption>,
    /// Accounts that may use it; absent means every account.
    pub users: Option<Vec<String>>,
}

/// What kind of hypervisor it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorKind {
    /// Datastores only, nothing to register with.
    Directory,
    /// A vCenter or an ESXi host.
    Vsphere,
}

/// `[[hypervisor]]`: what a CFG's servername names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HypervisorConfig {
    /// Its name.
    pub name: String,
    /// Other names that CFG files use for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is.
    pub kind: HypervisorKind,
    /// `https://host/sdk`; this and the next four are a vSphere hypervisor's.
    pub url: Option<String>,
    /// Who logs in.
    pub username: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// SHA-256 or SHA-1 digest of the server's certificate.
    pub thumbprint: Option<String>,
    /// PEM file of the authorities that vouch for the server, instead of a thumbprint.
    pub ca_file: Option<PathBuf>,
    /// The virtual machine of that vSphere in which importfs runs, for hotadd: its UUID, name, or inventory path, or
    /// [`APPLIANCE_THIS`].
    pub appliance: Option<String>,
    /// `[[hypervisor.datastore]]`
    #[serde(default, rename = "datastore")]
    pub datastores: Vec<DatastoreConfig>,
}

/// `appliance`: the machine whose firmware tells the UUID that this one's does.
pub const APPLIANCE_THIS: &str = "this";

/// Which driver writes a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writer {
    /// The best that the rest of the configuration allows ([`DatastoreConfig::written`]).
    #[default]
    Auto,
    /// Straight into `path`.
    Directory,
    /// Whole machines, by HttpNfcLease.
    Nfc,
    /// Disks that are attached to this appliance.
    Hotadd,
    /// Disks to exports of an NBD server, the rest into `path`.
    Nbd,
}

impl Writer {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Directory => "directory",
            Self::Nfc => "nfc",
            Self::Hotadd => "hotadd",
            Self::Nbd => "nbd",
        }
    }
}

/// `[[hypervisor.datastore]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatastoreConfig {
    /// Its name.
    pub name: String,
    /// Its UUID as in `/vmfs/volumes/<uuid>`.
    pub uuid: Option<String>,
    /// Where it is mounted here.
    pub path: Option<PathBuf>,
    /// Which driver writes it.
    #[serde(default)]
    pub writer: Writer,
    /// It belongs to [`Config::embedded`] and is made on the first start.
    #[serde(skip)]
    pub embedded: bool,
    /// `[hypervisor.datastore.nbd]`: disks go to exports of an NBD server, everything else to `path`.
    pub nbd: Option<NbdConfig>,
    /// `[hypervisor.datastore.nfc]`
    pub nfc: Option<NfcConfig>,
    /// `[hypervisor.datastore.hotadd]`
    pub hotadd: Option<HotaddConfig>,
}

impl DatastoreConfig {
    /// The driver that writes it, and why that one; never [`Writer::Auto`].
    pub fn written(&self, hypervisor: &HypervisorConfig) -> (Writer, &'static str) {
        match (self.writer, &self.nbd, &self.path, hypervisor.kind) {
            (Writer::Auto, Some(_), ..) => (Writer::Nbd, "the configuration has an NBD server for it"),
            (Writer::Auto, None, Some(_), _) => (Writer::Directory, "it is mounted here"),
            (Writer::Auto, None, None, HypervisorKind::Vsphere) if hypervisor.appliance.is_some() => {
                (Writer::Hotadd, "it is not mounted here, and this is a virtual machine there")
            }
            (Writer::Auto, None, None, HypervisorKind::Vsphere) => (Writer::Nfc, "it is not mounted here"),
            // It lacks its path, which is told.
            (Writer::Auto, None, None, HypervisorKind::Directory) => (Writer::Directory, ""),
            (writer, ..) => (writer, "the configuration says so"),
        }
    }
}

/// `[hypervisor.datastore.nfc]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NfcConfig {
    /// How hard disks are compressed on their way: zlib's level, 0 (not at all) to 9.
    pub level: u32,
    /// Threads that compress, for each disk on its way; absent: as many as there are processors.
    pub threads: Option<usize>,
    /// Seconds for which an upload that broke is begun again.
    pub retry_seconds: u64,
}

impl Default for NfcConfig {
    fn default() -> Self {
        Self { level: 1, threads: None, retry_seconds: 900 }
    }
}

/// When a thick disk is zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thick {
    /// Each block when it is first written.
    #[default]
    Lazy,
    /// All of it when it is made.
    Eager,
}

/// `[hypervisor.datastore.hotadd]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HotaddConfig {
    /// How thick disks are made.
    pub thick: Thick,
    /// Seconds within which this machine must show a disk that was attached to it.
    pub device_seconds: u64,
}

impl Default for HotaddConfig {
    fn default() -> Self {
        Self { thick: Thick::default(), device_seconds: 30 }
    }
}

/// `[hypervisor.datastore.nbd]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NbdConfig {
    /// Address of a disk's export, with `{datastore}`, `{directory}`, `{descriptor}`, `{extent}`, `{disk}`, `{vm}`.
    pub uri: String,
    /// Connections for each disk, where the server allows several.
    #[serde(default = "NbdConfig::connections_default")]
    pub connections: usize,
    /// Seconds that a lost connection is tried again for while the client is held, and that an answer may take.
    #[serde(default = "NbdConfig::retry_default")]
    pub retry_seconds: u64,
    /// The administrator's word that each export reads as zeros before a restore.
    #[serde(default)]
    pub fresh_reads_zero: bool,
    /// The address leads to the disk that has its names now: disks that a virtual machine has since a snapshot are written, no new ones.
    #[serde(default)]
    pub existing_disks: bool,
    /// Digest of the certificate of the server that is trusted, for an address with `nbds`.
    pub thumbprint: Option<String>,
    /// PEM file of the authorities that vouch for it, instead.
    pub ca_file: Option<PathBuf>,
    /// The name that its certificate is for, where that is not the address's host.
    pub server_name: Option<String>,
    /// PEM files of the certificate that a server wants of its clients, and of its key.
    pub client_certificate: Option<PathBuf>,
    /// See `client_certificate`.
    pub client_key: Option<PathBuf>,
}

impl NbdConfig {
    fn connections_default() -> usize {
        4
    }

    fn retry_default() -> u64 {
        300
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > CONFIG_BYTES_MAX {
            return Err(unreadable(std::io::Error::from(std::io::ErrorKind::FileTooLarge)));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Parses and checks `text`; `path` is for errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let places = locate::Places::of(text);
        let problems = match toml::from_str::<Self>(text) {
            Ok(config) => {
                let problems = check::problems(&config);
                if problems.is_empty() {
                    return Ok(config);
                }
                let placed = problems.into_iter().map(|(key, message)| ConfigProblem {
                    line: places.line(&key),
                    key: locate::shown(&key),
                    message,
                });
                placed.collect()
            }
            Err(error) => {
                let at = error.span().map(|span| span.start);
                vec![ConfigProblem {
                    line: at.map(|at| places.line_at(at)),
                    key: at.and_then(|at| places.key_at(at)).unwrap_or_default(),
                    message: error.message().replace('\n', "; "),
                }]
            }
        };
        Err(ConfigError::Wrong { path: path.into(), problems })
    }

    /// What `serve` runs with without a file: one share `import`, one datastore, both below `data_dir`.
    pub fn embedded(data_dir: &Path) -> Self {
        Self {
            server: ServerConfig {
                listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT)],
                data_dir: data_dir.into(),
                ..ServerConfig::default()
            },
            smb: SmbConfig::default(),
            limits: LimitsConfig::default(),
            import: ImportConfig::default(),
            shares: vec![ShareConfig {
                name: "import".into(),
                kind: ShareKind::Import,
                path: None,
                comment: "virtual machine import".into(),
                encryption: None,
                users: None,
            }],
            hypervisors: vec![HypervisorConfig {
                name: "local".into(),
                aliases: Vec::new(),
                kind: HypervisorKind::Directory,
                url: None,
                username: None,
                password_file: None,
                thumbprint: None,
                ca_file: None,
                appliance: None,
                datastores: vec![DatastoreConfig {
                    name: "datastore1".into(),
                    uuid: None,
                    path: Some(data_dir.join("datastore1")),
                    writer: Writer::Auto,
                    embedded: true,
                    nbd: None,
                    nfc: None,
                    hotadd: None,
                }],
            }],
        }
    }
}

#[cfg(test)]
mod tests;
