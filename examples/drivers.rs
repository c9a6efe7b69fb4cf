//! Drives one datastore driver from an image file: what `interop/check_drivers.py` judges and `benches/drivers.py` times.
//!
//!     drivers stream-optimized IMAGE OUT.vmdk [LEVEL [THREADS]]
//!     drivers nbd IMAGE URI [CONNECTIONS [RETRY_SECONDS]]
//!     drivers directory IMAGE OUT-flat.vmdk
//!     drivers device IMAGE DEVICE               (hotadd's write path; the device reads as zeros and has the image's size)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use importfs::datastore::nbd::{ClientOptions, NbdOptions};
use importfs::datastore::stream_optimized::{Description, Options, StreamOptimized};
use importfs::datastore::{
    Datastore, DirectoryDatastore, Disk, DiskSpec, NbdDatastore, Provisioning, block_device,
};
use importfs::disk::{self, Completion, ImportDisk};
use rustix::fs::SeekFrom;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["stream-optimized", image, output, options @ ..] => stream_optimized(image, output, options),
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
    allocated: Vec<Range<u64>>,
}

/// The image as a disk, and the ranges of it that its file system has data for.
fn open(image: &str) -> io::Result<Image> {
    let path = Path::new(image);
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| invalid("no file name"))?;
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut allocated = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(position)) {
            Err(rustix::io::Errno::NXIO) => break,
            other => other?,
        };
        position = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        allocated.push(start..position);
    }
    let spec = DiskSpec {
        directory: String::new(),
        extent: name.to_owned(),
        descriptor: String::new(),
        size,
        provisioning: Provisioning::Thin,
    };
    let disk = DirectoryDatastore::open(directory)?.open_disk(&spec)?;
    Ok(Image { disk: Arc::from(disk), allocated })
}

fn stream_optimized(image: &str, output: &str, rest: &[&str]) -> io::Result<()> {
    let mut options = Options::default();
    if let Some(level) = rest.first() {
        options.level = level.parse().map_err(|_| invalid("LEVEL is a number"))?;
    }
    if let Some(threads) = rest.get(1) {
        options.threads = threads.parse().map_err(|_| invalid("THREADS is a number"))?;
    }
    let Image { disk, allocated } = open(image)?;
    let description = Description {
        file: output.to_owned(),
        adapter: "lsilogic".to_owned(),
        geometry: ((disk.size() / 512 / (255 * 63)).max(1), 255, 63),
        uuid: None,
        hardware_version: 13,
    };
    let mut stream = StreamOptimized::new(&disk, &allocated, description, &options)?;
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
        },
        fresh_reads_zero: false,
    };
    let files = Arc::new(DirectoryDatastore::open(Path::new("/"))?);
    let store = NbdDatastore::new("datastore1", options, files).map_err(|why| invalid(&why))?;
    restore(image, &store, "x-flat.vmdk", REMOTE)
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
    };
    let made = store.create_disk(&spec)?;
    let fresh_reads_zero = store.capabilities().fresh_reads_zero || made.fresh_reads_zero();
    write(&image, made, fresh_reads_zero, load)
}

/// Writes an image through everything between a client and the driver: zero skipping, extent maps, ordering.
fn write(image: &Image, made: Box<dyn Disk>, fresh_reads_zero: bool, load: Load) -> io::Result<()> {
    let Load { writers, piece } = load;
    let Image { disk: source, allocated } = image;
    let disk = ImportDisk::new(made, disk::Options { fresh_reads_zero, ..disk::Options::default() });
    let failed = |error: disk::DiskError| io::Error::other(error.to_string());
    disk.set_size(source.size()).map_err(failed)?;
    let pieces: Vec<Range<u64>> = allocated
        .iter()
        .flat_map(|range| range.clone().step_by(piece as usize).map(|at| at..(at + piece).min(range.end)))
        .collect();
    std::thread::scope(|scope| {
        let writer = |number: u64| {
            let (pieces, source, disk) = (&pieces, &source, &disk);
            scope.spawn(move || -> io::Result<()> {
                let mut buffer = vec![0; piece as usize];
                for piece in pieces.iter().skip(number as usize).step_by(writers as usize) {
                    let part = &mut buffer[..(piece.end - piece.start) as usize];
                    source.read_at(part, piece.start)?;
                    disk.write_at(part, piece.start).map_err(|error| io::Error::other(error.to_string()))?;
                }
                Ok(())
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
