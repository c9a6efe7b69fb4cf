//! `importfs check`: what the import share would make of a CFG, without making anything.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Failure, Place, print, print_json, wiring};
use crate::import::check_stage;
use crate::import::formats::cfg::{CFG_BYTES_MAX, CfgProblem, provisioning_str};
use crate::import::preflight::{self, Resolved, Room};

/// What to check, against what.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The CFG.
    file: PathBuf,
    #[command(flatten)]
    place: Place,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// The answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    file: String,
    ok: bool,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanAnswer>,
}

#[derive(Debug, Serialize)]
struct Problem {
    line: Option<u32>,
    key: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct PlanAnswer {
    vm_name: String,
    hypervisor: String,
    on_conflict: &'static str,
    vmx: Way,
    disks: Vec<DiskAnswer>,
    redirects: Vec<Way>,
    datastores: Vec<RoomAnswer>,
    /// Bytes to which the disks may grow here before they go to their datastore, 0 where they go straight.
    staged_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Way {
    from: String,
    to: String,
}

#[derive(Debug, Serialize)]
struct DiskAnswer {
    descriptor: Way,
    extent: Way,
    size: u64,
    r#type: &'static str,
}

#[derive(Debug, Serialize)]
struct RoomAnswer {
    name: String,
    total_bytes: u64,
    free_bytes: u64,
    thick_bytes: u64,
    thin_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
}

pub(super) fn run(options: &Check) -> Result<(), Failure> {
    let config = options.place.load()?;
    let mut bytes = Vec::new();
    let file = File::open(&options.file).map_err(|e| Failure::file(&options.file, e))?;
    // One byte more than a CFG may have is enough to see that it is none.
    let read = file.take(CFG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::file(&options.file, e))?;
    let hypervisors = wiring::hypervisors(&config)?;
    let examined = preflight::examine(&bytes, wiring::on_conflict(&config), &hypervisors);
    let warnings = examined.warnings.clone();
    let mut resolved = examined.resolve("", |_, _| false);
    let mut staged = 0;
    if let Ok(plan) = &resolved {
        let limit = wiring::stage_limit(&config);
        match check_stage(&plan.plan, &hypervisors, &config.server.data_dir, limit) {
            Ok(bytes) => staged = bytes,
            Err(problem) => resolved = Err(vec![problem]),
        }
    }
    let mut answer = answer(options.file.display().to_string(), &warnings, &resolved);
    if let Some(plan) = &mut answer.plan {
        plan.staged_bytes = staged;
    }
    if options.json {
        print_json(&answer)?;
    } else {
        print(&text(&answer));
    }
    if answer.ok { Ok(()) } else { Err(Failure::Told) }
}

fn answer(file: String, warnings: &[CfgProblem], resolved: &Result<Resolved, Vec<CfgProblem>>) -> Answer {
    let problem = |problem: &CfgProblem| Problem {
        line: problem.line,
        key: problem.key.clone(),
        message: problem.message.clone(),
    };
    let mut warnings: Vec<_> = warnings.iter().map(problem).collect();
    let mut errors = Vec::new();
    let mut plan = None;
    match resolved {
        Err(problems) => errors = problems.iter().map(problem).collect(),
        Ok(resolved) => {
            plan = Some(plan_answer(resolved));
            let grow = resolved.rooms.iter().filter_map(Room::warning).chain(resolved.notes.iter().cloned());
            warnings.extend(grow.map(|message| Problem { line: None, key: String::new(), message }));
        }
    }
    Answer { file, ok: errors.is_empty(), errors, warnings, plan }
}

fn plan_answer(resolved: &Resolved) -> PlanAnswer {
    let plan = &resolved.plan;
    let way = |from: &str, to: String| Way { from: from.to_owned(), to };
    let disks = plan.disks.iter().zip(&plan.taken.disks).map(|(disk, cfg)| DiskAnswer {
        descriptor: way(&disk.name, disk.place.vmfs(&disk.target_name)),
        extent: way(&disk.extent, disk.place.vmfs(&disk.target_extent)),
        size: disk.size,
        r#type: provisioning_str(cfg.provisioning),
    });
    let rooms = resolved.rooms.iter().map(|room| RoomAnswer {
        name: room.datastore.clone(),
        total_bytes: room.space.total,
        free_bytes: room.space.available,
        thick_bytes: room.thick,
        thin_bytes: room.thin,
        written: room.written.clone(),
    });
    PlanAnswer {
        vm_name: plan.taken.vm_name.clone(),
        hypervisor: plan.hypervisor.clone(),
        on_conflict: plan.taken.on_conflict.as_str(),
        vmx: way(&plan.taken.vmx_name, plan.place.vmfs(plan.taken.target_vmx())),
        disks: disks.collect(),
        redirects: resolved.redirects.iter().map(|r| way(&r.from, r.to.clone())).collect(),
        datastores: rooms.collect(),
        staged_bytes: 0,
    }
}

fn text(answer: &Answer) -> String {
    let mut out = String::new();
    let file = &answer.file;
    for (kind, problems) in [("error", &answer.errors), ("warning", &answer.warnings)] {
        for problem in problems {
            let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
            let _ = writeln!(out, "{kind}: {file}: {line}{key}{}", problem.message);
        }
    }
    let Some(plan) = &answer.plan else {
        let count = answer.errors.len();
        let _ = writeln!(
            out,
            "{file}: {count} error{}; the share would refuse it",
            if count == 1 { "" } else { "s" }
        );
        return out;
    };
    let _ = writeln!(out, "{file}: fine\n\nVM {:?} on {}:", plan.vm_name, plan.hypervisor);
    for redirect in &plan.redirects {
        let _ = writeln!(out, "  {} exists: {} is taken instead", redirect.from, redirect.to);
    }
    let _ = writeln!(out, "  {} -> {}", plan.vmx.from, plan.vmx.to);
    for disk in &plan.disks {
        let _ = writeln!(out, "  {} -> {}", disk.descriptor.from, disk.descriptor.to);
        let _ = writeln!(
            out,
            "  {} -> {} ({} bytes, {})",
            disk.extent.from, disk.extent.to, disk.size, disk.r#type
        );
    }
    let _ = writeln!(out, "\nSpace:");
    for room in &plan.datastores {
        let _ = writeln!(
            out,
            "  {}: {} bytes free of {}; thick disks take {}, thin ones up to {}",
            room.name, room.free_bytes, room.total_bytes, room.thick_bytes, room.thin_bytes
        );
        if let Some(written) = &room.written {
            let _ = writeln!(out, "  {written}");
        }
    }
    if plan.staged_bytes > 0 {
        let _ = writeln!(
            out,
            "  stage: the disks wait here until they are complete, up to {} bytes",
            plan.staged_bytes
        );
    }
    out
}
