//! The keys of one session: what signs, encrypts and decrypts its messages (MS-SMB2 3.3.5.5.3).

use std::sync::atomic::{AtomicU64, Ordering};

use smb_proto::Status;
use smb_proto::crypto::encrypt::{Cipher, CipherKey};
use smb_proto::crypto::kdf::{self, Binding};
use smb_proto::crypto::sign::{SigningAlgorithm, SigningKey};
use smb_proto::msg::negotiate::{DIALECT_300, DIALECT_311};

use super::connection::Negotiated;

/// A session's keys, made ready for use from several threads.
#[derive(Debug)]
pub struct Keys {
    signing: SigningKey,
    sealing: Option<(CipherKey, CipherKey)>,
    /// Counts sealed messages: the nonce, which must never repeat under one key.
    sealed: AtomicU64,
}

fn binding<'a>(negotiated: &Negotiated, preauth: &'a [u8; 64]) -> Binding<'a> {
    if negotiated.dialect >= DIALECT_311 { Binding::Dialect311(preauth) } else { Binding::Dialect30 }
}

/// The key that signs: of a session's first channel, or (from the key of the login that bound it) of a further one.
pub fn signing_key(
    session_key: &[u8],
    negotiated: &Negotiated,
    preauth: &[u8; 64],
) -> Result<SigningKey, Status> {
    let algorithm = SigningAlgorithm::from_id(negotiated.signing).ok_or(Status::INTERNAL_ERROR)?;
    let key = if negotiated.dialect >= DIALECT_300 {
        SigningKey::new(algorithm, kdf::signing(session_key, binding(negotiated, preauth)).bytes())
    } else {
        SigningKey::new(algorithm, session_key)
    };
    key.ok_or(Status::INTERNAL_ERROR)
}

impl Keys {
    /// Derives them. `preauth` is the session's hash, used with 3.1.1 only.
    pub fn derive(session_key: &[u8], negotiated: &Negotiated, preauth: &[u8; 64]) -> Result<Self, Status> {
        let signing = signing_key(session_key, negotiated, preauth)?;
        let binding = binding(negotiated, preauth);
        let sealing = Cipher::from_id(negotiated.cipher).and_then(|cipher| {
            let len = cipher.key_len();
            let out = kdf::server_to_client(session_key, binding, len);
            let inward = kdf::client_to_server(session_key, binding, len);
            Some((CipherKey::new(cipher, out.bytes())?, CipherKey::new(cipher, inward.bytes())?))
        });
        Ok(Self { signing, sealing, sealed: AtomicU64::new(0) })
    }

    /// Whether messages can be encrypted at all.
    pub fn can_encrypt(&self) -> bool {
        self.sealing.is_some()
    }

    /// Session.SigningKey: that of the first channel.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Encrypts in place: `frame` is room for the transform header, then the message.
    pub fn seal(&self, frame: &mut [u8], session_id: u64) -> Result<(), Status> {
        let (key, _) = self.sealing.as_ref().ok_or(Status::INTERNAL_ERROR)?;
        let counter = self.sealed.fetch_add(1, Ordering::Relaxed);
        key.seal(frame, session_id, counter).map_err(|_| Status::INTERNAL_ERROR)
    }

    /// Decrypts in place; `frame` has 16 bytes of room behind the message.
    pub fn open(&self, frame: &mut [u8]) -> Result<(), Status> {
        let (_, key) = self.sealing.as_ref().ok_or(Status::ACCESS_DENIED)?;
        key.open(frame).map_err(|_| Status::ACCESS_DENIED)
    }
}
