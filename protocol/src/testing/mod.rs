//! The client half, for tests, benchmarks and fuzz targets: everything an SMB2 client does but its socket.
//!
//! [`Client`] makes messages and takes answers: negotiation, NTLMv2 in SPNEGO, signatures, encryption, compounds, message
//! ids and credits. It checks what it gets as a client that trusts nobody would. [`Peer`] puts it on a [`Link`] and has a
//! method per command. Each message can be bent before it is protected ([`Draft`]) or after: that is what it is for.

mod files;
mod login;

use crate::crypto::encrypt::{Cipher, CipherKey, TRANSFORM_LEN};
use crate::crypto::kdf::{self, Binding};
use crate::crypto::preauth::PreauthHash;
use crate::crypto::sign::{Sender, SigningAlgorithm, SigningKey};
use crate::frame::Kind;
use crate::header::HEADER_LEN;
use crate::msg::negotiate::{self, Context};
use crate::{Command, DecodeError, Flags, Header, Status};

pub use files::{Link, Opened, Peer};
pub use login::{Initiator, LoginOptions};

/// Credits asked for with each request, so that large writes can follow at once.
const CREDITS_ASKED: u16 = 256;

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection has ended.
    #[error("the server has ended the connection")]
    Closed,
    /// The server answered with this status.
    #[error("status {0:?}")]
    Status(Status),
    /// It does not decode.
    #[error("malformed answer: {0}")]
    Malformed(#[from] DecodeError),
    /// It does not decrypt, or is for another session.
    #[error("an encrypted answer that is not this session's")]
    Sealed,
    /// It should have been signed, and is not, or wrongly.
    #[error("the signature of an answer is wrong or missing")]
    Signature,
    /// The server broke a rule of the protocol.
    #[error("{0}")]
    Rule(&'static str),
}

/// How requests are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Neither signed nor encrypted.
    Plain,
    /// Signed.
    Signed,
    /// Encrypted.
    Sealed,
}

/// What the client offers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Dialects.
    pub dialects: Vec<u16>,
    /// Ciphers, for 3.1.1; none means that encryption is not offered in any dialect.
    pub ciphers: Vec<u16>,
    /// Signing algorithms, for 3.1.1; none leaves the context out.
    pub signing: Vec<u16>,
    /// SecurityMode.
    pub security_mode: u16,
    /// ClientGuid.
    pub guid: [u8; 16],
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            dialects: crate::conn::negotiate::DIALECTS.to_vec(),
            ciphers: vec![2, 1, 4, 3],
            signing: vec![2, 1, 0],
            security_mode: negotiate::SIGNING_ENABLED,
            guid: *b"importfs testing",
        }
    }
}

/// The capabilities that go with an offer.
fn capabilities(offer: &Offer) -> u32 {
    negotiate::CAP_LARGE_MTU | if offer.ciphers.is_empty() { 0 } else { negotiate::CAP_ENCRYPTION }
}

/// What was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Agreed {
    pub dialect: u16,
    pub cipher: Option<Cipher>,
    pub signing: SigningAlgorithm,
    pub max_write: u32,
    pub security_mode: u16,
    pub capabilities: u32,
    pub server_guid: [u8; 16],
}

/// A session's keys at the client.
#[derive(Debug)]
struct Keys {
    signing: SigningKey,
    /// Outward, inward.
    sealing: Option<(CipherKey, CipherKey)>,
    sealed: u64,
}

/// One request before it is protected.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its header, with the next message id.
    pub header: Header,
    /// 64 bytes of room and the body.
    pub message: Vec<u8>,
}

/// One answer, its protection checked.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its header.
    pub header: Header,
    /// The whole message.
    pub message: Vec<u8>,
    /// Whether it came encrypted.
    pub sealed: bool,
}

/// One connection and one session of a client.
#[derive(Debug)]
pub struct Client {
    /// What it offers.
    pub offer: Offer,
    /// Set by the answer to NEGOTIATE.
    pub agreed: Option<Agreed>,
    /// How the next requests are protected; a login sets it to [`Protection::Signed`].
    pub protection: Protection,
    /// SessionId of the next requests.
    pub session_id: u64,
    /// TreeId of the next requests.
    pub tree_id: u32,
    /// The next message id.
    pub message_id: u64,
    /// Credits left.
    pub credits: u64,
    preauth: PreauthHash,
    session_preauth: PreauthHash,
    keys: Option<Keys>,
    session_key: [u8; 16],
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Offer::default())
    }
}

impl Client {
    /// A client that has sent nothing.
    pub fn new(offer: Offer) -> Self {
        Self {
            offer,
            agreed: None,
            protection: Protection::Plain,
            session_id: 0,
            tree_id: 0,
            message_id: 0,
            credits: 1,
            preauth: PreauthHash::default(),
            session_preauth: PreauthHash::default(),
            keys: None,
            session_key: [0; 16],
        }
    }

    /// The dialect, 0 before NEGOTIATE.
    pub fn dialect(&self) -> u16 {
        self.agreed.map_or(0, |agreed| agreed.dialect)
    }

    /// A request with the next message id, for `payload` bytes one way or the other (MS-SMB2 3.2.4.1.5).
    pub fn draft(&mut self, command: Command, payload: u32, encode: impl FnOnce(&mut Vec<u8>)) -> Draft {
        let charge = if self.dialect() >= negotiate::DIALECT_210 {
            crate::conn::window::charge_for(payload)
        } else {
            0
        };
        let header = Header {
            credit_charge: charge,
            status: Status::SUCCESS,
            command,
            credits: CREDITS_ASKED,
            flags: Flags::default(),
            next_command: 0,
            message_id: self.message_id,
            async_id: 0,
            tree_id: self.tree_id,
            session_id: self.session_id,
            signature: [0; 16],
        };
        let used = u64::from(charge.max(1));
        self.message_id += used;
        self.credits = self.credits.saturating_sub(used);
        let mut message = vec![0; HEADER_LEN];
        encode(&mut message);
        Draft { header, message }
    }

    /// Joins drafts into one frame, protected as [`Client::protection`] says. Each payload is copied once.
    pub fn frame(&mut self, drafts: &[Draft]) -> Vec<u8> {
        let room = if self.protection == Protection::Sealed { TRANSFORM_LEN } else { 0 };
        let length = drafts.iter().map(|draft| draft.message.len().next_multiple_of(8)).sum::<usize>();
        let mut frame = Vec::with_capacity(room + length);
        frame.resize(room, 0);
        let mut head = Vec::with_capacity(HEADER_LEN);
        for (index, draft) in drafts.iter().enumerate() {
            let start = frame.len();
            frame.extend_from_slice(&draft.message);
            let mut header = draft.header;
            if index + 1 < drafts.len() {
                frame.resize(start + draft.message.len().next_multiple_of(8), 0);
                header.next_command = (frame.len() - start) as u32;
            }
            head.clear();
            header.encode(&mut head);
            frame[start..start + HEADER_LEN].copy_from_slice(&head);
            if let (Protection::Signed, Some(keys)) = (self.protection, &self.keys) {
                keys.signing.sign(&mut frame[start..], Sender::Client);
            }
        }
        if room > 0 {
            self.seal_in_place(&mut frame, self.session_id);
        }
        frame
    }

    /// Encrypts what stands behind room for the transform header.
    fn seal_in_place(&mut self, frame: &mut [u8], session_id: u64) {
        if let Some(keys) = &mut self.keys
            && let Some((key, _)) = &keys.sealing
        {
            keys.sealed += 1;
            // Only a frame shorter than its header can fail.
            let _ = key.seal(frame, session_id, keys.sealed);
        }
    }

    /// Encrypts a frame with this session's key, in the name of any session.
    pub fn seal(&mut self, plain: &[u8], session_id: u64) -> Vec<u8> {
        let mut sealed = vec![0; TRANSFORM_LEN];
        sealed.extend_from_slice(plain);
        self.seal_in_place(&mut sealed, session_id);
        sealed
    }

    /// Whether this session can encrypt.
    pub fn can_seal(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.sealing.is_some())
    }

    /// Takes a frame from the server apart and checks its protection.
    pub fn open(&mut self, mut frame: Vec<u8>) -> Result<Vec<Answer>, ClientError> {
        let sealed = Kind::of(&frame)? == Kind::Transform;
        if sealed {
            let head = crate::crypto::encrypt::TransformHeader::decode(&frame)?;
            let keys = self.keys.as_ref().ok_or(ClientError::Sealed)?;
            let (_, key) = keys.sealing.as_ref().ok_or(ClientError::Sealed)?;
            if head.session_id != self.session_id {
                return Err(ClientError::Sealed);
            }
            let len = frame.len();
            frame.resize(len + 16, 0);
            key.open(&mut frame).map_err(|_| ClientError::Sealed)?;
            frame.truncate(len);
            frame.drain(..TRANSFORM_LEN);
        }
        let mut answers = Vec::new();
        let mut rest = &mut frame[..];
        loop {
            let header = Header::decode(rest)?;
            let next = header.next_command as usize;
            if next != 0 && (!next.is_multiple_of(8) || next < HEADER_LEN || next >= rest.len()) {
                return Err(ClientError::Rule("NextCommand of an answer leads out of the frame"));
            }
            let (own, others) = rest.split_at_mut(if next == 0 { rest.len() } else { next });
            self.check(&header, own, sealed)?;
            self.credits += u64::from(header.credits);
            answers.push(Answer { header, message: own.to_vec(), sealed });
            if next == 0 {
                return Ok(answers);
            }
            rest = others;
        }
    }

    /// What MS-SMB2 3.2.5.1 has a client check.
    fn check(&self, header: &Header, message: &mut [u8], sealed: bool) -> Result<(), ClientError> {
        if !header.flags.contains(Flags::SERVER_TO_REDIR) {
            return Err(ClientError::Rule("an answer without SMB2_FLAGS_SERVER_TO_REDIR"));
        }
        if header.message_id >= self.message_id && header.message_id != u64::MAX {
            return Err(ClientError::Rule("an answer to a message that was never sent"));
        }
        let Some(keys) = &self.keys else { return Ok(()) };
        let interim = header.status == Status::PENDING;
        // A session that is gone can't sign: the request's own flag and signature may come back (3.2.5.1.3).
        let gone = header.status == Status::USER_SESSION_DELETED;
        if sealed || interim || gone || header.session_id != self.session_id {
            return Ok(());
        }
        if header.flags.contains(Flags::SIGNED) {
            return if keys.signing.verify(message, Sender::Server) {
                Ok(())
            } else {
                Err(ClientError::Signature)
            };
        }
        match self.protection {
            Protection::Plain => Ok(()),
            _ => Err(ClientError::Signature),
        }
    }

    /// The NEGOTIATE request.
    pub fn negotiate(&mut self) -> Draft {
        let offer = self.offer.clone();
        let capabilities = capabilities(&offer);
        let salt = [0x5A; 32];
        let mut contexts = Vec::new();
        if offer.dialects.contains(&negotiate::DIALECT_311) {
            contexts.push(Context::Preauth { algorithms: vec![negotiate::HASH_SHA512], salt: &salt });
            if !offer.ciphers.is_empty() {
                contexts.push(Context::Encryption(offer.ciphers));
            }
            if !offer.signing.is_empty() {
                contexts.push(Context::Signing(offer.signing));
            }
            contexts.push(Context::Unknown { kind: 0x7777, data: b"to be ignored" });
        }
        let request = negotiate::Request {
            security_mode: offer.security_mode,
            capabilities,
            client_guid: offer.guid,
            dialects: offer.dialects,
            contexts,
        };
        self.draft(Command::NEGOTIATE, 0, |out| request.encode(out))
    }

    /// Takes the answer to NEGOTIATE. `sent` is the frame that asked.
    pub fn negotiated(&mut self, sent: &[u8], answer: &Answer) -> Result<Agreed, ClientError> {
        if answer.header.status != Status::SUCCESS {
            return Err(ClientError::Status(answer.header.status));
        }
        let response = negotiate::Response::decode(&answer.message)?;
        if !self.offer.dialects.contains(&response.dialect) {
            return Err(ClientError::Rule("a dialect that was not offered"));
        }
        self.preauth.update(sent);
        self.preauth.update(&answer.message);
        let mut agreed = Agreed {
            dialect: response.dialect,
            cipher: None,
            signing: if response.dialect >= negotiate::DIALECT_300 {
                SigningAlgorithm::AesCmac
            } else {
                SigningAlgorithm::HmacSha256
            },
            max_write: response.max_write_size,
            security_mode: response.security_mode,
            capabilities: response.capabilities,
            server_guid: response.server_guid,
        };
        if response.dialect < negotiate::DIALECT_311 && response.capabilities & negotiate::CAP_ENCRYPTION != 0
        {
            agreed.cipher = Some(Cipher::Aes128Ccm);
        }
        for context in &response.contexts {
            match context {
                Context::Encryption(ids) => agreed.cipher = ids.first().and_then(|id| Cipher::from_id(*id)),
                Context::Signing(ids) => {
                    let id = ids.first().copied().unwrap_or(u16::MAX);
                    agreed.signing = SigningAlgorithm::from_id(id)
                        .ok_or(ClientError::Rule("a signing algorithm that there is none of"))?;
                }
                _ => {}
            }
        }
        self.agreed = Some(agreed);
        Ok(agreed)
    }

    /// Derives the session's keys (MS-SMB2 3.2.5.3.1).
    fn derive(&mut self, session_key: [u8; 16]) -> Result<(), ClientError> {
        let agreed = self.agreed.ok_or(ClientError::Rule("a session before NEGOTIATE"))?;
        let binding = if agreed.dialect >= negotiate::DIALECT_311 {
            Binding::Dialect311(&self.session_preauth.0)
        } else {
            Binding::Dialect30
        };
        let signing = if agreed.dialect >= negotiate::DIALECT_300 {
            SigningKey::new(agreed.signing, kdf::signing(&session_key, binding).bytes())
        } else {
            SigningKey::new(agreed.signing, &session_key)
        };
        let sealing = agreed.cipher.and_then(|cipher| {
            let out = kdf::client_to_server(&session_key, binding, cipher.key_len());
            let inward = kdf::server_to_client(&session_key, binding, cipher.key_len());
            Some((CipherKey::new(cipher, out.bytes())?, CipherKey::new(cipher, inward.bytes())?))
        });
        let signing = signing.ok_or(ClientError::Rule("a key of the wrong length"))?;
        self.session_key = session_key;
        self.keys = Some(Keys { signing, sealing, sealed: 0 });
        Ok(())
    }

    /// Takes over another session's keys: an attacker who is logged in as somebody else.
    pub fn steal_keys(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.keys, &mut other.keys);
    }
}
