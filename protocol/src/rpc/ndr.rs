//! NDR 2.0 (C706 14), as much as srvsvc and wkssvc need: little-endian scalars, unique pointers, conformant arrays and
//! strings.
//!
//! The decoder borrows: a claimed count is checked against the bytes that are there before anything is kept.

use crate::codec::{DecodeError, Put, Reader};
use crate::utf16::{self, Utf16};

/// Reads the parameters of a request. Alignment counts from the start of the stub.
#[derive(Debug)]
pub struct Decoder<'a>(Reader<'a>);

impl<'a> Decoder<'a> {
    /// Starts at the first parameter.
    pub fn new(stub: &'a [u8]) -> Self {
        Self(Reader::new(stub, "NDR stub"))
    }

    /// An aligned 32-bit value.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let position = self.0.position();
        self.0.skip(position.next_multiple_of(4) - position)?;
        self.0.u32()
    }

    /// A `[string] wchar_t *`: maximum count, offset, actual count, then the characters with their NUL.
    pub fn string(&mut self) -> Result<String, DecodeError> {
        let (max, offset, actual) = (self.u32()?, self.u32()?, self.u32()?);
        if offset != 0 || actual > max {
            return Err(DecodeError::Invalid { what: "NDR string", value: u64::from(actual) });
        }
        let len = (actual as usize).saturating_mul(2);
        let text = Utf16(self.0.bytes(len)?).lossy();
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// A `[unique, string] wchar_t *`.
    pub fn unique_string(&mut self) -> Result<Option<String>, DecodeError> {
        if self.u32()? == 0 { Ok(None) } else { self.string().map(Some) }
    }
}

/// Writes the results of a response. A structure's pointers are written where it stands, what they lead to behind it:
/// [`Encoder::string_pointer`] keeps the text until [`Encoder::flush`].
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    deferred: Vec<String>,
    referents: u32,
}

impl Encoder {
    /// Appends a 32-bit value, aligned.
    pub fn u32(&mut self, value: u32) {
        self.out.pad_to(0, 4);
        self.out.put_u32(value);
    }

    /// A referent identifier that is not 0: a pointer to what will follow.
    pub fn pointer(&mut self) {
        self.referents += 1;
        self.u32(0x0002_0000 + self.referents * 4);
    }

    /// A null pointer.
    pub fn null(&mut self) {
        self.u32(0);
    }

    /// A pointer to `text`, which [`Encoder::flush`] writes.
    pub fn string_pointer(&mut self, text: &str) {
        self.pointer();
        self.deferred.push(text.to_owned());
    }

    /// Writes what the pointers so far lead to, in their order.
    pub fn flush(&mut self) {
        for text in std::mem::take(&mut self.deferred) {
            self.u32(utf16::len(&text) as u32 / 2 + 1);
            self.fixed_string(&text);
        }
    }

    /// A string of a fixed array (`[string] wchar_t name[n]`): offset, actual count, then the characters with their NUL.
    pub fn fixed_string(&mut self, text: &str) {
        let units = utf16::len(text) as u32 / 2 + 1;
        [0, units].into_iter().for_each(|count| self.u32(count));
        utf16::put(&mut self.out, text);
        self.out.put_u16(0);
    }

    /// The bytes, after a last [`Encoder::flush`].
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claimed_count_is_checked_against_the_bytes() {
        let mut stub = Vec::new();
        [u32::MAX, 0, u32::MAX].into_iter().for_each(|count| stub.put_u32(count));
        assert!(Decoder::new(&stub).string().is_err());
        assert!(Decoder::new(&stub[..4]).string().is_err());
    }

    proptest! {
        #[test]
        fn strings_survive_both_ways(first in "[a-zA-Zäß€𝄞]{0,20}", second in "[a-z]{0,9}") {
            let mut encoder = Encoder::default();
            encoder.string_pointer(&first);
            encoder.flush();
            encoder.string_pointer(&second);
            let stub = encoder.finish();
            let mut decoder = Decoder::new(&stub);
            prop_assert_eq!(decoder.unique_string().unwrap(), Some(first));
            prop_assert_eq!(decoder.unique_string().unwrap(), Some(second));
        }

        #[test]
        fn no_bytes_panic(stub in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Decoder::new(&stub).unique_string();
        }
    }
}
