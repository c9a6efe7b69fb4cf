//! TREE_DISCONNECT (MS-SMB2 2.2.11, 2.2.12): a request and a response without fields.

use super::{decode_empty, encode_empty};
use crate::codec::DecodeError;

/// TREE_DISCONNECT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

impl Request {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "TREE_DISCONNECT request").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}

/// TREE_DISCONNECT response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response;

impl Response {
    /// Decodes the message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        decode_empty(message, "TREE_DISCONNECT response").map(|()| Self)
    }
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_empty(out);
    }
}
