//! A client on a real socket: negotiates, logs in with NTLMv2, signs or encrypts, binds channels; and says exactly what it is
//! told to say, so that a test can be the client that no decent one is.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // each test uses a part of it

mod ntlm;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use importfs::share::directory::DirectoryShare;
use importfs::smb::server::{Server, Settings, ShareEntry, ShareKind, Users};
use importfs::smb::share::Share;
use importfs::smb::transport;
use smb_proto::crypto::encrypt::{Cipher, CipherKey, TRANSFORM_LEN};
use smb_proto::crypto::kdf::{self, Binding};
use smb_proto::crypto::preauth::PreauthHash;
use smb_proto::crypto::sign::{Sender, SigningAlgorithm, SigningKey};
use smb_proto::header::Header;
use smb_proto::msg::create::{self, context::Contexts, disposition};
use smb_proto::msg::negotiate::{self, Context};
use smb_proto::msg::{FileId, session_setup, tree_connect};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Flags, Status};
use tokio::sync::watch;

/// How long a test waits for an answer before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every account has its name, in capitals, as its password; but for `nobody`, who is none.
pub struct Accounts;
impl Users for Accounts {
    fn nt_hash(&self, account: &str) -> Option<[u8; 16]> {
        (account != "nobody").then(|| smb_proto::auth::ntlm::nt_hash(&account.to_uppercase()))
    }
}

/// A server on a port of its own with a directory share `dir`.
pub struct Running {
    pub address: SocketAddr,
    pub server: Arc<Server>,
    pub directory: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

/// A share of that name for everybody.
pub fn entry(name: &str, share: Arc<dyn Share>) -> ShareEntry {
    let (name, comment) = (name.into(), String::new());
    ShareEntry { name, comment, kind: ShareKind::Disk, share, encrypt: false, users: Vec::new() }
}

impl Running {
    /// Starts it. `change` gets the settings, with the share `dir` in them.
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let share = Arc::new(DirectoryShare::open(directory.path(), "dir").unwrap());
        let mut settings = Settings::new(Arc::new(Accounts), vec![Arc::new(entry("dir", share))]);
        settings.multichannel = Some(Vec::new());
        change(&mut settings);
        let server = Server::new(settings);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(transport::serve(listener, Arc::clone(&server), stopped));
        Self { address, server, directory, _stop: stop, _runtime: runtime }
    }

    /// A connection without a word said.
    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// A connection that is negotiated and logged in, with `dir` connected.
    pub fn login(&self, user: &str) -> Client {
        let mut client = self.connect();
        client.negotiate(&Offer::default());
        assert_eq!(client.login(user), Status::SUCCESS);
        assert_eq!(client.tree_connect("dir"), Status::SUCCESS);
        client
    }
}

/// What a NEGOTIATE offers.
#[derive(Clone)]
pub struct Offer {
    pub dialects: Vec<u16>,
    pub guid: [u8; 16],
    pub ciphers: Vec<u16>,
    pub signing: Vec<u16>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            dialects: vec![0x0202, 0x0210, 0x0300, 0x0302, 0x0311],
            guid: [1; 16],
            ciphers: vec![2],
            signing: vec![1],
        }
    }
}

/// The keys of a session on a connection.
pub struct ClientKeys {
    signing: SigningKey,
    /// What `signing` was made of, for a channel that is bound by it.
    made_of: (SigningAlgorithm, Vec<u8>),
    sealing: Option<(CipherKey, CipherKey)>,
    sealed: u64,
}

impl ClientKeys {
    fn signing_only(made_of: (SigningAlgorithm, Vec<u8>)) -> Self {
        let signing = SigningKey::new(made_of.0, &made_of.1).unwrap();
        Self { signing, made_of, sealing: None, sealed: 0 }
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    pub dialect: u16,
    pub next_id: u64,
    pub session_id: u64,
    pub tree_id: u32,
    pub keys: Option<ClientKeys>,
    /// Whether requests are signed, once there are keys.
    pub sign: bool,
    /// Whether requests are encrypted, once there are keys.
    pub seal: bool,
    /// Frames are collected here instead of being sent.
    pub held_back: Option<Vec<u8>>,
    cipher: u16,
    signing: u16,
    preauth: PreauthHash,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer(pub Vec<u8>);

impl Answer {
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

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            dialect: 0,
            next_id: 0,
            session_id: 0,
            tree_id: 0,
            keys: None,
            sign: true,
            seal: false,
            held_back: None,
            cipher: 0,
            signing: 1,
            preauth: PreauthHash::default(),
        }
    }

    /// A header for the next request.
    pub fn header(&mut self, command: Command) -> Header {
        let message_id = self.next_id;
        self.next_id += 1;
        Header {
            credit_charge: 1,
            status: Status::SUCCESS,
            command,
            credits: 64,
            flags: Flags::default(),
            next_command: 0,
            message_id,
            async_id: 0,
            tree_id: self.tree_id,
            session_id: self.session_id,
            signature: [0; 16],
        }
    }

    /// Sends bytes as a frame.
    pub fn send_frame(&mut self, message: &[u8]) -> std::io::Result<()> {
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(message);
        match &mut self.held_back {
            Some(held) => {
                held.append(&mut frame);
                Ok(())
            }
            None => self.stream.write_all(&frame),
        }
    }

    /// The next frame, decrypted; `None` where the server has cut the connection.
    pub fn receive(&mut self) -> Option<Answer> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).ok()?;
        let mut frame = vec![0; u32::from_be_bytes(head) as usize];
        self.stream.read_exact(&mut frame).ok()?;
        if frame.starts_with(b"\xfdSMB") {
            let len = frame.len();
            frame.resize(len + 16, 0);
            self.keys.as_ref().unwrap().sealing.as_ref().unwrap().1.open(&mut frame).unwrap();
            frame.truncate(len);
            frame.drain(..TRANSFORM_LEN);
        }
        Some(Answer(frame))
    }

    /// Signs or encrypts a message as this client does, and sends it.
    pub fn send(&mut self, mut message: Vec<u8>) -> std::io::Result<()> {
        let (sign, seal) = (self.sign, self.seal);
        if let Some(keys) = &mut self.keys {
            if seal {
                let mut frame = vec![0; TRANSFORM_LEN];
                frame.extend_from_slice(&message);
                keys.sealed += 1;
                keys.sealing.as_ref().unwrap().0.seal(&mut frame, self.session_id, keys.sealed).unwrap();
                return self.send_frame(&frame);
            }
            if sign {
                keys.signing.sign(&mut message, Sender::Client);
            }
        }
        self.send_frame(&message)
    }

    /// Sends a request without waiting for its answer.
    pub fn post(&mut self, command: Command, encode: impl FnOnce(&mut Vec<u8>)) {
        let header = self.header(command);
        let mut message = Vec::new();
        header.encode(&mut message);
        encode(&mut message);
        self.send(message).unwrap();
    }

    /// A request and its answer.
    pub fn request(&mut self, command: Command, encode: impl FnOnce(&mut Vec<u8>)) -> Option<Answer> {
        self.post(command, encode);
        self.receive()
    }

    /// NEGOTIATE.
    pub fn negotiate(&mut self, offer: &Offer) -> Answer {
        let contexts = if offer.dialects.contains(&0x0311) {
            vec![
                Context::Preauth { algorithms: vec![1], salt: &[9; 32] },
                Context::Encryption(offer.ciphers.clone()),
                Context::Signing(offer.signing.clone()),
            ]
        } else {
            Vec::new()
        };
        let request = negotiate::Request {
            security_mode: 1,
            capabilities: 0x7F,
            client_guid: offer.guid,
            dialects: offer.dialects.clone(),
            contexts,
        };
        let header = self.header(Command::NEGOTIATE);
        let mut message = Vec::new();
        header.encode(&mut message);
        request.encode(&mut message);
        self.preauth.update(&message);
        self.send_frame(&message).unwrap();
        let answer = self.receive().unwrap();
        self.preauth.update(&answer.0);
        if let Ok(response) = negotiate::Response::decode(&answer.0) {
            self.dialect = response.dialect;
            self.signing = u16::from(self.dialect >= 0x0300);
            self.cipher = u16::from(self.dialect >= 0x0300);
            for context in &response.contexts {
                match context {
                    Context::Encryption(ids) => self.cipher = ids[0],
                    Context::Signing(ids) => self.signing = ids[0],
                    _ => {}
                }
            }
        }
        answer
    }

    /// One SESSION_SETUP.
    pub fn setup(&mut self, flags: u8, previous: u64, token: &[u8], preauth: &mut PreauthHash) -> Answer {
        let header = Header { tree_id: 0, ..self.header(Command::SESSION_SETUP) };
        let mut message = Vec::new();
        header.encode(&mut message);
        let request = session_setup::Request {
            flags,
            security_mode: 1,
            capabilities: 0,
            channel: 0,
            previous_session_id: previous,
            security_buffer: token,
        };
        request.encode(&mut message);
        if let (Some(keys), true) = (&self.keys, self.sign) {
            keys.signing.sign(&mut message, Sender::Client);
        }
        preauth.update(&message);
        self.send_frame(&message).unwrap();
        let answer = self.receive().unwrap();
        if answer.status() == Status::MORE_PROCESSING_REQUIRED {
            preauth.update(&answer.0);
        }
        answer
    }

    /// Logs in, or (with a session) authenticates again.
    pub fn login(&mut self, user: &str) -> Status {
        self.login_with(user, &user.to_uppercase(), 0, 0)
    }

    /// The two legs. `flags` and `previous` as in the request.
    pub fn login_with(&mut self, user: &str, password: &str, flags: u8, previous: u64) -> Status {
        let mut preauth = self.preauth.clone();
        let first = self.setup(flags, 0, &ntlm::negotiate(), &mut preauth);
        if first.status() != Status::MORE_PROCESSING_REQUIRED {
            return first.status();
        }
        let again = self.session_id != 0;
        self.session_id = first.header().session_id;
        let challenge = session_setup::Response::decode(&first.0).unwrap().security_buffer.to_vec();
        let (token, key) = ntlm::authenticate(&challenge, user, password);
        let second = self.setup(flags, previous, &token, &mut preauth);
        let status = second.status();
        if status == Status::SUCCESS && (!again || flags & session_setup::FLAG_BINDING != 0) {
            let keys = self.derive(&key, &preauth);
            assert!(
                keys.signing.verify(&mut second.0.clone(), Sender::Server),
                "the last answer is not signed"
            );
            self.keys = Some(keys);
        } else if status != Status::SUCCESS && !again {
            self.session_id = 0;
        }
        status
    }

    fn derive(&self, key: &[u8; 16], preauth: &PreauthHash) -> ClientKeys {
        let binding =
            if self.dialect == 0x0311 { Binding::Dialect311(&preauth.0) } else { Binding::Dialect30 };
        let algorithm = SigningAlgorithm::from_id(self.signing).unwrap();
        let bytes = match self.dialect {
            0x0300.. => kdf::signing(key, binding).bytes().to_vec(),
            _ => key.to_vec(),
        };
        let sealing = Cipher::from_id(self.cipher).map(|cipher| {
            let out = kdf::client_to_server(key, binding, cipher.key_len());
            let inward = kdf::server_to_client(key, binding, cipher.key_len());
            (CipherKey::new(cipher, out.bytes()).unwrap(), CipherKey::new(cipher, inward.bytes()).unwrap())
        });
        ClientKeys { sealing, ..ClientKeys::signing_only((algorithm, bytes)) }
    }

    /// Joins the session of another connection as a channel; that one's signing key signs the request.
    pub fn bind(&mut self, to: &Client, user: &str, password: &str) -> Status {
        self.session_id = to.session_id;
        self.tree_id = to.tree_id;
        self.keys = to.keys.as_ref().map(|keys| ClientKeys::signing_only(keys.made_of.clone()));
        let status = self.login_with(user, password, session_setup::FLAG_BINDING, 0);
        if status != Status::SUCCESS {
            self.keys = None;
        }
        status
    }

    /// TREE_CONNECT; its tree is used from then on.
    pub fn tree_connect(&mut self, share: &str) -> Status {
        let path = utf16::encode(&format!("\\\\server\\{share}"));
        let request = tree_connect::Request { flags: 0, path: Utf16(&path) };
        let answer = self.request(Command::TREE_CONNECT, |out| request.encode(out)).unwrap();
        self.tree_id = answer.header().tree_id;
        answer.status()
    }

    /// CREATE, with everything shared: the file is made if it is not there.
    pub fn create(&mut self, name: &str) -> Answer {
        self.post_create(name, create::oplock::NONE);
        self.receive().unwrap()
    }

    /// The same with an oplock, sent without waiting for its answer.
    pub fn post_create(&mut self, name: &str, oplock_level: u8) {
        let name = utf16::encode(name);
        let request = create::Request {
            oplock_level,
            impersonation_level: 2,
            desired_access: 0x0012_019F,
            file_attributes: 0,
            share_access: 7,
            disposition: disposition::OPEN_IF,
            options: 0,
            name: Utf16(&name),
            contexts: Contexts::default(),
        };
        self.post(Command::CREATE, |out| request.encode(out));
    }
}
