//! HttpNfcLease: the server makes a virtual machine, and its disks are uploaded to it.
//!
//! A lease dies when nothing moves for its timeout, and a server then removes what it made. So a lease is opened when all data is
//! at hand, told its progress every few seconds, and ended explicitly on every way out: [`Lease::complete`], or else it is aborted
//! when it is dropped. What may be left of the machine then is [`super::trace`]'s business.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use super::client::Client;
use super::error::{Fault, VsphereError};
use super::keeper::Keeper;
use super::spec::Spec;
use super::upload::{self, Answer};
use super::xml::Element;
use super::{Ref, soap};
use crate::tls::{Thumbprint, Trust};

/// Until a lease is ready: the server makes the disks meanwhile, thick ones for minutes.
pub const READY_TIMEOUT: Duration = Duration::from_mins(30);
/// How often progress is told. Servers give up after 300 seconds without; a few lost messages must not matter.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// After so long without a byte that moves, an upload is given up: the lease would be dead soon.
const STALL_MAX: Duration = Duration::from_mins(4);
/// The bound of one upload: its bytes at this rate, and an hour.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
const UPLOAD_TIMEOUT_LEAST: Duration = Duration::from_hours(1);

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

/// How far the uploads of a lease are.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of all disks, and of those how many are on their way: for the percentage that people see.
    total: AtomicU64,
    done: AtomicU64,
    /// Bytes that moved: whether anything does.
    moved: AtomicU64,
    /// Why nothing more is to be sent.
    broken: Mutex<Option<String>>,
    /// Why what was to be sent can't be read.
    unreadable: Mutex<Option<String>>,
}

impl Meter {
    /// Bytes that all uploads are of, as the disks have them.
    pub fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// How many of those are done.
    pub fn reach(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    fn percent(&self) -> u64 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        // 100 would say that it is over.
        (self.done.load(Ordering::Relaxed).saturating_mul(100) / total).min(99)
    }

    fn fail(&self, why: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a lease's machine is made.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// Its resource pool.
    pub pool: &'a Ref,
    /// Its folder.
    pub folder: &'a Ref,
    /// Its host, where the server does not choose.
    pub host: Option<&'a Ref>,
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
    /// Opens a lease for a machine of that spec, and waits until it is ready, or not `wanted`. `made` is told the lease as soon as
    /// there is one; where it fails, or anything after it, the lease is aborted.
    pub fn open(
        client: &'c Arc<Client>,
        home: Home<'_>,
        spec: &Spec,
        what: &str,
        wanted: &dyn Fn() -> bool,
        made: impl FnOnce(&Ref) -> Result<(), VsphereError>,
    ) -> Result<Self, VsphereError> {
        let answer = client.call("ImportVApp", home.pool, |w| {
            w.typed("spec", "VirtualMachineImportSpec", |w| {
                w.element("configSpec", |w| {
                    w.raw(&spec.body);
                });
            });
            w.reference("folder", home.folder);
            if let Some(host) = home.host {
                w.reference("host", host);
            }
        });
        let answer = answer.map_err(|error| error.about(what))?;
        let reference = soap::returned_reference("ImportVApp", &answer)?;
        let ready = made(&reference).and_then(|()| ready(client, &reference, what, wanted));
        match ready {
            Ok((entity, devices)) => {
                let meter = Arc::new(Meter::default());
                let keeper = keeper(client, &reference, &meter);
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

    /// How far the uploads are, for who makes what is uploaded.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Uploads a streamOptimized VMDK to a device, for as long as it is `wanted`. `bytes` bounds the time that it may take.
    pub fn upload(
        &self,
        device: &Device,
        source: &mut dyn Read,
        bytes: u64,
        what: &str,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), VsphereError> {
        let own = self.client.https()?;
        let url = device.url.replacen("://*", &format!("://{}", own.authority()), 1);
        let url = Url::parse(&url).map_err(|error| VsphereError::Told(format!("{what}: {url}: {error}")))?;
        let tls = if url.host_str() == Some(own.host()) || device.thumbprint.is_empty() {
            Arc::clone(own.tls())
        } else {
            // The host is another than the server; its digest came from the server, over a connection that is trusted.
            let thumbprint = Thumbprint::parse(&device.thumbprint).map_err(VsphereError::Told)?;
            let config = Trust::Thumbprint(thumbprint).client_config();
            Arc::new(config.map_err(|error| VsphereError::Told(format!("{what}: {error}")))?)
        };
        let deadline =
            Instant::now() + UPLOAD_TIMEOUT_LEAST + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let goes_on = || match self.meter.broken() {
            _ if !wanted() => Err(VsphereError::Unwanted),
            Some(why) => Err(VsphereError::Ended { what: what.to_owned(), why }),
            None if Instant::now() > deadline => {
                Err(VsphereError::Ended { what: what.to_owned(), why: "it takes too long".into() })
            }
            None => Ok(()),
        };
        let sent = upload::post(&url, &tls, &mut Metered { source, meter: &self.meter }, &goes_on);
        self.judge(sent, what)
    }

    /// What an upload came to. Why it broke off here says more than that its connection did.
    fn judge(&self, sent: Result<Answer, VsphereError>, what: &str) -> Result<(), VsphereError> {
        if let Some(why) = self.meter.unreadable.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(VsphereError::Told(format!("{what}: the staged disk can't be read: {why}")));
        }
        let answer = sent?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        tracing::warn!("{what}: {}: {}", answer.status, answer.text);
        match answer.status {
            404 => Err(VsphereError::Ended {
                what: what.to_owned(),
                why: "the lease has ended, look at the hypervisor's events".into(),
            }),
            status => {
                let advice = if status == 507 { "; its datastore is full" } else { "" };
                Err(VsphereError::Http { what: what.to_owned(), status, advice })
            }
        }
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
        if !self.ended {
            abort(self.client, &self.reference);
        }
    }
}

/// Ends a lease; one that has ended is fine.
pub(super) fn abort(client: &Client, lease: &Ref) {
    match client.call("HttpNfcLeaseAbort", lease, |_| {}) {
        Err(error) if error.kind() != "ManagedObjectNotFound" => {
            tracing::warn!("a lease can't be aborted, it ends by itself: {error}");
        }
        _ => {}
    }
}

/// Waits until a lease is ready: its machine, and where that one's disks go.
fn ready(
    client: &Client,
    lease: &Ref,
    what: &str,
    wanted: &dyn Fn() -> bool,
) -> Result<(Ref, Vec<Device>), VsphereError> {
    let paths = ["state", "error", "info"];
    let info = client.watch_while(lease, &paths, (READY_TIMEOUT, Some(wanted)), what, |known| {
        match known.get("state").map(|state| state.text.trim()) {
            Some("ready") => Ok(known.get("info").cloned()),
            Some("error") => Err(VsphereError::Fault(known.get("error").map_or_else(
                || Fault { kind: String::new(), message: "the lease failed".into(), detail: Box::default() },
                Fault::of_localized,
            ))),
            _ => Ok(None),
        }
    });
    read_info(&info.map_err(|error| error.about(what))?)
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
struct Metered<'a> {
    source: &'a mut dyn Read,
    meter: &'a Meter,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(why) = self.meter.broken() {
            return Err(io::Error::other(why));
        }
        let read = self.source.read(buffer).inspect_err(|error| {
            let mut told = self.meter.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
            told.get_or_insert(error.to_string());
        })?;
        self.meter.moved.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Tells the server how far the uploads are, and sees whether they are.
fn keeper(client: &Arc<Client>, lease: &Ref, meter: &Arc<Meter>) -> Keeper {
    let (client, lease, meter) = (Arc::clone(client), lease.clone(), Arc::clone(meter));
    let mut last = (Instant::now(), meter.moved.load(Ordering::Relaxed));
    Keeper::start("lease", PROGRESS_INTERVAL, move || {
        let moved = meter.moved.load(Ordering::Relaxed);
        if moved != last.1 {
            last = (Instant::now(), moved);
        } else if last.0.elapsed() > STALL_MAX {
            meter.fail(format!("nothing was taken for {} seconds", STALL_MAX.as_secs()));
            return ControlFlow::Break(());
        }
        let told = client.call("HttpNfcLeaseProgress", &lease, |w| {
            w.value("percent", meter.percent());
        });
        match told {
            Err(error) if !error.is_transient() => {
                meter.fail(format!("the lease has ended: {error}"));
                return ControlFlow::Break(());
            }
            Err(error) => tracing::warn!("a lease's progress was not taken: {error}"),
            Ok(_) => {}
        }
        ControlFlow::Continue(())
    })
}

#[cfg(test)]
mod tests;
