//! What a connection's bytes go through: the socket itself, or TLS over it. Several threads send, one reads.
//!
//! With TLS both directions share one state, which is locked to seal or open bytes that are in memory, never while a socket waits.
//! So a reader never waits for a writer that waits for the server, which may be waiting for the reader. The reader sends nothing: what
//! TLS wants to answer (a key update) goes out before the next request, which is when it has to be there (RFC 8446 4.6.3).

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::socket::{OPEN_SECONDS, Socket};
use super::uri::{Server, Uri};
use super::wire::{self, Offer};
use crate::tls;

/// Bytes that are sealed at a time: the reader waits no longer than for that.
const SEALED: usize = 256 * 1024;
/// Bytes of sealed replies that are read from the socket at a time.
const OPENED: usize = 64 * 1024;

/// How servers are trusted that addresses with `nbds` lead to.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Whom to trust, and who we are.
    pub config: Arc<ClientConfig>,
    /// The name that a server's certificate is to be for; else it is the address's host.
    pub name: Option<String>,
}

impl Tls {
    fn name(&self, uri: &Uri) -> io::Result<ServerName<'static>> {
        let name = match (&self.name, &uri.server) {
            (Some(name), _) | (None, Server::Tcp(name, _)) => name.clone(),
            // Whose certificate is pinned needs no name.
            (None, Server::Unix(_)) => "localhost".to_owned(),
        };
        let wrong = || format!("'{name}' is no name that a certificate can be for; set server-name");
        ServerName::try_from(name.clone()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, wrong()))
    }
}

/// An open way to a server.
pub(super) struct Channel {
    socket: Socket,
    tls: Option<Mutex<ClientConnection>>,
    /// Held while a request is sent; sealed bytes on their way.
    sending: Mutex<Vec<u8>>,
}

impl Channel {
    /// Does the handshake, as the address says by TLS or without; never the one instead of the other.
    pub(super) fn enter(
        socket: Socket,
        uri: &Uri,
        tls: Option<&Tls>,
        patience: Duration,
    ) -> io::Result<(Self, Offer)> {
        let opening = Some(patience.min(Duration::from_secs(OPEN_SECONDS)));
        wire::greet(&mut &socket)?;
        let (tls, offer) = match (uri.tls, tls) {
            (false, _) => {
                socket.set_timeouts(opening, opening)?;
                (None, wire::agree(&mut &socket, &uri.export)?)
            }
            (true, None) => {
                let why = "no ca-file or thumbprint says which server is trusted";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            (true, Some(tls)) => {
                wire::start_tls(&mut &socket)?;
                let mut connection = secured(&socket, uri, tls).map_err(told)?;
                socket.set_timeouts(opening, opening)?;
                let mut below = &socket;
                let mut stream = rustls::Stream::new(&mut connection, &mut below);
                let offer = wire::agree(&mut stream, &uri.export).map_err(told)?;
                (Some(Mutex::new(connection)), offer)
            }
        };
        Ok((Self { socket, tls, sending: Mutex::default() }, offer))
    }

    pub(super) fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeouts(read, write)
    }

    /// Ends both directions, whoever is in them.
    pub(super) fn shutdown(&self) {
        self.socket.shutdown();
    }

    /// Sends a request's header and its data, behind those of others.
    pub(super) fn send(&self, header: &[u8], data: &[u8]) -> io::Result<()> {
        let mut sealed = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tls) = &self.tls else { return write_both(&mut &self.socket, header, data) };
        let mut header = header;
        let mut rest = data;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(SEALED));
            sealed.clear();
            let mut tls = locked(tls);
            write_both(&mut tls.writer(), header, piece)?;
            while tls.wants_write() {
                tls.write_tls(&mut *sealed)?;
            }
            drop(tls);
            (&self.socket).write_all(&sealed)?;
            (header, rest) = (&[], after);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// What the server sends; for one thread.
    pub(super) fn replies(&self) -> Replies<'_> {
        let sealed = if self.tls.is_some() { vec![0; OPENED] } else { Vec::new() };
        Replies { channel: self, sealed, from: 0, to: 0 }
    }
}

fn locked(tls: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handshake of TLS.
fn secured(mut socket: &Socket, uri: &Uri, tls: &Tls) -> io::Result<ClientConnection> {
    let connection = ClientConnection::new(Arc::clone(&tls.config), tls.name(uri)?);
    let mut connection = connection.map_err(io::Error::other)?;
    connection.set_buffer_limit(None); // A piece at a time is in it.
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(connection)
}

/// An error in which TLS says what is wrong, as a sentence.
fn told(error: io::Error) -> io::Error {
    let cut = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    if cut.contains(&error.kind()) {
        // GnuTLS, so nbdkit, says no more to a client whose certificate it wanted.
        let why = "the server closed the connection as TLS began: perhaps it wants a client's certificate (client-certificate), or another";
        return io::Error::new(io::ErrorKind::PermissionDenied, why);
    }
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(of_tls) = of_tls else { return error };
    io::Error::new(io::ErrorKind::PermissionDenied, format!("the server: {}", tls::told(of_tls)))
}

/// See [`Channel::replies`].
pub(super) struct Replies<'c> {
    channel: &'c Channel,
    /// Read and not opened yet, from `from` to `to`.
    sealed: Vec<u8>,
    from: usize,
    to: usize,
}

impl Read for Replies<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.channel.tls else { return (&self.channel.socket).read(buffer) };
        loop {
            {
                let mut tls = locked(tls);
                loop {
                    match tls.reader().read(buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        other => return other,
                    }
                    if self.from == self.to {
                        break;
                    }
                    self.from += tls.read_tls(&mut &self.sealed[self.from..self.to])?;
                    tls.process_new_packets().map_err(|error| told(io::Error::other(error)))?;
                }
            }
            (self.from, self.to) = (0, (&self.channel.socket).read(&mut self.sealed)?);
            if self.to == 0 {
                return Ok(0); // Whether TLS was ended or cut: a reply that is not whole is none.
            }
        }
    }
}

/// Writes header and data as one, without copying the data.
fn write_both(to: &mut impl Write, header: &[u8], data: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(header), IoSlice::new(data)];
    let mut slices = &mut slices[..];
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => IoSlice::advance_slices(&mut slices, length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
