//! Encrypted frames: none from outside decrypts, each of ours does, and no change of one goes unnoticed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::crypto::encrypt::{Cipher, CipherKey, TRANSFORM_LEN, TransformHeader};

fuzz_target!(|data: &[u8]| {
    let decoded = TransformHeader::decode(data);
    for id in 1..=4 {
        let cipher = Cipher::from_id(id).expect("a cipher");
        let key = CipherKey::new(cipher, &[9; 32][..cipher.key_len()]).expect("its key");
        let mut frame = data.to_vec();
        frame.extend([0; 16]);
        assert!(key.open(&mut frame).is_err(), "a frame from outside decrypts");
        let mut sealed = vec![0; TRANSFORM_LEN];
        sealed.extend(data);
        key.seal(&mut sealed, 77, 5).expect("room for the header");
        let head = TransformHeader::decode(&sealed).expect("our own header");
        assert_eq!((head.original_size as usize, head.session_id), (data.len(), 77));
        let mut opened = sealed.clone();
        opened.extend([0; 16]);
        key.open(&mut opened).expect("our own frame");
        assert_eq!(&opened[TRANSFORM_LEN..TRANSFORM_LEN + data.len()], data);
        let at = data.iter().fold(0_usize, |sum, byte| (sum * 31 + usize::from(*byte)) % sealed.len());
        // Bytes 0 to 3 are the protocol's id, which decides whether it is a transform at all; the nonce's unused end and
        // everything else is authenticated.
        if at >= 4 {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            changed.extend([0; 16]);
            assert!(key.open(&mut changed).is_err(), "byte {at} can be changed");
        }
    }
    if let Ok(head) = decoded {
        assert_eq!(head.original_size as usize, data.len() - TRANSFORM_LEN);
    }
});
