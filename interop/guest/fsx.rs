//! Runs inside the virtual machine of check_kernel.py: random operations on one file below a mount, each compared with a model in
//! memory; knows nothing of SMB. Built alone, as one static program: `rustc -O -C target-feature=+crt-static fsx.rs`.
//!
//! `fsx FILE OPERATIONS SEED` ends with status 1 and says what differed, or prints how many operations went well.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

/// The file stays below this many bytes: several of the client's largest writes, small beside its memory.
const SIZE_MAX: u64 = 3 << 20;
/// Bytes that one operation moves at most.
const MOVE_MAX: u64 = 300_000;

/// xorshift64*: the same sequence for the same seed everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit.max(1)
    }
}

fn open(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Where the file first differs from the model.
fn compare(file: &File, model: &[u8], from: u64, len: usize) -> Result<(), String> {
    let mut found = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut found[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Err(format!("read of {len} at {from}: {error}")),
        }
    }
    let expected = &model[(from as usize).min(model.len())..(from as usize + len).min(model.len())];
    if filled != expected.len() {
        return Err(format!("read of {len} at {from}: {filled} bytes instead of {}", expected.len()));
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => {
            Err(format!("byte {} is {:#x} instead of {:#x}", from + at as u64, found[at], expected[at]))
        }
    }
}

fn run(path: &str, operations: u64, seed: u64) -> Result<(), String> {
    let mut dice = Dice(seed | 1);
    let mut file = open(path).map_err(|error| format!("open: {error}"))?;
    file.set_len(0).map_err(|error| format!("truncate: {error}"))?;
    let mut model: Vec<u8> = Vec::new();
    for step in 0..operations {
        let (from, len) = (dice.below(SIZE_MAX - MOVE_MAX), dice.below(MOVE_MAX) as usize + 1);
        let what = dice.below(20);
        let done = match what {
            0..=7 => {
                let byte = dice.below(256) as u8;
                let data: Vec<u8> = (0..len).map(|n| byte.wrapping_add((n / 7) as u8)).collect();
                let end = from as usize + len;
                model.resize(model.len().max(end), 0);
                model[from as usize..end].copy_from_slice(&data);
                file.write_all_at(&data, from).map_err(|error| error.to_string())
            }
            8..=13 => compare(&file, &model, from, len),
            14 | 15 => {
                let size = if dice.below(2) == 0 { from } else { model.len() as u64 / 2 };
                model.resize(size as usize, 0);
                file.set_len(size).map_err(|error| error.to_string())
            }
            16 => file.sync_all().map_err(|error| error.to_string()),
            17 => {
                drop(file);
                file = open(path).map_err(|error| format!("step {step}: open again: {error}"))?;
                Ok(())
            }
            18 => {
                let other = format!("{path}.moved");
                std::fs::rename(path, &other)
                    .and_then(|()| std::fs::rename(&other, path))
                    .map_err(|error| error.to_string())
            }
            _ => match file.metadata() {
                Ok(data) if data.len() == model.len() as u64 => Ok(()),
                Ok(data) => Err(format!("size {} instead of {}", data.len(), model.len())),
                Err(error) => Err(error.to_string()),
            },
        };
        done.map_err(|error| {
            format!("step {step}, operation {what} at {from} of {len} (seed {seed}): {error}")
        })?;
    }
    drop(file);
    compare(&open(path).map_err(|error| error.to_string())?, &model, 0, model.len() + 1)
        .map_err(|error| format!("in the end (seed {seed}): {error}"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, operations, seed] = arguments.as_slice() else {
        println!("fsx FILE OPERATIONS SEED");
        return ExitCode::from(2);
    };
    let (Ok(operations), Ok(seed)) = (operations.parse(), seed.parse()) else { return ExitCode::from(2) };
    match run(path, operations, seed) {
        Ok(()) => {
            println!("{operations} operations");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
