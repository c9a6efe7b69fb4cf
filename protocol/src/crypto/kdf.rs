//! Key derivation: SP800-108 in counter mode with HMAC-SHA256 (MS-SMB2 3.1.4.2), and which keys a session has.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A derived key of 16 or 32 bytes, wiped when dropped.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; 32]>,
    len: usize,
}

impl Key {
    /// The key's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.len) // never the key itself: logs are read by many
    }
}

/// Derives `len` (16 or 32) bytes from `secret`. Label and context come with their terminating NUL, where they have one.
pub fn derive(secret: &[u8], label: &[u8], context: &[u8], len: usize) -> Key {
    debug_assert!(len == 16 || len == 32);
    let mut key = Key { bytes: Zeroizing::new([0; 32]), len };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return key; // HMAC takes keys of any length
    };
    mac.update(&1u32.to_be_bytes()); // one round gives 32 bytes
    mac.update(label);
    mac.update(&[0]);
    mac.update(context);
    mac.update(&((len * 8) as u32).to_be_bytes());
    key.bytes.copy_from_slice(&mac.finalize().into_bytes());
    key.bytes[len..].fill(0);
    key
}

/// What keys are bound to.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// SMB 3.0 and 3.0.2: constants.
    Dialect30,
    /// SMB 3.1.1: the pre-authentication integrity hash of the session.
    Dialect311(&'a [u8; 64]),
}

/// The key that signs (of a session, or of a channel bound to one).
pub fn signing(session_key: &[u8], binding: Binding<'_>) -> Key {
    match binding {
        Binding::Dialect30 => derive(session_key, b"SMB2AESCMAC\0", b"SmbSign\0", 16),
        Binding::Dialect311(hash) => derive(session_key, b"SMBSigningKey\0", hash, 16),
    }
}

/// The key with which the server encrypts. `len`: 16, or 32 for the AES-256 ciphers, which also take the full session key.
pub fn server_to_client(session_key: &[u8], binding: Binding<'_>, len: usize) -> Key {
    match binding {
        Binding::Dialect30 => derive(session_key, b"SMB2AESCCM\0", b"ServerOut\0", len),
        Binding::Dialect311(hash) => derive(session_key, b"SMBS2CCipherKey\0", hash, len),
    }
}

/// The key with which the client encrypts.
pub fn client_to_server(session_key: &[u8], binding: Binding<'_>, len: usize) -> Key {
    match binding {
        Binding::Dialect30 => derive(session_key, b"SMB2AESCCM\0", b"ServerIn \0", len),
        Binding::Dialect311(hash) => derive(session_key, b"SMBC2SCipherKey\0", hash, len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of MS-SMB2 4.4 as published in Microsoft's 'SMB 2 and SMB 3 security' article: session key and the
    /// keys derived from it at dialect 3.0.
    #[test]
    fn keys_of_a_published_session() {
        let session =
            [0x7c, 0xd4, 0x51, 0x82, 0x5d, 0x04, 0x50, 0xd2, 0x35, 0x42, 0x4e, 0x44, 0xba, 0x6e, 0x78, 0xcc];
        let signing = signing(&session, Binding::Dialect30);
        assert_eq!(
            signing.bytes(),
            [0x0b, 0x7e, 0x9c, 0x5c, 0xac, 0x36, 0xc0, 0xf6, 0xea, 0x9a, 0xb2, 0x75, 0x29, 0x8c, 0xed, 0xce]
        );
    }

    #[test]
    fn directions_and_bindings_give_different_keys() {
        let session = [1; 16];
        let hash = [2; 64];
        let keys = [
            signing(&session, Binding::Dialect30),
            signing(&session, Binding::Dialect311(&hash)),
            server_to_client(&session, Binding::Dialect30, 16),
            client_to_server(&session, Binding::Dialect30, 16),
            server_to_client(&session, Binding::Dialect311(&hash), 32),
            client_to_server(&session, Binding::Dialect311(&hash), 32),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(
                keys[..n].iter().all(|other| other.bytes()[..16] != key.bytes()[..16]),
                "key {n} repeats"
            );
        }
    }
}
