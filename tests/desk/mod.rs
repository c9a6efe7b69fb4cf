//! A server without sockets: requests go straight to the dispatcher, answers and notifications come back as messages. What
//! the transport does with parked requests is done here by hand, so that a test decides what happens when.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // each test uses a part of it

mod calls;
pub mod import;

use std::sync::Arc;

use importfs::share::directory::DirectoryShare;
use importfs::smb::connection::{Connection, Negotiated, Signal};
use importfs::smb::dispatch::{self, Output};
use importfs::smb::job::Job;
use importfs::smb::keys::Keys;
use importfs::smb::server::{Encryption, Server, Settings, ShareEntry, ShareKind, Users};
use importfs::smb::session::{NewSession, Session};
use importfs::smb::share::{Caller, Share};
use smb_proto::codec::Put;
use smb_proto::header::{HEADER_LEN, Header};
use smb_proto::msg::create::{self, context::Contexts, disposition, share_access};
use smb_proto::msg::ioctl::validate_negotiate;
use smb_proto::msg::{FileId, close, negotiate, write};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Flags, Status};
use tokio::sync::mpsc;

/// A time, in 100 ns since 1601: what the dispatcher is told.
pub const NOW: u64 = 134_000_000_000_000_000;

struct Nobody;
impl Users for Nobody {
    fn nt_hash(&self, _account: &str) -> Option<[u8; 16]> {
        None
    }
}

/// A server with a share, `dir`, and a directory share beside it, `other`.
pub struct Desk {
    pub server: Arc<Server>,
    pub directory: tempfile::TempDir,
    pub other: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let share = Arc::new(DirectoryShare::open(directory.path(), "dir").unwrap());
        Self::over(directory, share)
    }

    /// A server whose `dir` is that share, kept in `directory`.
    pub fn over(directory: tempfile::TempDir, share: Arc<dyn Share>) -> Self {
        let other = tempfile::tempdir().unwrap();
        let beside: Arc<dyn Share> = Arc::new(DirectoryShare::open(other.path(), "other").unwrap());
        let entries = [("dir", share), ("other", beside)].map(|(name, share)| {
            Arc::new(ShareEntry {
                name: name.into(),
                comment: String::new(),
                kind: ShareKind::Disk,
                share,
                encrypt: false,
                users: Vec::new(),
            })
        });
        let settings = Settings::new(Arc::new(Nobody), entries.into());
        let server = Server::new(Settings { encryption: Encryption::Off, ..settings });
        Self { server, directory, other }
    }

    /// A client with a session of `user` and a tree on the share. Clients of one `guid` are one client to leases.
    pub fn client(&self, guid: u8, user: &str) -> Client {
        self.client_of(guid, user, negotiate::DIALECT_302)
    }

    /// The same at another dialect.
    pub fn client_of(&self, guid: u8, user: &str, dialect: u16) -> Client {
        self.client_with(guid, user, dialect, 0x001F_01FF)
    }

    /// One that the share grants no more than that access.
    pub fn client_with(&self, guid: u8, user: &str, dialect: u16, maximal_access: u32) -> Client {
        let negotiated = Negotiated {
            offered: validate_negotiate::Request {
                capabilities: 0x7F,
                client_guid: [guid; 16],
                security_mode: 1,
                dialects: vec![dialect],
            },
            answered: validate_negotiate::Response {
                capabilities: 0,
                server_guid: [7; 16],
                security_mode: 1,
                dialect,
            },
            dialect,
            cipher: 0,
            signing: negotiate::SIGNING_AES_CMAC,
        };
        let keys = Keys::derive(&[1; 16], &negotiated, &[0; 64]).unwrap();
        let session = Arc::new(Session::new(NewSession {
            id: self.server.unique_id(),
            negotiated,
            caller: Caller { user: user.into(), peer: "test".into() },
            keys,
            signing_required: false,
            encrypt: false,
        }));
        self.server.add_session(Arc::clone(&session)).unwrap();
        let entry = Arc::clone(self.server.share("dir").unwrap());
        let tree = session.connect(entry, maximal_access).unwrap();
        self.channel(&session, tree.id)
    }

    /// One more connection of a session: a channel.
    pub fn channel(&self, session: &Arc<Session>, tree: u32) -> Client {
        let (signals, signalled) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection::new(session.caller().user.clone(), signals));
        assert!(connection.negotiated.set(session.negotiated.clone()).is_ok());
        session.add_channel(&connection, None).unwrap();
        let (server, session) = (Arc::clone(&self.server), Arc::clone(session));
        let mut client = Client { server, connection, signalled, session, tree, next: 0 };
        client.request(Command::ECHO, |out| smb_proto::msg::echo::Request.encode(out)); // asks for credits
        client
    }
}

/// One message that came back.
#[derive(Debug)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn header(&self) -> Header {
        Header::decode(&self.0).unwrap()
    }
    pub fn status(&self) -> Status {
        self.header().status
    }
    pub fn file_id(&self) -> FileId {
        create::Response::decode(&self.0).unwrap().file_id
    }
}

/// One part of a compound.
pub struct Part {
    pub command: Command,
    pub related: bool,
    pub flags: Flags,
    pub session_id: Option<u64>,
    pub body: Vec<u8>,
}

/// A part whose body `encode` appends behind the header.
pub fn part(command: Command, related: bool, encode: impl FnOnce(&mut Vec<u8>)) -> Part {
    let mut body = vec![0; HEADER_LEN];
    encode(&mut body);
    Part { command, related, flags: Flags::default(), session_id: None, body }
}

/// How a file is opened.
#[derive(Clone)]
pub struct Open<'a> {
    pub name: &'a str,
    pub access: u32,
    pub share: u32,
    pub disposition: u32,
    pub options: u32,
    pub oplock: u8,
    pub contexts: Contexts<'a>,
}

impl<'a> Open<'a> {
    /// Opens or creates, sharing everything.
    pub fn file(name: &'a str) -> Self {
        Self {
            name,
            access: 0x001F_01FF,
            share: share_access::READ | share_access::WRITE | share_access::DELETE,
            disposition: disposition::OPEN_IF,
            options: 0,
            oplock: 0,
            contexts: Contexts::default(),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let name = utf16::encode(self.name);
        let request = create::Request {
            oplock_level: self.oplock,
            impersonation_level: 2,
            desired_access: self.access,
            file_attributes: 0x80,
            share_access: self.share,
            disposition: self.disposition,
            options: self.options,
            name: Utf16(&name),
            contexts: self.contexts,
        };
        request.encode(out);
    }
}

/// A client at the other end of a connection.
pub struct Client {
    pub server: Arc<Server>,
    pub connection: Arc<Connection>,
    signalled: mpsc::UnboundedReceiver<Signal>,
    pub session: Arc<Session>,
    pub tree: u32,
    next: u64,
}

impl Client {
    /// Connects to another share, and speaks to that from now on.
    pub fn connect(&mut self, share: &str) {
        let entry = Arc::clone(self.server.share(share).unwrap());
        self.tree = self.session.connect(entry, 0x001F_01FF).unwrap().id;
    }

    /// Sends a compound; gives the messages that were answered at once.
    pub fn compound(&mut self, parts: Vec<Part>) -> Vec<Message> {
        let output = self.run_only(parts);
        self.sent(&output)
    }

    /// Has a compound worked on, and nothing sent yet.
    pub fn run_only(&mut self, parts: Vec<Part>) -> Output {
        let job = self.job(parts);
        dispatch::run(&self.server, &self.connection, job, None, NOW)
    }

    /// A compound as it comes in, with nothing done yet.
    pub fn job(&mut self, parts: Vec<Part>) -> Job {
        let mut frame = Vec::new();
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let mut message = part.body;
            if index + 1 < count {
                message.pad_to(0, 8);
            }
            let related = if part.related { Flags::RELATED_OPERATIONS } else { Flags::default() };
            // A credit for each 64 KiB, headers aside (MS-SMB2 3.2.4.1.5).
            let charge = (message.len() / 65_536 + 1) as u16;
            let mut head = Vec::new();
            Header {
                credit_charge: charge,
                status: Status::SUCCESS,
                command: part.command,
                credits: 64,
                flags: part.flags.with(related),
                next_command: if index + 1 < count { message.len() as u32 } else { 0 },
                message_id: self.next,
                async_id: 0,
                tree_id: self.tree,
                session_id: part.session_id.unwrap_or(self.session.id),
                signature: [0; 16],
            }
            .encode(&mut head);
            self.next += u64::from(charge);
            message[..HEADER_LEN].copy_from_slice(&head);
            frame.extend_from_slice(&message);
        }
        frame.put_zeros(16);
        let frame = importfs::smb::buffer::Buffer::from_vec(frame);
        Job::new(&self.connection, frame).unwrap()
    }

    /// Sends one request again, or as if it were.
    pub fn replay(&mut self, command: Command, encode: impl FnOnce(&mut Vec<u8>)) -> Message {
        let mut again = part(command, false, encode);
        again.flags = Flags::REPLAY_OPERATION;
        let mut answers = self.compound(vec![again]);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Sends one request; gives its answer (an interim one where it was parked).
    pub fn request(&mut self, command: Command, encode: impl FnOnce(&mut Vec<u8>)) -> Message {
        let mut answers = self.compound(vec![part(command, false, encode)]);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    pub fn open(&mut self, open: &Open<'_>) -> Message {
        self.request(Command::CREATE, |out| open.encode(out))
    }

    pub fn write(&mut self, file_id: FileId, offset: u64, data: &[u8]) -> Status {
        let request = write::Request::new(file_id, offset, data);
        self.request(Command::WRITE, |out| request.encode(out)).status()
    }

    pub fn close(&mut self, file_id: FileId) -> Status {
        self.request(Command::CLOSE, |out| close::Request { flags: 0, file_id }.encode(out)).status()
    }

    /// Does what the transport does with signals: runs woken requests again. Gives all that is sent by that.
    pub fn poll(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.poll_one()).flatten().collect()
    }

    /// The same of one signal; `None` where there is none.
    pub fn poll_one(&mut self) -> Option<Vec<Message>> {
        let signal = self.signalled.try_recv().ok()?;
        Some(self.act(signal))
    }

    /// The MessageId of the next request.
    pub fn message_id(&self) -> u64 {
        self.next
    }

    /// The connection is cut.
    pub fn lose(self) {
        self.server.connection_lost(&self.connection);
    }

    /// Cancels a parked request, and runs it for that.
    pub fn cancel(&mut self, interim: &Message) -> Vec<Message> {
        self.act(Signal::Cancel(interim.header().async_id))
    }

    /// The frame of a CANCEL, by the request's MessageId, as it comes in; what it sets off is not run.
    pub fn send_cancel(&mut self, interim: &Message) {
        let next = std::mem::replace(&mut self.next, interim.header().message_id);
        let output = self.run_only(vec![part(Command::CANCEL, false, |out| out.extend([4, 0, 0, 0]))]);
        assert!(output.frames.is_empty() && !output.disconnect);
        self.next = next;
    }

    /// Takes a parked request out to run again.
    pub fn take(&mut self, interim: &Message) -> Job {
        let wake = Signal::Wake(interim.header().async_id);
        dispatch::unpark(&self.server, &self.connection, wake).unwrap()
    }

    /// Runs one that was taken out.
    pub fn rerun(&mut self, interim: &Message, job: Job) -> Vec<Message> {
        let wake = Signal::Wake(interim.header().async_id);
        let output = dispatch::run(&self.server, &self.connection, job, Some(wake), NOW);
        self.sent(&output)
    }

    /// Lets the time of a parked request run out.
    pub fn expire(&mut self, interim: &Message) -> Vec<Message> {
        self.act(Signal::Expire(interim.header().async_id))
    }

    /// The messages of an output's frames; what was parked may run again.
    pub fn sent(&self, output: &Output) -> Vec<Message> {
        assert!(!output.disconnect, "the connection was cut");
        let sent = output.frames.iter().flat_map(|frame| split(&frame.bytes()[4..])).collect();
        if let Some(id) = output.parked {
            dispatch::arm(&self.connection, id);
        }
        sent
    }

    fn act(&mut self, signal: Signal) -> Vec<Message> {
        if signal == Signal::Send {
            let frame = self.connection.take_posted().unwrap();
            return split(&frame.bytes()[4..]);
        }
        match dispatch::unpark(&self.server, &self.connection, signal) {
            Some(job) => {
                let output = dispatch::run(&self.server, &self.connection, job, Some(signal), NOW);
                self.sent(&output)
            }
            None => Vec::new(),
        }
    }
}

/// Cuts a frame into its messages.
pub fn split(mut frame: &[u8]) -> Vec<Message> {
    let mut list = Vec::new();
    loop {
        let next = Header::decode(frame).unwrap().next_command as usize;
        if next == 0 {
            list.push(Message(frame.to_vec()));
            return list;
        }
        list.push(Message(frame[..next].to_vec()));
        frame = &frame[next..];
    }
}
