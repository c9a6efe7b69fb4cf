//! The command line: arguments, exit codes, output for people and (`--json`) for scripts.
//!
//! Exit codes: 0 fine, 1 the thing asked about is wrong, 2 usage or configuration. clap exits with 2 by itself.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod pancbt;

/// An SMB server whose share restores VMware virtual machines.
#[derive(Debug, Parser)]
#[command(name = "importfs", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, show, verify and apply differential files.
    #[command(subcommand)]
    Pancbt(pancbt::Command),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The thing asked about is wrong: exit code 1.
    Wrong(String),
    /// The command line, the configuration or a file it names: exit code 2.
    Usage(String),
}

impl Failure {
    /// A usage failure about a file.
    fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Pancbt(command) => pancbt::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(sentence)) => complain(&sentence, 1),
        Err(Failure::Usage(sentence)) => complain(&sentence, 2),
    }
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    eprintln!("importfs: {sentence}");
    ExitCode::from(code)
}
