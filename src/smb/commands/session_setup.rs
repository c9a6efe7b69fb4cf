//! SESSION_SETUP (MS-SMB2 3.3.5.5): the legs of an NTLM login inside SPNEGO.

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::auth::ntlm::{Accepted, Acceptor, Challenged, Side, TargetNames};
use smb_proto::auth::spnego::{self, NegState, Token};
use smb_proto::crypto::preauth::PreauthHash;
use smb_proto::msg::negotiate::SIGNING_REQUIRED;
use smb_proto::msg::session_setup as wire;

use crate::smb::connection::Connection;
use crate::smb::keys::Keys;
use crate::smb::request::{Failure, Reply};
use crate::smb::server::{Encryption, Server};
use crate::smb::session::Session;
use crate::smb::share::Caller;

/// Legs that a login may take: two of NTLM and one more for a client that offers Kerberos first.
const LEGS_MAX: u8 = 4;

/// A login under way.
#[derive(Debug)]
pub struct Login {
    /// The hash over NEGOTIATE and the legs so far (3.3.5.5.1).
    pub preauth: PreauthHash,
    challenged: Option<Challenged>,
    mech_list: Vec<u8>,
    raw: bool,
    legs: u8,
}

impl Login {
    /// A login whose hash continues that of NEGOTIATE.
    pub fn new(preauth: PreauthHash) -> Self {
        Self { preauth, challenged: None, mech_list: Vec::new(), raw: false, legs: 0 }
    }
}

/// What a leg led to.
pub enum Leg {
    /// STATUS_MORE_PROCESSING_REQUIRED.
    More(Login, Reply),
    /// The session exists.
    Done(Arc<Session>, Reply),
}

fn reply(status: Status, flags: u16, token: &[u8]) -> Reply {
    let response = wire::Response { session_flags: flags, security_buffer: token };
    Reply::with_status(status, |out| response.encode(out))
}

/// Takes one leg. `session_id` is the id that the login was given; `now` in 100 ns since 1601.
pub fn leg(
    server: &Server,
    connection: &Connection,
    session_id: u64,
    mut login: Login,
    message: &[u8],
    now: u64,
) -> Result<Leg, Failure> {
    let request = wire::Request::decode(message)?;
    if request.flags & wire::FLAG_BINDING != 0 {
        return Err(Status::REQUEST_NOT_ACCEPTED.into()); // 3.3.5.5: no multichannel here
    }
    login.legs += 1;
    if login.legs > LEGS_MAX {
        return Err(Status::INVALID_PARAMETER.into());
    }
    let (token, mic) = match Token::decode(request.security_buffer).map_err(|_| Status::LOGON_FAILURE)? {
        Token::Init { mech_list, ntlm_first, mech_token } => {
            login.mech_list = mech_list.to_vec();
            (mech_token.filter(|_| ntlm_first), None)
        }
        Token::Response { response_token, mech_list_mic } => (response_token, mech_list_mic),
        Token::Raw(token) => {
            login.raw = true;
            (Some(token), None)
        }
    };
    let Some(token) = token else {
        // The first mechanism is not ours: name NTLMSSP and let the client start again with it.
        let answer = spnego::response(NegState::AcceptIncomplete, true, None, None);
        return Ok(Leg::More(login, reply(Status::MORE_PROCESSING_REQUIRED, 0, &answer)));
    };
    let Some(challenged) = login.challenged.take() else {
        return challenge(server, login, token, now);
    };
    let claim = challenged.authenticate(token).map_err(|error| refused(connection, "", &error))?;
    let user = claim.user().to_owned();
    let hash = server.settings.users.nt_hash(&user);
    let accepted = claim.verify(hash.as_ref()).map_err(|error| refused(connection, &user, &error))?;
    let answer = finish(&login, &accepted, mic)?;
    let session = establish(server, connection, session_id, &login, &accepted, request.security_mode)?;
    if request.previous_session_id != 0 && request.previous_session_id != session_id {
        replace(server, request.previous_session_id, &session);
    }
    let flags = if session.encrypt { wire::SESSION_ENCRYPT_DATA } else { 0 };
    Ok(Leg::Done(session, reply(Status::SUCCESS, flags, &answer)))
}

fn challenge(server: &Server, mut login: Login, token: &[u8], now: u64) -> Result<Leg, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    let name = &server.settings.name;
    let names = TargetNames { computer: name.clone(), dns: name.to_lowercase() };
    let (challenged, message) =
        Acceptor::new(names, random, now).challenge(token).map_err(|_| Status::LOGON_FAILURE)?;
    login.challenged = Some(challenged);
    let answer = if login.raw {
        message
    } else {
        spnego::response(NegState::AcceptIncomplete, true, Some(&message), None)
    };
    Ok(Leg::More(login, reply(Status::MORE_PROCESSING_REQUIRED, 0, &answer)))
}

/// The last token. A client's mechListMIC that does not match means that the list was changed on its way (RFC 4178 5).
fn finish(login: &Login, accepted: &Accepted, mic: Option<&[u8]>) -> Result<Vec<u8>, Status> {
    if login.raw {
        return Ok(Vec::new());
    }
    let Some(mic) = mic else { return Ok(spnego::response(NegState::AcceptCompleted, false, None, None)) };
    if mic != accepted.mic(&login.mech_list, Side::Client) {
        return Err(Status::LOGON_FAILURE);
    }
    let ours = accepted.mic(&login.mech_list, Side::Server);
    Ok(spnego::response(NegState::AcceptCompleted, false, None, Some(&ours)))
}

fn establish(
    server: &Server,
    connection: &Connection,
    id: u64,
    login: &Login,
    accepted: &Accepted,
    security_mode: u8,
) -> Result<Arc<Session>, Status> {
    let negotiated = connection.negotiated.get().ok_or(Status::INVALID_PARAMETER)?;
    let keys = Keys::derive(&*accepted.session_key, negotiated, &login.preauth.0)?;
    let encryption = server.settings.encryption;
    if encryption == Encryption::Required && !keys.can_encrypt() {
        return Err(Status::ACCESS_DENIED);
    }
    let encrypt = encryption == Encryption::Required;
    let wanted = u16::from(security_mode) & SIGNING_REQUIRED != 0;
    let caller = Caller { user: accepted.user.as_str().into(), peer: Arc::clone(&connection.peer) };
    let signing_required = server.settings.signing_required || wanted;
    let session = Arc::new(Session::new(id, caller, keys, signing_required, encrypt));
    connection.add_session(Arc::clone(&session))?;
    server.add_session(Arc::clone(&session)).inspect_err(|_| {
        connection.remove_session(id);
    })?;
    tracing::info!(user = %accepted.user, peer = %connection.peer, "logged in");
    Ok(session)
}

/// PreviousSessionId (3.3.5.5.3): the client has lost that session; only its own user may end it.
fn replace(server: &Server, previous: u64, session: &Session) {
    if server.session(previous).is_some_and(|old| old.caller.user == session.caller.user) {
        server.remove_session(previous);
    }
}

fn refused(connection: &Connection, user: &str, why: &dyn std::error::Error) -> Status {
    tracing::warn!(user, peer = %connection.peer, "login refused: {why}");
    Status::LOGON_FAILURE
}
