//! The importfs service and its commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    importfs::cli::main()
}
