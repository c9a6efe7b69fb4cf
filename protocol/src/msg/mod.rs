//! The messages of SMB2: one file per command, each with its request and its response.
//!
//! `Request::decode` takes the whole message, from its header on, because offsets on the wire count from there; it borrows
//! and allocates nothing that a claimed count could inflate. `Response::encode` appends the body to a buffer that holds
//! exactly the 64 bytes of the header. The client halves (`Request::encode`, `Response::decode`) serve tests, fuzz targets
//! and the bench client.
//!
//! Nothing here judges a request beyond its layout: a flag or an enumeration value that the standard does not know stays
//! as it came, and the handler answers it.

/// A message of nothing but StructureSize 4 and two reserved bytes.
macro_rules! without_fields {
    ($(#[$doc:meta])* $name:ident = $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name;

        impl $name {
            /// Decodes the message.
            pub fn decode(message: &[u8]) -> Result<Self, $crate::codec::DecodeError> {
                $crate::msg::body(message, 4, $what).map(|_| Self)
            }

            /// Appends the body.
            pub fn encode(&self, out: &mut Vec<u8>) {
                use $crate::codec::Put;
                out.put_u16(4);
                out.put_u16(0);
            }
        }
    };
}

pub mod cancel;
pub mod change_notify;
pub mod close;
pub mod create;
pub mod echo;
pub mod error;
pub mod flush;
pub mod ioctl;
pub mod lock;
pub mod logoff;
pub mod negotiate;
pub mod oplock_break;
pub mod query_directory;
pub mod query_info;
pub mod read;
pub mod session_setup;
pub mod set_info;
pub mod tree_connect;
pub mod tree_disconnect;
pub mod write;

use crate::codec::{DecodeError, Put, Reader};
use crate::header::HEADER_LEN;

/// The SMB2_FILEID (MS-SMB2 2.2.14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileId {
    /// Survives a reconnect of a durable open.
    pub persistent: u64,
    /// Changes with every connection.
    pub volatile: u64,
}

impl FileId {
    /// All ones: in a related compound, the file of the request before; in some FSCTLs, no file.
    pub const ANY: Self = Self { persistent: u64::MAX, volatile: u64::MAX };

    /// Reads the 16 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { persistent: r.u64()?, volatile: r.u64()? })
    }

    /// Appends the 16 bytes.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.persistent);
        out.put_u64(self.volatile);
    }
}

/// Starts reading a body: after the header, its StructureSize checked.
fn body<'a>(message: &'a [u8], size: u16, what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut r = Reader::at(message, HEADER_LEN, what);
    r.structure_size(size)?;
    Ok(r)
}

/// A buffer that a message names by offset and length. Where the length is 0 the offset means nothing (clients send 0,
/// or an offset past the end); otherwise the buffer must lie behind the header and the body's fixed part, which ends
/// where `r` stands: an offset into them would let a peer have us read its fields as data.
fn buffer<'a>(r: &Reader<'a>, offset: usize, len: usize) -> Result<&'a [u8], DecodeError> {
    if len == 0 {
        return Ok(&[]);
    }
    if offset < r.position() {
        return Err(DecodeError::Invalid { what: "buffer offset", value: offset as u64 });
    }
    r.slice(offset, len)
}

/// Appends the body shared by QUERY_DIRECTORY, CHANGE_NOTIFY and QUERY_INFO responses: StructureSize 9, OutputBufferOffset,
/// OutputBufferLength, the buffer.
fn encode_output(out: &mut Vec<u8>, data: &[u8]) {
    out.put_u16(9);
    out.put_u16(if data.is_empty() { 0 } else { HEADER_LEN as u16 + 8 });
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

/// Reads that body back.
fn decode_output<'a>(message: &'a [u8], what: &'static str) -> Result<&'a [u8], DecodeError> {
    let mut r = body(message, 9, what)?;
    let offset = r.u16()?;
    let len = r.u32()?;
    buffer(&r, offset.into(), len as usize)
}
