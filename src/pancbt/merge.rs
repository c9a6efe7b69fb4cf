//! Merging a PANCBT file while a client writes it, in whatever order the client does so.
//!
//! What comes next goes straight to the parser. What is ahead of it is held: in memory up to [`HELD_MAX`] bytes, beyond
//! that in a spill file of the session's cache, so that a client that starts at the end costs disk space, not memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Header, PancbtError, Parser, Sink, Summary};

/// Bytes held in memory for one file: two of the largest writes (8 MiB) that clients keep in flight side by side.
pub(super) const HELD_MAX: usize = 16 << 20;
/// Pieces held, in memory or spilled: bounds the map where a client sends single sectors back to front.
pub(super) const PIECES_MAX: usize = 1 << 16;
/// How much is read back from the spill file at a time.
const CHUNK: usize = 1 << 20;

/// A piece of the file that is ahead of the parser.
#[derive(Debug)]
enum Piece {
    Memory(Vec<u8>),
    /// In the spill file, at the same offset as in the PANCBT file.
    Spilled(u64),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spilled(length) => *length,
        }
    }
}

/// One differential on its way in.
#[derive(Debug)]
pub struct Merger {
    parser: Parser,
    ahead: BTreeMap<u64, Piece>,
    held: usize,
    spill_path: PathBuf,
    spill: Option<File>,
    /// Why a part of it was refused.
    failed: Option<String>,
}

impl Merger {
    /// `spill_path`: a file of the session's cache that is made if it is needed and removed when the merger goes.
    pub fn new(spill_path: PathBuf) -> Self {
        Self { parser: Parser::new(), ahead: BTreeMap::new(), held: 0, spill_path, spill: None, failed: None }
    }

    /// The file header, once it has arrived.
    pub fn header(&self) -> Option<&Header> {
        self.parser.header()
    }

    /// Bytes merged so far, from the start of the file.
    pub fn position(&self) -> u64 {
        self.parser.position()
    }

    /// Takes `bytes` that the client wrote at `offset` of the file, and merges all that now hangs together.
    /// After an error every further call fails too: the disk needs its extent again.
    pub fn write(&mut self, offset: u64, bytes: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        if let Some(why) = &self.failed {
            return Err(PancbtError::Refused(why.clone()));
        }
        let outcome = self.take(offset, bytes, sink);
        self.failed = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    fn take(&mut self, offset: u64, bytes: &[u8], sink: &mut dyn Sink) -> Result<(), PancbtError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if offset < self.position() {
            return Err(PancbtError::Rewritten { at: offset });
        }
        if offset > self.position() {
            return self.hold(offset, bytes);
        }
        self.overlap(offset, bytes.len() as u64)?;
        self.parser.feed(bytes, sink)?;
        while let Some((&at, _)) = self.ahead.first_key_value() {
            if at != self.position() {
                break;
            }
            if let Some((at, piece)) = self.ahead.pop_first() {
                self.release(at, piece, sink)?;
            }
        }
        Ok(())
    }

    /// A range that is held may not be written again: which contents are meant could not be told.
    fn overlap(&self, offset: u64, length: u64) -> Result<(), PancbtError> {
        let end = offset
            .checked_add(length)
            .ok_or(PancbtError::Malformed { what: "it is too long", at: offset })?;
        let before = self.ahead.range(..end).next_back();
        match before {
            Some((&at, piece)) if at + piece.len() > offset => Err(PancbtError::Rewritten { at }),
            _ => Ok(()),
        }
    }

    fn hold(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PancbtError> {
        self.overlap(offset, bytes.len() as u64)?;
        if self.ahead.len() >= PIECES_MAX {
            return Err(PancbtError::Malformed {
                what: "it arrives in too many pieces out of order",
                at: offset,
            });
        }
        let piece = if self.held + bytes.len() <= HELD_MAX {
            self.held += bytes.len();
            Piece::Memory(bytes.to_vec())
        } else {
            self.spill()?.write_all_at(bytes, offset)?;
            Piece::Spilled(bytes.len() as u64)
        };
        self.ahead.insert(offset, piece);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<&File> {
        if self.spill.is_none() {
            let mut options = OpenOptions::new();
            self.spill =
                Some(options.read(true).write(true).create(true).truncate(true).open(&self.spill_path)?);
        }
        self.spill.as_ref().ok_or_else(|| io::Error::other("the spill file is gone"))
    }

    fn release(&mut self, at: u64, piece: Piece, sink: &mut dyn Sink) -> Result<(), PancbtError> {
        match piece {
            Piece::Memory(bytes) => {
                self.held -= bytes.len();
                self.parser.feed(&bytes, sink)
            }
            Piece::Spilled(length) => {
                let mut buffer = vec![0; CHUNK.min(length as usize)];
                let mut done = 0;
                while done < length {
                    let part = (length - done).min(CHUNK as u64) as usize;
                    self.spill()?.read_exact_at(&mut buffer[..part], at + done)?;
                    self.parser.feed(&buffer[..part], sink)?;
                    done += part as u64;
                }
                Ok(())
            }
        }
    }

    /// The client has closed the file: whether it was whole and all of it merged.
    pub fn finish(&self) -> Result<Summary, PancbtError> {
        if let Some(why) = &self.failed {
            return Err(PancbtError::Refused(why.clone()));
        }
        if let Some((_, _)) = self.ahead.first_key_value() {
            return Err(PancbtError::Truncated { at: self.position() });
        }
        self.parser.finish()
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        if self.spill.take().is_some() {
            // A leftover costs space only; the session's directory is cleared with the session.
            let _ = std::fs::remove_file(&self.spill_path);
        }
    }
}
