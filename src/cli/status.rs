//! `importfs status`: how far the import sessions are, by the running service or else by its journals.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::{Failure, Place, print, print_json};
use crate::admin::{Report, instance, socket};
use crate::import::{DiskSnapshot, SessionSnapshot, Snapshot};

/// Which service.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Status) -> Result<(), Failure> {
    let config = options.place.load()?;
    let data_dir = config.server.data_dir;
    if !data_dir.is_dir() {
        let told =
            format!("{}: there is no such data directory; give --config or --data-dir", data_dir.display());
        return Err(Failure::Usage(told));
    }
    let report = report(&data_dir)?;
    if options.json {
        return print_json(&report);
    }
    print(&text(&report, &data_dir, config.import.session_idle_days));
    Ok(())
}

fn report(data_dir: &Path) -> Result<Report, Failure> {
    let at = data_dir.join(socket::SOCKET_NAME);
    match socket::ask(data_dir) {
        Ok(Some(report)) => return Ok(report),
        Ok(None) => {}
        Err(error) => {
            return Err(Failure::Wrong(format!("{}: the service does not answer: {error}", at.display())));
        }
    }
    if let Some(pid) = instance::holder(data_dir).map_err(|e| Failure::file(data_dir, e))? {
        let process = pid.map(|pid| format!(", process {pid},")).unwrap_or_default();
        let told = format!("{}: the service{process} is starting or stopping; try again", data_dir.display());
        return Err(Failure::Wrong(told));
    }
    let snapshot = Snapshot::from_journals(data_dir).map_err(|error| Failure::Wrong(error.to_string()))?;
    Ok(Report { service: None, snapshot })
}

/// `idle_days`: from so many on, a session is called idle; 0 calls none so.
fn text(report: &Report, data_dir: &Path, idle_days: u64) -> String {
    let mut out = String::new();
    let count = report.snapshot.sessions.len();
    let sessions = format!("{count} session{}", if count == 1 { "" } else { "s" });
    match &report.service {
        Some(service) => {
            let up = duration(service.uptime_seconds);
            let (version, pid, listen) = (&service.version, service.pid, service.listen.join(", "));
            let _ =
                writeln!(out, "importfs {version} runs (process {pid}, on {listen}, for {up}): {sessions}");
        }
        None => {
            let _ = writeln!(out, "No service runs on {}. By its journals: {sessions}", data_dir.display());
        }
    }
    for session in &report.snapshot.sessions {
        session_text(&mut out, session, idle_days);
    }
    out
}

fn session_text(out: &mut String, session: &SessionSnapshot, idle_days: u64) {
    let name = if session.vm_name.is_empty() { String::new() } else { format!(" {:?}", session.vm_name) };
    let state = match session.state.as_str() {
        "waiting" => "waits for a CFG without errors",
        "imported" => "imported",
        "pushing" => "is brought to its datastores",
        "held" => "waits for a datastore that does not answer",
        _ => "receiving",
    };
    let open = match session.handles {
        0 => String::new(),
        1 => ", 1 file open".to_owned(),
        n => format!(", {n} files open"),
    };
    let idle = match session.idle_days {
        days if idle_days > 0 && days >= idle_days => format!(", idle for {days} days"),
        _ => String::new(),
    };
    let _ = writeln!(out, "\n{}{name}: {state}{open}{idle}", session.path);
    for disk in &session.disks {
        disk_text(out, disk);
    }
    for error in &session.errors {
        let _ = writeln!(out, "  error: {error}");
    }
}

fn disk_text(out: &mut String, disk: &DiskSnapshot) {
    let percent = disk.received.saturating_mul(1000).checked_div(disk.size).unwrap_or(0);
    let _ = write!(
        out,
        "  {} ({}) {}: {} of {} ({}.{} %), written {}, zeros skipped {}",
        disk.extent,
        disk.kind,
        disk.stage,
        bytes(disk.received),
        bytes(disk.size),
        percent / 10,
        percent % 10,
        bytes(disk.written),
        bytes(disk.skipped),
    );
    if disk.rate > 0 {
        let _ = write!(out, ", {}/s", bytes(disk.rate));
    }
    if let Some(seconds) = disk.estimated_seconds {
        let _ = write!(out, ", about {} left", duration(seconds));
    }
    if disk.differentials > 0 {
        let _ = write!(out, ", differentials merged {}", disk.differentials);
    }
    let _ = writeln!(out, "\n    -> {}", disk.destination);
    if let Some(missing) = disk.missing.as_ref().filter(|_| disk.stage != "absent") {
        let _ = writeln!(out, "    {missing}");
    }
}

/// A number of bytes for people, in units of 1024.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {rest} s")
    } else {
        format!("{rest} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let told: Vec<_> = [0, 1023, 1024, 1 << 20, 1_073_741_823, 62 << 40].map(bytes).to_vec();
        assert_eq!(told, ["0 bytes", "1023 bytes", "1.0 KiB", "1.0 MiB", "1.0 GiB", "62.0 TiB"]);
        assert_eq!([5, 65, 3661].map(duration), ["5 s", "1 min 5 s", "1 h 1 min"]);
    }
}
