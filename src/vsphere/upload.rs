//! One upload of unknown length to a lease's address: a POST in chunks (RFC 9112 section 7.1) on a connection of its own.
//!
//! Not by the HTTP client that the rest uses: an upload takes hours, so it must end soon after nobody wants it any more, however
//! little the server takes; and a server that refuses it in the middle says why before it closes, which that client does not show.

use std::io::{self, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::error::VsphereError;
use super::http::CONNECT_TIMEOUT;

/// How soon an upload that nobody wants any more ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of a chunk: as much as a few TLS records.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of an answer's head.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What the server says of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 0 where it is none of HTTP's.
    pub status: u16,
    /// What came with it, for the service's log.
    pub text: String,
}

/// Sends `source` and waits for the answer. `goes_on` is asked every now and then, whatever the server does; its error ends the
/// upload. Errors are those of the connection; what the server says is the answer, also where it refuses.
pub fn post(
    url: &Url,
    tls: &Arc<ClientConfig>,
    source: &mut dyn Read,
    goes_on: &dyn Fn() -> Result<(), VsphereError>,
) -> Result<Answer, VsphereError> {
    let mut line = Line::connect(url, tls, goes_on)?;
    let host = &line.authority;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}{query}", url.path());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-vnd.vmware-streamVmdk\r\nOverwrite: t\r\n\
         User-Agent: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        concat!("importfs/", env!("CARGO_PKG_VERSION"))
    );
    line.send(&[head.as_bytes()])?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        // An early answer ends it, and so does a connection that broke after one.
        let filled = match fill(source, &mut chunk) {
            Ok(filled) => filled,
            // Where it was ended on purpose, that is the reason.
            Err(error) => {
                return Err(goes_on().err().unwrap_or_else(|| VsphereError::Told(error.to_string())));
            }
        };
        let sent = line.send(&[format!("{filled:x}\r\n").as_bytes(), &chunk[..filled], b"\r\n"]);
        if let Err(error) = sent {
            return line.early().ok_or(error);
        }
        if filled == 0 {
            return line.answer();
        }
        if line.has_something()? {
            return line.answer();
        }
    }
}

/// As much as there is: chunks are a matter of the connection, not of what is read.
fn fill(source: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A connection whose every wait is short.
struct Line<'a> {
    socket: TcpStream,
    tls: ClientConnection,
    /// Host and port as the request names them.
    authority: String,
    received: Vec<u8>,
    goes_on: &'a dyn Fn() -> Result<(), VsphereError>,
}

impl<'a> Line<'a> {
    fn connect(
        url: &Url,
        tls: &Arc<ClientConfig>,
        goes_on: &'a dyn Fn() -> Result<(), VsphereError>,
    ) -> Result<Self, VsphereError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let server = format!("{host}:{port}");
        let unreachable = |why: String| VsphereError::Unreachable { server: server.clone(), why };
        // Brackets are of an address in a URL, not of the address.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| unreachable(error.to_string()))?;
        let addresses = (bare, port).to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
        let mut last = "its name stands for no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(socket) => {
                    // Nothing small is sent that more could follow: the last chunk must not wait for the one before it to be
                    // acknowledged.
                    let prepared = socket
                        .set_nodelay(true)
                        .and_then(|()| socket.set_read_timeout(Some(LOOK_INTERVAL)))
                        .and_then(|()| socket.set_write_timeout(Some(LOOK_INTERVAL)));
                    prepared.map_err(|error| unreachable(error.to_string()))?;
                    let tls = ClientConnection::new(Arc::clone(tls), name);
                    let tls = tls.map_err(|error| unreachable(error.to_string()))?;
                    let mut line =
                        Self { socket, tls, authority: authority(url), received: Vec::new(), goes_on };
                    line.tls.set_buffer_limit(None); // a chunk at a time is in it
                    line.shake_hands().map_err(|error| match error {
                        VsphereError::Lost { why, .. } => unreachable(why),
                        error => error,
                    })?;
                    return Ok(line);
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(unreachable(last))
    }

    fn lost(&self, why: &dyn ToString) -> VsphereError {
        VsphereError::Lost { server: self.authority.clone(), why: why.to_string() }
    }

    fn shake_hands(&mut self) -> Result<(), VsphereError> {
        let begun = Instant::now();
        while self.tls.is_handshaking() {
            if begun.elapsed() > CONNECT_TIMEOUT {
                return Err(self.lost(&"no answer"));
            }
            if self.tls.wants_write() {
                self.write_out()?;
            } else {
                self.read_in()?;
            }
        }
        Ok(())
    }

    /// Sends all of it, one behind the other.
    fn send(&mut self, parts: &[&[u8]]) -> Result<(), VsphereError> {
        for part in parts {
            self.tls.writer().write_all(part).map_err(|error| self.lost(&error))?;
        }
        self.write_out()
    }

    fn write_out(&mut self) -> Result<(), VsphereError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(self.lost(&"it was closed")),
                Ok(_) => {}
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(self.lost(&error)),
            }
            (self.goes_on)()?;
        }
        Ok(())
    }

    /// Takes in what comes within a moment; `false` where the server has closed.
    fn read_in(&mut self) -> Result<bool, VsphereError> {
        (self.goes_on)()?;
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if is_pause(&error) => return Ok(true),
            Err(error) => return Err(self.lost(&error)),
        }
        if let Err(error) = self.tls.process_new_packets() {
            let _ = self.tls.write_tls(&mut self.socket); // the alert that says why
            return Err(self.lost(&error));
        }
        let mut room = [0; 4096];
        loop {
            match self.tls.reader().read(&mut room) {
                Ok(0) => return Ok(false),
                Ok(read) if self.received.len() + read <= ANSWER_BYTES_MAX => {
                    self.received.extend_from_slice(&room[..read]);
                }
                Ok(_) => return Ok(false), // more than anybody needs to know
                Err(error) if is_pause(&error) => return Ok(true),
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// Whether the server has said anything already.
    fn has_something(&mut self) -> Result<bool, VsphereError> {
        self.socket.set_nonblocking(true).map_err(|error| self.lost(&error))?;
        let read = self.read_in();
        self.socket.set_nonblocking(false).map_err(|error| self.lost(&error))?;
        Ok(!read? || head_of(&self.received).is_some())
    }

    /// Waits for the answer.
    fn answer(&mut self) -> Result<Answer, VsphereError> {
        loop {
            if let Some(answer) = head_of(&self.received) {
                return Ok(answer);
            }
            if !self.read_in()? {
                return head_of(&self.received).ok_or_else(|| self.lost(&"it was closed without an answer"));
            }
        }
    }

    /// The answer of a server that closed before it had taken all.
    fn early(&mut self) -> Option<Answer> {
        while head_of(&self.received).is_none() && self.read_in().ok()? {}
        head_of(&self.received)
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// The status and what follows, of an answer whose head is whole; interim ones (1xx) are passed over, however many there are.
#[must_use]
pub fn head_of(mut bytes: &[u8]) -> Option<Answer> {
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let (head, rest) = bytes.split_at(end);
        let head = String::from_utf8_lossy(head);
        let mut words = head.lines().next().unwrap_or_default().split_ascii_whitespace();
        let version = words.next().unwrap_or_default();
        let status: Option<u16> =
            words.next().and_then(|word| word.parse().ok()).filter(|_| version.starts_with("HTTP/1."));
        match status {
            Some(100..=199) => bytes = rest,
            Some(status) => return Some(Answer { status, text: String::from_utf8_lossy(rest).into_owned() }),
            // None of HTTP's: no success, whatever it is.
            None => return Some(Answer { status: 0, text: String::from_utf8_lossy(bytes).into_owned() }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers() {
        let status = |text: &str| head_of(text.as_bytes()).map(|answer| (answer.status, answer.text));
        assert_eq!(status("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"), Some((201, String::new())));
        assert_eq!(
            status("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 507 Full\r\n\r\nno room"),
            Some((507, "no room".into()))
        );
        assert_eq!(status("HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(status("HTTP/1.1 200 OK\r\nServer: x\r\n"), None);
        assert_eq!(status("SSH-2.0\r\n\r\n").unwrap().0, 0);
        assert_eq!(authority(&Url::parse("https://[::1]:8443/x").unwrap()), "[::1]:8443");
        assert_eq!(authority(&Url::parse("https://esx.example/x").unwrap()), "esx.example");
    }

    #[test]
    fn interim_answers_take_no_stack() {
        let mut bytes = b"HTTP/1.1 100\r\n\r\n".repeat(ANSWER_BYTES_MAX / 16);
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
        let read = std::thread::Builder::new().stack_size(64 << 10).spawn(move || head_of(&bytes));
        assert_eq!(read.unwrap().join().unwrap(), Some(Answer { status: 200, text: String::new() }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = head_of(&bytes);
            let _ = head_of(&[b"HTTP/1.1 100 \r\n\r\n", &bytes[..], b"\r\n\r\n"].concat());
        }

        #[test]
        fn a_status_is_told_whatever_surrounds_it(
            interim in proptest::collection::vec(100..200u16, 0..4),
            status in 200..600u16,
            headers in "([A-Za-z]{1,6}: [ -~]{0,12}\r\n){0,3}",
            body in proptest::collection::vec(any::<u8>(), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for number in interim {
                bytes.extend_from_slice(format!("HTTP/1.1 {number} So far\r\n{headers}\r\n").as_bytes());
            }
            bytes.extend_from_slice(format!("HTTP/1.0 {status}\r\n{headers}\r\n").as_bytes());
            let head = bytes.len();
            bytes.extend_from_slice(&body);
            let expected = Answer { status, text: String::from_utf8_lossy(&body).into_owned() };
            prop_assert_eq!(head_of(&bytes), Some(expected));
            // A head that is not whole is none yet.
            prop_assert_eq!(head_of(&bytes[..cut.index(head)]), None);
        }
    }
}
