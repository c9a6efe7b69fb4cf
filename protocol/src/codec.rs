//! Reading little-endian wire structures out of a borrowed frame, and appending them to a buffer.
//!
//! [`Reader`] is the only way decoders touch bytes from a peer: each access is checked against the slice it was made
//! from, so an offset or a length that a peer invented ends in a [`DecodeError`], never in a panic or an allocation.

use thiserror::Error;

/// Why bytes from a peer are not the structure they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The structure needs bytes past the end of what was received.
    #[error("{what}: needs bytes {offset}..{end}, the message has {have}")]
    OutOfBounds {
        /// The field or structure being read.
        what: &'static str,
        /// Where the field starts, in bytes from the start of the message.
        offset: usize,
        /// Where it would end.
        end: usize,
        /// How long the message is.
        have: usize,
    },
    /// A field has a value that the standard forbids.
    #[error("{what}: value {value:#x} is not allowed")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What it held.
        value: u64,
    },
}

/// A cursor over one message. Offsets count from the start of the slice it was made from.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; `what` names the structure in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, position: 0, what }
    }

    /// Starts at `position`, which may lie past the end: the next read then fails.
    pub fn at(bytes: &'a [u8], position: usize, what: &'static str) -> Self {
        Self { bytes, position, what }
    }

    /// Bytes from the start of the slice to the next byte to be read.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let slice = self.slice(self.position, len)?;
        self.position += len;
        Ok(slice)
    }

    /// `len` bytes at `offset` from the start, without moving the cursor: buffers that a message names by offset.
    pub fn slice(&self, offset: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        offset.checked_add(len).and_then(|end| self.bytes.get(offset..end)).ok_or(DecodeError::OutOfBounds {
            what: self.what,
            offset,
            end: offset.saturating_add(len),
            have: self.bytes.len(),
        })
    }

    /// Passes over `len` reserved bytes.
    pub fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        self.bytes(len).map(|_| ())
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next two bytes must be `size`: the StructureSize that every request body begins with.
    pub fn structure_size(&mut self, size: u16) -> Result<(), DecodeError> {
        match self.u16()? {
            found if found == size => Ok(()),
            found => Err(DecodeError::Invalid { what: self.what, value: u64::from(found) }),
        }
    }
}

/// Little-endian appends, for encoders.
pub trait Put {
    /// Appends one byte.
    fn put_u8(&mut self, value: u8);
    /// Appends two bytes, little-endian.
    fn put_u16(&mut self, value: u16);
    /// Appends four bytes, little-endian.
    fn put_u32(&mut self, value: u32);
    /// Appends eight bytes, little-endian.
    fn put_u64(&mut self, value: u64);
    /// Appends bytes as they are.
    fn put_slice(&mut self, bytes: &[u8]);
    /// Appends `count` zero bytes.
    fn put_zeros(&mut self, count: usize);
    /// Appends zeros until the length since `start` is a multiple of `to`.
    fn pad_to(&mut self, start: usize, to: usize);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn put_zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }
    fn pad_to(&mut self, start: usize, to: usize) {
        let used = self.len() - start;
        self.put_zeros(used.next_multiple_of(to) - used);
    }
}
