//! `importfs serve`: wires configuration, engine, shares and server together, and runs them until a signal.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use smb_proto::rpc::{Provider, ShareInfo};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use super::{Failure, Place, wiring};
use crate::admin::instance::Instance;
use crate::admin::socket::{SOCKET_NAME, StatusSocket};
use crate::admin::{self, Reporter};
use crate::config::{Config, Encryption, ShareConfig, ShareKind, Signing};
use crate::import::Engine;
use crate::share::directory::DirectoryShare;
use crate::share::import::ImportShare;
use crate::share::ipc::IpcShare;
use crate::smb::limits::Limits;
use crate::smb::server::{self, Server, Settings, ShareEntry};
use crate::smb::share::Share;
use crate::smb::transport;
use crate::users::{Users, UsersError};

/// The account that the embedded default makes.
const DEFAULT_USER: &str = "import";
/// Characters of a generated password: 20 of 32 are 100 bits.
const PASSWORD_CHARS: usize = 20;
/// What passwords are made of: 32 characters that are not mistaken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// What clients show as the server's workgroup: the one that Windows makes, since no domain is joined.
const WORKGROUP: &str = "WORKGROUP";
/// Share types that the services tell (MS-SRVS 2.2.2.4): a disk, and pipes as a special share.
const TYPE_DISK: u32 = 0;
const TYPE_PIPES: u32 = 0x8000_0003;
/// How often the service looks for sessions that are idle for days.
const IDLE_LOOK: Duration = Duration::from_hours(1);
/// How long connections have to end after a signal before the process leaves.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Where and how to run.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    /// The address to listen on, instead of the configuration's.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// How the log is written to stderr; IMPORTFS_LOG sets what is logged.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// A line for people.
    Human,
    /// A JSON object a line.
    Json,
}

pub(super) fn run(options: &Serve) -> Result<(), Failure> {
    start_log(options.log_format);
    let mut config = options.place.load()?;
    if let Some(address) = options.listen {
        config.server.listen = vec![address];
    }
    let data_dir = config.server.data_dir.clone();
    create_private(&data_dir).map_err(|e| Failure::file(&data_dir, e))?;
    let _instance = Instance::take(&data_dir).map_err(|e| Failure::Usage(e.to_string()))?;
    let users = Arc::new(Users::open(&data_dir).map_err(|e| Failure::Usage(e.to_string()))?);
    let first_password = match options.place.config {
        Some(_) => None,
        None => first_user(&users).map_err(|e| Failure::Usage(e.to_string()))?,
    };
    let imports = config.shares.iter().any(|share| share.kind == ShareKind::Import);
    let engine = if imports { Some(Arc::new(wiring::engine(&config)?)) } else { None };
    let server = Server::new(settings(&config, users, engine.as_ref())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(transport::BLOCKED_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| Failure::Usage(format!("the runtime does not start: {e}")))?;
    // Kept past the runtime: its end logs out of hypervisors, which blocks and may not happen on an async thread.
    let _kept = engine.clone();
    let outcome = runtime.block_on(listen(&config, server, engine, first_password.as_deref()));
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("IMPORTFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Makes a directory that only its owner can enter: the accounts and half-restored disks' maps are in it.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Without any account nobody could log in: makes one, and returns its password.
fn first_user(users: &Users) -> Result<Option<String>, UsersError> {
    if !users.names()?.is_empty() {
        return Ok(None);
    }
    let mut random = [0; PASSWORD_CHARS];
    getrandom::fill(&mut random).map_err(|e| UsersError::Random(e.to_string()))?;
    let password: String = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    users.add(DEFAULT_USER, &password)?;
    Ok(Some(password))
}

/// The accounts as the server asks for them.
struct Accounts(Arc<Users>);

impl server::Users for Accounts {
    fn nt_hash(&self, account: &str) -> Option<[u8; 16]> {
        self.0.nt_hash(account).unwrap_or_else(|problem| {
            error!(%problem, "the accounts can't be read: every login is refused");
            None
        })
    }
}

/// What the pipes' services tell.
struct About {
    name: String,
    shares: Vec<ShareInfo>,
}

impl Provider for About {
    /// All of them, as Windows lists them: who may connect is decided at the connect.
    fn shares(&self) -> Vec<ShareInfo> {
        self.shares.clone()
    }

    fn server_name(&self) -> String {
        self.name.clone()
    }

    fn domain(&self) -> String {
        WORKGROUP.into()
    }

    fn comment(&self) -> String {
        "importfs".into()
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// IPC$ beside the shares that are configured.
fn ipc(config: &Config) -> Arc<ShareEntry> {
    const NAME: &str = "IPC$";
    let listed =
        |name: &str, remark: &str, kind| ShareInfo { name: name.into(), remark: remark.into(), kind };
    let mut shares: Vec<_> =
        config.shares.iter().map(|share| listed(&share.name, &share.comment, TYPE_DISK)).collect();
    shares.push(listed(NAME, "services of this server", TYPE_PIPES));
    let about = About { name: config.server.name.clone(), shares };
    Arc::new(ShareEntry {
        name: NAME.into(),
        comment: String::new(),
        kind: server::ShareKind::Pipe,
        share: Arc::new(IpcShare::new(Arc::new(about))),
        encrypt: false,
        users: Vec::new(),
    })
}

fn settings(config: &Config, users: Arc<Users>, engine: Option<&Arc<Engine>>) -> Result<Settings, Failure> {
    let mut shares = Vec::new();
    for share in &config.shares {
        shares.push(Arc::new(ShareEntry {
            name: share.name.clone(),
            comment: share.comment.clone(),
            kind: server::ShareKind::Disk,
            share: open_share(share, engine)?,
            encrypt: share.encryption == Some(Encryption::Required),
            users: share.users.iter().flatten().map(|user| user.to_lowercase()).collect(),
        }));
    }
    shares.push(ipc(config));
    let guid = server_guid(&config.server.data_dir)?;
    Ok(Settings {
        name: config.server.name.clone(),
        guid,
        min_dialect: config.smb.min_dialect as u16,
        max_dialect: config.smb.max_dialect as u16,
        signing_required: config.smb.signing == Signing::Required,
        encryption: match config.smb.encryption {
            Encryption::Off => server::Encryption::Off,
            Encryption::Desired => server::Encryption::Desired,
            Encryption::Required => server::Encryption::Required,
        },
        limits: limits(config),
        multichannel: config.smb.multichannel.then(|| config.smb.channel_addresses.clone()),
        shares,
        users: Arc::new(Accounts(users)),
    })
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections: config.limits.connections,
        connections_per_address: config.limits.connections_per_address,
        sessions_per_connection: config.limits.sessions_per_connection,
        login_time: Duration::from_secs(config.limits.login_seconds),
        login_bytes: config.limits.login_bytes,
        idle_time: Duration::from_secs(config.limits.idle_seconds),
        frame_time: Duration::from_secs(config.limits.frame_seconds),
        bytes_in_flight: config.limits.bytes_in_flight,
    }
}

/// The ServerGuid, kept in the data directory: clients recognise the server by it after a restart.
fn server_guid(data_dir: &Path) -> Result<[u8; 16], Failure> {
    let path = data_dir.join("server-guid");
    let known = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<uuid::Uuid>().ok());
    if let Some(guid) = known {
        return Ok(guid.into_bytes());
    }
    let guid = uuid::Uuid::new_v4();
    std::fs::write(&path, format!("{guid}\n")).map_err(|e| Failure::file(&path, e))?;
    Ok(guid.into_bytes())
}

fn open_share(share: &ShareConfig, engine: Option<&Arc<Engine>>) -> Result<Arc<dyn Share>, Failure> {
    match (share.kind, &share.path) {
        (ShareKind::Directory, Some(path)) => {
            let opened = DirectoryShare::open(path, &share.name);
            Ok(Arc::new(opened.map_err(|e| Failure::file(path, e))?))
        }
        (ShareKind::Directory, None) => Err(Failure::Usage(format!("share '{}' has no path", share.name))),
        (ShareKind::Import, _) => match engine {
            Some(engine) => Ok(Arc::new(ImportShare::new(Arc::clone(engine), &share.name))),
            None => Err(Failure::Usage(format!("share '{}' has no engine behind it", share.name))),
        },
    }
}

async fn listen(
    config: &Config,
    server: Arc<Server>,
    engine: Option<Arc<Engine>>,
    password: Option<&str>,
) -> Result<(), Failure> {
    let mut signals =
        Signals::catch().map_err(|e| Failure::Usage(format!("signals can't be received: {e}")))?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    let mut addresses = Vec::new();
    let mut port = 0;
    for address in &config.server.listen {
        let failed = |error| Failure::Usage(format!("server.listen: {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        port = address.port();
        addresses.push(address.to_string());
        info!(%address, "listening");
        tasks.push(tokio::spawn(transport::serve(listener, Arc::clone(&server), stopped.clone())));
    }
    let stopped_engine = engine.clone();
    let idle = engine.clone().map(|engine| tokio::spawn(mark_idle(engine)));
    let source: admin::Source =
        Arc::new(move || engine.as_ref().map(|engine| engine.snapshot()).unwrap_or_default());
    let data_dir = &config.server.data_dir;
    let socket = StatusSocket::bind(data_dir).map_err(|e| Failure::file(&data_dir.join(SOCKET_NAME), e))?;
    let status = tokio::spawn(socket.serve(Arc::new(Reporter::new(source, addresses))));
    if let Some(share) = config.shares.first() {
        greet(port, &share.name, password);
    }
    signals.wait().await;
    info!("stopping");
    if let Some(engine) = stopped_engine {
        // Before connections end: whoever waits for a push is still told.
        let _ = tokio::task::spawn_blocking(move || engine.stop()).await; // its failure would be a panic, logged as one
    }
    let _ = stop.send(true); // nobody listens if every task has ended already
    for task in tasks {
        let _ = tokio::time::timeout(SHUTDOWN, task).await;
    }
    if let Some(idle) = idle {
        idle.abort();
    }
    status.abort();
    let _ = status.await; // cancelled, and its socket's file with it
    Ok(())
}

/// Marks sessions in which nothing happens, for as long as the service runs.
async fn mark_idle(engine: Arc<Engine>) {
    let mut turns = tokio::time::interval(IDLE_LOOK);
    loop {
        turns.tick().await;
        let engine = Arc::clone(&engine);
        if let Err(problem) = tokio::task::spawn_blocking(move || engine.mark_idle()).await {
            error!(%problem, "idle sessions can't be marked");
        }
    }
}

/// The signals that end the service, caught from here on: one that comes while it starts must find it ready, too.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Lines to paste into the three clients that people have.
fn greet(port: u16, share: &str, password: Option<&str>) {
    let (user, secret) = (DEFAULT_USER, password.unwrap_or("PASSWORD"));
    if password.is_some() {
        println!(
            "Account '{user}' made, password {secret} (shown this once; importfs user passwd {user} changes it)"
        );
    }
    println!("Connect with:");
    println!("  smbclient //127.0.0.1/{share} -p {port} -U '{user}%{secret}'");
    println!("  net use Z: \\\\HOST\\{share} /user:{user} {secret} /tcpport:{port}");
    println!("  mount -t cifs //HOST/{share} /mnt -o port={port},username={user},password={secret}");
}
