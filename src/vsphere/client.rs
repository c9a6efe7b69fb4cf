//! A session with one vCenter or ESXi host: opened when it is needed, opened again when it is lost, closed at the end.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::Ref;
use super::error::VsphereError;
use super::http::{Https, Transport};
use super::keeper::Keeper;
use super::soap;
use super::xml::{Element, Writer};
use crate::tls::Trust;

/// How long one call may take. What takes longer is a task, and awaited as one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a logout may hold up the end of the process.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions end after 30 idle minutes unless the administrator changed that; ten keep any sensible setting alive.
const KEEP_ALIVE: Duration = Duration::from_mins(10);
/// How often a lost session is opened again within one piece of work, before the work counts as failed.
const SESSIONS_MAX: usize = 3;
/// How often a read whose connection broke is tried again, and how long it waits before.
const READ_RETRIES: usize = 2;
const READ_PAUSE: Duration = Duration::from_millis(500);
/// A refused password is not sent again for so long: ESXi locks an account after a few.
const REFUSED_LOGIN: Duration = Duration::from_mins(1);
/// Bytes of a password file.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Who logs in. The password is read anew at each login, so that a changed one needs no restart.
#[derive(Debug, Clone)]
pub struct Account {
    /// As in `importfs@vsphere.local`.
    pub username: String,
    /// A file whose first line is the password.
    pub password_file: PathBuf,
}

impl Account {
    fn password(&self) -> Result<Zeroizing<String>, VsphereError> {
        use std::io::Read as _;
        let told = |error: &dyn std::fmt::Display| {
            VsphereError::Told(format!(
                "the password file {} can't be read: {error}",
                self.password_file.display()
            ))
        };
        let file = std::fs::File::open(&self.password_file).map_err(|error| told(&error))?;
        let mut text = Zeroizing::new(String::new());
        file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).map_err(|error| told(&error))?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() {
            return Err(told(&"its first line is empty"));
        }
        Ok(Zeroizing::new(password.to_owned()))
    }
}

/// What the server offers: the singletons that calls go to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Content {
    /// A vCenter, or else one ESXi host.
    pub vcenter: bool,
    /// As in `VMware ESXi 6.5.0 build-5969303`.
    pub full_name: String,
    pub root_folder: Ref,
    pub property_collector: Ref,
    pub session_manager: Ref,
    pub view_manager: Ref,
    pub search_index: Ref,
    pub authorization_manager: Ref,
    /// Every server has these; a test's may not.
    pub file_manager: Option<Ref>,
    pub disk_manager: Option<Ref>,
    pub license_manager: Option<Ref>,
}

impl Content {
    fn read(content: &Element) -> Result<Self, VsphereError> {
        let one = |name: &str| {
            content.child(name).and_then(soap::reference).ok_or_else(|| VsphereError::Answer {
                method: "RetrieveServiceContent".into(),
                why: format!("it names no {name}"),
            })
        };
        Ok(Self {
            vcenter: content.text_at(&["about", "apiType"]) == "VirtualCenter",
            full_name: content.text_at(&["about", "fullName"]).to_owned(),
            root_folder: one("rootFolder")?,
            property_collector: one("propertyCollector")?,
            session_manager: one("sessionManager")?,
            view_manager: one("viewManager")?,
            search_index: one("searchIndex")?,
            authorization_manager: one("authorizationManager")?,
            file_manager: content.child("fileManager").and_then(soap::reference),
            disk_manager: content.child("virtualDiskManager").and_then(soap::reference),
            license_manager: content.child("licenseManager").and_then(soap::reference),
        })
    }
}

/// A session that was open a moment ago.
#[derive(Debug, Clone)]
pub struct Live {
    /// The server's singletons.
    pub content: Arc<Content>,
    /// The session's key, which some methods ask for.
    pub key: String,
    cookie: Option<String>,
    number: u64,
}

impl Live {
    /// The session's cookie, for files.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }
}

#[derive(Default)]
struct State {
    content: Option<Arc<Content>>,
    live: Option<Live>,
    /// How many were opened.
    opened: u64,
    /// The password that was refused, and when.
    refused: Option<(Zeroizing<String>, Instant, VsphereError)>,
}

struct Shared {
    transport: Box<dyn Transport>,
    account: Account,
    server: String,
    state: Mutex<State>,
}

/// One hypervisor.
pub struct Client {
    shared: Arc<Shared>,
    https: Option<Https>,
    keeper: Option<Keeper>,
}

impl Client {
    /// Prepares a client; nothing is sent before the first call.
    pub fn new(url: &str, trust: &Trust, account: Account) -> Result<Self, VsphereError> {
        let https = Https::new(url, trust)?;
        let server = https.server();
        let mut client = Self::over(Box::new(https.clone()), account, server);
        client.https = Some(https);
        let shared = Arc::downgrade(&client.shared);
        let keep = move || match shared.upgrade() {
            Some(shared) => {
                shared.keep_alive();
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        };
        // Without it sessions end when idle, and are opened again: slower, not wrong.
        client.keeper = Some(Keeper::start("vsphere keep-alive", KEEP_ALIVE, keep));
        Ok(client)
    }

    /// A client over any transport: tests.
    pub(super) fn over(transport: Box<dyn Transport>, account: Account, server: String) -> Self {
        let shared = Shared { transport, account, server, state: Mutex::default() };
        Self { shared: Arc::new(shared), https: None, keeper: None }
    }

    /// Its connections, for files and leases.
    pub fn https(&self) -> Result<&Https, VsphereError> {
        self.https
            .as_ref()
            .ok_or_else(|| VsphereError::Told("this client has no connections of its own".into()))
    }

    /// Host and port.
    pub fn server(&self) -> &str {
        &self.shared.server
    }

    /// One call on an object of the server, in a session that is open.
    pub fn call(
        &self,
        method: &str,
        this: &Ref,
        write: impl Fn(&mut Writer),
    ) -> Result<Element, VsphereError> {
        self.with_session(|live| self.call_in(live, method, this, &write))
    }

    /// A call that changes nothing: tried again where its connection breaks.
    pub fn read(
        &self,
        method: &str,
        this: impl Fn(&Live) -> Ref,
        write: impl Fn(&mut Writer, &Live),
    ) -> Result<Element, VsphereError> {
        again(|| self.with_session(|live| self.call_in(live, method, &this(live), |w| write(w, live))))
    }

    /// A call within a session: fails with `NotAuthenticated` where that is no more.
    pub fn call_in(
        &self,
        live: &Live,
        method: &str,
        this: &Ref,
        write: impl FnOnce(&mut Writer),
    ) -> Result<Element, VsphereError> {
        self.call_for(live, method, this, CALL_TIMEOUT, write)
    }

    /// [`Self::call_in`] with another bound of its time.
    pub(super) fn call_for(
        &self,
        live: &Live,
        method: &str,
        this: &Ref,
        timeout: Duration,
        write: impl FnOnce(&mut Writer),
    ) -> Result<Element, VsphereError> {
        let text = soap::request(method, this, write);
        let reply = self.shared.transport.post(&text, live.cookie(), timeout)?;
        soap::response(method, &reply.body)
    }

    /// Does something that belongs together in one session, from its start again where the session is lost meanwhile. The
    /// server refuses a call of a lost session before it does anything, so nothing happens twice.
    pub fn with_session<T>(
        &self,
        mut work: impl FnMut(&Live) -> Result<T, VsphereError>,
    ) -> Result<T, VsphereError> {
        let mut last = None;
        for _ in 0..SESSIONS_MAX {
            let live = self.shared.live()?;
            match work(&live) {
                Err(error) if error.kind() == "NotAuthenticated" => {
                    tracing::info!("{}: the session has ended, it is opened again", self.shared.server);
                    self.shared.forget(&live);
                    last = Some(error);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| VsphereError::Told("no session could be opened".into())))
    }

    /// Closes the session, if one is open.
    pub fn logout(&self) {
        self.shared.logout();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.keeper.take());
        self.shared.logout();
    }
}

/// Does a read again where its connection broke.
pub(super) fn again<T>(mut read: impl FnMut() -> Result<T, VsphereError>) -> Result<T, VsphereError> {
    let mut tries = 0;
    loop {
        match read() {
            Err(VsphereError::Lost { server, why }) if tries < READ_RETRIES => {
                tracing::info!("the connection to {server} was lost: {why}; once more");
                tries += 1;
                std::thread::sleep(READ_PAUSE);
            }
            done => return done,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(
        &self,
        method: &str,
        this: &Ref,
        cookie: Option<&str>,
        write: impl FnOnce(&mut Writer),
    ) -> Result<(Element, Option<String>), VsphereError> {
        let reply = self.transport.post(&soap::request(method, this, write), cookie, CALL_TIMEOUT)?;
        Ok((soap::response(method, &reply.body)?, reply.cookie))
    }

    /// The session that is open, or a new one. Others wait meanwhile: one login serves them all.
    fn live(&self) -> Result<Live, VsphereError> {
        let mut state = self.lock();
        if let Some(live) = &state.live {
            return Ok(live.clone());
        }
        let content = match &state.content {
            Some(content) => Arc::clone(content),
            None => {
                let method = "RetrieveServiceContent";
                let instance = Ref::new("ServiceInstance", "ServiceInstance");
                let (result, _) = again(|| self.post(method, &instance, None, |_| {}))?;
                let content = Arc::new(Content::read(soap::returned(method, &result)?)?);
                state.content = Some(Arc::clone(&content));
                content
            }
        };
        let password = self.account.password()?;
        if let Some((refused, when, error)) = &state.refused
            && *refused == password
            && when.elapsed() < REFUSED_LOGIN
        {
            return Err(error.clone());
        }
        let live = self.login(&content, &password, state.opened + 1);
        match live {
            Ok(live) => {
                state.opened += 1;
                state.refused = None;
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                if error.kind() == "InvalidLogin" {
                    state.refused = Some((password, Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }

    fn login(&self, content: &Arc<Content>, password: &str, number: u64) -> Result<Live, VsphereError> {
        let username = &self.account.username;
        let about = || format!("'{username}' can't log in at {}", self.server);
        let (result, cookie) = self
            .post("Login", &content.session_manager, None, |w| {
                w.value("userName", username).value("password", password);
            })
            .map_err(|error| error.about(about()))?;
        let key = soap::returned("Login", &result)?.text_at(&["key"]).to_owned();
        tracing::debug!("{}: session {number} opened", self.server);
        Ok(Live { content: Arc::clone(content), key, cookie, number })
    }

    /// Forgets a session that is lost, unless another took its place already.
    fn forget(&self, lost: &Live) {
        let mut state = self.lock();
        if state.live.as_ref().is_some_and(|live| live.number == lost.number) {
            state.live = None;
        }
    }

    fn logout(&self) {
        let Some(live) = self.lock().live.take() else { return };
        let text = soap::request("Logout", &live.content.session_manager, |_| {});
        if let Err(error) = self.transport.post(&text, live.cookie(), LOGOUT_TIMEOUT) {
            tracing::debug!("{}: the session is left to end by itself: {error}", self.server);
        }
    }

    /// A small call, so that an idle session does not end.
    fn keep_alive(&self) {
        let Some(live) = self.lock().live.clone() else { return };
        let instance = Ref::new("ServiceInstance", "ServiceInstance");
        match self.post("CurrentTime", &instance, live.cookie(), |_| {}) {
            Err(error) if error.kind() == "NotAuthenticated" => self.forget(&live),
            Err(error) => tracing::debug!("{}: keep-alive: {error}", self.server),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::testing::{Script, fault, script_client};

    #[test]
    fn one_login_for_many_calls_and_a_logout_at_the_end() {
        let script = Script::new();
        script.answer("CurrentTime", "<returnval>now</returnval>");
        script.answer("CurrentTime", "<returnval>now</returnval>");
        let client = script_client(&script);
        let instance = Ref::new("ServiceInstance", "ServiceInstance");
        for _ in 0..2 {
            client.call("CurrentTime", &instance, |_| {}).unwrap();
        }
        drop(client);
        assert_eq!(
            script.methods(),
            ["RetrieveServiceContent", "Login", "CurrentTime", "CurrentTime", "Logout"]
        );
        assert_eq!(
            script.cookies()[2..],
            ["vmware_soap_session=\"1\"", "vmware_soap_session=\"1\"", "vmware_soap_session=\"1\""]
        );
    }

    #[test]
    fn a_lost_session_is_opened_again_but_not_for_ever() {
        let script = Script::new();
        script.fault("CurrentTime", &fault("NotAuthenticated", ""));
        script.answer("CurrentTime", "<returnval>now</returnval>");
        let client = script_client(&script);
        let instance = Ref::new("ServiceInstance", "ServiceInstance");
        client.call("CurrentTime", &instance, |_| {}).unwrap();
        assert_eq!(
            script.methods(),
            ["RetrieveServiceContent", "Login", "CurrentTime", "Login", "CurrentTime"]
        );
        for _ in 0..SESSIONS_MAX {
            script.fault("CurrentTime", &fault("NotAuthenticated", ""));
        }
        let error = client.call("CurrentTime", &instance, |_| {}).unwrap_err();
        assert_eq!(error.kind(), "NotAuthenticated");
    }

    #[test]
    fn a_refused_password_is_not_sent_twice() {
        let script = Script::new();
        script.fault("Login", &fault("InvalidLogin", ""));
        let client = script_client(&script);
        let instance = Ref::new("ServiceInstance", "ServiceInstance");
        for _ in 0..2 {
            let error = client.call("CurrentTime", &instance, |_| {}).unwrap_err().to_string();
            assert!(
                error.starts_with("'user' can't log in at hv:443: the user name or the password is wrong"),
                "{error}"
            );
        }
        assert_eq!(script.methods(), ["RetrieveServiceContent", "Login"]);
        let file = &client.shared.account.password_file;
        std::fs::write(file, "another\n").unwrap();
        script.answer("CurrentTime", "<returnval>now</returnval>");
        client.call("CurrentTime", &instance, |_| {}).unwrap();
        std::fs::write(file, "\n").unwrap();
        client.logout();
        let error = client.call("CurrentTime", &instance, |_| {}).unwrap_err().to_string();
        assert!(error.contains("its first line is empty"), "{error}");
    }
}
