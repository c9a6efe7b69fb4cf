//! FileFullEaInformation (MS-FSCC 2.4.16) and FileGetEaInformation (2.4.16.1): extended attributes.

use crate::codec::{DecodeError, Put, Reader};

/// Flag: a file with this attribute must not be opened by whoever does not understand attributes.
pub const FLAG_NEED_EA: u8 = 0x80;

/// One extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ea<'a> {
    /// [`FLAG_NEED_EA`] or nothing.
    pub flags: u8,
    /// Its name, 8-bit characters.
    pub name: &'a [u8],
    /// Its value; empty deletes it.
    pub value: &'a [u8],
}

/// Decodes a chain. The list grows with what is there; entries must be 4-aligned and go forward.
pub fn decode(data: &[u8]) -> Result<Vec<Ea<'_>>, DecodeError> {
    let mut list = Vec::new();
    let mut at = 0;
    while !data.is_empty() {
        let mut r = Reader::at(data, at, "FileFullEaInformation");
        let next = r.u32()? as usize;
        let (flags, name_len, value_len) = (r.u8()?, r.u8()?, r.u16()?);
        let name = r.bytes(name_len.into())?;
        r.skip(1)?; // the name's terminator
        list.push(Ea { flags, name, value: r.bytes(value_len.into())? });
        if next == 0 {
            break;
        }
        if next < 8 || !next.is_multiple_of(4) {
            return Err(DecodeError::Invalid { what: "NextEntryOffset", value: next as u64 });
        }
        at += next;
    }
    Ok(list)
}

/// Appends a chain.
pub fn encode(list: &[Ea<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    let mut last = None;
    for ea in list {
        out.pad_to(start, 4);
        super::directory::link(out, &mut last);
        out.put_u8(ea.flags);
        out.put_u8(ea.name.len() as u8);
        out.put_u16(ea.value.len() as u16);
        out.put_slice(ea.name);
        out.put_u8(0);
        out.put_slice(ea.value);
    }
}

/// The names that a query asks for.
pub fn decode_names(data: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    let mut list = Vec::new();
    let mut at = 0;
    while !data.is_empty() {
        let mut r = Reader::at(data, at, "FileGetEaInformation");
        let next = r.u32()? as usize;
        let len = r.u8()?;
        list.push(r.bytes(len.into())?);
        if next == 0 {
            break;
        }
        if next < 5 {
            return Err(DecodeError::Invalid { what: "NextEntryOffset", value: next as u64 });
        }
        at += next;
    }
    Ok(list)
}
