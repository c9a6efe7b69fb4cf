//! `importfs cfg`: CFG files for virtual machines whose backup has none.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, Place, print, wiring};
use crate::datastore::Provisioning;
use crate::import::OnConflict;
use crate::import::formats::cfg_new::{Destination, from_machine, from_vmx};
use crate::import::formats::descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor};
use crate::import::formats::vmx::{VMX_BYTES_MAX, Vmx};

/// Files beside the VMX that are looked at: more than any virtual machine has.
const BESIDE_MAX: usize = 4096;

/// What to do with CFG files.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a commented CFG from a VMX and its disks' descriptors, or from a virtual machine that exists (--vm).
    ///
    /// The descriptors (small *.vmdk files, not the -flat ones) are looked for beside the VMX unless they are given. Edit
    /// the result as its comments say, try it with `importfs check`, and copy it into a directory of the import share.
    New(New),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// The VMX.
    #[arg(required_unless_present = "vm", conflicts_with = "vm")]
    vmx: Option<PathBuf>,
    /// The disks' descriptors; without any, those beside the VMX.
    descriptors: Vec<PathBuf>,
    /// A virtual machine of a hypervisor's inventory instead, by its name, or its inventory path or the end of that. What the
    /// other options don't say is as the machine has it.
    #[arg(long, value_name = "NAME", requires = "hypervisor")]
    vm: Option<String>,
    /// The hypervisor that has it, as the configuration of importfs calls it.
    #[arg(long, value_name = "NAME", requires = "vm")]
    hypervisor: Option<String>,
    #[command(flatten)]
    place: Place,
    /// The datastore of the VM and its disks, by name or UUID.
    #[arg(long, value_name = "NAME", required_unless_present = "vm")]
    datastore: Option<String>,
    /// The hypervisor, as the configuration of importfs calls it.
    #[arg(long, value_name = "NAME")]
    servername: Option<String>,
    /// The directory on the datastore; without it, the VMX's name.
    #[arg(long, value_name = "DIR", default_value = "")]
    directory: String,
    /// The virtual machine's name; without it, the VMX's displayName.
    #[arg(long, value_name = "NAME")]
    vmname: Option<String>,
    /// The type of all disks; without it, each one's own.
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
    /// What happens where the destination exists.
    #[arg(long, value_enum, default_value_t = Conflict::Stop)]
    on_conflict: Conflict,
    /// Where to register the VM: the datacenter.
    #[arg(long, value_name = "NAME", default_value = "")]
    datacenter: String,
    /// … its folder.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    folder: String,
    /// … the host.
    #[arg(long, value_name = "NAME", default_value = "")]
    hostsystem: String,
    /// … the resource pool.
    #[arg(long, value_name = "NAME", default_value = "")]
    resourcepool: String,
    /// Register the VM when its VMX has arrived.
    #[arg(long)]
    register: bool,
    /// Where to write; must not exist yet. Without it, standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Space as it is written.
    Thin,
    /// All space reserved.
    Thick,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Conflict {
    /// It is an error.
    Stop,
    /// Another directory is taken.
    Rename,
    /// The virtual machine there is replaced when this one is complete.
    Overwrite,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New(options) = command;
    let text = make(options)?;
    let Some(path) = &options.output else {
        print(&text);
        return Ok(());
    };
    let written = OpenOptions::new().write(true).create_new(true).open(path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::file(path, "it exists already; choose another name"),
        _ => Failure::file(path, error),
    })
}

fn make(options: &New) -> Result<String, Failure> {
    match (&options.vmx, &options.vm, &options.hypervisor) {
        (Some(vmx), ..) => of_vmx(options, vmx),
        (None, Some(vm), Some(hypervisor)) => of_machine(options, vm, hypervisor),
        _ => Err(Failure::Usage("a VMX, or --vm and --hypervisor, are needed".to_owned())),
    }
}

/// Where it goes, as far as the options say.
fn destination(options: &New, server_name: &str) -> Destination {
    Destination {
        server_name: options.servername.clone().unwrap_or_else(|| server_name.to_owned()),
        datacenter: options.datacenter.clone(),
        folder: options.folder.clone(),
        host_system: options.hostsystem.clone(),
        resource_pool: options.resourcepool.clone(),
        datastore: options.datastore.clone().unwrap_or_default(),
        directory: options.directory.clone(),
        on_conflict: match options.on_conflict {
            Conflict::Stop => OnConflict::Stop,
            Conflict::Rename => OnConflict::Rename,
            Conflict::Overwrite => OnConflict::Overwrite,
        },
        register: options.register,
    }
}

fn of_machine(options: &New, vm: &str, hypervisor: &str) -> Result<String, Failure> {
    let config = options.place.load()?;
    let same = |name: &String| name.eq_ignore_ascii_case(hypervisor);
    let found = config.hypervisors.iter().find(|on| same(&on.name) || on.aliases.iter().any(same));
    let Some(found) = found else {
        let known: Vec<_> = config.hypervisors.iter().map(|on| on.name.as_str()).collect();
        let known = known.join(", ");
        return Err(Failure::Usage(format!(
            "no hypervisor '{hypervisor}' is configured; there are: {known}"
        )));
    };
    let Some(manager) = wiring::manager(found)? else {
        let told = format!("'{hypervisor}' has datastores only, and no inventory with virtual machines");
        return Err(Failure::Usage(told));
    };
    let mut machine = manager.describe(vm).map_err(|error| Failure::Wrong(error.message))?;
    if let Some(name) = &options.vmname {
        machine.name.clone_from(name);
    }
    let provisioning = options.kind.map(|kind| match kind {
        Kind::Thin => Provisioning::Thin,
        Kind::Thick => Provisioning::Thick,
    });
    from_machine(&machine, &destination(options, &found.name), provisioning)
        .map_err(|error| Failure::Wrong(format!("{vm}: {error}")))
}

fn of_vmx(options: &New, vmx_path: &Path) -> Result<String, Failure> {
    let wrong =
        |path: &Path, error: &dyn std::fmt::Display| Failure::Wrong(format!("{}: {error}", path.display()));
    let bytes = read(vmx_path, VMX_BYTES_MAX)?;
    let mut vmx = Vmx::parse(&bytes).map_err(|error| wrong(vmx_path, &error))?;
    if let Some(name) = &options.vmname {
        vmx.set("displayName", name).map_err(|error| wrong(vmx_path, &error))?;
    }
    let given = !options.descriptors.is_empty();
    let paths = if given { options.descriptors.clone() } else { beside(vmx_path)? };
    let mut descriptors = Vec::new();
    for path in paths {
        // An extent beside the VMX may be terabytes: one byte too many tells that it is no descriptor.
        let bytes = read(&path, DESCRIPTOR_BYTES_MAX)?;
        match Descriptor::parse(&bytes) {
            Ok(mut descriptor) => {
                if let Some(kind) = options.kind {
                    descriptor.thin = matches!(kind, Kind::Thin);
                }
                descriptors.push((file_name(&path), descriptor));
            }
            Err(error) if given => return Err(wrong(&path, &error)),
            Err(_) => {}
        }
    }
    let to = destination(options, "local");
    from_vmx(&file_name(vmx_path), &vmx, &descriptors, &to).map_err(|error| wrong(vmx_path, &error))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The `.vmdk` files beside the VMX, by name.
fn beside(vmx: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = vmx.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).map_err(|error| Failure::file(folder, error))?;
    let is_vmdk = |path: &PathBuf| {
        path.extension().and_then(OsStr::to_str).is_some_and(|e| e.eq_ignore_ascii_case("vmdk"))
    };
    let mut found: Vec<_> =
        entries.take(BESIDE_MAX).flatten().map(|entry| entry.path()).filter(is_vmdk).collect();
    found.sort();
    Ok(found)
}

/// At most `limit` bytes and one more.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(path, error))?;
    Ok(bytes)
}
