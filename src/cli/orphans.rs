//! `importfs orphans`: what sessions that never completed left on datastores, and its removal.

use std::fmt::Write as _;

use clap::{Args, Subcommand};

use super::{Failure, Place, print, print_json, wiring};
use crate::config::Config;
use crate::datastore::hotadd::ledger::{self, Ledger};
use crate::import::{ImportError, Orphan, OrphanSession, orphans};

/// What is asked.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the objects on datastores of sessions that never completed. Changes nothing.
    List(Options),
    /// Remove what sessions left whose directories are gone from the share.
    ///
    /// Only objects that such a session made and that are still the same are removed, and directories that are empty then.
    /// Without --yes it is told what would be.
    Clean(CleanOptions),
}

/// Which service.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Which service, and whether it is meant.
#[derive(Debug, Args)]
pub(super) struct CleanOptions {
    #[command(flatten)]
    options: Options,
    /// Remove them.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list(options),
        Command::Clean(options) => clean(options),
    }
}

fn wrong(error: &ImportError) -> Failure {
    Failure::Wrong(error.to_string())
}

fn list(options: &Options) -> Result<(), Failure> {
    let config = options.place.load()?;
    let found = orphans::list(&config.server.data_dir, &wiring::hypervisors(&config)?);
    let mut found = found.map_err(|error| wrong(&error))?;
    found.extend(attached(&config)?);
    if options.json {
        return print_json(&found);
    }
    print(&text(&found));
    Ok(())
}

/// Disks that are attached to appliances, for the service that runs or by one that ended, as if a session of the appliance's own had
/// made them.
fn attached(config: &Config) -> Result<Vec<OrphanSession>, Failure> {
    let entries = Ledger::of(&config.server.data_dir).list();
    let entries =
        entries.map_err(|error| Failure::file(&config.server.data_dir.join(ledger::FOLDER), error))?;
    let mut found: Vec<OrphanSession> = Vec::new();
    for entry in entries {
        let (appliance, orphan) = match entry {
            Ok(entry) => (entry.appliance, attachment(entry.datastore, entry.path, "attached", None)),
            Err(why) => (String::new(), attachment(String::new(), String::new(), "unknown", Some(why))),
        };
        match found.iter_mut().find(|session| session.vm_name == appliance) {
            Some(session) => session.objects.push(orphan),
            None => found.push(OrphanSession {
                id: "attachments".to_owned(),
                path: "attached to the appliance".to_owned(),
                vm_name: appliance,
                state: "attached",
                objects: vec![orphan],
            }),
        }
    }
    Ok(found)
}

fn attachment(datastore: String, path: String, state: &'static str, why: Option<String>) -> Orphan {
    Orphan { hypervisor: String::new(), datastore, path, kind: "attachment", state, why }
}

fn text(sessions: &[OrphanSession]) -> String {
    let mut out = String::new();
    if sessions.is_empty() {
        out.push_str("No session left anything behind.\n");
    }
    for session in sessions {
        let name = if session.vm_name.is_empty() { String::new() } else { format!(" {:?}", session.vm_name) };
        let state = match session.state {
            "open" => "its directory is in the share: it can still be completed",
            "complete" => "complete; what it replaced is not all gone",
            "attached" => "in use, or detached when the service runs next",
            _ => "removed before it completed",
        };
        let _ = writeln!(out, "{}{name}: {state}", session.path); // A String takes all.
        for object in &session.objects {
            let why = object.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let _ = writeln!(
                out,
                "  {:9}  {:15} [{}] {}{why}",
                object.state, object.kind, object.datastore, object.path
            );
        }
    }
    out
}

fn clean(options: &CleanOptions) -> Result<(), Failure> {
    let config = options.options.place.load()?;
    let (data_dir, hypervisors) = (&config.server.data_dir, wiring::hypervisors(&config)?);
    if !options.yes {
        let mut found = orphans::list(data_dir, &hypervisors).map_err(|error| wrong(&error))?;
        found.retain(|session| session.state == "removed");
        if !found.is_empty() {
            print(&text(&found));
            return Err(Failure::Usage("nothing was removed; with --yes, what is there will be".to_owned()));
        }
    }
    let told = orphans::clean(data_dir, &hypervisors).map_err(|error| wrong(&error))?;
    if options.options.json {
        print_json(&told)?;
    } else {
        let mut out = String::new();
        for object in &told {
            let why = object.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let _ = writeln!(out, "{:8} [{}] {}{why}", object.outcome, object.datastore, object.path);
        }
        print(&out);
    }
    if told.iter().any(|object| object.outcome == "kept") { Err(Failure::Told) } else { Ok(()) }
}
