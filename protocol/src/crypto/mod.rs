//! Keys, signatures and encryption (MS-SMB2 3.1.4, 3.1.5).
//!
//! Keys are prepared once per session or channel; what is done per message allocates nothing and works in the frame's
//! own buffer.

#[cfg(target_arch = "x86_64")]
mod aes_ni;
pub mod encrypt;
pub mod kdf;
pub mod preauth;
pub mod sign;
