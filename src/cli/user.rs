//! `importfs user`: the accounts that may log in. Passwords come from a prompt or from standard input, never from argv.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{Failure, Place, print, print_json};
use crate::users::Users;

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add an account; the password from a prompt, or twice on standard input.
    Add(Target),
    /// Change an account's password.
    Passwd(Target),
    /// Remove an account.
    Remove(Target),
    /// List the accounts.
    List {
        #[command(flatten)]
        place: Place,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// The account.
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    let wrong = |error: crate::users::UsersError| Failure::Wrong(error.to_string());
    match command {
        Command::Add(target) => {
            let users = open(&target.place)?;
            users.add(&target.name, &ask_password()?).map_err(wrong)
        }
        Command::Passwd(target) => {
            let users = open(&target.place)?;
            users.set_password(&target.name, &ask_password()?).map_err(wrong)
        }
        Command::Remove(target) => open(&target.place)?.remove(&target.name).map_err(wrong),
        Command::List { place, json } => {
            let names = open(&place)?.names().map_err(wrong)?;
            if json {
                return print_json(&serde_json::json!({ "users": names }));
            }
            print(&names.iter().fold(String::new(), |text, name| text + name + "\n"));
            Ok(())
        }
    }
}

fn open(place: &Place) -> Result<Users, Failure> {
    let data_dir = place.load()?.server.data_dir;
    super::serve::create_private(&data_dir).map_err(|e| Failure::file(&data_dir, e))?;
    Users::open(&data_dir).map_err(|error| Failure::Usage(error.to_string()))
}

fn ask_password() -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::Usage(format!("the password can't be read: {error}"));
    let (first, second) = if io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").map_err(failed)?;
        (first, rpassword::prompt_password("Again: ").map_err(failed)?)
    } else {
        let mut lines = io::stdin().lock().lines();
        let mut next = || lines.next().transpose().map(Option::unwrap_or_default).map_err(failed);
        (next()?, next()?)
    };
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    if first != second {
        return Err(Failure::Usage("the two passwords are not the same".into()));
    }
    Ok(first)
}
