//! Logging in: the initiator's side of NTLMv2 (MS-NLMP 3.1) and SPNEGO, with a knob for each thing that an attacker
//! or a bad client would do to it.

use zeroize::Zeroizing;

use super::{Answer, Client, ClientError, Draft, Protection};
use crate::auth::ntlm::{self, Accepted, Side};
use crate::auth::spnego::{self, Token};
use crate::codec::{Put, Reader};
use crate::msg::session_setup;
use crate::{Command, Status};

/// The key that the client chooses for the session.
const EXPORTED_KEY: [u8; 16] = *b"a session's key!";

/// How a login is made. The default is what Windows does.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct LoginOptions {
    pub user: String,
    pub domain: String,
    pub password: String,
    /// Announces the MIC in MsvAvFlags.
    pub announce_mic: bool,
    /// Bytes of the MIC that are changed.
    pub spoil_mic: bool,
    /// Sends a mechListMIC with the last token.
    pub mech_list_mic: bool,
    pub spoil_mech_list_mic: bool,
    /// Chooses the session's key itself (NTLMSSP_NEGOTIATE_KEY_EXCH).
    pub key_exchange: bool,
    /// NTLMSSP without SPNEGO around it.
    pub raw: bool,
    /// PreviousSessionId.
    pub previous_session: u64,
    /// Extra NegotiateFlags of the last message.
    pub extra_flags: u32,
}

impl LoginOptions {
    /// A login as Windows makes it.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.into(),
            domain: "WORKGROUP".into(),
            password: password.into(),
            announce_mic: true,
            spoil_mic: false,
            mech_list_mic: true,
            spoil_mech_list_mic: false,
            key_exchange: true,
            raw: false,
            previous_session: 0,
            extra_flags: 0,
        }
    }
}

/// The initiator between its two messages.
#[derive(Debug)]
pub struct Initiator {
    options: LoginOptions,
    negotiate: Vec<u8>,
    flags: u32,
    session_key: [u8; 16],
}

impl Initiator {
    /// Begins a login.
    pub fn new(options: LoginOptions) -> Self {
        let mut flags = ntlm::flag::UNICODE
            | ntlm::flag::REQUEST_TARGET
            | ntlm::flag::SIGN
            | ntlm::flag::NTLM
            | ntlm::flag::ALWAYS_SIGN
            | ntlm::flag::EXTENDED_SESSION_SECURITY
            | ntlm::flag::TARGET_INFO
            | ntlm::flag::VERSION
            | ntlm::flag::KEY_128;
        if options.key_exchange {
            flags |= ntlm::flag::KEY_EXCH;
        }
        Self { options, negotiate: Vec::new(), flags, session_key: EXPORTED_KEY }
    }

    /// NEGOTIATE_MESSAGE, in SPNEGO unless it is to be raw.
    pub fn first(&mut self) -> Vec<u8> {
        let mut token = ntlm::SIGNATURE.to_vec();
        token.put_u32(1);
        token.put_u32(self.flags);
        token.put_zeros(16); // no domain, no workstation
        token.put_slice(&[10, 0, 0, 0, 0, 0, 0, 15]);
        self.negotiate.clone_from(&token);
        if self.options.raw { token } else { spnego::init(&token) }
    }

    /// AUTHENTICATE_MESSAGE for the server's challenge (both as in SESSION_SETUP's buffers).
    pub fn second(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let challenge = match Token::decode(challenge) {
            Ok(Token::Response { response_token: Some(token), .. }) => token,
            Ok(Token::Raw(token)) => token,
            _ => return Err(ClientError::Rule("a challenge that is no NegTokenResp with a token")),
        };
        let token = self.authenticate(challenge)?;
        if self.options.raw {
            return Ok(token);
        }
        let mut mic = self.accepted().mic(&spnego::mech_list(), Side::Client);
        mic[7] ^= u8::from(self.options.spoil_mech_list_mic);
        let mic = self.options.mech_list_mic.then_some(&mic[..]);
        Ok(spnego::response(spnego::NegState::AcceptIncomplete, false, Some(&token), mic))
    }

    /// Checks the server's last token: its mechListMIC, where one of ours was sent.
    pub fn last(&self, token: &[u8]) -> Result<(), ClientError> {
        if self.options.raw || !self.options.mech_list_mic {
            return Ok(());
        }
        match Token::decode(token) {
            Ok(Token::Response { mech_list_mic: Some(mic), .. })
                if mic == self.accepted().mic(&spnego::mech_list(), Side::Server) =>
            {
                Ok(())
            }
            _ => Err(ClientError::Rule("the server's mechListMIC is missing or wrong")),
        }
    }

    fn accepted(&self) -> Accepted {
        let key = Zeroizing::new(self.session_key);
        Accepted::of(self.options.user.clone(), self.options.domain.clone(), key, self.flags)
    }

    fn authenticate(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut r = Reader::at(challenge, 24, "CHALLENGE_MESSAGE");
        let server_challenge: [u8; 8] = r.array()?;
        r.skip(8)?;
        let (info_len, _, info_offset) = (r.u16()?, r.u16()?, r.u32()?);
        let info = r.slice(info_offset as usize, info_len.into())?;
        let mut client_challenge = vec![1, 1, 0, 0, 0, 0, 0, 0];
        client_challenge.put_u64(133_500_000_000_000_000);
        client_challenge.put_slice(&[0xaa; 8]);
        client_challenge.put_u32(0);
        // The server's list without its end, our flags, the end (MS-NLMP 3.1.5.1.2).
        client_challenge.put_slice(&info[..info.len().saturating_sub(4)]);
        if self.options.announce_mic {
            client_challenge.put_u16(ntlm::av::FLAGS);
            client_challenge.put_u16(4);
            client_challenge.put_u32(ntlm::av::FLAG_MIC);
        }
        client_challenge.put_zeros(8);
        let options = &self.options;
        let identity = ntlm::utf16(&(options.user.to_uppercase() + &options.domain));
        let key = ntlm::hmac_md5(&ntlm::nt_hash(&options.password), &[&identity]);
        let proof = ntlm::hmac_md5(&key, &[&server_challenge, &client_challenge]);
        let base = ntlm::hmac_md5(&key, &[&proof]);
        let mut exchanged = EXPORTED_KEY;
        ntlm::rc4(&base, &mut exchanged);
        self.session_key = if options.key_exchange { EXPORTED_KEY } else { base };
        let exchanged = if options.key_exchange { exchanged.to_vec() } else { Vec::new() };
        let response = [&proof[..], &client_challenge].concat();
        let (user, domain) = (ntlm::utf16(&options.user), ntlm::utf16(&options.domain));
        let mut token = ntlm::SIGNATURE.to_vec();
        token.put_u32(3);
        let mut offset = 88;
        for len in [0, response.len(), domain.len(), user.len(), 0, exchanged.len()] {
            ntlm::put_field(&mut token, len, offset);
            offset += len;
        }
        token.put_u32(self.flags | options.extra_flags);
        token.put_slice(&[10, 0, 0, 0, 0, 0, 0, 15]);
        token.put_zeros(16);
        for part in [&response, &domain, &user, &exchanged] {
            token.put_slice(part);
        }
        let mut mic = ntlm::hmac_md5(&self.session_key, &[&self.negotiate, challenge, &token]);
        mic[0] ^= u8::from(options.spoil_mic);
        token[ntlm::MIC].copy_from_slice(&mic);
        Ok(token)
    }
}

impl Client {
    /// The next SESSION_SETUP with `token`; the first starts the session's hash.
    pub fn session_setup(&mut self, token: &[u8], previous_session_id: u64) -> Draft {
        let request = session_setup::Request {
            flags: 0,
            security_mode: self.offer.security_mode as u8,
            capabilities: 0,
            channel: 0,
            previous_session_id,
            security_buffer: token,
        };
        self.draft(Command::SESSION_SETUP, 0, |out| request.encode(out))
    }

    /// Begins the hash of a new session.
    pub fn begin_session(&mut self) {
        self.session_preauth = self.preauth.clone();
        (self.keys, self.session_id, self.tree_id, self.protection) = (None, 0, 0, Protection::Plain);
    }

    /// A SESSION_SETUP frame goes out.
    pub fn session_sent(&mut self, frame: &[u8]) {
        self.session_preauth.update(frame);
    }

    /// The server's challenge.
    pub fn session_challenged(&mut self, answer: &Answer) -> Result<Vec<u8>, ClientError> {
        if answer.header.status != Status::MORE_PROCESSING_REQUIRED {
            return Err(ClientError::Status(answer.header.status));
        }
        self.session_preauth.update(&answer.message);
        self.session_id = answer.header.session_id;
        Ok(session_setup::Response::decode(&answer.message)?.security_buffer.to_vec())
    }

    /// The end of a login: keys are made, and the answer's signature is checked with them (MS-SMB2 3.2.5.3.1).
    pub fn session_done(&mut self, initiator: &Initiator, answer: &Answer) -> Result<u16, ClientError> {
        if answer.header.status != Status::SUCCESS {
            return Err(ClientError::Status(answer.header.status));
        }
        self.derive(initiator.session_key)?;
        let response = session_setup::Response::decode(&answer.message)?;
        initiator.last(response.security_buffer)?;
        let (mut message, keys) = (answer.message.clone(), self.keys.as_ref());
        if !keys.is_some_and(|keys| keys.signing.verify(&mut message, crate::crypto::sign::Sender::Server)) {
            return Err(ClientError::Signature);
        }
        let encrypt = response.session_flags & session_setup::SESSION_ENCRYPT_DATA != 0;
        self.protection = if encrypt { Protection::Sealed } else { Protection::Signed };
        Ok(response.session_flags)
    }
}
