//! Random sequences of operations on an import share, held against a model: see `tests/import_sequences/mod.rs`. The fuzz target of that
//! name runs for longer.
#![allow(clippy::unwrap_used)]

mod desk;
#[path = "import_sequences/mod.rs"]
mod machine;

use proptest::collection::vec;
use proptest::prelude::*;

/// Sequences of one run: some seconds.
const CASES: u32 = 96;
/// Steps of one sequence.
const STEPS_MAX: usize = 64;

/// `SEQUENCES=10000` for more of them.
fn cases() -> u32 {
    std::env::var("SEQUENCES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn an_import_loses_nothing_whatever_clients_and_datastores_do(steps in vec(any::<[u8; 6]>(), 0..STEPS_MAX)) {
        machine::run(&steps.concat());
    }
}

/// The fuzz target's seeds: what it has found before must not come back.
#[test]
fn seeds_of_the_fuzz_target_pass() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/import_sequences");
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        machine::run(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "there are seeds");
}

/// A finding again: `SEQUENCE=file cargo test --test import_sequences -- --ignored`.
#[test]
#[ignore = "wants a file"]
fn one() {
    machine::run(&std::fs::read(std::env::var_os("SEQUENCE").unwrap()).unwrap());
}
