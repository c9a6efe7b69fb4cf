//! SPNEGO tokens from arbitrary bytes: what decodes lies inside the token, and our own tokens around it decode again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smb_proto::auth::spnego::{NegState, Token, response};

fn inside(part: &[u8], whole: &[u8]) {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    assert!(part.start >= whole.start && part.end <= whole.end);
}

fuzz_target!(|data: &[u8]| {
    match Token::decode(data) {
        Ok(Token::Init { mech_list, mech_token, .. }) => {
            inside(mech_list, data);
            mech_token.into_iter().for_each(|token| inside(token, data));
        }
        Ok(Token::Response { response_token, mech_list_mic }) => {
            response_token.into_iter().chain(mech_list_mic).for_each(|part| inside(part, data));
        }
        Ok(Token::Raw(token)) => inside(token, data),
        Err(_) => {}
    }
    if data.len() < 60_000 {
        let ours = response(NegState::AcceptIncomplete, true, Some(data), Some(data));
        let expected = Token::Response { response_token: Some(data), mech_list_mic: Some(data) };
        if ours.len() < 60_000 {
            assert_eq!(Token::decode(&ours), Ok(expected));
        }
    }
});
