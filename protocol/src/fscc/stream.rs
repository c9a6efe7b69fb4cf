//! FileStreamInformation (MS-FSCC 2.4.49): the data streams of a file.

use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::{self, Utf16};

/// Bytes of an entry before its name.
pub const FIXED_LEN: usize = 24;

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream<'a> {
    /// `::$DATA` for the unnamed one, `:name:$DATA`.
    pub name: &'a str,
    /// Length in bytes.
    pub size: u64,
    /// Allocation in bytes.
    pub allocation_size: u64,
}

/// Appends `streams`, chained at multiples of 8.
pub fn encode(streams: &[Stream<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    let mut last = None;
    for stream in streams {
        out.pad_to(start, 8);
        super::directory::link(out, &mut last);
        out.put_u32(utf16::len(stream.name) as u32);
        out.put_u64(stream.size);
        out.put_u64(stream.allocation_size);
        utf16::put(out, stream.name);
    }
}

/// Reads such a chain back: name, size and allocation of each stream.
pub fn decode(data: &[u8]) -> Result<Vec<(Utf16<'_>, u64, u64)>, DecodeError> {
    let mut streams = Vec::new();
    let mut at = 0;
    while !data.is_empty() {
        let mut r = Reader::at(data, at, "FileStreamInformation");
        let next = r.u32()? as usize;
        let len = r.u32()? as usize;
        let (size, allocation) = (r.u64()?, r.u64()?);
        streams.push((Utf16(r.bytes(len)?), size, allocation));
        if next == 0 {
            break;
        }
        if next < FIXED_LEN {
            return Err(DecodeError::Invalid { what: "NextEntryOffset", value: next as u64 });
        }
        at += next;
    }
    Ok(streams)
}
