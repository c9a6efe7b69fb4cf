//! Making differentials: from two images, or from an image and its list of changed areas.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::{PAYLOAD_MAX, SECTOR, Summary, Writer};

/// Images are compared in pieces of this many bytes: VMware tracks changes in blocks of 64 KiB and more.
const BLOCK: usize = 64 << 10;
/// Most areas in a list: one for every second block of the largest disk would be more than vSphere ever reports.
const AREAS_MAX: usize = 16 << 20;

/// A changed area, as VMware's QueryChangedDiskAreas returns it. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// Either a bare list, or the whole DiskChangeInfo.
#[derive(Deserialize)]
#[serde(untagged)]
enum AreasFile {
    List(Vec<Area>),
    #[serde(rename_all = "camelCase")]
    DiskChangeInfo {
        changed_area: Vec<Area>,
    },
}

/// Reads `[{"start": …, "length": …}]`, or an object with such a list as `changedArea`.
pub fn parse_areas(json: &str) -> Result<Vec<Area>, String> {
    let (AreasFile::List(areas) | AreasFile::DiskChangeInfo { changed_area: areas }) =
        serde_json::from_str(json).map_err(|error| {
            format!("not a list of areas, [{{\"start\": …, \"length\": …}}], nor a DiskChangeInfo: {error}")
        })?;
    if areas.len() > AREAS_MAX {
        return Err(format!("{} areas are more than {AREAS_MAX}", areas.len()));
    }
    Ok(areas)
}

/// Gathers neighbouring blocks into records as long as the format allows.
struct Gather<W: Write> {
    writer: Writer<W>,
    data: Vec<u8>,
    data_at: u64,
    zeros: u64,
    zeros_at: u64,
}

impl<W: Write> Gather<W> {
    fn new(writer: Writer<W>) -> Self {
        Self { writer, data: Vec::with_capacity(PAYLOAD_MAX as usize), data_at: 0, zeros: 0, zeros_at: 0 }
    }

    fn push(&mut self, offset: u64, block: &[u8]) -> io::Result<()> {
        if block.iter().all(|&byte| byte == 0) {
            self.flush_data()?;
            if self.zeros_at + self.zeros != offset {
                self.flush_zeros()?;
            }
            if self.zeros == 0 {
                self.zeros_at = offset;
            }
            self.zeros += block.len() as u64;
            return Ok(());
        }
        self.flush_zeros()?;
        let contiguous = self.data_at + self.data.len() as u64 == offset;
        if !contiguous || self.data.len() + block.len() > PAYLOAD_MAX as usize {
            self.flush_data()?;
        }
        if self.data.is_empty() {
            self.data_at = offset;
        }
        self.data.extend_from_slice(block);
        Ok(())
    }

    fn flush_data(&mut self) -> io::Result<()> {
        if !self.data.is_empty() {
            self.writer.data(self.data_at, &self.data)?;
            self.data.clear();
        }
        Ok(())
    }

    fn flush_zeros(&mut self) -> io::Result<()> {
        if self.zeros > 0 {
            self.writer.zero(self.zeros_at, std::mem::take(&mut self.zeros))?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Summary> {
        self.flush_data()?;
        self.flush_zeros()?;
        self.writer.finish().map(|(_, summary)| summary)
    }
}

/// Compares `base` and `new` front to back and writes what differs. `new` has the writer's disk size; a shorter `base`
/// counts as zeros from its end on.
pub fn create_from_images(
    base: &mut dyn Read,
    new: &mut dyn Read,
    disk_size: u64,
    writer: Writer<impl Write>,
) -> io::Result<Summary> {
    let mut gather = Gather::new(writer);
    let (mut old_block, mut new_block) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut offset = 0;
    while offset < disk_size {
        let length = (disk_size - offset).min(BLOCK as u64) as usize;
        new.read_exact(&mut new_block[..length])?;
        let had = read_up_to(base, &mut old_block[..length])?;
        old_block[had..length].fill(0);
        if old_block[..length] != new_block[..length] {
            gather.push(offset, &new_block[..length])?;
        }
        offset += length as u64;
    }
    gather.finish()
}

fn read_up_to(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut had = 0;
    while had < buffer.len() {
        match from.read(&mut buffer[had..]) {
            Ok(0) => break,
            Ok(count) => had += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(had)
}

/// Writes the contents of `areas` in `image`. Areas are widened to whole sectors.
pub fn create_from_areas(
    areas: &[Area],
    image: &impl FileExt,
    disk_size: u64,
    writer: Writer<impl Write>,
) -> io::Result<Summary> {
    let mut gather = Gather::new(writer);
    let mut block = vec![0; BLOCK];
    for area in areas {
        let end = area.start.checked_add(area.length).filter(|&end| end <= disk_size).ok_or_else(|| {
            let what = format!(
                "area {}+{} lies past the end of the disk ({disk_size} bytes)",
                area.start, area.length
            );
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })?;
        let end = end.next_multiple_of(SECTOR).min(disk_size);
        let mut offset = area.start / SECTOR * SECTOR;
        while offset < end {
            // Blocks end at multiples of BLOCK, so that zeros are found on the same borders whatever the areas.
            let to = (offset / BLOCK as u64 + 1) * BLOCK as u64;
            let length = (to.min(end) - offset) as usize;
            image.read_exact_at(&mut block[..length], offset)?;
            gather.push(offset, &block[..length])?;
            offset += length as u64;
        }
    }
    gather.finish()
}
