//! Writing a PANCBT file.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::{CHANGE_ID_LEN, DISK_MAX, END_LEN, Header, PAYLOAD_MAX, RECORD_LEN, SECTOR, Summary, Tag};

/// Writes records to any sink of bytes; [`Writer::finish`] makes the file whole.
pub struct Writer<W: Write> {
    out: W,
    disk_size: u64,
    digest: Sha256,
    summary: Summary,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl<W: Write> Writer<W> {
    /// Writes the file header. Change ids have at most 96 bytes and no NUL.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        for id in [&header.base, &header.target] {
            if id.len() > CHANGE_ID_LEN || id.contains('\0') {
                return Err(invalid("a change id is longer than 96 bytes or has a NUL"));
            }
        }
        if header.disk_size > DISK_MAX {
            return Err(invalid("the disk is larger than 64 TiB"));
        }
        let bytes = header.encode();
        out.write_all(&bytes)?;
        let mut digest = Sha256::new();
        digest.update(bytes);
        Ok(Self { out, disk_size: header.disk_size, digest, summary: Summary::default() })
    }

    /// The range at `offset` holds `data`; split into records as the format needs.
    pub fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        let mut at = offset;
        for part in data.chunks(PAYLOAD_MAX as usize) {
            self.record(Tag::DATA, at, part.len() as u64, part)?;
            at += part.len() as u64;
            self.summary.data_records += 1;
            self.summary.data_bytes += part.len() as u64;
        }
        Ok(())
    }

    /// The range reads as zeros.
    pub fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        self.summary.zero_records += 1;
        self.summary.zero_bytes = self.summary.zero_bytes.wrapping_add(length);
        self.record(Tag::ZERO, offset, length, &[])
    }

    /// Writes the end record and hands the sink back, flushed.
    pub fn finish(mut self) -> io::Result<(W, Summary)> {
        let mut payload = [0; END_LEN];
        payload[..32].copy_from_slice(&self.summary.encode());
        payload[32..].copy_from_slice(&self.digest.clone().finalize());
        self.record(Tag::END, 0, 0, &payload)?;
        self.out.flush()?;
        Ok((self.out, self.summary))
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= self.disk_size);
        let end = end.ok_or_else(|| invalid("the range lies past the end of the disk"))?;
        if !offset.is_multiple_of(SECTOR) || (!end.is_multiple_of(SECTOR) && end != self.disk_size) {
            return Err(invalid("the range is not aligned to sectors"));
        }
        Ok(())
    }

    fn record(&mut self, tag: Tag, offset: u64, length: u64, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; RECORD_LEN];
        header[..4].copy_from_slice(&tag.0);
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[16..24].copy_from_slice(&offset.to_le_bytes());
        header[24..32].copy_from_slice(&length.to_le_bytes());
        header[32..36].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&header[..RECORD_LEN - 4]);
        header[36..].copy_from_slice(&crc.to_le_bytes());
        self.digest.update(header);
        self.out.write_all(&header)?;
        self.out.write_all(payload)
    }
}
