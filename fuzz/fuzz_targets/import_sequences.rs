//! Sequences of operations of two clients on an import share, with a datastore that fails and a service that is killed, held against a
//! model after each step: `tests/import_sequences/mod.rs`, which a proptest drives too.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/desk/mod.rs"]
mod desk;
#[path = "../../tests/import_sequences/mod.rs"]
mod machine;

fuzz_target!(|data: &[u8]| machine::run(data));
