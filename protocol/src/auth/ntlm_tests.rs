#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const KEY: [u8; 16] = [0x55; 16];

fn negotiate() -> Vec<u8> {
    let mut token = SIGNATURE.to_vec();
    token.put_u32(1);
    token.put_u32(0xe208_8297);
    token.put_zeros(24);
    token
}

fn challenged() -> (Challenged, Vec<u8>) {
    let names = TargetNames { computer: "Server".into(), dns: "server.example".into() };
    Acceptor::new(names, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef], 0).challenge(&negotiate()).unwrap()
}

/// What a client with this user, domain and password answers; `av_flags` of MsvAvFlags.
fn answer(challenge: &[u8], user: &str, domain: &str, password: &str, av_flags: u32) -> Vec<u8> {
    let mut client_challenge = vec![1, 1, 0, 0, 0, 0, 0, 0];
    client_challenge.put_zeros(8);
    client_challenge.put_slice(&[0xaa; 8]);
    client_challenge.put_u32(0);
    client_challenge.put_u16(av::FLAGS);
    client_challenge.put_u16(4);
    client_challenge.put_u32(av_flags);
    client_challenge.put_zeros(8);
    let key = hmac_md5(&nt_hash(password), &[&utf16(&(user.to_uppercase() + domain))]);
    let proof = hmac_md5(&key, &[&challenge[24..32], &client_challenge]);
    let base = hmac_md5(&key, &[&proof]);
    let mut exchanged = KEY;
    rc4(&base, &mut exchanged);
    let response = [&proof[..], &client_challenge].concat();
    let (user, domain) = (utf16(user), utf16(domain));
    let mut token = SIGNATURE.to_vec();
    token.put_u32(3);
    let mut offset = 88;
    for len in [0, response.len(), domain.len(), user.len(), 0, 16] {
        put_field(&mut token, len, offset);
        offset += len;
    }
    token.put_u32(flag::KEY_EXCH | flag::KEY_128 | flag::UNICODE | flag::EXTENDED_SESSION_SECURITY);
    token.put_zeros(8 + 16);
    for part in [&response, &domain, &user, &exchanged.to_vec()] {
        token.put_slice(part);
    }
    let mic = hmac_md5(&KEY, &[&negotiate(), challenge, &token]);
    token[MIC].copy_from_slice(&mic);
    token
}

fn login(token: &[u8], state: Challenged, password: &str) -> Result<Accepted, NtlmError> {
    state.authenticate(token)?.verify(Some(&nt_hash(password)))
}

/// MS-NLMP 4.2.4.1.1: NTOWFv2 of User, Domain, Password; 4.2.2.1.2: its NT hash.
#[test]
fn hashes_of_the_standard() {
    let expected =
        [0xa4, 0xf4, 0x9c, 0x40, 0x65, 0x10, 0xbd, 0xca, 0xb6, 0x82, 0x4e, 0xe7, 0xc3, 0x0f, 0xd8, 0x52];
    assert_eq!(nt_hash("Password"), expected);
    let expected =
        [0x0c, 0x86, 0x8a, 0x40, 0x3b, 0xfd, 0x7a, 0x93, 0xa3, 0x00, 0x1e, 0xf2, 0x2e, 0xf0, 0x2e, 0x3f];
    assert_eq!(hmac_md5(&nt_hash("Password"), &[&utf16("USERDomain")]), expected);
}

/// MS-NLMP 4.2.4.2.2: the NTLMv2 response to the standard's challenge.
#[test]
fn proof_of_the_standard() {
    let mut temp = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    temp.put_slice(&[0xaa; 8]);
    temp.put_u32(0);
    for (id, name) in [(av::NB_DOMAIN_NAME, "Domain"), (av::NB_COMPUTER_NAME, "Server")] {
        temp.put_u16(id);
        temp.put_u16(12);
        temp.put_slice(&utf16(name));
    }
    temp.put_zeros(8);
    let key = hmac_md5(&nt_hash("Password"), &[&utf16("USERDomain")]);
    let proof = hmac_md5(&key, &[&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef], &temp]);
    let expected =
        [0x68, 0xcd, 0x0a, 0xb8, 0x51, 0xe5, 0x1c, 0x96, 0xaa, 0xbc, 0x92, 0x7b, 0xeb, 0xef, 0x6a, 0x1c];
    assert_eq!(proof, expected);
}

#[test]
fn the_right_password_gives_the_exchanged_key() {
    let (state, challenge) = challenged();
    let accepted = login(&answer(&challenge, "Import", "WG", "pässword", 2), state, "pässword").unwrap();
    assert_eq!((accepted.user.as_str(), accepted.domain.as_str()), ("Import", "WG"));
    assert_eq!(*accepted.session_key, KEY);
}

#[test]
fn a_wrong_password_an_unknown_user_and_another_user_are_refused() {
    let (state, challenge) = challenged();
    let token = answer(&challenge, "import", "WG", "right password", 2);
    assert_eq!(login(&token, state, "wrong password").unwrap_err(), NtlmError::WrongProof);
    let (state, _) = challenged();
    assert_eq!(state.authenticate(&token).unwrap().verify(None).unwrap_err(), NtlmError::WrongProof);
    // A forged claim that zeros every secret must not match the hash used for accounts that do not exist.
    let (state, challenge) = challenged();
    let mut forged = answer(&challenge, "nobody", "", "x", 0);
    let key = hmac_md5(&[0; 16], &[&utf16("NOBODY")]);
    let proof = hmac_md5(&key, &[&challenge[24..32], &forged[88 + 16..88 + 16 + 44]]);
    forged[88..104].copy_from_slice(&proof);
    assert_eq!(state.authenticate(&forged).unwrap().verify(None).unwrap_err(), NtlmError::WrongProof);
}

#[test]
fn a_changed_message_is_seen_by_the_mic() {
    let (state, challenge) = challenged();
    let mut token = answer(&challenge, "import", "WG", "right password", 2);
    token[60] ^= 0x20; // NegotiateFlags: no part of the proof
    assert_eq!(login(&token, state, "right password").unwrap_err(), NtlmError::WrongMic);
}

#[test]
fn av_pairs_that_run_out_of_the_response_are_malformed() {
    let (state, challenge) = challenged();
    let mut token = answer(&challenge, "import", "WG", "x", 0);
    let pairs = 88 + 16 + 28; // the response begins behind 88 bytes of header, the pairs behind 28 of the client's challenge
    token[pairs..pairs + 4].copy_from_slice(&[0x54, 0x94, 0x7b, 0xff]);
    assert!(matches!(state.authenticate(&token).unwrap_err(), NtlmError::Decode(_)));
}

#[test]
fn anonymous_and_ntlmv1_are_refused() {
    let (state, challenge) = challenged();
    let token = answer(&challenge, "", "", "", 0);
    assert_eq!(state.authenticate(&token).unwrap_err(), NtlmError::Anonymous);
    let (state, challenge) = challenged();
    let mut token = answer(&challenge, "import", "", "x", 0);
    token[20..22].copy_from_slice(&24u16.to_le_bytes());
    assert_eq!(state.authenticate(&token).unwrap_err(), NtlmError::NotNtlmV2);
}

proptest! {
    #[test]
    fn any_token_is_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..4) {
        let mut token = SIGNATURE.to_vec();
        token.put_u32(u32::from(kind));
        token.put_slice(&bytes);
        for token in [&token[..], &bytes[..]] {
            let names = TargetNames { computer: "S".into(), dns: "s".into() };
            let _ = Acceptor::new(names, [0; 8], 0).challenge(token);
            if let Ok(claim) = challenged().0.authenticate(token) {
                let _ = claim.verify(Some(&[0; 16]));
            }
        }
    }

    #[test]
    fn no_mutation_of_a_login_gives_another_key(at in 0usize..250, byte in any::<u8>()) {
        let (state, challenge) = challenged();
        let mut token = answer(&challenge, "import", "WG", "right password", 2);
        let at = at % token.len();
        prop_assume!(token[at] != byte);
        token[at] = byte;
        if let Ok(accepted) = login(&token, state, "right password") {
            prop_assert_eq!(*accepted.session_key, KEY);
        }
    }
}
