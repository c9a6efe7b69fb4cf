//! What a connection keeps and decides, without input or output: credits and message ids, and what is negotiated.

pub mod negotiate;
pub mod window;
