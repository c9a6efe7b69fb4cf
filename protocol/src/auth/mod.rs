//! Logging in: NTLMv2 (MS-NLMP) inside SPNEGO (MS-SPNG, RFC 4178), the acceptor's side, without input or output.

pub mod ntlm;
pub mod spnego;
