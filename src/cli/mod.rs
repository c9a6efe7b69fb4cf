//! The command line: arguments, exit codes, output for people and (`--json`) for scripts.
//!
//! Exit codes: 0 fine, 1 the thing asked about is wrong, 2 usage or configuration. clap exits with 2 by itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::Config;

mod cfg;
mod check;
mod orphans;
mod pancbt;
mod serve;
mod status;
mod user;
mod wiring;

/// An SMB server whose share restores VMware virtual machines: copy a CFG, the disks' extents, their differentials and
/// the VMX into a directory of the share, and the virtual machine stands on its datastores.
#[derive(Debug, Parser)]
#[command(
    name = "importfs",
    version,
    about,
    max_term_width = 100,
    after_help = "Start with `importfs serve`: it prints what to type next. Exit codes: 0 fine, 1 the thing asked about \
                  is wrong, 2 usage or configuration."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the shares until SIGTERM or Ctrl-C.
    ///
    /// Without --config: a share `import` on port 4450, everything in ./importfs-data, and an account whose password is
    /// shown once.
    Serve(serve::Serve),
    /// Try a CFG without importing anything: all errors, where everything would go, whether it fits.
    ///
    /// Reads the file as the share would when it is copied there, against the same configuration and the datastores as
    /// they are now, and changes nothing. Exit code 1: the share would refuse it.
    Check(check::Check),
    /// Show the import sessions: each disk's progress, rate and time left, and errors.
    ///
    /// Asks the running service; where none runs, tells what the journals hold.
    Status(status::Status),
    /// List and remove what sessions that never completed left on datastores.
    #[command(subcommand)]
    Orphans(orphans::Command),
    /// Make CFG files.
    #[command(subcommand)]
    Cfg(cfg::Command),
    /// Make, show, verify and apply differential (PANCBT) files.
    #[command(subcommand)]
    Pancbt(pancbt::Command),
    /// Add, change, remove and list the accounts that may log in.
    #[command(subcommand)]
    User(user::Command),
}

/// Which service a command is about.
#[derive(Debug, Args)]
struct Place {
    /// The configuration file; without it, the embedded default of `importfs serve`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sessions, journals and accounts; instead of the configuration's, or of ./importfs-data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn load(&self) -> Result<Config, Failure> {
        load_config(self.config.as_deref(), self.data_dir.as_deref())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The thing asked about is wrong: exit code 1.
    Wrong(String),
    /// The same, and the command's output has said so already.
    Told,
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
        Command::Check(options) => check::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Orphans(command) => orphans::run(&command),
        Command::Cfg(command) => cfg::run(&command),
        Command::Pancbt(command) => pancbt::run(command),
        Command::User(command) => user::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::from(1),
        Err(Failure::Wrong(sentence)) => complain(&sentence, 1),
        Err(Failure::Usage(sentence)) => complain(&sentence, 2),
    }
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    for line in sentence.lines() {
        eprintln!("importfs: {line}");
    }
    ExitCode::from(code)
}

/// Prints a command's answer. A reader that went away (`| head`) is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints an answer for scripts.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Wrong(error.to_string()))?;
    print(&(text + "\n"));
    Ok(())
}
