//! From a frame to its answer (MS-SMB2 3.3.5.2): decryption, the parts of a compound, credits, signatures, the session and
//! tree of each request, its handler, and the responses signed or sealed. Synchronous: no sockets here.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smb_proto::frame::{Kind, Smb1Negotiate};
use smb_proto::header::HEADER_LEN;
use smb_proto::msg::negotiate::DIALECT_210;
use smb_proto::msg::{echo, error};
use smb_proto::{Command, Flags, Header, Status};

use super::answer::{Answer, data, finish, join};
use super::buffer::Buffer;
use super::charge;
use super::commands::{self, logoff, negotiate, session_setup, tree_connect};
use super::connection::{Connection, PARKED_MAX, Signal};
use super::job::{Job, part};
use super::request::{Failure, Outcome, Related, Reply, Request, WakeKey};
use super::running::Asked;
use super::server::{PAYLOAD_BYTES_MAX, Server};
use super::session::Channel;

/// How long the answer to a login that is no login at all is held back; [`super::guessing`] has the rest.
const LOGIN_FAILED_DELAY: Duration = Duration::from_secs(2);

/// Bytes of memory that the answers of one compound may take: the largest payload, and what belongs to it.
const ANSWERS_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (1 << 20);

/// What a frame led to.
#[derive(Default)]
pub struct Output {
    /// Frames to send, each with its length in front.
    pub frames: Vec<Buffer>,
    /// The connection is to be cut.
    pub disconnect: bool,
    /// How long the frames are to be held back.
    pub delay: Option<Duration>,
    /// A request was parked; once the frames are queued, [`arm`] lets it run again.
    pub parked: Option<u64>,
    /// The timer of a parked request: its AsyncId, and when it is to run again at the latest.
    pub expiry: Option<(u64, Duration)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job to its end or until it has to wait. `signal`: why it runs again.
pub fn run(
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    mut job: Job,
    mut signal: Option<Signal>,
    now: u64,
) -> Output {
    let mut output = Output::default();
    let mut answers = Vec::new();
    if job.decrypt().is_err() {
        output.disconnect = true;
        return output;
    }
    if Kind::of(job.frame.bytes()) == Ok(Kind::Smb1) {
        smb1(server, connection, &job, now, &mut answers, &mut output);
        finish(server, &job, answers, &mut output);
        return output;
    }
    loop {
        let Ok((header, end, more)) = part(job.frame.bytes(), job.at) else {
            output.disconnect = true;
            break;
        };
        if header.command == Command::CANCEL {
            cancel(connection, &header);
        } else {
            let seen = server.wake_count();
            if job.async_id.is_none()
                && lock(&connection.window).take(header.message_id, charge_of(connection, &header)).is_err()
            {
                output.disconnect = true;
                break;
            }
            job.related.is_related = header.flags.contains(Flags::RELATED_OPERATIONS);
            let made = answers.iter().map(|answer| answer.message.memory()).sum();
            let mut stage =
                Stage { server, connection, header, end, now, made, tree_id: header.tree_id, session: None };
            let outcome = stage.handle(&mut job, signal.take(), &mut output);
            match outcome {
                Err(Failure::Disconnect) => {
                    output.disconnect = true;
                    break;
                }
                // A watch may wait for ever, and what follows in its compound with it (3.3.5.2.7): as Windows answers.
                Err(Failure::Park { .. }) if more && header.command == Command::CHANGE_NOTIFY => {
                    answers.push(stage.answer(&mut job, Err(Status::INTERNAL_ERROR.into())));
                }
                Err(Failure::Park { key, timeout }) if lock(&connection.parked).len() < PARKED_MAX => {
                    park(&stage, job, Waiting { key, timeout, seen }, answers, &mut output);
                    return output;
                }
                outcome => answers.push(stage.answer(&mut job, outcome)),
            }
            (job.async_id, job.reservation) = (None, None);
        }
        job.at = end;
        if !more || job.mute {
            break; // what follows in a lost connection's compound has no place among another's MessageIds
        }
    }
    if !output.disconnect {
        finish(server, &job, answers, &mut output);
        if let Some(frame) = output.frames.last_mut() {
            frame.hold(job.reserved.take());
        }
    }
    output
}

fn smb1(
    server: &Server,
    connection: &Connection,
    job: &Job,
    now: u64,
    answers: &mut Vec<Answer>,
    output: &mut Output,
) {
    let outcome = match Smb1Negotiate::decode(job.frame.bytes()) {
        Ok(offer) if connection.negotiated.get().is_none() => {
            negotiate::multi_protocol(server, connection, offer, now)
        }
        _ => Err(Failure::Disconnect),
    };
    let Ok(Reply::Message { mut message, .. }) = outcome else {
        let peer = &connection.peer;
        tracing::info!(%peer, "cut: a client of SMB1; SMB 2.0.2 is the oldest dialect there is (smb.min-dialect)");
        output.disconnect = true;
        return;
    };
    lock(&connection.window).begin_after_smb1();
    let mut head = Vec::with_capacity(HEADER_LEN);
    response_header(Command::NEGOTIATE, Status::SUCCESS, 1).encode(&mut head);
    message[..HEADER_LEN].copy_from_slice(&head);
    answers.push(Answer { message: Buffer::from_vec(message), session: None, sign: false });
}

fn response_header(command: Command, status: Status, credits: u16) -> Header {
    Header {
        credit_charge: 0,
        status,
        command,
        credits,
        flags: Flags::SERVER_TO_REDIR,
        next_command: 0,
        message_id: 0,
        async_id: 0,
        tree_id: 0,
        session_id: 0,
        signature: [0; 16],
    }
}

/// CANCEL (MS-SMB2 3.3.5.16): by AsyncId, or by the MessageId of a request that has not been told its own yet.
fn cancel(connection: &Connection, header: &Header) {
    let by_async_id = header.flags.contains(Flags::ASYNC_COMMAND);
    let is_meant = |id: u64, message_id: u64| {
        if by_async_id { id == header.async_id } else { message_id == header.message_id }
    };
    let parked = lock(&connection.parked);
    if let Some((id, _)) = parked.iter().find(|(id, job)| is_meant(**id, job.message_id)) {
        connection.signal(Signal::Cancel(*id));
    } else {
        connection.running.cancel(is_meant);
    }
}

/// Interim responses for what has been worked on for `after` or longer, each given to `send` before the request's answer can be.
pub fn tell_pending(
    server: &Arc<Server>,
    connection: &Arc<Connection>,
    after: Duration,
    mut send: impl FnMut(Output),
) {
    connection.running.tell(after, |id, asked| {
        let Asked { header, tree_id, channel, sealed_by } = asked;
        let stage =
            Stage { server, connection, header, end: 0, now: 0, made: 0, tree_id, session: Some(channel) };
        let mut output = Output::default();
        join(server, sealed_by.as_ref(), vec![stage.interim(id)], &mut output);
        send(output);
    });
}

struct Waiting {
    key: WakeKey,
    timeout: Option<Duration>,
    seen: u64,
}

/// Puts a request aside; the first time, an interim response tells the client its AsyncId (3.3.4.2).
fn park(stage: &Stage<'_>, mut job: Job, wait: Waiting, mut answers: Vec<Answer>, output: &mut Output) {
    let (server, connection) = (stage.server, stage.connection);
    let id = job.async_id.or(job.running).unwrap_or_else(|| server.unique_id());
    let first = job.async_id.is_none() && !connection.running.claim(id);
    job.async_id = Some(id);
    job.reserved = None; // it may wait for hours
    job.message_id = stage.header.message_id;
    job.key = Some(wait.key.clone());
    job.session.clone_from(&stage.session);
    if first {
        // A frame of its own: Linux drops what comes in an encrypted frame with an interim response.
        finish(server, &job, std::mem::take(&mut answers), output);
        answers.push(stage.interim(id));
    }
    // One timer at a time: it may be early for a later wait, and then the handler waits on.
    if let Some(timeout) = wait.timeout.filter(|_| !job.timed) {
        output.expiry = Some((id, timeout));
        job.timed = true;
    }
    finish(server, &job, answers, output);
    (job.armed, job.running, output.parked) = (false, None, Some(id));
    let cancelled = {
        let mut parked = lock(&connection.parked);
        parked.insert(id, job);
        connection.running.leave(id).cancelled
    };
    if cancelled {
        connection.signal(Signal::Cancel(id));
    } else if !server.wait(wait.key, connection, id, wait.seen) {
        connection.signal(Signal::Wake(id));
    }
}

/// Takes a parked job out, to be run again for `signal`.
pub fn unpark(server: &Server, connection: &Connection, signal: Signal) -> Option<Job> {
    let (Signal::Wake(id) | Signal::Cancel(id) | Signal::Expire(id)) = signal else { return None };
    let mut parked = lock(&connection.parked);
    if let Some(job) = parked.get_mut(&id).filter(|job| !job.armed) {
        // Its end must not overtake its interim response. A cancellation counts more than a wake-up.
        if !matches!(job.missed, Some(Signal::Cancel(_))) {
            job.missed = Some(signal);
        }
        return None;
    }
    let mut job = parked.remove(&id)?;
    connection.running.enter_again(id, job.message_id, matches!(signal, Signal::Cancel(_)));
    job.running = Some(id);
    drop(parked);
    job.timed &= !matches!(signal, Signal::Expire(_));
    if let Some(key) = job.key.take() {
        server.forget(&key, id);
    }
    Some(job)
}

/// Takes out what waits on a lost connection. A CREATE that its client may send again on another channel goes on (its create GUID
/// is reserved, and every replay would be told to come later); all else is forgotten.
pub fn abandon(server: &Server, connection: &Connection) -> Vec<(u64, Job)> {
    let parked = std::mem::take(&mut *lock(&connection.parked));
    let forget = |(id, job): &mut (u64, Job)| {
        if let Some(key) = job.key.take() {
            server.forget(&key, *id);
        }
    };
    let mut jobs: Vec<_> = parked.into_iter().collect();
    jobs.iter_mut().for_each(forget);
    jobs.retain(|(_, job)| job.reservation.is_some());
    jobs
}

/// Has a request of a lost connection wait on another one of its session; what it comes to is kept, its answer is not sent.
pub fn adopt(heir: &Connection, id: u64, mut job: Job) {
    (job.mute, job.armed, job.timed) = (true, true, false);
    job.message_id = u64::MAX; // no CANCEL of the other connection means it
    lock(&heir.parked).insert(id, job);
    heir.signal(Signal::Wake(id));
}

/// The interim response of a parked request is queued: it may run again, and does so at once for what came meanwhile.
pub fn arm(connection: &Connection, id: u64) {
    let missed = lock(&connection.parked).get_mut(&id).and_then(|job| {
        job.armed = true;
        job.missed.take()
    });
    if let Some(signal) = missed {
        connection.signal(signal);
    }
}

/// What a request is told whose session or tree is gone. One that was parked did find them when it came: its lock went
/// with the open (3.3.5.14), its watch is over (3.3.5.19).
fn abandoned(command: Command, async_id: Option<u64>, status: Status) -> Status {
    match command {
        Command::LOCK if async_id.is_some() => Status::RANGE_NOT_LOCKED,
        Command::CHANGE_NOTIFY if async_id.is_some() => Status::NOTIFY_CLEANUP,
        _ => status,
    }
}

/// The credits that a request uses up: reserved in 2.0.2, where it is one (MS-SMB2 2.2.1.2).
fn charge_of(connection: &Connection, header: &Header) -> u16 {
    if connection.dialect() >= DIALECT_210 { header.credit_charge.max(1) } else { 1 }
}

/// One request of a frame, with what is known of it so far.
struct Stage<'a> {
    server: &'a Arc<Server>,
    connection: &'a Arc<Connection>,
    header: Header,
    end: usize,
    now: u64,
    /// Bytes of memory that the answers of its compound take already.
    made: usize,
    tree_id: u32,
    session: Option<Arc<Channel>>,
}

impl Stage<'_> {
    fn handle(&mut self, job: &mut Job, signal: Option<Signal>, output: &mut Output) -> Outcome {
        if matches!(signal, Some(Signal::Cancel(_))) {
            self.session = job.session.take();
            return Err(Status::CANCELLED.into());
        }
        let range = job.at..self.end;
        match self.header.command {
            Command::NEGOTIATE => return self.negotiate(&job.frame.bytes()[range]),
            _ if self.connection.negotiated.get().is_none() => return Err(Failure::Disconnect),
            Command::SESSION_SETUP => return self.session_setup(job, output),
            _ => {}
        }
        self.inherit(job)?;
        if self.header.command == Command::ECHO && self.header.session_id == 0 {
            echo::Request::decode(&job.frame.bytes()[range])?;
            return Ok(Reply::success(|out| echo::Response.encode(out)));
        }
        let channel = match self.connection.session(self.header.session_id) {
            Ok(channel) => channel,
            Err(status) => {
                job.related.session_id = None;
                self.session = job.session.take();
                return Err(abandoned(self.header.command, job.async_id, status).into());
            }
        };
        self.session = Some(Arc::clone(&channel));
        let session = Arc::clone(&channel.session);
        if job.async_id.is_none() {
            self.check_protection(&channel, job)?;
        }
        self.set_running(job, &channel);
        let message = &job.frame.bytes()[range];
        // Together they would be no frame any more, and more than anybody has accounted for.
        if self.made > 0
            && self.made + charge::expected(self.header.command, message) as usize > ANSWERS_BYTES_MAX
        {
            return Err(Status::INSUFFICIENT_RESOURCES.into());
        }
        match self.header.command {
            Command::ECHO => {
                echo::Request::decode(message)?;
                Ok(Reply::success(|out| echo::Response.encode(out)))
            }
            Command::LOGOFF => logoff::handle(self.server, &session, message),
            Command::TREE_CONNECT => {
                let (id, outcome) = tree_connect::handle(self.server, &session, message)?;
                (self.tree_id, job.related.tree_id) = (id, id);
                outcome
            }
            command => {
                let handler = commands::handler(command).ok_or(Status::INVALID_PARAMETER)?;
                let tree = session
                    .tree(self.header.tree_id)
                    .map_err(|status| abandoned(command, job.async_id, status))?;
                if tree.entry.encrypt && job.sealed_by.is_none() {
                    return Err(Status::ACCESS_DENIED.into()); // 3.3.5.2.11
                }
                handler(&mut Request {
                    server: self.server,
                    connection: self.connection,
                    session: &session,
                    tree: &tree,
                    header: &self.header,
                    message,
                    related: &mut job.related,
                    reservation: &mut job.reservation,
                    outstanding: None,
                    async_id: job.async_id,
                    timed_out: matches!(signal, Some(Signal::Expire(_))),
                })
            }
        }
    }

    /// From now on its client is told where it takes long, and a CANCEL is remembered.
    fn set_running(&self, job: &mut Job, channel: &Arc<Channel>) {
        if !job.apart || job.running.is_some() {
            return;
        }
        let id = self.server.unique_id();
        job.running = Some(id);
        let (header, sealed_by) = (self.header, job.sealed_by.clone());
        let asked = Asked { header, tree_id: self.tree_id, channel: Arc::clone(channel), sealed_by };
        self.connection.running.enter(id, asked);
    }

    /// A response that only tells the AsyncId, and gives the credits that the answer will not (3.3.4.2).
    fn interim(&self, id: u64) -> Answer {
        let mut message = vec![0; HEADER_LEN];
        error::Response::default().encode(&mut message);
        let credits = lock(&self.connection.window).grant(self.header.credits);
        self.seal_header(Status::PENDING, credits, Some(id), Buffer::from_vec(message))
    }

    /// A related request uses the session and tree of the one before it (3.3.5.2.7.2). There is none before the first; where
    /// that one had no session, Windows answers INVALID_PARAMETER, and clients expect it.
    fn inherit(&mut self, job: &mut Job) -> Result<(), Status> {
        if job.related.is_related {
            let before = job.related.session_id.filter(|_| job.at > 0);
            self.header.session_id = before.ok_or(Status::INVALID_PARAMETER)?;
            self.header.tree_id = job.related.tree_id;
            self.tree_id = job.related.tree_id;
        } else {
            job.related = Related::default();
        }
        (job.related.session_id, job.related.tree_id) = (Some(self.header.session_id), self.header.tree_id);
        Ok(())
    }

    /// Encrypted where the session demands it, by its own key, else signed where it demands that (3.3.5.2.4, 3.3.5.2.9).
    fn check_protection(&self, session: &Channel, job: &mut Job) -> Result<(), Failure> {
        if let Some(sealer) = &job.sealed_by {
            // Someone else's key proves nothing about this session.
            return if sealer.id == session.id { Ok(()) } else { Err(Failure::Disconnect) };
        }
        if session.encrypt {
            return Err(Status::ACCESS_DENIED.into());
        }
        if self.header.flags.contains(Flags::SIGNED) {
            let message = &mut job.frame.bytes_mut()[job.at..self.end];
            return if session.verify(message) { Ok(()) } else { Err(Status::ACCESS_DENIED.into()) };
        }
        if session.signing_required { Err(Status::ACCESS_DENIED.into()) } else { Ok(()) }
    }

    fn negotiate(&self, message: &[u8]) -> Outcome {
        if self.connection.negotiated.get().is_some() {
            return Err(Failure::Disconnect); // 3.3.5.4
        }
        lock(&self.connection.preauth).update(message);
        negotiate::handle(self.server, self.connection, message, self.now)
    }

    fn session_setup(&mut self, job: &mut Job, output: &mut Output) -> Outcome {
        let begins = self.header.session_id == 0;
        if begins {
            self.header.session_id = self.server.unique_id();
        }
        let arrival = session_setup::Arrival {
            server: self.server,
            connection: self.connection,
            header: &self.header,
            begins,
            sealed_by: job.sealed_by.as_deref(),
            now: self.now,
            delay: Cell::default(),
        };
        let (signer, outcome) = session_setup::handle(&arrival, &mut job.frame.bytes_mut()[job.at..self.end]);
        let delay = arrival.delay.get();
        self.session = signer;
        if matches!(outcome, Err(Failure::Status(Status::LOGON_FAILURE))) {
            output.delay = Some(LOGIN_FAILED_DELAY);
        }
        output.delay = delay.or(output.delay).filter(|delay| !delay.is_zero());
        outcome
    }

    /// Makes the response's message, and keeps what later parts of the compound need to know.
    fn answer(&self, job: &mut Job, outcome: Outcome) -> Answer {
        if let Some(id) = job.running.take()
            && self.connection.running.leave(id).told
        {
            job.async_id = Some(id);
        }
        let (status, message) = match outcome {
            Ok(Reply::Message { status, message }) => (status, Buffer::from_vec(message)),
            Ok(Reply::Data { status, payload }) => data(status, payload),
            Err(failure) => {
                let (status, data) = match failure {
                    Failure::Status(status) => (status, Vec::new()),
                    Failure::StatusWith(status, data) => (status, data),
                    Failure::Park { .. } | Failure::Disconnect => {
                        (Status::INSUFFICIENT_RESOURCES, Vec::new())
                    }
                };
                let mut message = vec![0; HEADER_LEN];
                error::Response { context_count: 0, data: &data }.encode(&mut message);
                (status, Buffer::from_vec(message))
            }
        };
        if self.header.command == Command::CREATE {
            job.related.create_failure = status.is_error().then_some(status);
        }
        // The request's own credits went with the interim response (3.3.4.2). Who has not logged in gets no more than it uses.
        let proved = match self.header.command {
            Command::NEGOTIATE => false,
            Command::SESSION_SETUP => status == Status::SUCCESS,
            _ => true,
        };
        let asked = if proved { self.header.credits } else { 1 };
        let credits = if job.async_id.is_some() { 0 } else { lock(&self.connection.window).grant(asked) };
        let mut answer = self.seal_header(status, credits, job.async_id, message);
        if let (Command::SESSION_SETUP, Some(channel), true) =
            (self.header.command, &answer.session, answer.sign && job.sealed_by.is_none())
        {
            channel.sign(answer.message.bytes_mut()); // the hash covers the message as it is sent
        }
        self.hash(status, answer.message.bytes());
        answer
    }

    /// NEGOTIATE's answer and those of unfinished logins go into the hash (3.3.5.4, 3.3.5.5).
    fn hash(&self, status: Status, message: &[u8]) {
        match self.header.command {
            Command::NEGOTIATE => lock(&self.connection.preauth).update(message),
            Command::SESSION_SETUP if status == Status::MORE_PROCESSING_REQUIRED => {
                if let Some(login) = lock(&self.connection.logins).get_mut(&self.header.session_id) {
                    login.preauth.update(message);
                }
            }
            _ => {}
        }
    }

    fn seal_header(
        &self,
        status: Status,
        credits: u16,
        async_id: Option<u64>,
        mut message: Buffer,
    ) -> Answer {
        let mut header = response_header(self.header.command, status, credits);
        header.credit_charge = self.header.credit_charge;
        header.message_id = self.header.message_id;
        header.session_id = self.header.session_id;
        header.tree_id = if self.tree_id == self.header.tree_id { self.header.tree_id } else { self.tree_id };
        if let Some(id) = async_id {
            header.flags = header.flags.with(Flags::ASYNC_COMMAND);
            header.async_id = id;
        }
        let done = self.header.command == Command::SESSION_SETUP && !status.is_error();
        let signed = self.header.flags.contains(Flags::SIGNED);
        let sign = self.session.as_ref().is_some_and(|s| done || signed || s.signing_required);
        if signed && !sign {
            // No key to answer with: flag and signature come back as they were, by which clients know such an answer.
            header.flags = header.flags.with(Flags::SIGNED);
            header.signature = self.header.signature;
        }
        let mut head = Vec::with_capacity(HEADER_LEN);
        header.encode(&mut head);
        message.bytes_mut()[..HEADER_LEN].copy_from_slice(&head);
        Answer { message, session: self.session.clone(), sign }
    }
}
