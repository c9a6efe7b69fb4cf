//! Reading a PANCBT file front to back, in pieces of any size.

use std::io;

use sha2::{Digest, Sha256};

use super::{
    CHANGE_ID_LEN, DISK_MAX, END_LEN, FLAG_CRITICAL, HEADER_LEN, Header, MAGIC, PAYLOAD_MAX, PancbtError,
    RECORD_LEN, SECTOR, Tag, VERSION,
};

/// Where changes go.
pub trait Sink {
    /// Called once, before any change: whether the file belongs to this disk. The sentence is shown to a person.
    fn header(&mut self, header: &Header) -> Result<(), String>;
    /// The range at `offset` holds `data`.
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// The range reads as zeros.
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// What a complete file held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// DATA records.
    pub data_records: u64,
    /// Bytes that they hold.
    pub data_bytes: u64,
    /// ZERO records.
    pub zero_records: u64,
    /// Bytes that they cover.
    pub zero_bytes: u64,
}

impl Summary {
    /// The counts as they stand in the END! record.
    pub(super) fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let counts = [self.data_records, self.data_bytes, self.zero_records, self.zero_bytes];
        for (slot, count) in out.chunks_exact_mut(8).zip(counts) {
            slot.copy_from_slice(&count.to_le_bytes());
        }
        out
    }
}

impl Header {
    /// The 256 bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(HEADER_LEN as u16).to_le_bytes());
        out[16..24].copy_from_slice(&self.disk_size.to_le_bytes());
        out[24..40].copy_from_slice(&self.disk_uuid.unwrap_or_default());
        out[40..40 + self.base.len()].copy_from_slice(self.base.as_bytes());
        out[136..136 + self.target.len()].copy_from_slice(self.target.as_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_LEN - 4]);
        out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, PancbtError> {
        if bytes[..8] != MAGIC {
            return Err(PancbtError::NotPancbt);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(PancbtError::Version(version));
        }
        if crc32c::crc32c(&bytes[..HEADER_LEN - 4]) != u32_at(bytes, HEADER_LEN - 4) {
            return Err(PancbtError::Corrupt { what: "the file header", at: 0 });
        }
        let disk_size = u64_at(bytes, 16);
        if usize::from(u16::from_le_bytes([bytes[10], bytes[11]])) != HEADER_LEN || disk_size > DISK_MAX {
            return Err(PancbtError::Malformed { what: "a length in the file header is impossible", at: 0 });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[24..40]);
        Ok(Self {
            disk_size,
            disk_uuid: (uuid != [0; 16]).then_some(uuid),
            base: change_id(&bytes[40..40 + CHANGE_ID_LEN])?,
            target: change_id(&bytes[136..136 + CHANGE_ID_LEN])?,
        })
    }
}

fn change_id(bytes: &[u8]) -> Result<String, PancbtError> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) if bytes[end..].iter().all(|&b| b == 0) => Ok(text.to_owned()),
        _ => Err(PancbtError::Malformed { what: "a change id is not text", at: 40 }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A record's header, checked.
#[derive(Debug, Clone, Copy)]
struct Record {
    tag: Tag,
    payload_len: u64,
    offset: u64,
    length: u64,
    payload_crc: u32,
    /// Where it starts in the file, for errors.
    at: u64,
}

impl Record {
    fn decode(bytes: &[u8; RECORD_LEN], at: u64, disk_size: u64) -> Result<Self, PancbtError> {
        if crc32c::crc32c(&bytes[..RECORD_LEN - 4]) != u32_at(bytes, RECORD_LEN - 4) {
            return Err(PancbtError::Corrupt { what: "a record's header", at });
        }
        let malformed = |what| PancbtError::Malformed { what, at };
        let record = Self {
            tag: Tag([bytes[0], bytes[1], bytes[2], bytes[3]]),
            payload_len: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            length: u64_at(bytes, 24),
            payload_crc: u32_at(bytes, 32),
            at,
        };
        let known = [Tag::DATA, Tag::ZERO, Tag::END].contains(&record.tag);
        if !known && u32_at(bytes, 4) & FLAG_CRITICAL != 0 {
            let tag = String::from_utf8_lossy(&record.tag.0).escape_default().to_string();
            return Err(PancbtError::UnknownCritical { tag, at });
        }
        if record.payload_len > PAYLOAD_MAX {
            return Err(malformed("a record's payload is longer than the format allows"));
        }
        if known && record.tag != Tag::END {
            let end = record.offset.checked_add(record.length).filter(|&end| end <= disk_size);
            let end = end.ok_or(malformed("a record lies past the end of the disk"))?;
            if !record.offset.is_multiple_of(SECTOR) || (!end.is_multiple_of(SECTOR) && end != disk_size) {
                return Err(malformed("a record is not aligned to sectors"));
            }
        }
        let expected = match record.tag {
            Tag::DATA => record.length,
            Tag::ZERO => 0,
            Tag::END => END_LEN as u64,
            _ => record.payload_len,
        };
        if record.payload_len != expected {
            return Err(malformed("a record's payload has not the length that its tag calls for"));
        }
        Ok(record)
    }
}

/// What the parser is collecting bytes for.
#[derive(Debug)]
enum Expect {
    FileHeader,
    RecordHeader,
    Payload(Record),
    /// The END! record has been read: nothing may follow.
    Nothing,
}

/// Takes the file front to back. Memory: one record, at most [`PAYLOAD_MAX`] bytes.
#[derive(Debug)]
pub struct Parser {
    expect: Expect,
    /// The piece under way, shorter than what [`Expect`] needs.
    partial: Vec<u8>,
    /// Bytes taken so far.
    position: u64,
    disk_size: u64,
    header: Option<Header>,
    digest: Sha256,
    summary: Summary,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            expect: Expect::FileHeader,
            partial: Vec::new(),
            position: 0,
            disk_size: 0,
            header: None,
            digest: Sha256::new(),
            summary: Summary::default(),
        }
    }

    /// Bytes of the file taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file header, once it has been read.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// What was read so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn needed(&self) -> usize {
        match &self.expect {
            Expect::FileHeader => HEADER_LEN,
            Expect::RecordHeader => RECORD_LEN,
            Expect::Payload(record) => record.payload_len as usize, // at most PAYLOAD_MAX: Record::decode
            Expect::Nothing => 0,
        }
    }

    /// Takes the next bytes of the file. After an error the parser is of no more use.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        while !bytes.is_empty() {
            if matches!(self.expect, Expect::Nothing) {
                return Err(PancbtError::Malformed {
                    what: "there is something after the end record",
                    at: self.position,
                });
            }
            let needed = self.needed();
            let taken = bytes.len().min(needed - self.partial.len());
            let (now, later) = bytes.split_at(taken);
            bytes = later;
            self.position += taken as u64;
            if self.partial.is_empty() && taken == needed {
                self.piece(now, sink)?; // whole in the caller's buffer: no copy
                continue;
            }
            self.partial.extend_from_slice(now);
            if self.partial.len() == needed {
                let piece = std::mem::take(&mut self.partial);
                self.piece(&piece, sink)?;
            }
        }
        Ok(())
    }

    fn piece(&mut self, piece: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        match std::mem::replace(&mut self.expect, Expect::RecordHeader) {
            Expect::FileHeader => self.file_header(piece, sink),
            Expect::RecordHeader => self.record_header(piece, sink),
            Expect::Payload(record) => self.payload(&record, piece, sink),
            Expect::Nothing => Ok(()), // feed() refuses before it comes here
        }
    }

    fn file_header(&mut self, piece: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(piece);
        let header = Header::decode(&bytes)?;
        sink.header(&header).map_err(PancbtError::WrongTarget)?;
        self.digest.update(bytes);
        self.disk_size = header.disk_size;
        self.header = Some(header);
        Ok(())
    }

    fn record_header(&mut self, piece: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        let mut bytes = [0; RECORD_LEN];
        bytes.copy_from_slice(piece);
        let record = Record::decode(&bytes, self.position - RECORD_LEN as u64, self.disk_size)?;
        if record.tag != Tag::END {
            self.digest.update(bytes);
        }
        if record.payload_len == 0 {
            return self.payload(&record, &[], sink);
        }
        self.expect = Expect::Payload(record);
        Ok(())
    }

    fn payload(&mut self, record: &Record, payload: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        if crc32c::crc32c(payload) != record.payload_crc {
            return Err(PancbtError::Corrupt { what: "a record's payload", at: record.at });
        }
        match record.tag {
            Tag::DATA => {
                sink.data(record.offset, payload)?;
                self.summary.data_records += 1;
                self.summary.data_bytes += record.length;
            }
            Tag::ZERO => {
                sink.zero(record.offset, record.length)?;
                self.summary.zero_records += 1;
                // Overlapping records may cover more bytes than a u64 counts; the total is for people.
                self.summary.zero_bytes = self.summary.zero_bytes.wrapping_add(record.length);
            }
            Tag::END => {
                let digest: [u8; 32] = self.digest.clone().finalize().into();
                if payload[..32] != self.summary.encode() || payload[32..] != digest {
                    return Err(PancbtError::Corrupt { what: "the end record's totals", at: record.at });
                }
                self.expect = Expect::Nothing;
            }
            _ => {}
        }
        Ok(())
    }

    /// The file has ended: whether it was whole.
    pub fn finish(&self) -> Result<Summary, PancbtError> {
        match self.expect {
            Expect::Nothing => Ok(self.summary),
            _ => Err(PancbtError::Truncated { at: self.position }),
        }
    }
}
