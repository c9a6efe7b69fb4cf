//! The way to a running service: a Unix socket `<data-dir>/status.sock`, for the service's own account only.
//!
//! A client sends one line, `status`; the service answers with one JSON document, a [`Report`] or `{"error": …}`, and
//! closes. Whatever else it sends, or however slowly, costs the service one of a few places for a few seconds.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Report, Reporter};

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "status.sock";
/// Bytes of a request: `status` and a line end, with room for later words.
const REQUEST_BYTES_MAX: usize = 64;
/// Clients served at once; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 8;
/// Connections that the kernel keeps waiting.
const BACKLOG: i32 = 16;
/// How long a client has for its request, the sessions for their snapshots, and the client to take the answer.
const STEP: Duration = Duration::from_secs(5);
/// How long a client waits for all of that.
const ANSWER: Duration = Duration::from_secs(15);
/// Bytes of an answer: a thousand sessions of sixty disks are some 40 MiB.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a socket's path (unix(7): 108 with the closing NUL).
const PATH_BYTES_MAX: usize = 107;

/// The socket's path, short enough for its address: a long one is reached through the open directory. The file must stay
/// open while the path is used.
fn address(data_dir: &Path) -> io::Result<(PathBuf, Option<std::fs::File>)> {
    let path = data_dir.join(SOCKET_NAME);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((path, None));
    }
    let directory = std::fs::File::open(data_dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd())), Some(directory)))
}

/// The service's end. The socket's file goes when it is dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Makes the socket. The caller holds the data directory's lock ([`super::instance`]), so that one that lies there is
    /// left over from a crash. To be called within a tokio runtime.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (short, _directory) = address(data_dir)?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(&short)?)?;
        // Nobody can connect before it listens.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(
            std::os::fd::OwnedFd::from(socket),
        ))?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, reporter: Arc<Reporter>) {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let reporter = Arc::clone(&reporter);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, reporter).await {
                            tracing::debug!("a client of the status socket: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("the status socket: {error}");
                    tokio::time::sleep(STEP).await; // out of descriptors: it passes, or nothing helps
                }
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, reporter: Arc<Reporter>) -> io::Result<()> {
    let request = timeout(STEP, request(&mut stream)).await??;
    let text = if request.trim_ascii() == b"status" {
        // In a thread of its own, that ends by itself where a session is busy for longer than the client waits.
        match timeout(STEP, tokio::task::spawn_blocking(move || reporter.report())).await {
            Ok(Ok(report)) => serde_json::to_string(&report)?,
            _ => failure("a session is busy; try again"),
        }
    } else {
        failure("the request is not known; ask for status")
    };
    timeout(STEP, async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

fn failure(sentence: &str) -> String {
    serde_json::json!({ "error": sentence }).to_string()
}

/// One line, or as much of it as is allowed.
async fn request(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut piece = [0; REQUEST_BYTES_MAX];
    while request.len() < REQUEST_BYTES_MAX && !request.contains(&b'\n') {
        let room = REQUEST_BYTES_MAX - request.len();
        let count = stream.read(&mut piece[..room]).await?;
        if count == 0 {
            break;
        }
        request.extend_from_slice(&piece[..count]);
    }
    Ok(request)
}

/// Asks the service of a data directory. `Ok(None)`: nobody listens there.
pub fn ask(data_dir: &Path) -> io::Result<Option<Report>> {
    let (path, _directory) = match address(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let mut stream = match BlockingStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"status\n")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes)?;
    if let Some(sentence) = value.get("error").and_then(|error| error.as_str()) {
        return Err(io::Error::other(sentence.to_owned()));
    }
    Ok(Some(serde_json::from_value(value)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::import::Snapshot;

    fn reporter() -> Arc<Reporter> {
        Arc::new(Reporter::new(Arc::new(Snapshot::default), vec!["127.0.0.1:445".into()]))
    }

    async fn ask_there(data_dir: PathBuf) -> io::Result<Option<Report>> {
        tokio::task::spawn_blocking(move || ask(&data_dir)).await.unwrap()
    }

    async fn say(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_report_comes_and_nonsense_is_refused() {
        let data = tempfile::tempdir().unwrap();
        assert!(ask_there(data.path().into()).await.unwrap().is_none(), "no service yet");
        let path = data.path().join(SOCKET_NAME);
        // What a kill -9 leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ask_there(data.path().into()).await.unwrap().is_none(), "a stale socket is no service");
        let socket = StatusSocket::bind(data.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let task = tokio::spawn(socket.serve(reporter()));
        let report = ask_there(data.path().into()).await.unwrap().unwrap();
        assert_eq!(report.service.unwrap().pid, std::process::id());
        assert!(say(&path, b"shutdown\n").await.contains("not known"));
        assert!(say(&path, &[b'x'; REQUEST_BYTES_MAX]).await.contains("not known"));
        task.abort();
        let _ = task.await;
        assert!(!path.exists(), "the socket goes with the service");
    }

    #[tokio::test]
    async fn silent_clients_hinder_nobody_for_long() {
        let data = tempfile::tempdir().unwrap();
        let task = tokio::spawn(StatusSocket::bind(data.path()).unwrap().serve(reporter()));
        let path = data.path().join(SOCKET_NAME);
        let mut silent = Vec::new();
        for _ in 0..CLIENTS_MAX {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        assert!(ask_there(data.path().into()).await.unwrap().is_some());
        task.abort();
    }

    #[tokio::test]
    async fn a_long_path_works_too() {
        let data = tempfile::tempdir().unwrap();
        let long = data.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let task = tokio::spawn(StatusSocket::bind(&long).unwrap().serve(reporter()));
        assert!(ask_there(long).await.unwrap().is_some());
        task.abort();
    }
}
