//! Requests over HTTPS: one address, one trust, every wait and every answer bounded.

use std::error::Error as _;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use reqwest::{Method, Url};
use rustls::ClientConfig;

use super::error::VsphereError;
use super::soap::ACTION;
use super::xml::DOCUMENT_BYTES_MAX;
use crate::tls::Trust;

/// Until a connection stands, TLS included: three SYNs over a bad line, and short enough for `.cfg.err` to be there before an SMB
/// client gives up the CLOSE of its CFG (smbclient does after 20 seconds).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// How long sent bytes may stay unacknowledged before the connection counts as lost.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);
/// Connections kept open to one server: as many as imports usually talk at once.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// The cookie by which the server knows its session.
const SESSION_COOKIE: &str = "vmware_soap_session";

/// The answer to a SOAP request.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The session's cookie, `name=value`, where the server sets one.
    pub cookie: Option<String>,
    /// The envelope.
    pub body: Vec<u8>,
}

/// What carries SOAP requests: the network, or a test's answers.
pub trait Transport: Send + Sync {
    /// Sends one envelope; waits no longer than `timeout` in all.
    fn post(&self, body: &str, cookie: Option<&str>, timeout: Duration) -> Result<Reply, VsphereError>;
}

/// One server.
#[derive(Debug, Clone)]
pub struct Https {
    client: Client,
    tls: Arc<ClientConfig>,
    url: Url,
}

impl Https {
    /// Prepares connections to `url` (`https://host[:port]/sdk`); connects to nothing yet.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, VsphereError> {
        let told = |why: String| VsphereError::Told(format!("{url}: {why}"));
        let parsed = Url::parse(url).map_err(|error| told(error.to_string()))?;
        if parsed.scheme() != "https" || parsed.host_str().is_none() {
            return Err(told("it is no https:// address".into()));
        }
        let tls = trust.client_config().map_err(|error| told(error.to_string()))?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(None)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("importfs/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| told(error.to_string()))?;
        Ok(Self { client, tls: Arc::new(tls), url: parsed })
    }

    /// Host and port, for sentences.
    pub fn server(&self) -> String {
        shown(&self.url)
    }

    /// The TLS side of connections that are made elsewhere, under the same trust.
    pub(super) fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// Host, and port where it is not the usual one, as in an address.
    pub fn authority(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}", self.host())
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// An address on the same server: components are escaped, the query's values too.
    pub fn address(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(path);
        }
        url.query_pairs_mut().clear().extend_pairs(query);
        url
    }

    /// A request to any address under the same trust, with the session's cookie.
    pub fn request(
        &self,
        method: Method,
        url: Url,
        cookie: Option<&str>,
        timeout: Duration,
    ) -> RequestBuilder {
        let request = self.client.request(method, url).timeout(timeout);
        match cookie {
            Some(cookie) => request.header(COOKIE, cookie),
            None => request,
        }
    }

    /// Sends it; errors say whether anything can have arrived.
    pub fn send(&self, request: RequestBuilder) -> Result<Response, VsphereError> {
        request.send().map_err(|error| failed(&self.server(), &error))
    }

    /// Sends `source`, `length` bytes of it where that is known, in chunks where not.
    pub fn upload(
        &self,
        request: RequestBuilder,
        source: impl Read + Send + 'static,
        length: Option<u64>,
    ) -> Result<Response, VsphereError> {
        let body = match length {
            Some(length) => Body::sized(source, length),
            None => Body::new(source),
        };
        self.send(request.body(body))
    }
}

fn shown(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443))
}

/// The innermost words of an error: the outer ones repeat the address.
fn failed(server: &str, error: &reqwest::Error) -> VsphereError {
    let server = server.to_owned();
    // Not a lost connection, which would be tried again: whoever did not answer in all that time will not the next time either.
    if error.is_timeout() && !error.is_connect() {
        return VsphereError::Silent { server };
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let why = inner.to_string();
    if error.is_connect() {
        return VsphereError::Unreachable { server, why };
    }
    VsphereError::Lost { server, why }
}

/// At most `limit` bytes of an answer.
pub fn read_bounded(response: Response, server: &str, limit: u64) -> Result<Vec<u8>, VsphereError> {
    let mut bytes = Vec::new();
    let lost = |error: std::io::Error| {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        VsphereError::Lost { server: server.to_owned(), why }
    };
    response.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(lost)?;
    if bytes.len() as u64 > limit {
        return Err(VsphereError::Told(format!("the answer of {server} has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// `name=value` of the session's cookie.
fn session_cookie(response: &Response) -> Option<String> {
    let cookies = response.headers().get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.filter_map(|cookie| cookie.split(';').next());
    pairs.find(|pair| pair.split('=').next() == Some(SESSION_COOKIE)).map(|pair| pair.trim().to_owned())
}

impl Transport for Https {
    fn post(&self, body: &str, cookie: Option<&str>, timeout: Duration) -> Result<Reply, VsphereError> {
        let request = self
            .request(Method::POST, self.url.clone(), cookie, timeout)
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", ACTION)
            .body(body.to_owned());
        let response = self.send(request)?;
        let (status, cookie) = (response.status().as_u16(), session_cookie(&response));
        // Faults come with 500; anything else is not the API's.
        if !matches!(status, 200 | 500) {
            let advice = match status {
                404 => "; the url should end in /sdk",
                503 => "; its services are still starting",
                _ => "",
            };
            return Err(VsphereError::Http { what: self.url.to_string(), status, advice });
        }
        Ok(Reply { status, cookie, body: read_bounded(response, &self.server(), DOCUMENT_BYTES_MAX as u64)? })
    }
}
