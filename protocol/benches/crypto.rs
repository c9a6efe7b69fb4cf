//! Signing and encryption of 1 MiB messages, and the general crates beside them: `cargo bench -p smb-proto`.
//!
//! GB/s of one core, the median of rounds that take turns, so that what else the machine does meets all alike.

use std::hint::black_box;
use std::time::Instant;

use aes::Aes128;
use ccm::aead::AeadInOut;
use ccm::consts::{U11, U16};
use ccm::{Ccm, KeyInit};
use cmac::{Cmac, Mac};
use smb_proto::crypto::encrypt::{Cipher, CipherKey, TRANSFORM_LEN};
use smb_proto::crypto::sign::{Sender, SigningAlgorithm, SigningKey};

const MESSAGE_LEN: usize = 1 << 20;
const ROUNDS: usize = 21;

type Work = Box<dyn FnMut(&mut [u8])>;

fn sign(algorithm: SigningAlgorithm) -> Work {
    let key = SigningKey::new(algorithm, &[7; 16]).expect("16 bytes fit every algorithm");
    Box::new(move |frame| key.sign(frame, Sender::Server))
}

fn seal(cipher: Cipher) -> Work {
    let key = CipherKey::new(cipher, &vec![7; cipher.key_len()]).expect("the cipher's own length");
    let mut counter = 0;
    Box::new(move |frame| {
        counter += 1;
        key.seal(frame, 1, counter).expect("the frame has room for its header");
    })
}

fn main() {
    let cmac = Cmac::<Aes128>::new_from_slice(&[7; 16]).expect("16 bytes");
    let ccm = Ccm::<Aes128, U16, U11>::new_from_slice(&[7; 16]).expect("16 bytes");
    let mut works: Vec<(&str, Work)> = vec![
        ("HMAC-SHA256", sign(SigningAlgorithm::HmacSha256)),
        ("AES-128-CMAC", sign(SigningAlgorithm::AesCmac)),
        (
            "  crate cmac",
            Box::new(move |frame| {
                let mut mac = cmac.clone();
                mac.update(frame);
                black_box(mac.finalize());
            }),
        ),
        ("AES-128-GMAC", sign(SigningAlgorithm::AesGmac)),
        ("AES-128-CCM", seal(Cipher::Aes128Ccm)),
        (
            "  crate ccm",
            Box::new(move |frame| {
                let sealed = ccm.encrypt_inout_detached(&[1; 11].into(), &[0; 32], frame.into());
                black_box(sealed.expect("within CCM's length"));
            }),
        ),
        ("AES-256-CCM", seal(Cipher::Aes256Ccm)),
        ("AES-128-GCM", seal(Cipher::Aes128Gcm)),
        ("AES-256-GCM", seal(Cipher::Aes256Gcm)),
    ];
    let mut frame = vec![0x5A; TRANSFORM_LEN + MESSAGE_LEN];
    let mut seconds = vec![Vec::new(); works.len()];
    for _ in 0..ROUNDS {
        for (index, (_, work)) in works.iter_mut().enumerate() {
            let begun = Instant::now();
            work(black_box(&mut frame));
            seconds[index].push(begun.elapsed().as_secs_f64());
        }
    }
    for ((name, _), mut times) in works.iter().zip(seconds) {
        times.sort_by(f64::total_cmp);
        println!("{name:14} {:6.2} GB/s", frame.len() as f64 / times[ROUNDS / 2] / 1e9);
    }
}
