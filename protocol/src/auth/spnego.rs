//! SPNEGO (RFC 4178, MS-SPNG): just enough DER to choose NTLMSSP and carry its tokens, with the mechListMIC.
//!
//! A token that is raw NTLMSSP without SPNEGO is accepted too: some libraries send it.

use thiserror::Error;

/// Longest token that is looked at, in bytes (a Kerberos ticket with many groups may come first).
pub const TOKEN_LEN_MAX: usize = 64 << 10;

const OID_SPNEGO: &[u8] = &[0x2b, 6, 1, 5, 5, 2];
/// 1.3.6.1.4.1.311.2.2.10
const OID_NTLMSSP: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 2, 10];

mod tag {
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const OID: u8 = 0x06;
    pub(super) const ENUMERATED: u8 = 0x0a;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const APPLICATION: u8 = 0x60;
    pub(super) const CONTEXT: u8 = 0xa0;
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpnegoError {
    /// It is not DER, or not SPNEGO's structure.
    #[error("malformed SPNEGO token")]
    Malformed,
    /// The client does not offer NTLMSSP.
    #[error("the client offers no mechanism that this server has (NTLMSSP)")]
    NoCommonMechanism,
}

/// negState (RFC 4178 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum NegState {
    AcceptCompleted = 0,
    AcceptIncomplete = 1,
    Reject = 2,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token<'a> {
    /// The first token.
    Init {
        /// The mechanism list, DER with its tag: what mechListMIC covers.
        mech_list: &'a [u8],
        /// Whether NTLMSSP is the first in it, so that `mech_token` is for us.
        ntlm_first: bool,
        /// The optimistic token of the first mechanism.
        mech_token: Option<&'a [u8]>,
    },
    /// A later token.
    Response {
        /// The mechanism's token.
        response_token: Option<&'a [u8]>,
        /// The client's MIC over the mechanism list.
        mech_list_mic: Option<&'a [u8]>,
    },
    /// NTLMSSP without SPNEGO around it.
    Raw(&'a [u8]),
}

/// One DER element: tag, contents, and the element with its tag and length.
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    whole: &'a [u8],
}

/// Reads the elements of `bytes` one by one.
fn element<'a>(bytes: &mut &'a [u8]) -> Result<Element<'a>, SpnegoError> {
    let all = *bytes;
    let (&tag, rest) = all.split_first().ok_or(SpnegoError::Malformed)?;
    let (&first, rest) = rest.split_first().ok_or(SpnegoError::Malformed)?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let digits = rest.get(..count).ok_or(SpnegoError::Malformed)?;
            (digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit)), &rest[count..])
        }
        _ => return Err(SpnegoError::Malformed),
    };
    let contents = rest.get(..len).ok_or(SpnegoError::Malformed)?;
    *bytes = &rest[len..];
    Ok(Element { tag, contents, whole: &all[..all.len() - bytes.len()] })
}

fn expect<'a>(bytes: &mut &'a [u8], tag: u8) -> Result<&'a [u8], SpnegoError> {
    let found = element(bytes)?;
    if found.tag == tag { Ok(found.contents) } else { Err(SpnegoError::Malformed) }
}

impl<'a> Token<'a> {
    /// Decodes a token of any of the three kinds.
    pub fn decode(token: &'a [u8]) -> Result<Self, SpnegoError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(SpnegoError::Malformed);
        }
        if token.starts_with(b"NTLMSSP\0") {
            return Ok(Self::Raw(token));
        }
        let mut bytes = token;
        let outer = element(&mut bytes)?;
        if outer.tag == tag::APPLICATION {
            let mut inner = outer.contents;
            if expect(&mut inner, tag::OID)? != OID_SPNEGO {
                return Err(SpnegoError::NoCommonMechanism);
            }
            return Self::init(expect(&mut inner, tag::CONTEXT)?);
        }
        if outer.tag == tag::CONTEXT | 1 {
            return Self::response(outer.contents);
        }
        Err(SpnegoError::Malformed)
    }

    fn init(mut bytes: &'a [u8]) -> Result<Self, SpnegoError> {
        let mut fields = expect(&mut bytes, tag::SEQUENCE)?;
        let mut mech_list: &[u8] = &[];
        let mut mech_token = None;
        while !fields.is_empty() {
            let field = element(&mut fields)?;
            let mut value = field.contents;
            match field.tag ^ tag::CONTEXT {
                0 => mech_list = element(&mut value)?.whole,
                2 => mech_token = Some(expect(&mut value, tag::OCTET_STRING)?),
                _ => {} // reqFlags, mechListMIC
            }
        }
        let mut list = mech_list;
        let mut mechanisms = expect(&mut list, tag::SEQUENCE)?;
        let mut position = 0;
        while !mechanisms.is_empty() {
            if expect(&mut mechanisms, tag::OID)? == OID_NTLMSSP {
                return Ok(Self::Init { mech_list, ntlm_first: position == 0, mech_token });
            }
            position += 1;
        }
        Err(SpnegoError::NoCommonMechanism)
    }

    fn response(mut bytes: &'a [u8]) -> Result<Self, SpnegoError> {
        let mut fields = expect(&mut bytes, tag::SEQUENCE)?;
        let (mut response_token, mut mech_list_mic) = (None, None);
        while !fields.is_empty() {
            let field = element(&mut fields)?;
            let mut value = field.contents;
            match field.tag ^ tag::CONTEXT {
                2 => response_token = Some(expect(&mut value, tag::OCTET_STRING)?),
                3 => mech_list_mic = Some(expect(&mut value, tag::OCTET_STRING)?),
                _ => {} // negState, supportedMech
            }
        }
        Ok(Self::Response { response_token, mech_list_mic })
    }
}

fn wrap(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len @ 0x80..=0xff => out.extend([0x81, len as u8]),
        len => out.extend([0x82, (len >> 8) as u8, len as u8]), // our own tokens stay far below 64 KiB
    }
    out.extend_from_slice(contents);
    out
}

/// The hint of the NEGOTIATE response: NegTokenInit2 that offers NTLMSSP (MS-SPNG 2.2.1).
pub fn hint() -> Vec<u8> {
    let mechanisms = wrap(tag::SEQUENCE, &wrap(tag::OID, OID_NTLMSSP));
    let init = wrap(tag::SEQUENCE, &wrap(tag::CONTEXT, &mechanisms));
    wrap(tag::APPLICATION, &[wrap(tag::OID, OID_SPNEGO), wrap(tag::CONTEXT, &init)].concat())
}

/// The list of mechanisms that the client half offers, as its mechListMIC covers it.
#[cfg(feature = "testing")]
pub(crate) fn mech_list() -> Vec<u8> {
    wrap(tag::SEQUENCE, &wrap(tag::OID, OID_NTLMSSP))
}

/// A NegTokenInit with NTLMSSP's first token (RFC 4178 4.2.1): the client half's.
#[cfg(feature = "testing")]
pub(crate) fn init(token: &[u8]) -> Vec<u8> {
    let mut fields = wrap(tag::CONTEXT, &mech_list());
    fields.extend(wrap(tag::CONTEXT | 2, &wrap(tag::OCTET_STRING, token)));
    let inner = wrap(tag::CONTEXT, &wrap(tag::SEQUENCE, &fields));
    wrap(tag::APPLICATION, &[wrap(tag::OID, OID_SPNEGO), inner].concat())
}

/// A NegTokenResp (RFC 4178 4.2.2). `choose` names NTLMSSP as the mechanism: in the first answer only.
pub fn response(
    state: NegState,
    choose: bool,
    token: Option<&[u8]>,
    mech_list_mic: Option<&[u8]>,
) -> Vec<u8> {
    let mut fields = wrap(tag::CONTEXT, &wrap(tag::ENUMERATED, &[state as u8]));
    if choose {
        fields.extend(wrap(tag::CONTEXT | 1, &wrap(tag::OID, OID_NTLMSSP)));
    }
    if let Some(token) = token {
        fields.extend(wrap(tag::CONTEXT | 2, &wrap(tag::OCTET_STRING, token)));
    }
    if let Some(mic) = mech_list_mic {
        fields.extend(wrap(tag::CONTEXT | 3, &wrap(tag::OCTET_STRING, mic)));
    }
    wrap(tag::CONTEXT | 1, &wrap(tag::SEQUENCE, &fields))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// 1.2.840.113554.1.2.2
    const OID_KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2];

    fn init(mechanisms: &[&[u8]], token: &[u8]) -> Vec<u8> {
        let list: Vec<u8> = mechanisms.iter().flat_map(|oid| wrap(tag::OID, oid)).collect();
        let mut fields = wrap(tag::CONTEXT, &wrap(tag::SEQUENCE, &list));
        fields.extend(wrap(tag::CONTEXT | 2, &wrap(tag::OCTET_STRING, token)));
        let inner = wrap(tag::CONTEXT, &wrap(tag::SEQUENCE, &fields));
        wrap(tag::APPLICATION, &[wrap(tag::OID, OID_SPNEGO), inner].concat())
    }

    #[test]
    fn ntlm_alone_and_behind_kerberos() {
        let token = init(&[OID_NTLMSSP], b"NTLMSSP\0one");
        let Token::Init { ntlm_first, mech_token, .. } = Token::decode(&token).unwrap() else { panic!() };
        assert_eq!((ntlm_first, mech_token), (true, Some(&b"NTLMSSP\0one"[..])));
        let token = init(&[OID_KERBEROS, OID_NTLMSSP], &[1; 300]);
        let Token::Init { ntlm_first, mech_list, .. } = Token::decode(&token).unwrap() else { panic!() };
        assert!(!ntlm_first);
        assert_eq!(mech_list.len(), 2 + 2 + OID_KERBEROS.len() + 2 + OID_NTLMSSP.len());
    }

    #[test]
    fn kerberos_alone_has_no_common_mechanism() {
        assert_eq!(Token::decode(&init(&[OID_KERBEROS], &[])), Err(SpnegoError::NoCommonMechanism));
    }

    #[test]
    fn our_own_tokens_decode() {
        let token = response(NegState::AcceptIncomplete, true, Some(&[7; 200]), Some(&[8; 16]));
        let expected = Token::Response { response_token: Some(&[7; 200]), mech_list_mic: Some(&[8; 16]) };
        assert_eq!(Token::decode(&token).unwrap(), expected);
        assert!(matches!(
            Token::decode(&hint()).unwrap(),
            Token::Init { ntlm_first: true, mech_token: None, .. }
        ));
        assert_eq!(Token::decode(b"NTLMSSP\0x").unwrap(), Token::Raw(b"NTLMSSP\0x"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Token::decode(&bytes);
        }

        #[test]
        fn any_mutation_is_an_answer(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut token = init(&[OID_KERBEROS, OID_NTLMSSP], &[1; 300]);
            let at = at.index(token.len());
            token[at] = byte;
            let _ = Token::decode(&token);
            let _ = Token::decode(&token[..cut.index(token.len())]);
        }
    }
}
