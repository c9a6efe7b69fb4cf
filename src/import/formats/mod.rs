//! The text formats of an import session. Pure: bytes in, values and texts out; no files, no clock, no tokio.
//!
//! - [`cfg`] – the CFG, parsed or with all that is wrong with it; [`cfg_check`], what its keys may hold;
//!   [`cfg_new`], one made from a VMX
//! - [`conflict`] – destinations that exist; [`vmcfg`], the CFG after redirection
//! - [`names`] – what a file name in a session means
//! - [`log_text`] – the lines of import.log
//! - [`vmx`], [`descriptor`] – what the hypervisor reads

pub mod belongs;
pub mod cfg;
pub mod cfg_check;
pub mod cfg_new;
pub mod conflict;
pub mod descriptor;
pub mod log_text;
pub mod names;
#[cfg(test)]
mod tests;
pub mod vmcfg;
pub mod vmx;

/// `text` with its control characters made visible, so that a name which a client chose can't start a line of its own.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
