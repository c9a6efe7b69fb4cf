//! The NBD protocol's bytes (doc/proto.md of the NetworkBlockDevice project): the fixed newstyle handshake, requests, simple
//! and structured replies. Everything is big-endian. Works on any stream, so that tests and fuzzing need no socket.
//!
//! What a server sends is bounded before it is believed: an option reply by [`OPTION_BYTES_MAX`], a chunk by what its kind
//! and the request that it answers allow.

use std::io::{self, Read, Write};

/// `NBDMAGIC`, `IHAVEOPT`, and the magics of option replies, requests and the two kinds of replies.
const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags: fixed newstyle; no 124 zero bytes.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_STARTTLS: u32 = 5;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const ALLOCATION: &[u8] = b"base:allocation";

/// Bytes of an option reply: names are at most 4096 and come with a few numbers.
const OPTION_BYTES_MAX: u32 = 64 * 1024;
/// Replies to one option: information items and contexts are a handful.
const OPTION_REPLIES_MAX: usize = 64;
/// Bytes of an export's name (proto.md, 'Values and limits').
pub(super) const NAME_BYTES_MAX: usize = 4096;
/// Extents in one answer to a block status request: more are not kept, the question is asked again from there.
const EXTENTS_MAX: u32 = 64 * 1024;
/// Bytes of an error's text.
const ERROR_BYTES_MAX: u32 = 4096 + 16;

/// Transmission flags of an export.
pub(super) mod export {
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const FUA: u16 = 1 << 3;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const MULTI_CONN: u16 = 1 << 8;
}

/// Flags of a request.
pub(super) mod flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
}

/// base:allocation's flag of a range that reads as zeros.
pub(super) const STATE_ZERO: u32 = 2;

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
    BlockStatus = 7,
}

/// What a server says of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Requests start and end at multiples of this.
    pub block: u32,
    /// Bytes of a write at most.
    pub payload_max: u32,
    /// Replies may be structured.
    pub structured: bool,
    /// The number of base:allocation, where the server has it.
    pub allocation: Option<u32>,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the NBD server sent {what}"))
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_u16(from: &mut impl Read) -> io::Result<u16> {
    take(from).map(u16::from_be_bytes)
}

fn take_u32(from: &mut impl Read) -> io::Result<u32> {
    take(from).map(u32::from_be_bytes)
}

fn take_u64(from: &mut impl Read) -> io::Result<u64> {
    take(from).map(u64::from_be_bytes)
}

fn take_bytes(from: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads a server's greeting and answers it: options follow.
pub fn greet<S: Read + Write>(stream: &mut S) -> io::Result<()> {
    if take_u64(stream)? != MAGIC || take_u64(stream)? != OPTION_MAGIC {
        return Err(malformed("no newstyle greeting; is it an NBD server?"));
    }
    let offered = take_u16(stream)?;
    if offered & FIXED_NEWSTYLE == 0 {
        return Err(malformed("a greeting without the fixed newstyle, which is needed"));
    }
    stream.write_all(&u32::from(offered & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())
}

/// Asks for TLS, whose handshake comes next if the server agrees. Nothing of what it sends after its answer is read here.
pub fn start_tls<S: Read + Write>(stream: &mut S) -> io::Result<()> {
    let refused = |(number, text): Refusal| {
        let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
        let why = format!("the server has no TLS, and nothing goes to it without: its error {number}{text}");
        io::Error::new(io::ErrorKind::Unsupported, why)
    };
    ask(stream, OPT_STARTTLS, &[], &mut |_, _| Err(malformed("more than an answer to STARTTLS")))?
        .map_err(refused)
}

/// Agrees on an export of that name, after [`greet`] and perhaps [`start_tls`].
pub fn agree<S: Read + Write>(stream: &mut S, name: &str) -> io::Result<Offer> {
    let structured = ask(stream, OPT_STRUCTURED_REPLY, &[], &mut |_, _| Ok(()))?.is_ok();
    let mut allocation = None;
    if structured {
        let mut data = counted(name.as_bytes());
        data.extend_from_slice(&1_u32.to_be_bytes());
        data.extend_from_slice(&counted(ALLOCATION));
        // A server without the context answers with an empty list or an error; it is a convenience only.
        let _ = ask(stream, OPT_SET_META_CONTEXT, &data, &mut |kind, mut body| {
            if kind == REP_META_CONTEXT {
                let number = take_u32(&mut body)?;
                allocation = (body == ALLOCATION).then_some(number).or(allocation);
            }
            Ok(())
        })?;
    }
    let mut data = counted(name.as_bytes());
    data.extend_from_slice(&1_u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    let (mut basics, mut blocks) = (None, (1, u32::MAX));
    let agreed = ask(stream, OPT_GO, &data, &mut |kind, mut body| {
        if kind != REP_INFO {
            return Ok(());
        }
        match take_u16(&mut body)? {
            INFO_EXPORT => basics = Some((take_u64(&mut body)?, take_u16(&mut body)?)),
            INFO_BLOCK_SIZE => {
                let (least, _preferred, most) =
                    (take_u32(&mut body)?, take_u32(&mut body)?, take_u32(&mut body)?);
                blocks = (least, most);
            }
            _ => {}
        }
        Ok(())
    })?;
    agreed.map_err(|refusal| refused(name, refusal))?;
    let (size, flags) = basics.ok_or_else(|| malformed("no size of the export"))?;
    let (block, payload_max) = blocks;
    if !block.is_power_of_two() || block > 64 * 1024 || payload_max < block {
        return Err(malformed("block sizes that make no sense"));
    }
    Ok(Offer { size, flags, block, payload_max, structured, allocation })
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut counted = (bytes.len() as u32).to_be_bytes().to_vec();
    counted.extend_from_slice(bytes);
    counted
}

/// What a server answered instead of an acknowledgement: the error's number and its text.
type Refusal = (u32, String);

/// Sends an option and reads its replies; those before the acknowledgement go to `each` with their kind.
fn ask<S: Read + Write>(
    stream: &mut S,
    option: u32,
    data: &[u8],
    each: &mut dyn FnMut(u32, &[u8]) -> io::Result<()>,
) -> io::Result<Result<(), Refusal>> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&counted(data));
    stream.write_all(&message)?;
    stream.flush()?;
    for _ in 0..OPTION_REPLIES_MAX {
        if take_u64(stream)? != OPTION_REPLY_MAGIC || take_u32(stream)? != option {
            return Err(malformed("an answer to another option"));
        }
        let (kind, length) = (take_u32(stream)?, take_u32(stream)?);
        if length > OPTION_BYTES_MAX {
            return Err(malformed("an option reply that is too long"));
        }
        let body = take_bytes(stream, length)?;
        match kind {
            REP_ACK => return Ok(Ok(())),
            error if error & REP_ERROR != 0 => {
                return Ok(Err((error & !REP_ERROR, String::from_utf8_lossy(&body).into_owned())));
            }
            kind => each(kind, &body)?,
        }
    }
    Err(malformed("too many replies to one option"))
}

/// A refused export as a sentence.
fn refused(name: &str, (number, text): Refusal) -> io::Error {
    let (kind, why) = match number {
        2 => (io::ErrorKind::PermissionDenied, "the server's policy forbids it"),
        5 => (io::ErrorKind::Unsupported, "the server wants TLS: use nbds:// with ca-file or thumbprint"),
        6 => (io::ErrorKind::NotFound, "there is no export of that name"),
        7 => (io::ErrorKind::ConnectionAborted, "the server is shutting down"),
        _ => (io::ErrorKind::Unsupported, "the server refuses it"),
    };
    let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
    io::Error::new(kind, format!("NBD export '{name}': {why}{text}"))
}

/// The header of a request; the data of a write follows it.
pub(super) fn request(command: Command, flags: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut header = [0; 28];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&(command as u16).to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..].copy_from_slice(&length.to_be_bytes());
    header
}

/// What a request that waits for its answer may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// What was asked.
    pub command: Command,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

/// One reply, or one chunk of a structured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Of which request.
    pub cookie: u64,
    /// Whether it was the last.
    pub done: bool,
    /// What it says.
    pub content: Content,
}

/// What a reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Content {
    Nothing,
    /// An error number of proto.md, never 0.
    Error(u32),
    /// Bytes, at an offset within what was asked for.
    Data(usize, Vec<u8>),
    /// Zeros: offset within what was asked for, length.
    Hole(usize, usize),
    /// Length and flags of successive extents of base:allocation.
    Extents(Vec<(u32, u32)>),
}

/// Reads one reply. `expected` finds the request of a cookie; without one, or with an answer that does not fit it, the
/// stream is out of step and the connection has to go.
pub fn read_reply(from: &mut impl Read, expected: impl FnOnce(u64) -> Option<Expected>) -> io::Result<Reply> {
    match take_u32(from)? {
        SIMPLE_MAGIC => {
            let error = take_u32(from)?;
            let cookie = take_u64(from)?;
            let asked = expected(cookie).ok_or_else(|| malformed("an answer that nobody waits for"))?;
            let content = match (error, asked.command) {
                (0, Command::Read) => Content::Data(0, take_bytes(from, asked.length)?),
                (0, _) => Content::Nothing,
                (error, _) => Content::Error(error),
            };
            Ok(Reply { cookie, done: true, content })
        }
        STRUCTURED_MAGIC => {
            let (flags, kind) = (take_u16(from)?, take_u16(from)?);
            let (cookie, length) = (take_u64(from)?, take_u32(from)?);
            let asked = expected(cookie).ok_or_else(|| malformed("an answer that nobody waits for"))?;
            Ok(Reply { cookie, done: flags & 1 != 0, content: chunk(from, kind, length, asked)? })
        }
        _ => Err(malformed("something that is no reply")),
    }
}

/// The content of a structured reply's chunk.
fn chunk(from: &mut impl Read, kind: u16, length: u32, asked: Expected) -> io::Result<Content> {
    let within = |offset: u64, length: u64| {
        let inside = offset.checked_sub(asked.offset)?;
        let end = inside.checked_add(length)?;
        (asked.command == Command::Read && end <= u64::from(asked.length)).then_some(inside as usize)
    };
    match (kind, length) {
        (0, 0) => Ok(Content::Nothing),
        (1, 9..) => {
            let (offset, length) = (take_u64(from)?, length - 8);
            let inside =
                within(offset, u64::from(length)).ok_or_else(|| malformed("data that nobody asked for"))?;
            Ok(Content::Data(inside, take_bytes(from, length)?))
        }
        (2, 12) => {
            let (offset, length) = (take_u64(from)?, take_u32(from)?);
            let inside =
                within(offset, u64::from(length)).ok_or_else(|| malformed("a hole that nobody asked for"))?;
            Ok(Content::Hole(inside, length as usize))
        }
        (5, 12..) if asked.command == Command::BlockStatus && (length - 4).is_multiple_of(8) => {
            let _context = take_u32(from)?; // One was agreed on.
            let count = (length - 4) / 8;
            if count > EXTENTS_MAX {
                return Err(malformed("too many extents"));
            }
            (0..count)
                .map(|_| Ok((take_u32(from)?, take_u32(from)?)))
                .collect::<io::Result<_>>()
                .map(Content::Extents)
        }
        (0x8000.., 6..=ERROR_BYTES_MAX) => {
            let error = take_u32(from)?;
            take_bytes(from, length - 4)?; // Text and offset, for people at the server's end.
            if error == 0 { Err(malformed("an error without a number")) } else { Ok(Content::Error(error)) }
        }
        _ => Err(malformed("a chunk that makes no sense")),
    }
}

/// An error number of proto.md as an error with a sentence.
pub(super) fn error_of(number: u32) -> io::Error {
    let (kind, what) = match number {
        1 => (io::ErrorKind::PermissionDenied, "the export may not be written (EPERM)"),
        5 => (io::ErrorKind::Other, "an input/output error at the server's end (EIO)"),
        12 => (io::ErrorKind::OutOfMemory, "the server is out of memory (ENOMEM)"),
        22 => (io::ErrorKind::InvalidInput, "the server takes the request for invalid (EINVAL)"),
        28 => (io::ErrorKind::StorageFull, "no space is left behind the export (ENOSPC)"),
        75 => (io::ErrorKind::InvalidInput, "the request is too large for the server (EOVERFLOW)"),
        95 => (io::ErrorKind::Unsupported, "the server can't do that (ENOTSUP)"),
        108 => (io::ErrorKind::ConnectionAborted, "the server is shutting down (ESHUTDOWN)"),
        other => return io::Error::other(format!("NBD: the server's error {other}")),
    };
    io::Error::new(kind, format!("NBD: {what}"))
}

/// Whether the same request may succeed when it is sent again a little later.
pub(super) fn is_passing(number: u32) -> bool {
    matches!(number, 5 | 12 | 108)
}
