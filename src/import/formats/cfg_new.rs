//! `cfg new`: a commented CFG for a virtual machine whose backup has none, from its VMX and its disks' descriptors.
//!
//! The comments say what the page's do (import_fs.txt, 'Virtual Machine Configuration File'), in that order of keys.

use std::fmt::Write as _;

use super::cfg::{OnConflict, Parsed, Vmdk, parse, provisioning_str};
use super::descriptor::Descriptor;
use super::vmx::{Vmx, basename};
use crate::datastore::Provisioning;
use crate::inventory::Description;

/// Where the VM is to go; all of it can be edited in the CFG afterwards.
#[derive(Debug, Clone, Default)]
pub struct Destination {
    /// `servername`.
    pub server_name: String,
    /// `datacenter`.
    pub datacenter: String,
    /// `folder`.
    pub folder: String,
    /// `hostsystem`.
    pub host_system: String,
    /// `resourcepool`.
    pub resource_pool: String,
    /// `dsname`, of the VMX and of every disk.
    pub datastore: String,
    /// `directory`, of the VMX and of every disk; empty takes the VMX's name.
    pub directory: String,
    /// `on-conflict`.
    pub on_conflict: OnConflict,
    /// `register-after-import`.
    pub register: bool,
}

/// Why no CFG could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewCfgError {
    /// A disk of the VMX without its descriptor: its size and extent are unknown.
    #[error(
        "{device} uses {name}, whose descriptor was not given; give it, or switch the device off in the VMX"
    )]
    NoDescriptor {
        /// `scsi0:1`.
        device: String,
        /// The descriptor's name.
        name: String,
    },
    /// A descriptor that no CFG can describe.
    #[error("{0}")]
    Descriptor(String),
    /// What came out is no CFG (a destination missing, a name that none can have).
    #[error("the CFG would not be valid: {0}")]
    Invalid(String),
}

/// Makes the CFG. `vmx_name` is the VMX's file name; `descriptors` are those of its disks, by file name. The text that
/// comes out is a CFG without errors.
pub fn from_vmx(
    vmx_name: &str,
    vmx: &Vmx,
    descriptors: &[(String, Descriptor)],
    to: &Destination,
) -> Result<String, NewCfgError> {
    let vm_name =
        text(vmx.get("displayName").filter(|name| !name.trim().is_empty()).unwrap_or(stem(vmx_name)));
    let directory = if to.directory.is_empty() { stem(vmx_name) } else { &to.directory };
    let mut disks = Vec::new();
    for (device, path) in vmx.disks() {
        disks.push(disk(&device, basename(&path), descriptors, to, directory)?);
    }
    let uuid = vmx.get("uuid.bios").and_then(hyphenated);
    let to = Destination { directory: directory.to_owned(), ..to.clone() };
    rendered(head(&vm_name, uuid, &to), vmx_name, &disks, &to)
}

/// Makes the CFG of a virtual machine that exists. What `to` has counts, and otherwise what the machine has; `provisioning` is for
/// all disks.
pub fn from_machine(
    machine: &Description,
    to: &Destination,
    provisioning: Option<Provisioning>,
) -> Result<String, NewCfgError> {
    let or = |given: &str, own: &str| if given.is_empty() { own.to_owned() } else { given.to_owned() };
    let (own, vmx_name) = machine.vmx.path.rsplit_once('/').unwrap_or(("", &machine.vmx.path));
    let disks: Vec<_> = machine
        .disks
        .iter()
        .map(|disk| {
            let path = &disk.descriptor.path;
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let base = super::cfg::strip_suffix_ignore_case(name, ".vmdk").unwrap_or(name);
            let thin = if disk.thin { Provisioning::Thin } else { Provisioning::Thick };
            Vmdk {
                name: name.to_owned(),
                rename: None,
                extent_name: if disk.raw { format!("{base}-rdm.vmdk") } else { format!("{base}-flat.vmdk") },
                extent_rename: None,
                datastore: or(&to.datastore, &disk.descriptor.datastore),
                directory: or(&to.directory, directory),
                size: disk.size,
                provisioning: provisioning.unwrap_or(thin),
            }
        })
        .collect();
    let to = Destination {
        server_name: to.server_name.clone(),
        datacenter: or(&to.datacenter, &machine.place.datacenter),
        folder: or(&to.folder, &machine.place.folder),
        host_system: or(&to.host_system, &machine.place.host),
        resource_pool: or(&to.resource_pool, &machine.place.pool),
        datastore: or(&to.datastore, &machine.vmx.datastore),
        directory: or(&to.directory, own),
        ..to.clone()
    };
    let mut out = head(&text(&machine.name), hyphenated(&machine.uuid), &to);
    for note in &machine.notes {
        let _ = writeln!(out, "# {}\n", text(note));
    }
    rendered(out, vmx_name, &disks, &to)
}

/// The rest of a CFG, behind its head; checked.
fn rendered(
    mut out: String,
    vmx_name: &str,
    disks: &[Vmdk],
    to: &Destination,
) -> Result<String, NewCfgError> {
    place(&mut out, vmx_name, &to.directory, to);
    for (n, disk) in disks.iter().enumerate() {
        disk_keys(&mut out, n, disk);
    }
    tail(&mut out, to);
    let Parsed { cfg, .. } = parse(out.as_bytes(), OnConflict::Stop);
    match cfg {
        Ok(_) => Ok(out),
        Err(problems) => {
            let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Err(NewCfgError::Invalid(all.join("; ")))
        }
    }
}

fn stem(vmx_name: &str) -> &str {
    super::cfg::strip_suffix_ignore_case(vmx_name, ".vmx").unwrap_or(vmx_name)
}

/// A value that a CFG can hold: it has no escapes, so quotation marks become single ones and control characters blanks.
fn text(value: &str) -> String {
    value
        .chars()
        .map(|c| match c {
            '"' => '\'',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

fn disk(
    device: &str,
    name: &str,
    descriptors: &[(String, Descriptor)],
    to: &Destination,
    directory: &str,
) -> Result<Vmdk, NewCfgError> {
    let found = descriptors.iter().find(|(other, _)| other.to_lowercase() == name.to_lowercase());
    let Some((name, descriptor)) = found else {
        return Err(NewCfgError::NoDescriptor { device: device.to_owned(), name: name.to_owned() });
    };
    let disk = Vmdk {
        name: name.clone(),
        rename: None,
        extent_name: descriptor.extents.first().map(|extent| extent.file.clone()).unwrap_or_default(),
        extent_rename: None,
        datastore: to.datastore.clone(),
        directory: directory.to_owned(),
        size: descriptor.size().unwrap_or_default(),
        provisioning: if descriptor.thin { Provisioning::Thin } else { Provisioning::Thick },
    };
    match descriptor.faults(&disk).into_iter().next() {
        Some(fault) => Err(NewCfgError::Descriptor(fault)),
        None => Ok(disk),
    }
}

/// A comment block and the line that it explains.
fn block(out: &mut String, comment: &[&str], line: &str) {
    out.push_str("#\n");
    for text in comment {
        let _ = writeln!(out, "{}", if text.is_empty() { "#".to_owned() } else { format!("# {text}") });
    }
    let _ = writeln!(out, "#\n{line}\n");
}

fn head(vm_name: &str, uuid: Option<String>, to: &Destination) -> String {
    let mut out = String::new();
    let title = format!("Virtual Machine '{vm_name}' configuration file from '{}'", text(&to.server_name));
    block(&mut out, &[&title], "version = \"4\"");
    let name = format!("vmname = \"{vm_name}\"");
    block(
        &mut out,
        &["The virtual machine name", "", "Modify this parameter during recovery to rename the recovered VM"],
        &name,
    );
    if let Some(uuid) = uuid {
        let comment = ["The virtual machine UUID", "", "This is a read-only parameter."];
        block(&mut out, &comment, &format!("vmuuid = \"{uuid}\""));
    }
    for (comment, key, value) in [
        ("The hypervisor server name", "servername", &to.server_name),
        ("The datacenter name", "datacenter", &to.datacenter),
        (
            "The location of the VM's folder within the datacenter, without outer separators",
            "folder",
            &to.folder,
        ),
        ("The host to register the VM to; \"\" lets the hypervisor choose", "hostsystem", &to.host_system),
        ("The resource pool the virtual machine belongs to", "resourcepool", &to.resource_pool),
    ] {
        let line = format!("{key} = \"{}\"", text(value));
        block(&mut out, &[comment, "", "Modify this parameter during recovery if necessary."], &line);
    }
    out
}

fn place(out: &mut String, vmx_name: &str, directory: &str, to: &Destination) {
    let modify = "Modify this parameter during recovery if necessary.";
    let line = format!("dsname = \"{}\"", text(&to.datastore));
    block(out, &["The name or UUID of the datastore where the VM's files are stored", "", modify], &line);
    let line = format!("directory = \"{directory}\"");
    block(out, &["The directory within the datastore where the VM's files are stored", "", modify], &line);
    let comment = ["The file name of the VMX file", "", "This is a read only parameter."];
    block(out, &comment, &format!("vmx-name = \"{vmx_name}\""));
    let comment = ["The new file name of the VMX file", "", "If not specified, the old name is used."];
    block(out, &comment, &format!("#vmx-rename = \"{vmx_name}\""));
}

fn disk_keys(out: &mut String, n: usize, disk: &Vmdk) {
    let title = format!("Virtual Disk {}", n + 1);
    let modify = "Modify this parameter during recovery if necessary.";
    let read_only = "This is a read only parameter.";
    let line = format!("vmdk.{n}.name = \"{}\"", disk.name);
    block(out, &[&title, "", "The name of the descriptor file", "", read_only], &line);
    let line = format!("#vmdk.{n}.rename = \"{}\"", disk.name);
    block(out, &["The name of the destination descriptor file, if another"], &line);
    let line = format!("vmdk.{n}.extent-name = \"{}\"", disk.extent_name);
    block(out, &["The name of the extent file", "", read_only], &line);
    let line = format!("vmdk.{n}.dsname = \"{}\"", text(&disk.datastore));
    block(out, &["The name or UUID of the datastore where the virtual disk is stored", "", modify], &line);
    let line = format!("vmdk.{n}.directory = \"{}\"", disk.directory);
    block(out, &["The directory within the datastore where the virtual disk is stored", "", modify], &line);
    let line = format!("vmdk.{n}.size = {}", disk.size);
    block(out, &["The size of the virtual disk in bytes", "", read_only], &line);
    let line = format!("vmdk.{n}.type = \"{}\"", provisioning_str(disk.provisioning));
    block(out, &["The type of the virtual disk, \"thick\", or \"thin\"", "", modify], &line);
}

fn tail(out: &mut String, to: &Destination) {
    let comment = [
        "On-conflict mode",
        "",
        "What happens if a destination directory, or a VM of that name, exists already:",
        "\"stop\" returns an error, \"rename\" appends (1), (2) and so on to the name,",
        "\"overwrite\" replaces the VM there, which must be powered off, when this one is complete.",
    ];
    block(out, &comment, &format!("on-conflict = \"{}\"", to.on_conflict.as_str()));
    let comment = ["Register VM with hypervisor after import? 1 does, 0 leaves it to you."];
    block(out, &comment, &format!("register-after-import = {}", u8::from(to.register)));
    while out.ends_with("\n\n") {
        out.pop();
    }
}

/// `50 13 39 67 ae 5a 05 2c-01 40 …` of a VMX as the CFG writes it: `50133967-ae5a-052c-0140-…`.
fn hyphenated(uuid: &str) -> Option<String> {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let known = digits.len() == 32 && uuid.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ' ' | '-'));
    known.then(|| {
        let part = |from: usize, to: usize| &digits[from..to];
        format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
            .to_lowercase()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::inventory::{DescribedDisk, Place, StoreFile};

    const VMX: &str = "displayName = \"a |22quoted|22 VM\"\nuuid.bios = \"50 13 39 67 ae 5a 05 2c-01 40 e4 7c e0 72 19 ee\"\n\
        scsi0:0.fileName = \"a.vmdk\"\nscsi0:1.fileName = \"/vmfs/volumes/x/b/b.vmdk\"\nide1:0.fileName = \"x.iso\"\n";

    fn descriptor(extent: &str, thin: u8) -> Descriptor {
        let text =
            format!("# Disk DescriptorFile\nRW 2048 VMFS \"{extent}\"\nddb.thinProvisioned = \"{thin}\"\n");
        Descriptor::parse(text.as_bytes()).unwrap()
    }

    fn to() -> Destination {
        Destination {
            server_name: "vc".into(),
            datastore: "ds1".into(),
            register: true,
            ..Destination::default()
        }
    }

    #[test]
    fn the_cfg_is_valid_and_has_every_disk() {
        let vmx = Vmx::parse(VMX.as_bytes()).unwrap();
        let given = [
            ("a.vmdk".to_owned(), descriptor("a-flat.vmdk", 1)),
            ("b.vmdk".to_owned(), descriptor("b-flat.vmdk", 0)),
        ];
        let text = from_vmx("vm.vmx", &vmx, &given, &to()).unwrap();
        let cfg = parse(text.as_bytes(), OnConflict::Stop).cfg.unwrap();
        assert_eq!(
            (cfg.vm_name.as_str(), cfg.directory.as_str(), cfg.register),
            ("a 'quoted' VM", "vm", true)
        );
        assert_eq!(cfg.vm_uuid, "50133967-ae5a-052c-0140-e47ce07219ee");
        let types: Vec<_> = cfg.disks.iter().map(|disk| (disk.size, disk.provisioning)).collect();
        assert_eq!(types, [(1 << 20, Provisioning::Thin), (1 << 20, Provisioning::Thick)]);
    }

    #[test]
    fn a_machine_that_exists_is_a_cfg_and_what_is_asked_for_counts() {
        let file = |datastore: &str, path: &str| StoreFile { datastore: datastore.into(), path: path.into() };
        let disk = |descriptor, raw| DescribedDisk { descriptor, size: 4096, thin: true, raw };
        let machine = Description {
            name: "we\"b".into(),
            uuid: "50133967-ae5a-052c-0140-e47ce07219ee".into(),
            place: Place {
                datacenter: "dc".into(),
                folder: "a/b".into(),
                host: "esx".into(),
                pool: "c/Resources/low".into(),
            },
            vmx: file("ds1", "deep/web/web.vmx"),
            disks: vec![
                disk(file("ds1", "deep/web/web.vmdk"), false),
                disk(file("ds2", "data/raw.vmdk"), true),
            ],
            notes: vec!["a note".into()],
        };
        let to = Destination { server_name: "vc".into(), register: true, ..Destination::default() };
        let text = from_machine(&machine, &to, None).unwrap();
        assert!(text.contains("# a note\n"));
        let cfg = parse(text.as_bytes(), OnConflict::Stop).cfg.unwrap();
        assert_eq!((cfg.vm_name.as_str(), cfg.vm_uuid.as_str()), ("we'b", machine.uuid.as_str()));
        assert_eq!(
            (cfg.datastore.as_str(), cfg.directory.as_str(), cfg.vmx_name.as_str()),
            ("ds1", "deep/web", "web.vmx")
        );
        assert_eq!(cfg.inventory(), machine.place);
        let of = |n: usize| {
            (
                cfg.disks[n].datastore.as_str(),
                cfg.disks[n].directory.as_str(),
                cfg.disks[n].extent_name.as_str(),
            )
        };
        assert_eq!((of(0), of(1)), (("ds1", "deep/web", "web-flat.vmdk"), ("ds2", "data", "raw-rdm.vmdk")));
        let to = Destination { datastore: "other".into(), directory: "new".into(), ..to };
        let text = from_machine(&machine, &to, Some(Provisioning::Thick)).unwrap();
        let cfg = parse(text.as_bytes(), OnConflict::Stop).cfg.unwrap();
        assert!(cfg.disks.iter().all(|d| (d.datastore.as_str(), d.directory.as_str(), d.provisioning)
            == ("other", "new", Provisioning::Thick)));
        // One in the root of a datastore has no directory that a CFG could name.
        let rootless = Description { vmx: file("ds1", "web.vmx"), ..machine };
        let told = from_machine(
            &rootless,
            &Destination { server_name: "vc".into(), ..Destination::default() },
            None,
        )
        .unwrap_err();
        assert!(told.to_string().contains("directory"), "{told}");
    }

    #[test]
    fn what_is_missing_is_told() {
        let vmx = Vmx::parse(VMX.as_bytes()).unwrap();
        let one = [("A.VMDK".to_owned(), descriptor("a-flat.vmdk", 1))];
        let missing = from_vmx("vm.vmx", &vmx, &one, &to()).unwrap_err();
        assert!(
            matches!(missing, NewCfgError::NoDescriptor { ref name, .. } if name == "b.vmdk"),
            "{missing}"
        );
        let diskless = Vmx::parse(b"displayName = \"x\"").unwrap();
        let nowhere = from_vmx("vm.vmx", &diskless, &[], &Destination::default()).unwrap_err();
        assert!(nowhere.to_string().contains("servername"), "{nowhere}");
    }
}
