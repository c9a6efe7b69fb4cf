//! NTLM messages from arbitrary bytes, as the acceptor gets them: nobody gets in who does not know the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::auth::ntlm::{Acceptor, TargetNames, nt_hash};
use smb_proto::testing::{Initiator, LoginOptions};

fn acceptor() -> Acceptor {
    Acceptor::new(TargetNames { computer: "SERVER".into(), dns: "server".into() }, [7; 8], 1 << 56)
}

fuzz_target!(|data: &[u8]| {
    let _ = acceptor().challenge(data);
    // The seeds are whole AUTHENTICATE messages; changes of a good one come from the input: offset and byte by turns.
    let options = LoginOptions { raw: true, ..LoginOptions::new("import", "right password") };
    let mut initiator = Initiator::new(options);
    let negotiate = initiator.first();
    let (_, challenge) = acceptor().challenge(&negotiate).expect("a good NEGOTIATE");
    let mut token = initiator.second(&challenge).expect("a good challenge");
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % token.len();
        token[at] = change[2];
    }
    for token in [data, &token] {
        let (challenged, _) = acceptor().challenge(&negotiate).expect("a good NEGOTIATE");
        if let Ok(claim) = challenged.authenticate(token) {
            let hash = nt_hash("another password");
            assert!(claim.verify(Some(&hash)).is_err(), "a wrong password is let in");
        }
        let (challenged, _) = acceptor().challenge(&negotiate).expect("a good NEGOTIATE");
        if let Ok(claim) = challenged.authenticate(token) {
            assert!(claim.verify(None).is_err(), "an unknown user is let in");
        }
    }
});
