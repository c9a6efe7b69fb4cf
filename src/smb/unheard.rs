//! Connections over which TCP does not get a break across. Its client can't acknowledge what it has not received, and a break
//! waits 35 s for that: a connection of which TCP hears nothing is cut, so that the break goes another way, or its client counts
//! as gone (MS-SMB2 3.3.4.6, 3.3.4.7).
//!
//! Only a connection that owes an acknowledgement is looked at: a restore that rides out a minute without a network keeps its own.
//! How often TCP has sent the same bytes again is read from the kernel's table of sockets (proc(5), `/proc/net/tcp`): the
//! ioctl that tells of one socket has no safe interface. Where that table can't be read, TCP's own patience is what counts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex, Weak};

use super::connection::Connection;
use super::open::locked;
use super::server::Server;

/// Times that TCP sends bytes again, and hears nothing, before a client that can be reached another way is told there. TCP waits twice as
/// long each time: 3 s in a local network, more where a path is slow.
const RESENT_WITH_OTHERS: u32 = 4;
/// The same where there is no other way, and the client loses what is not durable: 12 s and more.
const RESENT_ALONE: u32 = 6;
/// The tables of sockets; a listener of IPv6 may have clients of IPv4 in its own.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// Columns of a table: the timer that runs, times sent again, inode.
const TIMER: usize = 5;
const RESENT: usize = 6;
const INODE: usize = 9;
/// The timer of bytes that were sent and are not acknowledged; others probe a closed window or an idle peer.
const RETRANSMIT: &[u8] = b"01";

/// Connections that a break was sent on, until none is awaited there any more.
#[derive(Default)]
pub struct Unheard(Mutex<Vec<Weak<Connection>>>);

impl Unheard {
    /// A break was sent on that connection that is to be acknowledged.
    pub fn enter(&self, connection: &Arc<Connection>) {
        let mut list = locked(&self.0);
        if !list.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(connection))) {
            list.push(Arc::downgrade(connection));
        }
    }

    fn take(&self) -> Vec<Arc<Connection>> {
        std::mem::take(&mut *locked(&self.0)).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Server {
    /// Cuts the connections over which TCP does not get a break across. To be called about once a second.
    pub(super) fn cut_unheard(&self) {
        let mut owing = Vec::new();
        for connection in self.unheard.take() {
            if let Some(patience) = self.patience(&connection) {
                self.unheard.enter(&connection);
                owing.push((connection, patience));
            }
        }
        if owing.is_empty() {
            return;
        }
        let resent = resent();
        for (connection, patience) in owing {
            let times = connection.socket.get().and_then(|socket| resent.get(socket)).copied().unwrap_or(0);
            if times >= patience {
                tracing::info!(peer = %connection.peer, times, "TCP does not get a break across: the connection is cut");
                connection.cut.notify_one();
            }
        }
    }

    /// How often TCP may send a break on this connection again; `None` where none is awaited.
    fn patience(&self, connection: &Connection) -> Option<u32> {
        let mut others = None;
        for sent in connection.told() {
            for open in sent.opens.iter().filter_map(|open| self.opens.by_id(*open)) {
                if open.entry.with_oplocks(|held| held.is_awaited(&sent)) {
                    *others.get_or_insert(false) |= self
                        .ways(&sent, &open)
                        .iter()
                        .any(|other| !std::ptr::eq(Arc::as_ptr(other), connection));
                }
            }
        }
        others.map(|others| if others { RESENT_WITH_OTHERS } else { RESENT_ALONE })
    }
}

/// How often TCP has sent the same bytes again, by the inode of the socket: those only that wait for an acknowledgement.
fn resent() -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for table in TABLES {
        match File::open(table) {
            Ok(table) => {
                let lines = BufReader::new(table).split(b'\n').map_while(Result::ok);
                found.extend(lines.filter_map(|line| resent_of(&line)));
            }
            Err(error) => tracing::debug!(table, "can't be read: {error}"), // no IPv6, or no /proc
        }
    }
    found
}

/// Inode and times of a line, if bytes of its socket wait for an acknowledgement.
fn resent_of(line: &[u8]) -> Option<(u64, u32)> {
    let columns: Vec<&str> =
        std::str::from_utf8(line).ok()?.split_ascii_whitespace().take(INODE + 1).collect();
    let timer = columns.get(TIMER)?.as_bytes();
    let times = u32::from_str_radix(columns.get(RESENT)?, 16).ok()?;
    let inode = columns.get(INODE)?.parse().ok()?;
    timer.strip_prefix(RETRANSMIT)?.starts_with(b":").then_some((inode, times))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn lines_of_the_table_are_understood() {
        let line = |timer, times| {
            format!(
                "   5: 0100007F:01BD 0100007F:A2C4 01 00000068:00000000 {timer} {times}     0        0 5118 4 0000000012a3 820 30 10 10 -1 "
            )
        };
        assert_eq!(resent_of(line("01:00000030", "0000000A").as_bytes()), Some((5118, 10)));
        for timer in ["00:00000000", "02:000AFC8F", "04:00000011", "1:0", "01"] {
            assert_eq!(resent_of(line(timer, "00000002").as_bytes()), None, "{timer}");
        }
        let header = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for odd in [&header[..], b"", b"\xff\xfe", b"5: 0 0 0 0 01:00 00000002 0 0"] {
            assert_eq!(resent_of(odd), None);
        }
    }

    #[test]
    fn what_a_deaf_peer_does_not_acknowledge_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut served = listener.accept().unwrap().0;
        let inode = rustix::fs::fstat(&served).unwrap().st_ino;
        served.write_all(b"heard").unwrap();
        // A filter that lets nothing in: from now on the client's TCP gets no segment to acknowledge.
        let nothing = socket2::SockFilter::new(0x06, 0, 0, 0);
        socket2::SockRef::from(&client).attach_filter(&[nothing]).unwrap();
        served.write_all(b"lost").unwrap();
        let begun = Instant::now();
        while resent().get(&inode).is_none_or(|times| *times < 2) {
            assert!(begun.elapsed() < Duration::from_secs(20), "TCP sends it again after 200 ms and 600 ms");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
