//! What is negotiated (MS-SMB2 3.3.5.4): dialect, ciphers, signing algorithm, from what the client offers and what is allowed here.

use crate::crypto::encrypt::Cipher;
use crate::crypto::sign::SigningAlgorithm;
use crate::msg::negotiate::{
    CAP_DIRECTORY_LEASING, CAP_ENCRYPTION, CAP_LARGE_MTU, CAP_LEASING, CAP_MULTI_CHANNEL, Context,
    DIALECT_202, DIALECT_210, DIALECT_300, DIALECT_302, DIALECT_311, HASH_SHA512, Request, SIGNING_ENABLED,
    SIGNING_REQUIRED,
};
use crate::status::Status;

/// What this server allows.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Oldest dialect.
    pub min_dialect: u16,
    /// Newest dialect.
    pub max_dialect: u16,
    /// Whether every session signs.
    pub signing_required: bool,
    /// Whether encryption is offered.
    pub encryption: bool,
    /// Whether a session may have several connections.
    pub multichannel: bool,
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The dialect.
    pub dialect: u16,
    /// How messages of logged-in sessions are signed.
    pub signing: SigningAlgorithm,
    /// How they are encrypted, if they can be.
    pub cipher: Option<Cipher>,
    /// The server's capabilities in this dialect.
    pub capabilities: u32,
    /// The server's SecurityMode.
    pub security_mode: u16,
    /// Whether the client sent signing capabilities, so that they are answered.
    signing_offered: bool,
    /// Whether the client sent encryption capabilities.
    encryption_offered: bool,
}

/// The dialects that there are, oldest first.
pub const DIALECTS: [u16; 5] = [DIALECT_202, DIALECT_210, DIALECT_300, DIALECT_302, DIALECT_311];

/// Ciphers in this server's order: GCM runs several times as fast as CCM, and 128 bits are enough where the client does not ask for
/// more. MS-SMB2 3.3.5.4 leaves the choice to the server.
const CIPHERS: [Cipher; 4] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Aes128Ccm, Cipher::Aes256Ccm];
/// Signing algorithms in this server's order: GMAC runs more than ten times as fast as CMAC.
const SIGNINGS: [SigningAlgorithm; 3] =
    [SigningAlgorithm::AesGmac, SigningAlgorithm::AesCmac, SigningAlgorithm::HmacSha256];

/// The newest dialect that both have.
pub fn choose_dialect(offered: &[u16], policy: &Policy) -> Option<u16> {
    let allowed = policy.min_dialect..=policy.max_dialect;
    DIALECTS.into_iter().rev().find(|dialect| allowed.contains(dialect) && offered.contains(dialect))
}

/// Decides. An error is the status that the client gets.
pub fn agree(request: &Request<'_>, policy: &Policy) -> Result<Agreement, Status> {
    if request.dialects.is_empty() {
        return Err(Status::INVALID_PARAMETER);
    }
    let dialect = choose_dialect(&request.dialects, policy).ok_or(Status::NOT_SUPPORTED)?;
    let required = if policy.signing_required { SIGNING_REQUIRED } else { 0 };
    let mut agreement = Agreement {
        dialect,
        signing: if dialect >= DIALECT_300 {
            SigningAlgorithm::AesCmac
        } else {
            SigningAlgorithm::HmacSha256
        },
        cipher: None,
        capabilities: capabilities(dialect, policy, request.capabilities),
        security_mode: SIGNING_ENABLED | required,
        signing_offered: false,
        encryption_offered: false,
    };
    match dialect {
        DIALECT_300 | DIALECT_302 if policy.encryption && request.capabilities & CAP_ENCRYPTION != 0 => {
            agreement.cipher = Some(Cipher::Aes128Ccm);
            agreement.capabilities |= CAP_ENCRYPTION;
        }
        DIALECT_311 => agree_contexts(request, policy, &mut agreement)?,
        _ => {}
    }
    Ok(agreement)
}

/// What the server says it can in a dialect, encryption aside. Directory leases only to who offers them (3.3.5.4): impacket, which does
/// not, fails on a server that says it has them.
fn capabilities(dialect: u16, policy: &Policy, offered: u32) -> u32 {
    let large = if dialect >= DIALECT_210 { CAP_LARGE_MTU | CAP_LEASING } else { 0 };
    let channels = if policy.multichannel { CAP_MULTI_CHANNEL } else { 0 };
    let both = if dialect >= DIALECT_300 { offered & (CAP_DIRECTORY_LEASING | channels) } else { 0 };
    large | both
}

fn agree_contexts(request: &Request<'_>, policy: &Policy, agreement: &mut Agreement) -> Result<(), Status> {
    let mut hash = false;
    for context in &request.contexts {
        match context {
            // Each of these may come once (MS-SMB2 3.3.5.4).
            Context::Preauth { .. } if hash => return Err(Status::INVALID_PARAMETER),
            Context::Preauth { algorithms, .. } => {
                if !algorithms.contains(&HASH_SHA512) {
                    return Err(Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP);
                }
                hash = true;
            }
            Context::Encryption(_) if agreement.encryption_offered => return Err(Status::INVALID_PARAMETER),
            Context::Encryption(offered) => {
                agreement.encryption_offered = true;
                if policy.encryption {
                    agreement.cipher = CIPHERS.into_iter().find(|cipher| offered.contains(&(*cipher as u16)));
                }
            }
            Context::Signing(_) if agreement.signing_offered => return Err(Status::INVALID_PARAMETER),
            Context::Signing(offered) => {
                if offered.is_empty() {
                    return Err(Status::INVALID_PARAMETER);
                }
                agreement.signing_offered = true;
                let common = SIGNINGS.into_iter().find(|algorithm| offered.contains(&(*algorithm as u16)));
                agreement.signing = common.unwrap_or(SigningAlgorithm::AesCmac);
            }
            _ => {}
        }
    }
    if hash { Ok(()) } else { Err(Status::INVALID_PARAMETER) }
}

impl Agreement {
    /// The contexts of the response; none before 3.1.1. `salt` must be random.
    pub fn contexts<'a>(&self, salt: &'a [u8; 32]) -> Vec<Context<'a>> {
        if self.dialect != DIALECT_311 {
            return Vec::new();
        }
        let mut contexts = vec![Context::Preauth { algorithms: vec![HASH_SHA512], salt }];
        if self.encryption_offered {
            // Cipher 0 says that there is none in common.
            contexts.push(Context::Encryption(vec![self.cipher.map_or(0, |cipher| cipher as u16)]));
        }
        if self.signing_offered {
            contexts.push(Context::Signing(vec![self.signing as u16]));
        }
        contexts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: Policy = Policy {
        min_dialect: DIALECT_202,
        max_dialect: DIALECT_311,
        signing_required: false,
        encryption: true,
        multichannel: false,
    };

    fn request<'a>(dialects: &[u16], contexts: Vec<Context<'a>>) -> Request<'a> {
        Request {
            security_mode: SIGNING_ENABLED,
            capabilities: CAP_ENCRYPTION,
            client_guid: [1; 16],
            dialects: dialects.to_vec(),
            contexts,
        }
    }

    fn preauth<'a>() -> Context<'a> {
        Context::Preauth { algorithms: vec![HASH_SHA512], salt: &[] }
    }

    #[test]
    fn the_newest_common_dialect_is_chosen() {
        assert_eq!(agree(&request(&[0x0202, 0x0302, 0x0210], vec![]), &POLICY).unwrap().dialect, DIALECT_302);
        assert_eq!(agree(&request(&[0x0100], vec![]), &POLICY), Err(Status::NOT_SUPPORTED));
        assert_eq!(agree(&request(&[], vec![]), &POLICY), Err(Status::INVALID_PARAMETER));
        let strict = Policy { min_dialect: DIALECT_311, ..POLICY };
        assert_eq!(agree(&request(&[0x0302], vec![]), &strict), Err(Status::NOT_SUPPORTED));
    }

    #[test]
    fn capabilities_that_both_must_have_are_those_that_the_client_offers() {
        let mut asked = request(&[DIALECT_311], vec![preauth()]);
        asked.capabilities = CAP_MULTI_CHANNEL | CAP_DIRECTORY_LEASING;
        let several = Policy { multichannel: true, ..POLICY };
        let always = CAP_LARGE_MTU | CAP_LEASING;
        assert_eq!(agree(&asked, &several).unwrap().capabilities, always | asked.capabilities);
        assert_eq!(agree(&asked, &POLICY).unwrap().capabilities, always | CAP_DIRECTORY_LEASING);
        asked.capabilities = 0;
        assert_eq!(agree(&asked, &several).unwrap().capabilities, always);
        assert_eq!(agree(&request(&[DIALECT_202], vec![]), &several).unwrap().capabilities, 0);
    }

    #[test]
    fn gcm_and_gmac_are_preferred_and_unknown_ids_passed_over() {
        let contexts = vec![preauth(), Context::Encryption(vec![99, 1, 2]), Context::Signing(vec![77, 1, 2])];
        let agreed = agree(&request(&[DIALECT_311], contexts), &POLICY).unwrap();
        assert_eq!((agreed.cipher, agreed.signing), (Some(Cipher::Aes128Gcm), SigningAlgorithm::AesGmac));
        let salt = [5; 32];
        assert_eq!(agreed.contexts(&salt).len(), 3);
    }

    #[test]
    fn a_311_request_needs_its_hash_once() {
        assert_eq!(agree(&request(&[DIALECT_311], vec![]), &POLICY), Err(Status::INVALID_PARAMETER));
        let twice = request(&[DIALECT_311], vec![preauth(), preauth()]);
        assert_eq!(agree(&twice, &POLICY), Err(Status::INVALID_PARAMETER));
        let other = Context::Preauth { algorithms: vec![2], salt: &[] };
        let refused = agree(&request(&[DIALECT_311], vec![other]), &POLICY);
        assert_eq!(refused, Err(Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP));
    }

    #[test]
    fn encryption_that_is_off_is_not_agreed() {
        let off = Policy { encryption: false, ..POLICY };
        let contexts = vec![preauth(), Context::Encryption(vec![2])];
        let agreed = agree(&request(&[DIALECT_311], contexts), &off).unwrap();
        assert_eq!(agreed.cipher, None);
        assert!(agreed.contexts(&[0; 32]).contains(&Context::Encryption(vec![0])));
        assert_eq!(agree(&request(&[DIALECT_300], vec![]), &off).unwrap().capabilities & CAP_ENCRYPTION, 0);
        assert_eq!(agree(&request(&[DIALECT_300], vec![]), &POLICY).unwrap().cipher, Some(Cipher::Aes128Ccm));
    }
}
