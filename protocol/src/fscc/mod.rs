//! File system structures (MS-FSCC) and security descriptors (MS-DTYP 2.4), as QUERY_INFO, SET_INFO, QUERY_DIRECTORY and
//! IOCTL carry them. Nothing here knows which message that was.

pub mod access;
pub mod attributes;
pub mod directory;
pub mod ea;
pub mod fs_info;
pub mod fsctl;
pub mod info;
pub mod security;
pub mod set;
pub mod stream;
