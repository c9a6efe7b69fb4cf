//! Which server is trusted: the one whose certificate has the configured thumbprint, or one that a CA file vouches for.
//! There is no way to trust any. For whoever connects to a server: [`crate::vsphere`], [`crate::datastore::nbd`].

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

/// Certificates of a CA file: a bundle of a whole company has fewer.
const AUTHORITIES_MAX: usize = 1000;

/// The digest of a certificate, as vCenter, ESXi and `openssl x509 -fingerprint` show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Thumbprint(Vec<u8>);

impl Thumbprint {
    /// The SHA-256 one of a certificate.
    pub fn of(certificate: &[u8]) -> Self {
        Self(digest::digest(&digest::SHA256, certificate).as_ref().to_vec())
    }

    /// Reads 32 bytes (SHA-256) or 20 (SHA-1) in hexadecimal, with or without colons.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b':' | b' ')).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let hex = digits.iter().all(u8::is_ascii_hexdigit);
        if !hex || !matches!(digits.len(), 64 | 40) {
            return Err(format!(
                "'{text}' is neither a SHA-256 thumbprint (32 bytes in hexadecimal) nor a SHA-1 one (20)"
            ));
        }
        digits.chunks(2).map(byte).collect::<Option<_>>().map(Self).ok_or_else(|| text.to_owned())
    }

    /// Whether it is that of the certificate.
    fn matches(&self, certificate: &[u8]) -> bool {
        let algorithm = if self.0.len() == 32 { &digest::SHA256 } else { &digest::SHA1_FOR_LEGACY_USE_ONLY };
        digest::digest(algorithm, certificate).as_ref() == self.0.as_slice()
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for byte in &self.0 {
            let _ = write!(text, "{}{byte:02X}", if text.is_empty() { "" } else { ":" });
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whom to trust.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The server with exactly that certificate, whatever its name and age.
    Thumbprint(Thumbprint),
    /// A server with a certificate for its name that one of these authorities signed.
    Authorities(Arc<RootCertStore>),
}

impl Trust {
    /// The authorities of a PEM file.
    pub fn authorities(path: &Path) -> Result<Self, String> {
        let named = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let mut store = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| named(&error))?;
        for certificate in certificates.take(AUTHORITIES_MAX) {
            let certificate = certificate.map_err(|error| named(&error))?;
            store.add(certificate).map_err(|error| named(&error))?;
        }
        if store.is_empty() {
            return Err(format!("{}: it holds no certificate in PEM form", path.display()));
        }
        Ok(Self::Authorities(Arc::new(store)))
    }

    /// The TLS side of a connection, of a client that shows no certificate.
    pub fn client_config(&self) -> Result<ClientConfig, Error> {
        self.client_config_of(None)
    }

    /// The TLS side of a connection.
    pub fn client_config_of(&self, identity: Option<Identity>) -> Result<ClientConfig, Error> {
        let crypto = Arc::new(provider::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&crypto)).with_safe_default_protocol_versions()?;
        let builder = match self {
            Self::Authorities(store) => builder.with_root_certificates(Arc::clone(store)),
            Self::Thumbprint(thumbprint) => {
                let pinned = Pinned { thumbprint: thumbprint.clone(), crypto };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
            }
        };
        match identity {
            Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key),
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// Who we are to a server that asks: a certificate, those that vouch for it, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From two PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, String> {
        let named = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
            .map_err(|error| named(certificate, &error))?
            .take(AUTHORITIES_MAX)
            .collect();
        let chain = chain.map_err(|error| named(certificate, &error))?;
        if chain.is_empty() {
            return Err(named(certificate, &"it holds no certificate in PEM form"));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
        Ok(Self { chain, key })
    }
}

/// What went wrong in a handshake, for a person.
pub fn told(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "none of the authorities of ca-file has signed its certificate".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("its certificate is another server's: {error}"),
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => format!("it asks for a client's certificate, and takes none or not this one: {error}"),
        Error::General(sentence) => sentence.clone(),
        other => format!("TLS: {other}"),
    }
}

/// Takes one certificate. That the server holds its key is verified as ever.
#[derive(Debug)]
struct Pinned {
    thumbprint: Thumbprint,
    crypto: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.thumbprint.matches(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let theirs = Thumbprint::of(end_entity);
        Err(Error::General(format!(
            "its certificate is not the configured one: the SHA-256 thumbprint is {theirs}; compare it on the server's own \
             console, and change thumbprint if it is right"
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_shows_of_itself_is_told_in_words() {
        let unknown = told(&Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.contains("authorities of ca-file"), "{unknown}");
        let wants = told(&Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(wants.contains("asks for a client's certificate"), "{wants}");
    }

    #[test]
    fn thumbprints_in_every_spelling() {
        // FIPS 180's digests of "abc".
        let sha1 = "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for text in [sha1, sha256, &sha1.replace(':', " ").to_lowercase()] {
            let thumbprint = Thumbprint::parse(text).unwrap();
            assert!(thumbprint.matches(b"abc") && !thumbprint.matches(b"abd"));
        }
        assert_eq!(Thumbprint::parse(sha1).unwrap().to_string(), sha1);
        for text in ["", "AB:CD", &sha1[1..], &sha256.replace('a', "g"), &format!("{sha1}:00")] {
            assert!(Thumbprint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pinned_certificate_and_no_other() {
        let crypto = Arc::new(provider::default_provider());
        let thumbprint =
            Thumbprint::parse("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
        let pinned = Pinned { thumbprint, crypto };
        let verify = |bytes: &'static [u8]| {
            let name = ServerName::try_from("h").unwrap();
            pinned.verify_server_cert(&CertificateDer::from(bytes), &[], &name, &[], UnixTime::now())
        };
        assert!(verify(b"abc").is_ok());
        let error = verify(b"other").unwrap_err().to_string();
        assert!(error.contains("SHA-256 thumbprint is D9:29:8A:10"), "{error}");
    }

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate\n").unwrap();
        assert!(Trust::authorities(file.path()).unwrap_err().contains("it holds no certificate"));
        assert!(Trust::authorities(Path::new("/nonexistent/ca.pem")).is_err());
    }
}
