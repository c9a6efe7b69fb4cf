//! UTF-16LE text as SMB2 carries it: borrowed from the message, turned into a `String` only where a handler needs one.

use std::fmt;

use crate::codec::DecodeError;

/// Text as it is on the wire: little-endian UTF-16, no terminator. May hold anything, even an odd number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf16<'a>(pub &'a [u8]);

impl Utf16<'_> {
    /// Whether there is no text at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The text; an odd length or an unpaired surrogate is refused, because no name on our side can stand for it.
    pub fn decode(self) -> Result<String, DecodeError> {
        let invalid = |value: usize| DecodeError::Invalid { what: "UTF-16 text", value: value as u64 };
        if !self.0.len().is_multiple_of(2) {
            return Err(invalid(self.0.len()));
        }
        char::decode_utf16(self.units())
            .map(|unit| unit.map_err(|e| invalid(usize::from(e.unpaired_surrogate()))))
            .collect()
    }

    /// The text with U+FFFD in place of what is no text: for logs, never for names.
    pub fn lossy(self) -> String {
        char::decode_utf16(self.units()).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }

    fn units(&self) -> impl Iterator<Item = u16> {
        self.0.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
    }
}

impl fmt::Debug for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lossy(), f)
    }
}

/// `text` in UTF-16LE, without a terminator.
pub fn encode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    put(&mut out, text);
    out
}

/// Appends `text` in UTF-16LE and says how many bytes that took.
pub fn put(out: &mut Vec<u8>, text: &str) -> usize {
    let start = out.len();
    out.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    out.len() - start
}

/// How many bytes `text` takes in UTF-16LE.
pub fn len(text: &str) -> usize {
    text.encode_utf16().count() * 2
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_survives_both_ways() {
        for text in ["", "disk.vmdk", "Größe €", "𝄞.txt"] {
            let wire = encode(text);
            assert_eq!(Utf16(&wire).decode().unwrap(), text);
            assert_eq!(wire.len(), len(text));
        }
    }

    #[test]
    fn odd_lengths_and_lone_surrogates_are_refused() {
        assert!(Utf16(b"a\0b").decode().is_err());
        assert!(Utf16(&[0x00, 0xD8]).decode().is_err());
        assert_eq!(Utf16(&[0x00, 0xD8]).lossy(), "\u{FFFD}");
    }
}
