//! ECHO (MS-SMB2 2.2.28, 2.2.29): a request and a response without fields.

use super::{decode_empty, encode_empty};
use crate::codec::DecodeError;

/// ECHO request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "ECHO request").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}

/// ECHO response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response;

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "ECHO response").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}
