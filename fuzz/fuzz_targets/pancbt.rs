//! Differentials: arbitrary bytes, then the same with their checksums mended, through the parser front to back and through
//! the merger in pieces out of order. Both must do the same to the disk.
#![no_main]

use std::io;

use importfs::pancbt::{Header, Merger, Parser, Sink};
use libfuzzer_sys::fuzz_target;

const HEADER: usize = 256;
const RECORD: usize = 40;
/// The disk that is written; larger ones are refused by the sink, as an import session refuses another disk's.
const DISK: usize = 64 << 10;

struct Image(Vec<u8>);

impl Image {
    fn range(&mut self, offset: u64, length: u64) -> &mut [u8] {
        let end = offset.checked_add(length).expect("a range that wraps is passed on");
        &mut self.0[offset as usize..end as usize]
    }
}

impl Sink for Image {
    fn header(&mut self, header: &Header) -> Result<(), String> {
        if header.disk_size as usize == DISK { Ok(()) } else { Err("another disk".into()) }
    }
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.range(offset, data.len() as u64).copy_from_slice(data);
        Ok(())
    }
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.range(offset, length).fill(0);
        Ok(())
    }
}

/// Makes every checksum right, so that what is behind them is reached.
fn mend(data: &[u8]) -> Vec<u8> {
    let mut file = data.to_vec();
    if file.len() < HEADER {
        return file;
    }
    file[..8].copy_from_slice(b"PANCBT\r\n");
    file[8..12].copy_from_slice(&[1, 0, 0, 1]);
    file[16..24].copy_from_slice(&(DISK as u64).to_le_bytes());
    let crc = crc32c::crc32c(&file[..HEADER - 4]);
    file[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    let mut at = HEADER;
    while at.checked_add(RECORD).is_some_and(|end| end <= file.len()) {
        let length = u64::from_le_bytes(file[at + 8..at + 16].try_into().expect("eight bytes"));
        let end = usize::try_from(length).ok().and_then(|length| (at + RECORD).checked_add(length));
        if let Some(payload) = end.and_then(|end| file.get(at + RECORD..end)) {
            let crc = crc32c::crc32c(payload);
            file[at + 32..at + 36].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&file[at..at + RECORD - 4]);
        file[at + RECORD - 4..at + RECORD].copy_from_slice(&crc.to_le_bytes());
        match end {
            Some(end) => at = end,
            None => break,
        }
    }
    file
}

fn parsed(file: &[u8]) -> (bool, Vec<u8>) {
    let (mut parser, mut image) = (Parser::new(), Image(vec![0xAA; DISK]));
    let fed = file.chunks(777).try_for_each(|part| parser.feed(part, &mut image));
    (fed.is_ok() && parser.finish().is_ok(), image.0)
}

fn merged(file: &[u8]) -> (bool, Vec<u8>) {
    let spill = std::env::temp_dir().join(format!("importfs-fuzz-{}", std::process::id()));
    let (mut merger, mut image) = (Merger::new(spill), Image(vec![0xAA; DISK]));
    let size = (file.len() / 5).max(1);
    let parts: Vec<_> = file.chunks(size).enumerate().collect();
    let written = parts
        .iter()
        .rev()
        .try_for_each(|(number, part)| merger.write((number * size) as u64, part, &mut image));
    (written.is_ok() && merger.finish().is_ok(), image.0)
}

fuzz_target!(|data: &[u8]| {
    for file in [data.to_vec(), mend(data)] {
        let (front, image) = parsed(&file);
        let (back, other) = merged(&file);
        assert_eq!(front, back, "the order of writes decides");
        assert!(!front || image == other, "the order of writes changes the disk");
    }
});
