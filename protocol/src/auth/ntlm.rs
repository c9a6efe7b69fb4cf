//! NTLMv2 as an acceptor (MS-NLMP 3.2): a challenge, then a proof that is compared in constant time, and the MIC.
//!
//! NTLMv1, LM, guest and anonymous are refused: a restore target that anybody can write to is a way into a datacenter.

use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Put, Reader};

pub(crate) const SIGNATURE: [u8; 8] = *b"NTLMSSP\0";
/// Longest AUTHENTICATE message that is looked at, in bytes: names, a target-info list and a key fit many times.
pub const TOKEN_LEN_MAX: usize = 16 << 10;
/// Where the MIC stands in an AUTHENTICATE message (MS-NLMP 2.2.1.3).
pub(crate) const MIC: std::ops::Range<usize> = 72..88;

/// NegotiateFlags (MS-NLMP 2.2.2.5).
pub(crate) mod flag {
    pub(crate) const UNICODE: u32 = 0x0000_0001;
    pub(crate) const REQUEST_TARGET: u32 = 0x0000_0004;
    pub(crate) const SIGN: u32 = 0x0000_0010;
    pub(crate) const SEAL: u32 = 0x0000_0020;
    pub(crate) const NTLM: u32 = 0x0000_0200;
    pub(crate) const ANONYMOUS: u32 = 0x0000_0800;
    pub(crate) const ALWAYS_SIGN: u32 = 0x0000_8000;
    pub(crate) const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    pub(crate) const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
    pub(crate) const TARGET_INFO: u32 = 0x0080_0000;
    pub(crate) const VERSION: u32 = 0x0200_0000;
    pub(crate) const KEY_128: u32 = 0x2000_0000;
    pub(crate) const KEY_EXCH: u32 = 0x4000_0000;
    pub(crate) const KEY_56: u32 = 0x8000_0000;
}

/// AvId (MS-NLMP 2.2.2.1).
pub(crate) mod av {
    pub(crate) const EOL: u16 = 0;
    pub(crate) const NB_COMPUTER_NAME: u16 = 1;
    pub(crate) const NB_DOMAIN_NAME: u16 = 2;
    pub(crate) const DNS_COMPUTER_NAME: u16 = 3;
    pub(crate) const DNS_DOMAIN_NAME: u16 = 4;
    pub(crate) const FLAGS: u16 = 6;
    pub(crate) const TIMESTAMP: u16 = 7;
    /// MsvAvFlags: the AUTHENTICATE message has a MIC.
    pub(crate) const FLAG_MIC: u32 = 2;
}

/// Why a login was refused. The client gets STATUS_LOGON_FAILURE for all that concern the account.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NtlmError {
    /// The message is malformed.
    #[error("malformed NTLM message: {0}")]
    Decode(#[from] DecodeError),
    /// A text is not UTF-16.
    #[error("malformed NTLM message: a name is not UTF-16")]
    Name,
    /// It asks for anonymous access, or names no user.
    #[error("anonymous access is refused")]
    Anonymous,
    /// LM or NTLMv1.
    #[error("the client offers NTLMv1 or LM only; NTLMv2 is needed")]
    NotNtlmV2,
    /// Wrong password, unknown user, or a message changed on its way.
    #[error("the proof does not match: wrong password or unknown user")]
    WrongProof,
    /// The MIC does not match the three messages.
    #[error("the messages were changed on their way: the MIC does not match")]
    WrongMic,
}

/// MD4 over the password in UTF-16LE (MS-NLMP 3.3.1, NTOWFv1).
pub fn nt_hash(password: &str) -> [u8; 16] {
    let units: Zeroizing<Vec<u8>> = Zeroizing::new(utf16(password));
    Md4::digest(&*units).into()
}

pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub(crate) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(key) else {
        return [0; 16]; // HMAC takes keys of any length
    };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Md5::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

pub(crate) fn rc4(key: &[u8], data: &mut [u8]) {
    if let Ok(mut cipher) = Rc4::new_from_slice(key) {
        cipher.apply_keystream(data);
    }
}

/// How the server names itself in its challenge.
#[derive(Debug, Clone)]
pub struct TargetNames {
    /// NetBIOS computer name; also the domain of a standalone server.
    pub computer: String,
    /// DNS name.
    pub dns: String,
}

/// Waiting for NEGOTIATE_MESSAGE.
#[derive(Debug)]
pub struct Acceptor {
    names: TargetNames,
    challenge: [u8; 8],
    timestamp: u64,
}

/// Waiting for AUTHENTICATE_MESSAGE.
#[derive(Debug)]
pub struct Challenged {
    negotiate: Vec<u8>,
    challenge_message: Vec<u8>,
    challenge: [u8; 8],
}

/// An AUTHENTICATE_MESSAGE that names an account; [`Claim::verify`] with that account's hash tells whether it is true.
#[derive(Debug)]
pub struct Claim {
    challenged: Challenged,
    message: Vec<u8>,
    flags: u32,
    nt_response: Vec<u8>,
    encrypted_key: Vec<u8>,
    /// As sent; NTOWFv2 needs it.
    domain: String,
    user: String,
}

/// A login that was proved.
#[derive(Debug)]
pub struct Accepted {
    /// The account.
    pub user: String,
    /// Where the client says that it belongs.
    pub domain: String,
    /// ExportedSessionKey: SMB's session key.
    pub session_key: Zeroizing<[u8; 16]>,
    flags: u32,
}

impl Acceptor {
    /// `challenge` must be random; `timestamp` in 100 ns since 1601.
    pub fn new(names: TargetNames, challenge: [u8; 8], timestamp: u64) -> Self {
        Self { names, challenge, timestamp }
    }

    /// Takes NEGOTIATE_MESSAGE, gives CHALLENGE_MESSAGE (MS-NLMP 3.2.5.1.1).
    pub fn challenge(self, token: &[u8]) -> Result<(Challenged, Vec<u8>), NtlmError> {
        let mut r = message(token, 1)?;
        let offered = r.u32()?;
        let wanted =
            flag::SIGN | flag::SEAL | flag::ALWAYS_SIGN | flag::KEY_128 | flag::KEY_56 | flag::KEY_EXCH;
        let always = flag::UNICODE
            | flag::REQUEST_TARGET
            | flag::NTLM
            | flag::TARGET_TYPE_SERVER
            | flag::EXTENDED_SESSION_SECURITY
            | flag::TARGET_INFO
            | flag::VERSION;
        let flags = always | offered & wanted;
        let name = utf16(&self.names.computer);
        let info = self.target_info();
        let mut out = Vec::with_capacity(64 + name.len() + info.len());
        out.put_slice(&SIGNATURE);
        out.put_u32(2);
        put_field(&mut out, name.len(), 56);
        out.put_u32(flags);
        out.put_slice(&self.challenge);
        out.put_u64(0);
        put_field(&mut out, info.len(), 56 + name.len());
        out.put_slice(&[6, 1, 0, 0, 0, 0, 0, 15]); // Version: NTLMSSP_REVISION_W2K3, the only one there is
        out.put_slice(&name);
        out.put_slice(&info);
        let challenged = Challenged {
            negotiate: token.to_vec(),
            challenge_message: out.clone(),
            challenge: self.challenge,
        };
        Ok((challenged, out))
    }

    fn target_info(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (computer, dns) = (utf16(&self.names.computer), utf16(&self.names.dns));
        let pairs: [(u16, &[u8]); 6] = [
            (av::NB_DOMAIN_NAME, &computer),
            (av::NB_COMPUTER_NAME, &computer),
            (av::DNS_DOMAIN_NAME, &dns),
            (av::DNS_COMPUTER_NAME, &dns),
            (av::TIMESTAMP, &self.timestamp.to_le_bytes()),
            (av::EOL, &[]),
        ];
        for (id, value) in pairs {
            out.put_u16(id);
            out.put_u16(value.len() as u16);
            out.put_slice(value);
        }
        out
    }
}

impl Challenged {
    /// Takes AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3). Nothing is proved yet.
    pub fn authenticate(self, token: &[u8]) -> Result<Claim, NtlmError> {
        let mut r = message(token, 3)?;
        let _lm_response = field(&mut r, token)?;
        let nt_response = field(&mut r, token)?.to_vec();
        let domain = text(field(&mut r, token)?)?;
        let user = text(field(&mut r, token)?)?;
        let _workstation = field(&mut r, token)?;
        let encrypted_key = field(&mut r, token)?.to_vec();
        let flags = r.u32()?;
        if user.is_empty() || flags & flag::ANONYMOUS != 0 {
            return Err(NtlmError::Anonymous);
        }
        // NTLMv2_RESPONSE: 16 bytes of proof, then a client challenge of at least 28 bytes (MS-NLMP 2.2.2.7, 2.2.2.8).
        if nt_response.len() < 44 || nt_response[16] != 1 {
            return Err(NtlmError::NotNtlmV2);
        }
        promises_mic(&nt_response[16..])?; // a list of AV pairs that is none is refused before the proof is looked at
        Ok(Claim {
            challenged: self,
            message: token.to_vec(),
            flags,
            nt_response,
            encrypted_key,
            domain,
            user,
        })
    }
}

impl Claim {
    /// The account that the client says it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Checks the proof and the MIC (MS-NLMP 3.2.5.1.2). `hash` is the account's NT hash; for an account that does not
    /// exist pass `None`: the same work is done, so that the time taken does not tell which accounts there are.
    pub fn verify(self, hash: Option<&[u8; 16]>) -> Result<Accepted, NtlmError> {
        let identity = [self.user.to_uppercase(), self.domain.clone()].concat();
        let key = Zeroizing::new(hmac_md5(hash.unwrap_or(&[0; 16]), &[&utf16(&identity)]));
        let (proof, client_challenge) = self.nt_response.split_at(16);
        let expected = hmac_md5(&*key, &[&self.challenged.challenge, client_challenge]);
        let proved: bool = expected.ct_eq(proof).into();
        if !proved || hash.is_none() {
            return Err(NtlmError::WrongProof);
        }
        let base_key = Zeroizing::new(hmac_md5(&*key, &[proof]));
        let mut session_key = Zeroizing::new([0; 16]);
        if self.flags & flag::KEY_EXCH == 0 {
            session_key.copy_from_slice(&*base_key);
        } else if let Ok(mut exchanged) = <[u8; 16]>::try_from(self.encrypted_key.as_slice()) {
            rc4(&*base_key, &mut exchanged);
            session_key.copy_from_slice(&exchanged);
        } else {
            let value = self.encrypted_key.len() as u64;
            return Err(DecodeError::Invalid { what: "EncryptedRandomSessionKey length", value }.into());
        }
        if promises_mic(client_challenge)? {
            self.check_mic(&session_key)?;
        }
        Ok(Accepted { user: self.user, domain: self.domain, session_key, flags: self.flags })
    }

    fn check_mic(&self, session_key: &[u8; 16]) -> Result<(), NtlmError> {
        let found = self.message.get(MIC).ok_or(NtlmError::WrongMic)?;
        let parts: [&[u8]; 5] = [
            &self.challenged.negotiate,
            &self.challenged.challenge_message,
            &self.message[..MIC.start],
            &[0; 16],
            &self.message[MIC.end..],
        ];
        if hmac_md5(session_key, &parts).ct_eq(found).into() { Ok(()) } else { Err(NtlmError::WrongMic) }
    }
}

/// Whether MsvAvFlags in the client's challenge says that there is a MIC.
fn promises_mic(client_challenge: &[u8]) -> Result<bool, NtlmError> {
    let mut r = Reader::at(client_challenge, 28, "NTLMv2_CLIENT_CHALLENGE");
    let mut promised = false;
    while r.remaining() >= 4 {
        let (id, len) = (r.u16()?, r.u16()?);
        let value = r.bytes(usize::from(len))?;
        match id {
            av::EOL => break,
            av::FLAGS => promised = Reader::new(value, "MsvAvFlags").u32()? & av::FLAG_MIC != 0,
            _ => {}
        }
    }
    Ok(promised)
}

/// Which side's keys a GSS signature uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Made by the client.
    Client,
    /// Made by the server.
    Server,
}

impl Accepted {
    /// The same at the client, which has proved it: for the client half of tests.
    #[cfg(feature = "testing")]
    pub(crate) fn of(user: String, domain: String, session_key: Zeroizing<[u8; 16]>, flags: u32) -> Self {
        Self { user, domain, session_key, flags }
    }

    /// GSS_GetMIC over `data` with sequence number 0 (MS-NLMP 3.4.4.2): SPNEGO's mechListMIC.
    pub fn mic(&self, data: &[u8], side: Side) -> [u8; 16] {
        let (sign, seal): (&[u8], &[u8]) = match side {
            Side::Client => (
                b"session key to client-to-server signing key magic constant\0",
                b"session key to client-to-server sealing key magic constant\0",
            ),
            Side::Server => (
                b"session key to server-to-client signing key magic constant\0",
                b"session key to server-to-client sealing key magic constant\0",
            ),
        };
        let signing_key = md5(&[&*self.session_key, sign]);
        let mut checksum = [0; 8];
        checksum.copy_from_slice(&hmac_md5(&signing_key, &[&[0; 4], data])[..8]);
        if self.flags & flag::KEY_EXCH != 0 {
            let strength = match self.flags {
                flags if flags & flag::KEY_128 != 0 => 16,
                flags if flags & flag::KEY_56 != 0 => 7,
                _ => 5,
            };
            rc4(&md5(&[&self.session_key[..strength], seal]), &mut checksum);
        }
        let mut out = [0; 16];
        out[0] = 1;
        out[4..12].copy_from_slice(&checksum);
        out
    }
}

fn message(token: &[u8], kind: u32) -> Result<Reader<'_>, NtlmError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(DecodeError::Invalid { what: "NTLM message length", value: token.len() as u64 }.into());
    }
    let mut r = Reader::new(token, "NTLM message");
    let signature: [u8; 8] = r.array()?;
    if signature != SIGNATURE {
        return Err(
            DecodeError::Invalid { what: "NTLM signature", value: u64::from_le_bytes(signature) }.into()
        );
    }
    match r.u32()? {
        found if found == kind => Ok(r),
        found => Err(DecodeError::Invalid { what: "NTLM MessageType", value: u64::from(found) }.into()),
    }
}

fn field<'a>(r: &mut Reader<'a>, token: &'a [u8]) -> Result<&'a [u8], NtlmError> {
    let len = r.u16()?;
    r.skip(2)?; // MaxLen, which MS-NLMP says to ignore
    let offset = r.u32()?;
    if len == 0 {
        return Ok(&[]);
    }
    Ok(Reader::new(token, "NTLM message field").slice(offset as usize, usize::from(len))?)
}

pub(crate) fn put_field(out: &mut Vec<u8>, len: usize, offset: usize) {
    out.put_u16(len as u16);
    out.put_u16(len as u16);
    out.put_u32(offset as u32);
}

fn text(bytes: &[u8]) -> Result<String, NtlmError> {
    if !bytes.len().is_multiple_of(2) {
        return Err(NtlmError::Name);
    }
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| NtlmError::Name)
}

#[cfg(test)]
#[path = "ntlm_tests.rs"]
mod tests;
