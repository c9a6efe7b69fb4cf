//! LOGOFF (MS-SMB2 2.2.7, 2.2.8): a request and a response without fields.

use super::{decode_empty, encode_empty};
use crate::codec::DecodeError;

/// LOGOFF request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "LOGOFF request").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}

/// LOGOFF response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response;

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "LOGOFF response").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}
