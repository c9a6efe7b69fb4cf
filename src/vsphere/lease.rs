//! HttpNfcLease: the server makes a virtual machine, and its disks are uploaded to it.
//!
//! A lease dies when nothing moves for its timeout, and a server then removes what it made. So a lease is opened when all data is
//! at hand, told its progress every few seconds, and ended explicitly on every way out: [`Lease::complete`], or else it is aborted and
//! the machine removed when it is dropped.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};

use super::client::Client;
use super::error::{Fault, VsphereError};
use super::http::{Https, read_bounded};
use super::spec::Spec;
use super::tls::{Thumbprint, Trust};
use super::xml::Element;
use super::{Ref, soap};

/// Until a lease is ready: the server makes the disks meanwhile, thick ones for minutes.
pub const READY_TIMEOUT: Duration = Duration::from_mins(30);
/// How often progress is told. Servers give up after 300 seconds without; a few lost messages must not matter.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// After so long without a byte that moves, an upload is given up: the lease would be dead soon.
const STALL_MAX: Duration = Duration::from_mins(4);
/// The bound of one upload: its bytes at this rate, and an hour.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
const UPLOAD_TIMEOUT_LEAST: Duration = Duration::from_hours(1);
/// Until a machine that a failed lease left is gone.
const DESTROY_TIMEOUT: Duration = Duration::from_mins(5);
/// Bytes of an answer to an upload.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where one disk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The end of its import key: `ParaVirtualSCSIController0:1`.
    pub address: String,
    /// Its address, `*` for the server's own host.
    url: String,
    /// Digest of the certificate of the host there, where it is another.
    thumbprint: String,
    disk: bool,
}

/// Bytes that moved, and what of them the server was told.
#[derive(Debug, Default)]
struct Meter {
    total: AtomicU64,
    moved: AtomicU64,
    broken: AtomicBool,
}

impl Meter {
    fn percent(&self) -> u64 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        // 100 would say that it is over.
        (self.moved.load(Ordering::Relaxed).saturating_mul(100) / total).min(99)
    }
}

/// A lease that is ready.
pub struct Lease<'c> {
    client: &'c Client,
    reference: Ref,
    /// The virtual machine.
    pub entity: Ref,
    /// Where its files go.
    pub devices: Vec<Device>,
    meter: Arc<Meter>,
    keeper: Option<Keeper>,
    ended: bool,
}

impl<'c> Lease<'c> {
    /// Opens a lease for a machine of that spec, and waits until it is ready.
    pub fn open(
        client: &'c Arc<Client>,
        pool: &Ref,
        folder: &Ref,
        host: Option<&Ref>,
        spec: &Spec,
        what: &str,
    ) -> Result<Self, VsphereError> {
        let made = client.call("ImportVApp", pool, |w| {
            w.typed("spec", "VirtualMachineImportSpec", |w| {
                w.element("configSpec", |w| {
                    w.raw(&spec.body);
                });
            });
            w.reference("folder", folder);
            if let Some(host) = host {
                w.reference("host", host);
            }
        });
        let made = made.map_err(|error| error.about(what))?;
        let reference = soap::returned_reference("ImportVApp", &made)?;
        let info = client.watch(&reference, &["state", "error", "info"], READY_TIMEOUT, what, |known| {
            match known.get("state").map(|state| state.text.trim()) {
                Some("ready") => Ok(known.get("info").cloned()),
                Some("error") => Err(VsphereError::Fault(known.get("error").map_or_else(
                    || Fault {
                        kind: String::new(),
                        message: "the lease failed".into(),
                        detail: Box::default(),
                    },
                    Fault::of_localized,
                ))),
                _ => Ok(None),
            }
        });
        let read = info.map_err(|error| error.about(what)).and_then(|info| read_info(&info));
        match read {
            Ok((entity, devices)) => {
                let meter = Arc::new(Meter::default());
                let keeper = Keeper::start(client, &reference, &meter);
                Ok(Self { client, reference, entity, devices, meter, keeper: Some(keeper), ended: false })
            }
            Err(error) => {
                abort(client, &reference);
                Err(error)
            }
        }
    }

    /// The device of a disk at that address. Never a guess: only where there is one disk alone, its address may differ.
    pub fn device(&self, address: &str) -> Result<&Device, VsphereError> {
        let disks: Vec<_> = self.devices.iter().filter(|device| device.disk).collect();
        let found = disks.iter().find(|device| device.address == address);
        match (found, disks.as_slice()) {
            (Some(device), _) => Ok(device),
            (None, [only]) => Ok(only),
            _ => {
                let there: Vec<_> = disks.iter().map(|device| device.address.as_str()).collect();
                Err(VsphereError::Told(format!(
                    "the hypervisor's lease has no place for the disk at {address}, only for {}",
                    there.join(", ")
                )))
            }
        }
    }

    /// Says how many bytes all uploads will have in all, for progress.
    pub fn expect(&self, bytes: u64) {
        self.meter.total.store(bytes, Ordering::Relaxed);
    }

    /// Uploads a streamOptimized VMDK of about `expected` bytes to a device; `exact` where that is its very length.
    pub fn upload(
        &self,
        device: &Device,
        source: impl Read + Send + 'static,
        expected: u64,
        exact: bool,
        what: &str,
    ) -> Result<(), VsphereError> {
        let own = self.client.https()?;
        let url = device.url.replacen("://*", &format!("://{}", own.authority()), 1);
        let url = Url::parse(&url).map_err(|error| VsphereError::Told(format!("{what}: {url}: {error}")))?;
        let other;
        let https = if url.host_str() == Some(own.host()) || device.thumbprint.is_empty() {
            own
        } else {
            // The host is another than the server; its digest came from the server, over a connection that is trusted.
            let thumbprint = Thumbprint::parse(&device.thumbprint).map_err(VsphereError::Told)?;
            other = Https::new(url.as_str(), &Trust::Thumbprint(thumbprint))?;
            &other
        };
        let limit = UPLOAD_TIMEOUT_LEAST + Duration::from_secs(expected / BYTES_PER_SECOND_MIN);
        let request = https
            .request(Method::POST, url, None, limit)
            .header(CONTENT_TYPE, "application/x-vnd.vmware-streamVmdk")
            .header("Overwrite", "t");
        let metered = Metered { source, meter: Arc::clone(&self.meter) };
        let answer = https.upload(request, metered, exact.then_some(expected))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = read_bounded(answer, &https.server(), ANSWER_BYTES_MAX).unwrap_or_default();
        tracing::warn!("{what}: {status}: {}", String::from_utf8_lossy(&said));
        let advice = match status.as_u16() {
            404 => "; the lease has ended, look at the hypervisor's events",
            507 => "; its datastore is full",
            _ => "",
        };
        Err(VsphereError::Http { what: what.to_owned(), status: status.as_u16(), advice })
    }

    /// All is uploaded: the machine is the inventory's from now on.
    pub fn complete(mut self, what: &str) -> Result<Ref, VsphereError> {
        drop(self.keeper.take());
        self.client.call("HttpNfcLeaseProgress", &self.reference, |w| {
            w.value("percent", 100);
        })?;
        let done = self.client.call("HttpNfcLeaseComplete", &self.reference, |_| {});
        done.map_err(|error| error.about(what))?;
        self.ended = true;
        Ok(self.entity.clone())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        drop(self.keeper.take());
        if self.ended {
            return;
        }
        abort(self.client, &self.reference);
        // A server removes the machine with the lease; where it did not, nobody else will.
        if self.client.properties_of(&self.entity, &["name"]).is_err() {
            return;
        }
        let what = "the half-made virtual machine can't be removed";
        if let Err(error) = self.client.run_task("Destroy_Task", &self.entity, DESTROY_TIMEOUT, what, |_| {})
            && error.kind() != "ManagedObjectNotFound"
        {
            tracing::error!("{error}");
        }
    }
}

fn abort(client: &Client, lease: &Ref) {
    match client.call("HttpNfcLeaseAbort", lease, |_| {}) {
        Err(error) if error.kind() != "ManagedObjectNotFound" => {
            tracing::warn!("a lease can't be aborted, it ends by itself: {error}");
        }
        _ => {}
    }
}

fn read_info(info: &Element) -> Result<(Ref, Vec<Device>), VsphereError> {
    let wrong = |why: &str| VsphereError::Answer { method: "ImportVApp".into(), why: why.into() };
    let entity =
        info.child("entity").and_then(soap::reference).ok_or_else(|| wrong("the lease names no machine"))?;
    let device = |device: &Element| Device {
        address: device.text_at(&["importKey"]).rsplit('/').next().unwrap_or_default().to_owned(),
        url: device.text_at(&["url"]).to_owned(),
        thumbprint: device.text_at(&["sslThumbprint"]).to_owned(),
        disk: device.flag_at(&["disk"]),
    };
    Ok((entity, info.all("deviceUrl").map(device).collect()))
}

/// Counts what is read, and ends the upload when the lease is dead.
struct Metered<R> {
    source: R,
    meter: Arc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.meter.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("the lease has ended"));
        }
        let read = self.source.read(buffer)?;
        self.meter.moved.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A thread that tells the server how far it is.
struct Keeper {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(client: &Arc<Client>, lease: &Ref, meter: &Arc<Meter>) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (client, lease, meter, stopped) =
            (Arc::clone(client), lease.clone(), Arc::clone(meter), Arc::clone(&stop));
        let run = move || {
            let (flag, changed) = &*stopped;
            let mut last = (Instant::now(), meter.moved.load(Ordering::Relaxed));
            loop {
                let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = changed.wait_timeout_while(guard, PROGRESS_INTERVAL, |stop| !*stop);
                let (stop, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if *stop {
                    return;
                }
                drop(stop);
                let moved = meter.moved.load(Ordering::Relaxed);
                if moved != last.1 {
                    last = (Instant::now(), moved);
                } else if last.0.elapsed() > STALL_MAX {
                    tracing::error!(
                        "nothing was uploaded for {} seconds, the lease is given up",
                        STALL_MAX.as_secs()
                    );
                    meter.broken.store(true, Ordering::Relaxed);
                    return;
                }
                let told = client.call("HttpNfcLeaseProgress", &lease, |w| {
                    w.value("percent", meter.percent());
                });
                if let Err(error) = told {
                    tracing::warn!("a lease's progress was not taken: {error}");
                    if !error.is_transient() {
                        meter.broken.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(run);
        Self { stop, thread: thread.map_err(|error| tracing::error!("no thread for a lease: {error}")).ok() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let (flag, changed) = &*self.stop;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to tell
        }
    }
}

#[cfg(test)]
mod tests;
