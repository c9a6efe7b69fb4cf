//! Signing (MS-SMB2 3.1.4.1): HMAC-SHA256 in 2.x, AES-CMAC in 3.x, AES-GMAC where 3.1.1 negotiated it.

use aes::Aes128;
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cmac::Cmac;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

#[cfg(target_arch = "x86_64")]
use super::aes_ni;
use crate::header::{Command, Flags, HEADER_LEN};

/// Where the signature stands in the header.
const SIGNATURE: std::ops::Range<usize> = 48..64;

/// SigningAlgorithmId (MS-SMB2 2.2.3.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum SigningAlgorithm {
    /// HMAC-SHA256, the only one of 2.x.
    HmacSha256 = 0,
    /// AES-128-CMAC.
    AesCmac = 1,
    /// AES-128-GMAC.
    AesGmac = 2,
}

impl SigningAlgorithm {
    /// The algorithm with this id.
    pub fn from_id(id: u16) -> Option<Self> {
        [Self::HmacSha256, Self::AesCmac, Self::AesGmac].into_iter().find(|a| *a as u16 == id)
    }
}

enum State {
    Hmac(Hmac<Sha256>),
    Cmac(Box<Cmac<Aes128>>),
    #[cfg(target_arch = "x86_64")]
    FastCmac(Box<aes_ni::Cmac>),
    Gmac(Box<LessSafeKey>),
}

/// Which side made a message: GMAC's nonce depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// A key made ready: its schedule is computed once.
pub struct SigningKey(State);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey") // never the key itself
    }
}

impl SigningKey {
    /// Prepares `key`: the session key for HMAC, the derived signing key (16 bytes) otherwise. `None` for a key of another length.
    pub fn new(algorithm: SigningAlgorithm, key: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            SigningAlgorithm::HmacSha256 => State::Hmac(Hmac::new_from_slice(key).ok()?),
            SigningAlgorithm::AesCmac => cmac_state(key)?,
            SigningAlgorithm::AesGmac => {
                State::Gmac(Box::new(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?)))
            }
        }))
    }

    /// Sets the signed flag and the signature of `message`, which begins with its header.
    pub fn sign(&self, message: &mut [u8], sender: Sender) {
        if message.len() < HEADER_LEN {
            return;
        }
        message[16] |= Flags::SIGNED.0 as u8;
        message[SIGNATURE].fill(0);
        let signature = self.compute(message, sender);
        message[SIGNATURE].copy_from_slice(&signature);
    }

    /// Whether `message` has the right signature. The signature field is zeroed while it is computed, and restored.
    pub fn verify(&self, message: &mut [u8], sender: Sender) -> bool {
        if message.len() < HEADER_LEN {
            return false;
        }
        let mut found = [0; 16];
        found.copy_from_slice(&message[SIGNATURE]);
        message[SIGNATURE].fill(0);
        let expected = self.compute(message, sender);
        message[SIGNATURE].copy_from_slice(&found);
        expected.ct_eq(&found).into()
    }

    fn compute(&self, message: &[u8], sender: Sender) -> [u8; 16] {
        let mut out = [0; 16];
        match &self.0 {
            State::Hmac(prepared) => {
                let mut mac = prepared.clone();
                mac.update(message);
                out.copy_from_slice(&mac.finalize().into_bytes()[..16]);
            }
            State::Cmac(prepared) => {
                let mut mac = prepared.clone();
                mac.update(message);
                out.copy_from_slice(&mac.finalize().into_bytes());
            }
            #[cfg(target_arch = "x86_64")]
            State::FastCmac(key) => out = key.compute(message),
            State::Gmac(key) => {
                let nonce = Nonce::assume_unique_for_key(gmac_nonce(message, sender));
                // Sealing nothing can only fail on an impossible length; a zero signature is then refused by the peer.
                if let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::from(message), &mut []) {
                    out.copy_from_slice(tag.as_ref());
                }
            }
        }
        out
    }
}

/// CMAC by the CPU's own instructions where it has them.
fn cmac_state(key: &[u8]) -> Option<State> {
    #[cfg(target_arch = "x86_64")]
    if let Some(fast) = aes_ni::Cmac::new(key) {
        return Some(State::FastCmac(Box::new(fast)));
    }
    Some(State::Cmac(Box::new(Cmac::new_from_slice(key).ok()?)))
}

/// MS-SMB2 3.1.4.1: MessageId, then a bit for the server's messages and one for CANCEL.
fn gmac_nonce(message: &[u8], sender: Sender) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&message[24..32]);
    let cancel = message[12..14] == Command::CANCEL.0.to_le_bytes();
    nonce[8] = u8::from(sender == Sender::Server) | u8::from(cancel) << 1;
    nonce
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message() -> Vec<u8> {
        let mut message = vec![0; 200];
        message[..4].copy_from_slice(b"\xfeSMB");
        message[24] = 7;
        message
    }

    #[test]
    fn each_algorithm_accepts_its_own_and_refuses_any_change() {
        for algorithm in [SigningAlgorithm::HmacSha256, SigningAlgorithm::AesCmac, SigningAlgorithm::AesGmac]
        {
            let key = SigningKey::new(algorithm, &[3; 16]).unwrap();
            let mut signed = message();
            key.sign(&mut signed, Sender::Server);
            assert!(key.verify(&mut signed, Sender::Server), "{algorithm:?}");
            for at in [0, 20, 50, 63, 64, 199] {
                let mut changed = signed.clone();
                changed[at] ^= 1;
                assert!(!key.verify(&mut changed, Sender::Server), "{algorithm:?}: byte {at}");
            }
            let other = SigningKey::new(algorithm, &[4; 16]).unwrap();
            assert!(!other.verify(&mut signed, Sender::Server));
        }
    }

    #[test]
    fn gmac_tells_the_sides_apart() {
        let key = SigningKey::new(SigningAlgorithm::AesGmac, &[3; 16]).unwrap();
        let mut signed = message();
        key.sign(&mut signed, Sender::Client);
        assert!(!key.verify(&mut signed, Sender::Server));
    }

    /// RFC 4493, example 4: the CMAC of 64 bytes.
    #[test]
    fn cmac_of_rfc_4493() {
        let key =
            [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c];
        let text = [
            0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a,
            0xae, 0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c, 0x9e, 0xb7, 0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51,
            0x30, 0xc8, 0x1c, 0x46, 0xa3, 0x5c, 0xe4, 0x11, 0xe5, 0xfb, 0xc1, 0x19, 0x1a, 0x0a, 0x52, 0xef,
            0xf6, 0x9f, 0x24, 0x45, 0xdf, 0x4f, 0x9b, 0x17, 0xad, 0x2b, 0x41, 0x7b, 0xe6, 0x6c, 0x37, 0x10,
        ];
        let key = SigningKey::new(SigningAlgorithm::AesCmac, &key).unwrap();
        assert_eq!(
            key.compute(&text, Sender::Client),
            [0x51, 0xf0, 0xbe, 0xbf, 0x7e, 0x3b, 0x9d, 0x92, 0xfc, 0x49, 0x74, 0x17, 0x79, 0x36, 0x3c, 0xfe]
        );
    }

    #[test]
    fn short_messages_are_refused_without_a_panic() {
        let key = SigningKey::new(SigningAlgorithm::AesCmac, &[3; 16]).unwrap();
        assert!(!key.verify(&mut [0; 63], Sender::Client));
        assert!(SigningKey::new(SigningAlgorithm::AesCmac, &[3; 15]).is_none());
    }
}
