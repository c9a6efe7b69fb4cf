//! By TLS: who is trusted, and that both directions go on while the other waits.

use std::io::BufReader;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::datastore::nbd::Tls;
use crate::tls::testing::self_signed;
use crate::tls::{Thumbprint, Trust};

type Certificate = rustls::pki_types::CertificateDer<'static>;

fn server_config(
    own: (Certificate, PrivateKeyDer<'static>),
    clients: Option<&Certificate>,
) -> Arc<rustls::ServerConfig> {
    let crypto = Arc::new(provider::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&crypto))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let roots = Arc::new(roots(certificate));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, crypto).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    Arc::new(builder.with_single_cert(vec![own.0], own.1).unwrap())
}

fn roots(certificate: &Certificate) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    roots
}

fn pinned(certificate: &Certificate) -> Trust {
    Trust::Thumbprint(Thumbprint::of(certificate))
}

/// A store at that address, and the spec of its one disk.
fn store(scheme: &str, port: u16, size: usize, tls: Option<Tls>) -> Result<Lab, String> {
    let Lab { spec, .. } = lab(port, size, PATIENCE);
    let directory = tempfile::tempdir().unwrap();
    let files = Arc::new(DirectoryDatastore::open(directory.path()).unwrap());
    let options = NbdOptions {
        template: format!("{scheme}://127.0.0.1:{port}/{{directory}}/{{extent}}"),
        client: ClientOptions { connections: 3, retry: Duration::from_secs(20), tls },
        fresh_reads_zero: false,
        existing_disks: false,
    };
    Ok(Lab { _directory: directory, store: NbdDatastore::new("ds", options, files)?, spec })
}

fn trusting(trust: &Trust, name: Option<&str>) -> Option<Tls> {
    Some(Tls { config: Arc::new(trust.client_config().unwrap()), name: name.map(str::to_owned) })
}

#[test]
fn a_disk_by_tls_under_load_in_both_directions_with_cuts() {
    let own = self_signed("nbd.example");
    let tls = trusting(&pinned(&own.0), None);
    let behaviour = Behaviour {
        tls: Some(server_config(own, None)),
        cut_after: AtomicU64::new(60),
        ..Behaviour::default()
    }
    .sized(24 * MIB);
    let lab = store("nbds", serve(&behaviour), 24 * MIB, tls).unwrap();
    let disk = lab.store.create_disk(&lab.spec).unwrap();
    let data = pattern(24 * MIB, 9);
    std::thread::scope(|scope| {
        for eighth in 0..8 {
            let (disk, data) = (&disk, &data);
            scope.spawn(move || {
                // Reads of a megabyte come back while writes of a megabyte go out, on few connections.
                let mut read = vec![0; MIB];
                for piece in 0..3 {
                    let at = (eighth * 3 + piece) * MIB;
                    disk.write_at(&data[at..at + MIB], at as u64).unwrap();
                    disk.flush().unwrap();
                    disk.read_at(&mut read, at as u64).unwrap();
                    assert!(read == data[at..at + MIB]);
                }
            });
        }
    });
    disk.flush().unwrap();
    assert!(*behaviour.durable.lock().unwrap() == data);
    assert!(behaviour.connections.load(Ordering::Relaxed) > 1);
}

#[test]
fn only_who_is_trusted_is_spoken_to() {
    let own = self_signed("nbd.example");
    let other = self_signed("other.example");
    let certificate = own.0.clone();
    let behaviour = Behaviour { tls: Some(server_config(own, None)), ..Behaviour::default() }.sized(MIB);
    let port = serve(&behaviour);
    let authority = |certificate| Trust::Authorities(Arc::new(roots(certificate)));
    for (trust, name, part) in [
        (pinned(&certificate), None, None),
        (authority(&certificate), Some("nbd.example"), None),
        (pinned(&other.0), None, Some("its certificate is not the configured one")),
        (authority(&other.0), Some("nbd.example"), Some("none of the authorities of ca-file")),
        (authority(&certificate), None, Some("its certificate is another server's")),
        (authority(&certificate), Some("no name"), Some("set server-name")),
    ] {
        let lab = store("nbds", port, MIB, trusting(&trust, name)).unwrap();
        let before = behaviour.requests.load(Ordering::Relaxed);
        let opened = lab.store.create_disk(&lab.spec);
        match (opened, part) {
            (Ok(disk), None) => disk.write_at(&[1; 512], 0).unwrap(),
            (Err(error), Some(part)) => {
                assert!(error.to_string().contains(part), "{part}: {error}");
                assert_eq!(behaviour.requests.load(Ordering::Relaxed), before);
            }
            (opened, part) => panic!("{part:?}: {:?}", opened.err()),
        }
    }
}

#[test]
fn neither_goes_the_one_way_instead_of_the_other() {
    let own = self_signed("nbd.example");
    let trust = pinned(&own.0);
    // A server without TLS.
    let plain = Behaviour::default().sized(MIB);
    let lab = store("nbds", serve(&plain), MIB, trusting(&trust, None)).unwrap();
    let error = lab.store.create_disk(&lab.spec).err().unwrap();
    assert!(error.to_string().contains("the server has no TLS, and nothing goes to it without"), "{error}");
    // A server with nothing else.
    let behaviour = Behaviour { tls: Some(server_config(own, None)), ..Behaviour::default() }.sized(MIB);
    let port = serve(&behaviour);
    let lab = store("nbd", port, MIB, None).unwrap();
    let error = lab.store.create_disk(&lab.spec).err().unwrap();
    assert!(error.to_string().contains("the server wants TLS: use nbds://"), "{error}");
    assert!(store("nbds", port, MIB, None).err().unwrap().contains("needs ca-file or thumbprint"));
    assert!(store("nbd", port, MIB, trusting(&trust, None)).err().unwrap().contains("is not encrypted"));
    assert_eq!(plain.requests.load(Ordering::Relaxed) + behaviour.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn a_server_may_ask_who_we_are() {
    let (own, client, other) = (self_signed("nbd.example"), self_signed("importfs"), self_signed("other"));
    let trust = pinned(&own.0);
    let behaviour =
        Behaviour { tls: Some(server_config(own, Some(&client.0))), ..Behaviour::default() }.sized(MIB);
    let port = serve(&behaviour);
    let files = tempfile::tempdir().unwrap();
    let identity = |(certificate, key): &(Certificate, PrivateKeyDer<'static>)| {
        let (certificates, keys) = (files.path().join("certificate.pem"), files.path().join("key.pem"));
        std::fs::write(&certificates, pem("CERTIFICATE", certificate)).unwrap();
        std::fs::write(&keys, pem("PRIVATE KEY", key.secret_der())).unwrap();
        crate::tls::Identity::load(&certificates, &keys).unwrap()
    };
    for (shown, good) in [(Some(&client), true), (Some(&other), false), (None, false)] {
        let config = trust.client_config_of(shown.map(identity)).unwrap();
        let tls = Some(Tls { config: Arc::new(config), name: None });
        let lab = store("nbds", port, MIB, tls).unwrap();
        let opened = lab.store.create_disk(&lab.spec);
        assert_eq!(opened.is_ok(), good);
        if let Err(error) = opened {
            assert!(error.to_string().contains("asks for a client's certificate"), "{error}");
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(crate::tls::Identity::load(file.path(), file.path()).is_err());
}

fn pem(label: &str, bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at > three.len() { '=' } else { char::from(digit) });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A server that sends a long answer and takes nothing until that is read, as one with full buffers does: who reads must not wait for who writes.
#[test]
fn a_reader_goes_on_while_a_writer_waits() {
    let own = self_signed("nbd.example");
    let tls = trusting(&pinned(&own.0), None).unwrap();
    let config = server_config(own, None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
        be::<20>(&mut stream)?;
        stream.write_all(b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0")?;
        let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let behaviour = Behaviour { plain: true, ..Behaviour::default() }.sized(64 * MIB);
        greet(&mut stream, &behaviour)?;
        // A request to read, and one to write of which only the header is taken before the other is answered.
        let read: [u8; 28] = be(&mut stream)?;
        let write: [u8; 28] = be(&mut stream)?;
        let (mut answer, length) =
            (vec![0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], u32::from_be_bytes(read[24..].try_into().unwrap()));
        answer.extend_from_slice(&read[8..16]);
        answer.resize(16 + length as usize, 7);
        stream.write_all(&answer)?;
        stream.flush()?;
        let length = u32::from_be_bytes(write[24..].try_into().unwrap());
        let mut data = BufReader::new(stream);
        data.read_exact(&mut vec![0; length as usize])?;
        let mut stream = data.into_inner();
        stream.write_all(&[&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], &write[8..16]].concat())?;
        stream.flush()
    });
    let uri = crate::datastore::nbd::uri::Uri::parse(&format!("nbds://127.0.0.1:{port}/x")).unwrap();
    let connection = crate::datastore::nbd::connection::Connection::open(&uri, Some(&tls), PATIENCE).unwrap();
    let length = 32 * MIB as u32;
    let read = connection.submit(Command::Read, 0, 0, length, &[]).unwrap();
    let data = vec![1; length as usize];
    let write = connection.submit(Command::Write, 0, 0, length, &data).unwrap();
    assert!(connection.wait(&read).unwrap().data.iter().all(|byte| *byte == 7));
    connection.wait(&write).unwrap();
    drop(connection);
    server.join().unwrap().unwrap();
}
