//! The pre-authentication integrity hash of SMB 3.1.1 (MS-SMB2 3.3.5.4): a chain of SHA-512 over whole messages.

use sha2::{Digest, Sha512};

/// The chain's state. A connection has one for NEGOTIATE; each session starts from a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreauthHash(pub [u8; 64]);

impl Default for PreauthHash {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl PreauthHash {
    /// Takes the next message: from its SMB2 header to its end, without the transport's length.
    pub fn update(&mut self, message: &[u8]) {
        let mut hasher = Sha512::new();
        hasher.update(self.0);
        hasher.update(message);
        self.0 = hasher.finalize().into();
    }
}
