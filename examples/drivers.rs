//! Drives one datastore driver from an image file: what `interop/check_drivers.py` judges and `benches/drivers.py` times.
//!
//!     drivers stream-optimized IMAGE OUT.vmdk [LEVEL [THREADS]]
//!     drivers upload FILE URL THUMBPRINT        (a file, as nfc sends a disk)
//!     drivers nfc IMAGE URL THUMBPRINT [LEVEL [THREADS]]      (made while it is sent)
//!     drivers nbd IMAGE URI [CONNECTIONS [RETRY_SECONDS [THUMBPRINT]]]
//!     drivers directory IMAGE OUT-flat.vmdk
//!     drivers device IMAGE DEVICE               (hotadd's write path; the device reads as zeros and has the image's size)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use importfs::datastore::nbd::{ClientOptions, NbdOptions, Tls};
use importfs::datastore::stream_optimized::{Description, Options, StreamOptimized};
use importfs::datastore::{
    Adapter, Datastore, DirectoryDatastore, Disk, DiskSpec, NbdDatastore, Provisioning, block_device,
};
use importfs::disk::{self, Completion, ImportDisk};
use importfs::tls::{Thumbprint, Trust};
use importfs::vsphere::upload::post;
use rustix::fs::SeekFrom;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["stream-optimized", image, output, options @ ..] => stream_optimized(image, output, options),
        ["upload", file, url, thumbprint] => upload(&mut File::open(file)?, url, thumbprint),
        ["nfc", image, url, thumbprint, options @ ..] => {
            upload(&mut stream(image, "x", options)?, url, thumbprint)
        }
        ["nbd", image, uri, options @ ..] => nbd(image, uri, options),
        ["directory", image, output] => directory(image, output),
        ["device", image, path] => device(image, path),
        _ => Err(invalid("usage: see the first lines of examples/drivers.rs")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// An image file.
struct Image {
    disk: Arc<dyn Disk>,
    file: File,
}

/// What is asked at a time of where the image has data: file systems that scan for the next hole would scan to the end.
const GRAIN: u64 = 64 << 10;

impl Image {
    /// The ranges within `range` that its file system has data for, looked up by grain.
    fn data(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Err(rustix::io::Errno::NXIO) => break,
                other => other?,
            };
            if start >= range.end {
                break;
            }
            at = ((start / GRAIN + 1) * GRAIN).min(range.end);
            match found.last_mut() {
                Some(last) if last.end == start => last.end = at,
                _ => found.push(start..at),
            }
        }
        Ok(found)
    }
}

/// The image as a disk.
fn open(image: &str) -> io::Result<Image> {
    let path = Path::new(image);
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| invalid("no file name"))?;
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let spec = DiskSpec {
        directory: String::new(),
        extent: name.to_owned(),
        descriptor: String::new(),
        size,
        provisioning: Provisioning::Thin,
        adapter: Adapter::default(),
        machine: None,
    };
    let disk = DirectoryDatastore::open(directory)?.open_disk(&spec)?;
    Ok(Image { disk: Arc::from(disk), file })
}

fn upload(source: &mut dyn io::Read, url: &str, thumbprint: &str) -> io::Result<()> {
    let url = reqwest::Url::parse(url).map_err(io::Error::other)?;
    let trust = Trust::Thumbprint(Thumbprint::parse(thumbprint).map_err(io::Error::other)?);
    let tls = Arc::new(trust.client_config().map_err(io::Error::other)?);
    let answer = post(&url, &tls, source, &|| Ok(())).map_err(io::Error::other)?;
    let refused = || io::Error::other(format!("the server answered {}: {}", answer.status, answer.text));
    if (200..300).contains(&answer.status) { Ok(()) } else { Err(refused()) }
}

fn stream(image: &str, output: &str, rest: &[&str]) -> io::Result<StreamOptimized> {
    let mut options = Options::default();
    if let Some(level) = rest.first() {
        options.level = level.parse().map_err(|_| invalid("LEVEL is a number"))?;
    }
    if let Some(threads) = rest.get(1) {
        options.threads = threads.parse().map_err(|_| invalid("THREADS is a number"))?;
    }
    let image = open(image)?;
    let allocated = image.data(0..image.disk.size())?;
    let disk = image.disk;
    let description = Description {
        file: output.to_owned(),
        adapter: "lsilogic".to_owned(),
        geometry: ((disk.size() / 512 / (255 * 63)).max(1), 255, 63),
        uuid: None,
        hardware_version: 13,
    };
    StreamOptimized::new(&disk, &allocated, description, &options)
}

fn stream_optimized(image: &str, output: &str, rest: &[&str]) -> io::Result<()> {
    let mut stream = stream(image, output, rest)?;
    let mut file = File::create(output)?;
    // Pieces of the stream are a megabyte or so; io::copy's own buffer would cut them small.
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut stream, &mut buffer)? {
            0 => return Ok(()),
            length => io::Write::write_all(&mut file, &buffer[..length])?,
        }
    }
}

/// Threads that write, and bytes of each write.
#[derive(Clone, Copy)]
struct Load {
    writers: u64,
    piece: u64,
}

/// Over a network many large writes are under way at once; into memory, more than processors and their caches hold only wait.
const REMOTE: Load = Load { writers: 4, piece: 1 << 20 };
const LOCAL: Load = Load { writers: 2, piece: 256 << 10 };

fn nbd(image: &str, uri: &str, rest: &[&str]) -> io::Result<()> {
    let number = |at: usize, default: u64| match rest.get(at) {
        Some(text) => text.parse().map_err(|_| invalid("a number is expected")),
        None => Ok(default),
    };
    let options = NbdOptions {
        template: uri.to_owned(),
        client: ClientOptions {
            connections: number(0, 4)? as usize,
            retry: Duration::from_secs(number(1, 300)?),
            tls: rest.get(2).map(|text| pinned(text)).transpose()?,
        },
        fresh_reads_zero: false,
        existing_disks: false,
    };
    let files = Arc::new(DirectoryDatastore::open(Path::new("/"))?);
    let store = NbdDatastore::new("datastore1", options, files).map_err(|why| invalid(&why))?;
    restore(image, &store, "x-flat.vmdk", REMOTE)
}

fn pinned(thumbprint: &str) -> io::Result<Tls> {
    let trust = Trust::Thumbprint(Thumbprint::parse(thumbprint).map_err(|why| invalid(&why))?);
    Ok(Tls { config: Arc::new(trust.client_config().map_err(io::Error::other)?), name: None })
}

fn directory(image: &str, output: &str) -> io::Result<()> {
    let path = Path::new(output);
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| invalid("no file name"))?;
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    restore(image, &DirectoryDatastore::open(directory)?, name, LOCAL)
}

fn device(image: &str, path: &str) -> io::Result<()> {
    let image = open(image)?;
    let made = block_device::open(Path::new(path), image.disk.size(), Provisioning::Thin, true)?;
    write(&image, made, true, REMOTE)
}

fn restore(image: &str, store: &dyn Datastore, extent: &str, load: Load) -> io::Result<()> {
    let image = open(image)?;
    let spec = DiskSpec {
        directory: String::new(),
        extent: extent.to_owned(),
        descriptor: String::new(),
        size: image.disk.size(),
        provisioning: Provisioning::Thin,
        adapter: Adapter::default(),
        machine: None,
    };
    let made = store.create_disk(&spec)?;
    let fresh_reads_zero = store.capabilities().fresh_reads_zero || made.fresh_reads_zero();
    write(&image, made, fresh_reads_zero, load)
}

/// Writes an image through everything between a client and the driver: zero skipping, extent maps, ordering.
fn write(image: &Image, made: Box<dyn Disk>, fresh_reads_zero: bool, load: Load) -> io::Result<()> {
    let Load { writers, piece } = load;
    let source = &image.disk;
    let disk = ImportDisk::new(made, disk::Options { fresh_reads_zero, ..disk::Options::default() });
    let failed = |error: disk::DiskError| io::Error::other(error.to_string());
    disk.set_size(source.size()).map_err(failed)?;
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = |_| {
            scope.spawn(|| -> io::Result<()> {
                let mut buffer = vec![0; piece as usize];
                loop {
                    let start = next.fetch_add(piece, Ordering::Relaxed);
                    if start >= source.size() {
                        return Ok(());
                    }
                    for range in image.data(start..(start + piece).min(source.size()))? {
                        let part = &mut buffer[..(range.end - range.start) as usize];
                        source.read_at(part, range.start)?;
                        disk.write_at(part, range.start).map_err(failed)?;
                    }
                }
            })
        };
        let writers: Vec<_> = (0..writers).map(writer).collect();
        writers.into_iter().try_for_each(|w| w.join().map_err(|_| io::Error::other("a writer panicked"))?)
    })?;
    match disk.close().map_err(failed)? {
        Completion::Complete => Ok(()),
        Completion::Incomplete { missing, .. } => {
            Err(io::Error::other(format!("{missing} bytes are missing")))
        }
    }
}
