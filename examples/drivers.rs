//! Drives one datastore driver from an image file: what `interop/check_drivers.py` judges and `benches/drivers.py` times.
//!
//!     drivers stream-optimized IMAGE OUT.vmdk [LEVEL [THREADS]]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use importfs::datastore::stream_optimized::{Description, Options, StreamOptimized};
use importfs::datastore::{Datastore, DirectoryDatastore, Disk, DiskSpec, Provisioning};
use rustix::fs::SeekFrom;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["stream-optimized", image, output, options @ ..] => stream_optimized(image, output, options),
        _ => Err(invalid("usage: drivers stream-optimized IMAGE OUT.vmdk [LEVEL [THREADS]]")),
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
