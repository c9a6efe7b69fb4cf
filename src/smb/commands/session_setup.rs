//! SESSION_SETUP (MS-SMB2 3.3.5.5): the legs of an NTLM login inside SPNEGO, for a new session, for a live one that
//! authenticates again, and for a further channel of one.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smb_proto::auth::ntlm::{Accepted, Acceptor, Challenged, NtlmError, Side, TargetNames};
use smb_proto::auth::spnego::{self, NegState, Token};
use smb_proto::crypto::preauth::PreauthHash;
use smb_proto::msg::negotiate::{DIALECT_300, SIGNING_AES_GMAC, SIGNING_REQUIRED};
use smb_proto::msg::session_setup as wire;
use smb_proto::{Flags, Header, Status};

use crate::smb::audit;
use crate::smb::connection::{Connection, Negotiated};
use crate::smb::keys::{self, Keys};
use crate::smb::open::locked;
use crate::smb::request::{Failure, Outcome, Reply};
use crate::smb::server::{Encryption, Server};
use crate::smb::session::{Channel, NewSession, Session};
use crate::smb::share::Caller;

/// 100 ns in a second.
const SECOND: u64 = 10_000_000;
/// Legs that a login may take: two of NTLM and one more for a client that offers Kerberos first.
const LEGS_MAX: u8 = 4;

/// What a login is for.
#[derive(Clone)]
pub enum Purpose {
    /// A new session.
    New,
    /// The session is live on this connection and authenticates again (3.3.5.5.3).
    Again(Arc<Channel>),
    /// The session is live on another connection, and this one becomes a channel of it (3.3.5.5.2).
    Bind(Arc<Session>),
}

/// A login under way.
pub struct Login {
    /// What for.
    pub purpose: Purpose,
    /// The hash over NEGOTIATE and the legs so far (3.3.5.5.1).
    pub preauth: PreauthHash,
    challenged: Option<Challenged>,
    mech_list: Vec<u8>,
    raw: bool,
    legs: u8,
}

impl Login {
    /// A login whose hash continues that of NEGOTIATE.
    pub fn new(purpose: Purpose, preauth: PreauthHash) -> Self {
        Self { purpose, preauth, challenged: None, mech_list: Vec::new(), raw: false, legs: 0 }
    }
}

impl Purpose {
    /// The session that signs the answers before the login has succeeded.
    fn signer(&self) -> Option<Arc<Channel>> {
        match self {
            Self::New => None,
            Self::Again(channel) => Some(Arc::clone(channel)),
            Self::Bind(session) => Some(Channel::unbound(Arc::clone(session))),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a leg led to.
enum Leg {
    /// STATUS_MORE_PROCESSING_REQUIRED.
    More(Login, Reply),
    /// The session exists, is again authenticated, or has a channel more.
    Done(Arc<Channel>, Reply),
}

/// Where a leg comes in.
pub struct Arrival<'a> {
    /// The server.
    pub server: &'a Server,
    /// The connection.
    pub connection: &'a Arc<Connection>,
    /// The request's header; its SessionId is the one that a new login was given.
    pub header: &'a Header,
    /// The client named no session: the login begins.
    pub begins: bool,
    /// Whose key the request was encrypted with.
    pub sealed_by: Option<&'a Channel>,
    /// In 100 ns since 1601.
    pub now: u64,
    /// How long the answer is to be held back: set where a login fails.
    pub delay: Cell<Option<Duration>>,
}

fn reply(status: Status, flags: u16, token: &[u8]) -> Reply {
    let response = wire::Response { session_flags: flags, security_buffer: token };
    Reply::with_status(status, |out| response.encode(out))
}

/// Handles a SESSION_SETUP; beside its outcome, who signs the answer.
pub fn handle(arrival: &Arrival<'_>, message: &mut [u8]) -> (Option<Arc<Channel>>, Outcome) {
    let purpose = match purpose(arrival, message) {
        Ok(purpose) => purpose,
        Err((signer, failure)) => return (signer, Err(failure)),
    };
    let signer = purpose.signer();
    let id = arrival.header.session_id;
    let known =
        locked(&arrival.connection.logins).remove(&id).filter(|known| known.purpose.is_like(&purpose));
    let mut login = match known {
        Some(login) => login,
        None if arrival.begins || signer.is_some() => {
            Login::new(purpose, locked(&arrival.connection.preauth).clone())
        }
        None => return (None, Err(Status::USER_SESSION_DELETED.into())),
    };
    let was_live = matches!(login.purpose, Purpose::Again(_));
    login.preauth.update(message);
    match leg(arrival, login, message) {
        Ok(Leg::More(login, reply)) => {
            let mut logins = locked(&arrival.connection.logins);
            if logins.len() >= arrival.connection.sessions_max {
                return (signer, Err(Status::INSUFFICIENT_RESOURCES.into()));
            }
            logins.insert(id, login);
            (signer, Ok(reply))
        }
        Ok(Leg::Done(channel, reply)) => (Some(channel), Ok(reply)),
        Err(failure) => {
            if was_live {
                // 3.3.5.5.3: whoever fails to prove himself again has no session any more, on no channel.
                arrival.server.remove_session(id);
            }
            (signer, Err(failure))
        }
    }
}

/// What the login is for, after the checks of the session that it names; on refusal, also who signs that.
fn purpose(arrival: &Arrival<'_>, message: &mut [u8]) -> Result<Purpose, (Option<Arc<Channel>>, Failure)> {
    let binding =
        wire::Request::decode(message).map_err(|error| (None, error.into()))?.flags & wire::FLAG_BINDING != 0;
    let (id, connection) = (arrival.header.session_id, arrival.connection);
    if arrival.begins {
        return if binding { Err((None, Status::INVALID_PARAMETER.into())) } else { Ok(Purpose::New) };
    }
    let signed = arrival.header.flags.contains(Flags::SIGNED);
    if let Ok(channel) = connection.session(id) {
        let refuse = |failure| Err((Some(Arc::clone(&channel)), failure));
        if let Err(failure) = check_protection(arrival, &channel, message) {
            return refuse(failure);
        }
        return if binding {
            refuse(Status::REQUEST_NOT_ACCEPTED.into())
        } else {
            Ok(Purpose::Again(channel))
        };
    }
    if !binding {
        return Ok(Purpose::New);
    }
    let session = arrival.server.session(id).filter(|session| session.check().is_ok());
    let session = session.ok_or((None, Status::USER_SESSION_DELETED.into()))?;
    let negotiated = connection.negotiated.get().ok_or((None, Failure::Disconnect))?;
    let unbound = Channel::unbound(Arc::clone(&session));
    check_binding(arrival.server, &session, negotiated, signed)
        .and_then(|()| if unbound.verify(message) { Ok(()) } else { Err(Status::ACCESS_DENIED) })
        .map_err(|status| {
            arrival.server.refusals.channel(&connection.peer, &status);
            (signed.then_some(unbound), Failure::Status(status))
        })?;
    Ok(Purpose::Bind(session))
}

/// A request to authenticate again comes from the session's client: encrypted or signed by its key, or unsigned where the
/// session allows that (3.3.5.2.4). It need not be encrypted (3.3.5.2.9).
fn check_protection(arrival: &Arrival<'_>, channel: &Channel, message: &mut [u8]) -> Result<(), Failure> {
    match arrival.sealed_by {
        Some(sealer) if sealer.id == channel.id => Ok(()),
        Some(_) => Err(Failure::Disconnect),
        None if arrival.header.flags.contains(Flags::SIGNED) => {
            if channel.verify(message) {
                Ok(())
            } else {
                Err(Status::ACCESS_DENIED.into())
            }
        }
        None if channel.signing_required => Err(Status::ACCESS_DENIED.into()),
        None => Ok(()),
    }
}

/// Whether a connection may be bound to a session (3.3.5.5). In what order the reasons are looked at is not in the standard;
/// clients are tested against this one.
fn check_binding(server: &Server, session: &Session, here: &Negotiated, signed: bool) -> Result<(), Status> {
    let there = &session.negotiated;
    if there.signing != here.signing {
        if there.signing >= SIGNING_AES_GMAC {
            return Err(Status::REQUEST_OUT_OF_SEQUENCE);
        }
        if here.signing >= SIGNING_AES_GMAC {
            return Err(Status::NOT_SUPPORTED);
        }
    }
    if here.dialect < DIALECT_300 || server.settings.multichannel.is_none() {
        return Err(Status::REQUEST_NOT_ACCEPTED);
    }
    if !signed || there.dialect != here.dialect || there.cipher != here.cipher {
        return Err(Status::INVALID_PARAMETER);
    }
    if there.offered.client_guid != here.offered.client_guid {
        return Err(Status::USER_SESSION_DELETED);
    }
    Ok(())
}

/// Takes one leg.
fn leg(arrival: &Arrival<'_>, mut login: Login, message: &[u8]) -> Result<Leg, Failure> {
    let request = wire::Request::decode(message)?;
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
        return challenge(arrival, login, token);
    };
    let accepted = prove(arrival, challenged, token)?;
    let answer = finish(&login, &accepted, mic)?;
    let channel = match login.purpose.clone() {
        Purpose::New => {
            let session = establish(arrival, &login, &accepted, request.security_mode)?;
            if request.previous_session_id != 0 && request.previous_session_id != arrival.header.session_id {
                replace(arrival.server, request.previous_session_id, &session);
            }
            session
        }
        Purpose::Again(channel) => again(arrival, channel, &accepted),
        Purpose::Bind(session) => bind(arrival, &session, &login, &accepted)?,
    };
    let flags = if channel.encrypt { wire::SESSION_ENCRYPT_DATA } else { 0 };
    Ok(Leg::Done(channel, reply(Status::SUCCESS, flags, &answer)))
}

fn challenge(arrival: &Arrival<'_>, mut login: Login, token: &[u8]) -> Result<Leg, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    let name = &arrival.server.settings.name;
    let names = TargetNames { computer: name.clone(), dns: name.to_lowercase() };
    let (challenged, message) =
        Acceptor::new(names, random, arrival.now).challenge(token).map_err(|_| Status::LOGON_FAILURE)?;
    login.challenged = Some(challenged);
    let answer = if login.raw {
        message
    } else {
        spnego::response(NegState::AcceptIncomplete, true, Some(&message), None)
    };
    Ok(Leg::More(login, reply(Status::MORE_PROCESSING_REQUIRED, 0, &answer)))
}

/// The account and its proof.
fn prove(arrival: &Arrival<'_>, challenged: Challenged, token: &[u8]) -> Result<Accepted, Status> {
    let claim = challenged.authenticate(token).map_err(|error| refused(arrival, "", &error))?;
    let user = claim.user().to_owned();
    let hash = arrival.server.settings.users.nt_hash(&user);
    let accepted = claim.verify(hash.as_ref()).map_err(|error| refused(arrival, &user, &error))?;
    locked(&arrival.server.guesses).succeeded(address(arrival), &user);
    Ok(accepted)
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

fn caller(arrival: &Arrival<'_>, accepted: &Accepted) -> Caller {
    Caller { user: accepted.user.as_str().into(), peer: Arc::clone(&arrival.connection.peer) }
}

fn establish(
    arrival: &Arrival<'_>,
    login: &Login,
    accepted: &Accepted,
    security_mode: u8,
) -> Result<Arc<Channel>, Status> {
    let (server, connection) = (arrival.server, arrival.connection);
    let negotiated = connection.negotiated.get().ok_or(Status::INVALID_PARAMETER)?;
    let keys = Keys::derive(&*accepted.session_key, negotiated, &login.preauth.0)?;
    let encrypt = server.settings.encryption == Encryption::Required;
    if encrypt && !keys.can_encrypt() {
        return Err(Status::ACCESS_DENIED);
    }
    let wanted = u16::from(security_mode) & SIGNING_REQUIRED != 0;
    let session = Arc::new(Session::new(NewSession {
        id: arrival.header.session_id,
        negotiated: negotiated.clone(),
        caller: caller(arrival, accepted),
        keys,
        signing_required: server.settings.signing_required || wanted,
        encrypt,
    }));
    server.add_session(Arc::clone(&session))?;
    // Entered in the server first: a connection that is lost meanwhile refuses it, and it is taken out again.
    let channel = session.add_channel(connection, None).inspect_err(|_| {
        server.remove_session(session.id);
    })?;
    audit::login(&session);
    Ok(channel)
}

/// A live session's user has proved himself again, or another has taken it over. The keys stay (3.3.5.5.3).
fn again(arrival: &Arrival<'_>, channel: Arc<Channel>, accepted: &Accepted) -> Arc<Channel> {
    for tree in channel.reauthenticate(caller(arrival, accepted)) {
        arrival.server.close_opens(channel.id, Some(tree.id));
    }
    audit::login_again(&channel);
    channel
}

/// A further channel: the same user, who signs on it with a key made from this login (3.3.5.5.2, 3.3.5.5.3).
fn bind(
    arrival: &Arrival<'_>,
    session: &Arc<Session>,
    login: &Login,
    accepted: &Accepted,
) -> Result<Arc<Channel>, Status> {
    if !same_user(&session.caller().user, &accepted.user) {
        arrival.server.refusals.channel(&arrival.connection.peer, &"the session is another user's");
        return Err(Status::ACCESS_DENIED);
    }
    let negotiated = arrival.connection.negotiated.get().ok_or(Status::INVALID_PARAMETER)?;
    let key = keys::signing_key(&*accepted.session_key, negotiated, &login.preauth.0)?;
    let channel = session.add_channel(arrival.connection, Some(key))?;
    audit::channel(session, &arrival.connection.peer);
    Ok(channel)
}

/// Accounts are told apart without regard to case.
fn same_user(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// PreviousSessionId (3.3.5.5.3): the client has lost that session; only its own user may end it.
fn replace(server: &Server, previous: u64, session: &Session) {
    if server.session(previous).is_some_and(|old| same_user(&old.caller().user, &session.caller().user)) {
        server.remove_session(previous);
    }
}

/// Where the client is, without its port.
fn address(arrival: &Arrival<'_>) -> Option<IpAddr> {
    arrival.connection.peer.parse::<SocketAddr>().ok().map(|peer| peer.ip())
}

/// What a malformed message is answered with, and (for all reasons that concern the account) STATUS_LOGON_FAILURE. Held back is
/// what might be a guess: who names no account, or says nothing that can be understood, learns of no password.
fn refused(arrival: &Arrival<'_>, user: &str, why: &NtlmError) -> Status {
    arrival.server.refusals.login(user, &arrival.connection.peer, why);
    let delay = match why {
        NtlmError::Anonymous | NtlmError::Decode(_) | NtlmError::Name => Duration::ZERO,
        _ => locked(&arrival.server.guesses).failed(address(arrival), user, arrival.now / SECOND),
    };
    arrival.delay.set(Some(delay));
    match why {
        NtlmError::Decode(_) | NtlmError::Name => Status::INVALID_PARAMETER,
        _ => Status::LOGON_FAILURE,
    }
}
