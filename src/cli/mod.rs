//! The command line: arguments, exit codes, output for people and (`--json`) for scripts.
//!
//! Exit codes: 0 fine, 1 the thing asked about is wrong, 2 usage or configuration. clap exits with 2 by itself.

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

mod pancbt;
mod serve;
mod user;

/// An SMB server whose share restores VMware virtual machines.
#[derive(Debug, Parser)]
#[command(name = "importfs", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the shares.
    Serve(serve::Serve),
    /// Make, show, verify and apply differential files.
    #[command(subcommand)]
    Pancbt(pancbt::Command),
    /// Add, change, remove and list the accounts that may log in.
    #[command(subcommand)]
    User(user::Command),
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

/// Where everything is kept without a configuration.
const DEFAULT_DATA_DIR: &str = "importfs-data";

/// The configuration that a command works on: the file, or the embedded default; `data_dir` overrides either.
fn load_config(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Config, Failure> {
    let Some(file) = file else {
        return Ok(Config::embedded(data_dir.unwrap_or(Path::new(DEFAULT_DATA_DIR))));
    };
    let mut config = Config::load(file).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(data_dir) = data_dir {
        config.server.data_dir = data_dir.into();
    }
    Ok(config)
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Pancbt(command) => pancbt::run(command),
        Command::User(command) => user::run(command),
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
