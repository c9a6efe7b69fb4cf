//! `importfs pancbt`: make, show, verify and apply differential files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use rustix::fs::{FallocateFlags, fallocate};
use serde::Serialize;

use super::{Failure, print, print_json};
use crate::pancbt::{
    Header, PancbtError, Parser, Sink, Summary, Writer, create_from_areas, create_from_images, parse_areas,
};

/// Files are read in pieces of this many bytes.
const READ_LEN: usize = 1 << 20;
/// Longest list of changed areas that is read, in bytes.
const AREAS_BYTES_MAX: u64 = 1 << 30;

/// What to do with differential files.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make one: from two images, or from an image and its list of changed areas.
    Create(Create),
    /// Show what a file says of itself and what it holds.
    Info {
        /// The differential.
        file: PathBuf,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Check every checksum and the end record. Exit code 1: it is damaged.
    Verify {
        /// The differential.
        file: PathBuf,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Merge a file into an image. It is verified first: a damaged file changes nothing.
    Apply {
        /// The differential.
        file: PathBuf,
        /// The flat image that it is merged into.
        #[arg(long, value_name = "IMAGE")]
        to: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["base", "areas"])))]
pub(super) struct Create {
    /// The earlier image.
    #[arg(long, value_name = "IMAGE")]
    base: Option<PathBuf>,
    /// The changed areas: [{"start": …, "length": …}], or what QueryChangedDiskAreas returned, as JSON.
    #[arg(long, value_name = "JSON")]
    areas: Option<PathBuf>,
    /// The later image.
    #[arg(long, value_name = "IMAGE")]
    new: PathBuf,
    /// Where to write; must not exist yet.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The disk's UUID, 32 hexadecimal digits with any separators.
    #[arg(long)]
    disk_uuid: Option<String>,
    /// The change id of the earlier state.
    #[arg(long, default_value = "")]
    base_change_id: String,
    /// The change id of the later state.
    #[arg(long, default_value = "")]
    target_change_id: String,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(&options),
        Command::Info { file, json } => info(&file, json),
        Command::Verify { file, json } => verify(&file, json),
        Command::Apply { file, to } => apply(&file, &to),
    }
}

fn create(options: &Create) -> Result<(), Failure> {
    let new = File::open(&options.new).map_err(|e| Failure::file(&options.new, e))?;
    let disk_size = new.metadata().map_err(|e| Failure::file(&options.new, e))?.len();
    let header = Header {
        disk_size,
        disk_uuid: options.disk_uuid.as_deref().map(parse_uuid).transpose()?,
        base: options.base_change_id.clone(),
        target: options.target_change_id.clone(),
    };
    let output = OpenOptions::new().write(true).create_new(true).open(&options.output);
    let output = output.map_err(|e| Failure::file(&options.output, e))?;
    let made = write_differential(options, &header, &new, &output);
    if made.is_err() {
        // A differential without its end record is of no use to anybody, and its name would be taken.
        let _ = std::fs::remove_file(&options.output);
    }
    let summary = made?;
    println!("{}: {}", options.output.display(), sentence(&summary));
    Ok(())
}

fn write_differential(
    options: &Create,
    header: &Header,
    new: &File,
    output: &File,
) -> Result<Summary, Failure> {
    let failed = |error: io::Error| Failure::file(&options.output, error);
    let writer = Writer::new(BufWriter::with_capacity(READ_LEN, output), header).map_err(failed)?;
    let summary = if let Some(base) = &options.base {
        let base = File::open(base).map_err(|e| Failure::file(base, e))?;
        let (mut base, mut new) =
            (BufReader::with_capacity(READ_LEN, base), BufReader::with_capacity(READ_LEN, new));
        create_from_images(&mut base, &mut new, header.disk_size, writer).map_err(failed)?
    } else {
        let path = options.areas.as_deref().unwrap_or(Path::new(""));
        let mut text = String::new();
        let list = File::open(path).map_err(|e| Failure::file(path, e))?;
        list.take(AREAS_BYTES_MAX).read_to_string(&mut text).map_err(|e| Failure::file(path, e))?;
        let areas = parse_areas(&text).map_err(|e| Failure::file(path, e))?;
        create_from_areas(&areas, new, header.disk_size, writer).map_err(failed)?
    };
    output.sync_all().map_err(failed)?;
    Ok(summary)
}

fn parse_uuid(text: &str) -> Result<[u8; 16], Failure> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !"- :".contains(*c)).map_while(|c| c.to_digit(16)).map(|d| d as u8).collect();
    let separators = text.chars().filter(|c| "- :".contains(*c)).count();
    let mut uuid = [0; 16];
    if digits.len() != 32 || digits.len() + separators != text.chars().count() {
        return Err(Failure::Usage(format!("'{text}' is not a UUID: 32 hexadecimal digits are needed")));
    }
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(uuid)
}

/// Reads a whole file into `sink`; a damaged one is [`Failure::Wrong`].
fn read(path: &Path, sink: &mut dyn Sink) -> Result<(Header, Summary), Failure> {
    let mut file = File::open(path).map_err(|e| Failure::file(path, e))?;
    let wrong = |error: PancbtError| Failure::Wrong(format!("{}: {error}", path.display()));
    let mut parser = Parser::new();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let count = file.read(&mut buffer).map_err(|e| Failure::file(path, e))?;
        if count == 0 {
            break;
        }
        parser.feed(&buffer[..count], sink).map_err(wrong)?;
    }
    let summary = parser.finish().map_err(wrong)?;
    match parser.header() {
        Some(header) => Ok((header.clone(), summary)),
        None => Err(wrong(PancbtError::Truncated { at: parser.position() })),
    }
}

/// For reading without a disk.
struct Discard;

impl Sink for Discard {
    fn header(&mut self, _: &Header) -> Result<(), String> {
        Ok(())
    }
    fn data(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn zero(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// `info --json`.
#[derive(Serialize)]
struct Info<'a> {
    disk_size: u64,
    disk_uuid: Option<String>,
    base_change_id: &'a str,
    target_change_id: &'a str,
    data_records: u64,
    data_bytes: u64,
    zero_records: u64,
    zero_bytes: u64,
}

fn info(path: &Path, json: bool) -> Result<(), Failure> {
    let (header, summary) = read(path, &mut Discard)?;
    let uuid = header.disk_uuid.map(|uuid| uuid::Uuid::from_bytes(uuid).to_string());
    let info = Info {
        disk_size: header.disk_size,
        disk_uuid: uuid,
        base_change_id: &header.base,
        target_change_id: &header.target,
        data_records: summary.data_records,
        data_bytes: summary.data_bytes,
        zero_records: summary.zero_records,
        zero_bytes: summary.zero_bytes,
    };
    if json {
        return print_json(&info);
    }
    let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    println!("disk size:         {} bytes", info.disk_size);
    println!("disk UUID:         {}", known(info.disk_uuid.as_deref().unwrap_or("")));
    println!("base change id:    {}", known(info.base_change_id));
    println!("target change id:  {}", known(info.target_change_id));
    println!("contents:          {}", sentence(&summary));
    Ok(())
}

fn verify(path: &Path, json: bool) -> Result<(), Failure> {
    match read(path, &mut Discard) {
        Ok(_) if json => print_json(&serde_json::json!({ "whole": true, "error": null })),
        Ok(_) => {
            print(&format!("{}: whole, all checksums match\n", path.display()));
            Ok(())
        }
        Err(Failure::Wrong(error)) if json => {
            print_json(&serde_json::json!({ "whole": false, "error": error }))?;
            Err(Failure::Told)
        }
        Err(failure) => Err(failure),
    }
}

fn sentence(summary: &Summary) -> String {
    format!(
        "{} bytes of data in {} records, {} bytes of zeros in {} records",
        summary.data_bytes, summary.data_records, summary.zero_bytes, summary.zero_records
    )
}

/// A flat image.
struct Image {
    file: File,
    size: u64,
}

impl Sink for Image {
    fn header(&mut self, header: &Header) -> Result<(), String> {
        if header.disk_size == self.size {
            return Ok(());
        }
        Err(format!("it belongs to a disk of {} bytes, the image has {}", header.disk_size, self.size))
    }

    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            // A file system without holes, or a device: the zeros are written.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NODEV) => {
                let zeros = vec![0; READ_LEN.min(length as usize)];
                let mut done = 0;
                while done < length {
                    let part = (length - done).min(zeros.len() as u64);
                    self.file.write_all_at(&zeros[..part as usize], offset + done)?;
                    done += part;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn apply(path: &Path, to: &Path) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(to).map_err(|e| Failure::file(to, e))?;
    let size = file.metadata().map_err(|e| Failure::file(to, e))?.len();
    read(path, &mut Discard)?;
    let mut image = Image { file, size };
    let (_, summary) = read(path, &mut image)?;
    image.file.sync_all().map_err(|e| Failure::file(to, e))?;
    let mut out = io::stdout().lock();
    // The merge is done and durable; a closed pipe must not turn it into a failure.
    let _ = writeln!(out, "{}: merged {}", to.display(), sentence(&summary));
    Ok(())
}
