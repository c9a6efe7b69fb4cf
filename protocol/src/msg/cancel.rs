//! CANCEL (MS-SMB2 2.2.30): a request without fields; there is no response to it, only to what it cancels.

use super::{decode_empty, encode_empty};
use crate::codec::DecodeError;

/// CANCEL request. Which request it means stands in the header: AsyncId if that flag is set, MessageId otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "CANCEL request").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}
