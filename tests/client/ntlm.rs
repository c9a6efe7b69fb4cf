//! NTLMv2 as an initiator (MS-NLMP 3.1), just as much as a test needs: no key exchange, no MIC.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use smb_proto::auth::ntlm::nt_hash;
use smb_proto::utf16;

/// UNICODE, NTLM, extended session security, target information, 128 bits.
const FLAGS: u32 = 0x0000_0001 | 0x0000_0200 | 0x0008_0000 | 0x0080_0000 | 0x2000_0000;
const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Length of AUTHENTICATE_MESSAGE before its payload, with a version and no MIC.
const FIXED: usize = 72;

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// NEGOTIATE_MESSAGE.
pub fn negotiate() -> Vec<u8> {
    let mut token = SIGNATURE.to_vec();
    token.extend(1u32.to_le_bytes());
    token.extend(FLAGS.to_le_bytes());
    token.extend([0; 24]);
    token
}

/// AUTHENTICATE_MESSAGE, and the session key that both sides have if the password is right.
pub fn authenticate(challenge: &[u8], user: &str, password: &str) -> (Vec<u8>, [u8; 16]) {
    let field = |at: usize| u16::from_le_bytes([challenge[at], challenge[at + 1]]) as usize;
    let info = &challenge[field(44)..field(44) + field(40)];
    let mut blob = vec![1, 1, 0, 0, 0, 0, 0, 0];
    blob.extend([0x11; 8]); // time
    blob.extend([0x22; 8]); // client challenge
    blob.extend([0; 4]);
    blob.extend(info);
    blob.extend([0; 4]);
    let key = hmac_md5(&nt_hash(password), &[&utf16::encode(&user.to_uppercase())]);
    let proof = hmac_md5(&key, &[&challenge[24..32], &blob]);
    let response = [&proof[..], &blob].concat();
    let name = utf16::encode(user);
    let mut token = SIGNATURE.to_vec();
    token.extend(3u32.to_le_bytes());
    let mut offset = FIXED;
    for len in [0, response.len(), 0, name.len(), 0, 0] {
        token.extend((len as u16).to_le_bytes());
        token.extend((len as u16).to_le_bytes());
        token.extend((offset as u32).to_le_bytes());
        offset += len;
    }
    token.extend(FLAGS.to_le_bytes());
    token.extend([0; 8]);
    token.extend(response);
    token.extend(name);
    (token, hmac_md5(&key, &[&proof]))
}
