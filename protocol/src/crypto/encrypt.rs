//! Encryption: the SMB2 TRANSFORM_HEADER (MS-SMB2 2.2.41) and the ciphers behind it (3.1.4.3).

use aes::{Aes128, Aes256};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ccm::aead::AeadInOut;
use ccm::consts::{U11, U16};
use ccm::{Ccm, KeyInit};

#[cfg(target_arch = "x86_64")]
use super::aes_ni;
use crate::codec::{DecodeError, Reader};

/// The four bytes that an encrypted message begins with.
pub const TRANSFORM_ID: [u8; 4] = *b"\xfdSMB";
/// Length of the transform header in bytes.
pub const TRANSFORM_LEN: usize = 52;
/// What the tag covers besides the message: the header from its Nonce on.
const AAD: std::ops::Range<usize> = 20..TRANSFORM_LEN;
const TAG: std::ops::Range<usize> = 4..20;
const NONCE: usize = 20;

/// Cipher ids (MS-SMB2 2.2.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Cipher {
    Aes128Ccm = 1,
    Aes128Gcm = 2,
    Aes256Ccm = 3,
    Aes256Gcm = 4,
}

impl Cipher {
    /// The cipher with this id.
    pub fn from_id(id: u16) -> Option<Self> {
        [Self::Aes128Ccm, Self::Aes128Gcm, Self::Aes256Ccm, Self::Aes256Gcm]
            .into_iter()
            .find(|c| *c as u16 == id)
    }

    /// Bytes of its key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Ccm | Self::Aes128Gcm => 16,
            Self::Aes256Ccm | Self::Aes256Gcm => 32,
        }
    }

    fn nonce_len(self) -> usize {
        match self {
            Self::Aes128Ccm | Self::Aes256Ccm => 11,
            Self::Aes128Gcm | Self::Aes256Gcm => 12,
        }
    }
}

/// A decoded transform header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformHeader {
    /// Bytes of the message that is inside.
    pub original_size: u32,
    /// The session whose key encrypts it.
    pub session_id: u64,
}

impl TransformHeader {
    /// Decodes the header at the start of `frame`; the rest of the frame must be the message, exactly.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame, "SMB2 TRANSFORM_HEADER");
        let id: [u8; 4] = r.array()?;
        if id != TRANSFORM_ID {
            return Err(DecodeError::Invalid {
                what: "ProtocolId",
                value: u64::from(u32::from_le_bytes(id)),
            });
        }
        r.skip(32)?; // Signature, Nonce
        let original_size = r.u32()?;
        r.skip(2)?;
        let flags = r.u16()?; // 3.1.1: Flags, 1 = encrypted; 3.0: EncryptionAlgorithm, 1 = AES-128-CCM
        let session_id = r.u64()?;
        if flags != 1 {
            return Err(DecodeError::Invalid { what: "Flags/EncryptionAlgorithm", value: u64::from(flags) });
        }
        if original_size as usize != r.remaining() {
            return Err(DecodeError::Invalid {
                what: "OriginalMessageSize",
                value: u64::from(original_size),
            });
        }
        Ok(Self { original_size, session_id })
    }
}

enum State {
    Gcm(Box<LessSafeKey>),
    Ccm128(Box<Ccm<Aes128, U16, U11>>),
    Ccm256(Box<Ccm<Aes256, U16, U11>>),
    #[cfg(target_arch = "x86_64")]
    FastCcm128(Box<aes_ni::Ccm<10>>),
    #[cfg(target_arch = "x86_64")]
    FastCcm256(Box<aes_ni::Ccm<14>>),
}

/// CCM by the CPU's own instructions where it has them.
fn ccm_state(cipher: Cipher, key: &[u8]) -> Option<State> {
    #[cfg(target_arch = "x86_64")]
    {
        let fast = if cipher == Cipher::Aes256Ccm {
            aes_ni::Ccm::<14>::new(key).map(|ccm| State::FastCcm256(Box::new(ccm)))
        } else {
            aes_ni::Ccm::<10>::new(key).map(|ccm| State::FastCcm128(Box::new(ccm)))
        };
        if fast.is_some() {
            return fast;
        }
    }
    Some(if cipher == Cipher::Aes256Ccm {
        State::Ccm256(Box::new(Ccm::new_from_slice(key).ok()?))
    } else {
        State::Ccm128(Box::new(Ccm::new_from_slice(key).ok()?))
    })
}

/// A key of one direction, made ready.
pub struct CipherKey {
    cipher: Cipher,
    state: State,
}

impl std::fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CipherKey({:?})", self.cipher) // never the key itself
    }
}

/// The message could not be encrypted, or is not what its sender encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message does not decrypt")]
pub struct CipherError;

impl CipherKey {
    /// Prepares a key; `None` if its length is not the cipher's.
    pub fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        let gcm =
            |algorithm| Some(State::Gcm(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?))));
        let state = match cipher {
            Cipher::Aes128Gcm => gcm(&AES_128_GCM)?,
            Cipher::Aes256Gcm => gcm(&AES_256_GCM)?,
            Cipher::Aes128Ccm | Cipher::Aes256Ccm => ccm_state(cipher, key)?,
        };
        Some(Self { cipher, state })
    }

    /// Encrypts in place: `frame` is [`TRANSFORM_LEN`] bytes of room and then the message. `counter` must never repeat
    /// under this key: it is the nonce.
    pub fn seal(&self, frame: &mut [u8], session_id: u64, counter: u64) -> Result<(), CipherError> {
        if frame.len() < TRANSFORM_LEN {
            return Err(CipherError);
        }
        let (header, message) = frame.split_at_mut(TRANSFORM_LEN);
        header.fill(0);
        header[..4].copy_from_slice(&TRANSFORM_ID);
        header[NONCE..NONCE + 8].copy_from_slice(&counter.to_le_bytes());
        header[36..40].copy_from_slice(&(message.len() as u32).to_le_bytes());
        header[42] = 1;
        header[44..52].copy_from_slice(&session_id.to_le_bytes());
        let nonce = &header[NONCE..NONCE + self.cipher.nonce_len()];
        let aad = &header[AAD];
        let mut tag = [0; 16];
        match &self.state {
            State::Gcm(key) => {
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError)?;
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(aad), message);
                tag.copy_from_slice(sealed.map_err(|_| CipherError)?.as_ref());
            }
            State::Ccm128(key) => tag.copy_from_slice(&ccm_seal(&**key, nonce, aad, message)?),
            State::Ccm256(key) => tag.copy_from_slice(&ccm_seal(&**key, nonce, aad, message)?),
            #[cfg(target_arch = "x86_64")]
            State::FastCcm128(key) => tag = key.seal(short(nonce)?, aad, message),
            #[cfg(target_arch = "x86_64")]
            State::FastCcm256(key) => tag = key.seal(short(nonce)?, aad, message),
        }
        header[TAG].copy_from_slice(&tag);
        Ok(())
    }

    /// Decrypts in place: `frame` begins with its transform header, which was decoded. The last 16 bytes of `frame` are room behind the
    /// message that is overwritten; on success the message is `frame[TRANSFORM_LEN..frame.len() - 16]`.
    pub fn open(&self, frame: &mut [u8]) -> Result<(), CipherError> {
        if frame.len() < TRANSFORM_LEN + 16 {
            return Err(CipherError);
        }
        let (header, rest) = frame.split_at_mut(TRANSFORM_LEN);
        let nonce = &header[NONCE..NONCE + self.cipher.nonce_len()];
        let aad = &header[AAD];
        let message_len = rest.len() - 16;
        match &self.state {
            State::Gcm(key) => {
                // The library wants the tag behind the message; the caller left room there.
                rest[message_len..].copy_from_slice(&header[TAG]);
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError)?;
                key.open_in_place(nonce, Aad::from(aad), rest).map(|_| ()).map_err(|_| CipherError)
            }
            State::Ccm128(key) => ccm_open(&**key, nonce, aad, &mut rest[..message_len], &header[TAG]),
            State::Ccm256(key) => ccm_open(&**key, nonce, aad, &mut rest[..message_len], &header[TAG]),
            #[cfg(target_arch = "x86_64")]
            State::FastCcm128(key) => {
                let right = key.open(short(nonce)?, aad, &mut rest[..message_len], &header[TAG]);
                right.then_some(()).ok_or(CipherError)
            }
            #[cfg(target_arch = "x86_64")]
            State::FastCcm256(key) => {
                let right = key.open(short(nonce)?, aad, &mut rest[..message_len], &header[TAG]);
                right.then_some(()).ok_or(CipherError)
            }
        }
    }
}

/// The nonce of CCM, by its length.
#[cfg(target_arch = "x86_64")]
fn short(nonce: &[u8]) -> Result<&[u8; aes_ni::CCM_NONCE_LEN], CipherError> {
    nonce.try_into().map_err(|_| CipherError)
}

type CcmNonce = ccm::Nonce<U11>;
type CcmTag = ccm::Tag<U16>;

fn ccm_seal<C>(key: &C, nonce: &[u8], aad: &[u8], message: &mut [u8]) -> Result<[u8; 16], CipherError>
where
    C: AeadInOut<NonceSize = U11, TagSize = U16>,
{
    let nonce = CcmNonce::try_from(nonce).map_err(|_| CipherError)?;
    let tag = key.encrypt_inout_detached(&nonce, aad, message.into()).map_err(|_| CipherError)?;
    Ok(tag.into())
}

fn ccm_open<C>(key: &C, nonce: &[u8], aad: &[u8], message: &mut [u8], tag: &[u8]) -> Result<(), CipherError>
where
    C: AeadInOut<NonceSize = U11, TagSize = U16>,
{
    let nonce = CcmNonce::try_from(nonce).map_err(|_| CipherError)?;
    let tag = CcmTag::try_from(tag).map_err(|_| CipherError)?;
    key.decrypt_inout_detached(&nonce, aad, message.into(), &tag).map_err(|_| CipherError)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Cipher; 4] = [Cipher::Aes128Ccm, Cipher::Aes128Gcm, Cipher::Aes256Ccm, Cipher::Aes256Gcm];

    fn sealed(cipher: Cipher) -> (CipherKey, Vec<u8>) {
        let key = CipherKey::new(cipher, &vec![9; cipher.key_len()]).unwrap();
        let mut frame = vec![0; TRANSFORM_LEN];
        frame.extend_from_slice(b"a message that nobody else may read");
        key.seal(&mut frame, 0x1122, 5).unwrap();
        (key, frame)
    }

    fn open(key: &CipherKey, frame: &[u8]) -> Result<Vec<u8>, CipherError> {
        let mut room = frame.to_vec();
        room.extend_from_slice(&[0; 16]);
        key.open(&mut room)?;
        Ok(room[TRANSFORM_LEN..frame.len()].to_vec())
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        for cipher in ALL {
            let (key, frame) = sealed(cipher);
            let header = TransformHeader::decode(&frame).unwrap();
            assert_eq!(header, TransformHeader { original_size: 35, session_id: 0x1122 });
            assert_eq!(open(&key, &frame).unwrap(), b"a message that nobody else may read");
            for at in (4..TRANSFORM_LEN).chain([TRANSFORM_LEN, frame.len() - 1]) {
                let nonce_padding = NONCE + cipher.nonce_len()..NONCE + 16;
                let mut changed = frame.clone();
                changed[at] ^= 0x40;
                assert!(
                    open(&key, &changed).is_err(),
                    "{cipher:?}: byte {at} ({nonce_padding:?} is covered too)"
                );
            }
        }
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        for cipher in ALL {
            assert!(CipherKey::new(cipher, &[0; 20]).is_none());
        }
    }

    #[test]
    fn a_size_that_is_not_the_frames_is_refused() {
        let (_, mut frame) = sealed(Cipher::Aes128Gcm);
        frame.push(0);
        assert!(TransformHeader::decode(&frame).is_err());
        assert!(TransformHeader::decode(&frame[..40]).is_err());
    }
}
