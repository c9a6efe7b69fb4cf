//! Certificates for tests, made there: X.509 v3, signed by themselves, ECDSA over P-256.
#![allow(clippy::unwrap_used)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];

const INTEGER: u8 = 2;
const BITS: u8 = 3;
const OCTETS: u8 = 4;
const OID: u8 = 6;
const UTF8: u8 = 12;
const UTC_TIME: u8 = 23;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// One value in DER, of these parts.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = match length {
        0..128 => vec![tag, length as u8],
        128..256 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    bytes.extend(parts.concat());
    bytes
}

/// A certificate for that name in the DNS, and its key.
pub(crate) fn self_signed(name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
    let algorithm = der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]);
    let common = der(SEQUENCE, &[&der(OID, &[COMMON_NAME]), &der(UTF8, &[name.as_bytes()])]);
    let distinguished = der(SEQUENCE, &[&der(SET, &[&common])]);
    let times = [&b"200101000000Z"[..], b"491231235959Z"].map(|time| der(UTC_TIME, &[time]));
    let of_key = der(SEQUENCE, &[&der(OID, &[EC_PUBLIC_KEY]), &der(OID, &[PRIME256V1])]);
    let public = der(SEQUENCE, &[&of_key, &der(BITS, &[&[0], key.public_key().as_ref()])]);
    let names = der(SEQUENCE, &[&der(0x82, &[name.as_bytes()])]);
    let extension = der(SEQUENCE, &[&der(OID, &[ALTERNATIVE_NAME]), &der(OCTETS, &[&names])]);
    let signed = der(
        SEQUENCE,
        &[
            &der(0xa0, &[&der(INTEGER, &[&[2]])]),
            &der(INTEGER, &[&[1]]),
            &algorithm,
            &distinguished,
            &der(SEQUENCE, &[&times[0], &times[1]]),
            &distinguished,
            &public,
            &der(0xa3, &[&der(SEQUENCE, &[&extension])]),
        ],
    );
    let signature = key.sign(&random, &signed).unwrap();
    let certificate = der(SEQUENCE, &[&signed, &algorithm, &der(BITS, &[&[0], signature.as_ref()])]);
    (certificate.into(), PrivateKeyDer::Pkcs8(pkcs8.as_ref().to_vec().into()))
}
