//! A socket to an NBD server, of either kind.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::uri::Server;

/// How long a server may take to accept a connection, to greet, and for each step of TLS.
pub(super) const CONNECT_SECONDS: u64 = 10;
/// How long it may take to open an export: one that is started for it, or that has to log in somewhere first (VDDK), needs more.
pub(super) const OPEN_SECONDS: u64 = 60;
/// Bytes that a local server may be behind: with the little that sockets have by themselves, sender and server wake each other five times
/// for each piece.
const SEND_BUFFER: usize = 1024 * 1024;

/// A socket of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn connect(server: &Server) -> io::Result<Self> {
        let patience = Duration::from_secs(CONNECT_SECONDS);
        match server {
            Server::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                // The kernel gives less where it allows less. TCP finds its own size.
                rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
                Ok(Self::Unix(stream))
            }
            Server::Tcp(host, port) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            // A server that vanished without a word is noticed while nobody sends, too.
                            rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                            rustix::net::sockopt::set_tcp_keepidle(&stream, patience)?;
                            rustix::net::sockopt::set_tcp_keepintvl(&stream, patience)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    pub(super) fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write)),
            Self::Unix(stream) => {
                stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write))
            }
        }
    }

    pub(super) fn shutdown(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        }; // Fails only where it is down already.
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(buffer),
            Socket::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write(data),
            Socket::Unix(stream) => (&*stream).write(data),
        }
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write_vectored(data),
            Socket::Unix(stream) => (&*stream).write_vectored(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
