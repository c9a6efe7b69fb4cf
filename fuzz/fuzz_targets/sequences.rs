//! Sequences of operations of two clients on up to four connections, over a directory share, held against a model after each step:
//! `tests/sequences/mod.rs`, which a proptest drives too.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/desk/mod.rs"]
mod desk;
#[path = "../../tests/sequences/mod.rs"]
mod machine;

fuzz_target!(|data: &[u8]| machine::run(data));
