//! The `.vmcfg`: the CFG after redirection, so that a person sees where everything went (import_fs.txt, 'VM Name
//! Conflict'). The page's order of keys, no comments but the head, every new name filled in.

use std::fmt::Write as _;

use super::cfg::{Cfg, provisioning_str};
use super::one_line;

/// The name of the `.vmcfg` of a CFG: `x.cfg` gives `x.vmcfg`.
pub fn file_name(cfg_file: &str) -> String {
    let stem = super::cfg::strip_suffix_ignore_case(cfg_file, ".cfg").unwrap_or(cfg_file);
    format!("{stem}.vmcfg")
}

/// The text. It is a CFG again: read back, it leads everything to the same places.
pub fn render(cfg: &Cfg) -> String {
    let mut out = String::with_capacity(1024 + cfg.disks.len() * 512);
    let head = format!("Virtual Machine '{}' configuration file from '{}'", cfg.vm_name, cfg.server_name);
    let _ = writeln!(out, "#\n# {}\n#", one_line(&head));
    let mut text = |key: &str, value: &str| {
        let _ = writeln!(out, "{key} = \"{value}\"");
    };
    text("version", "4");
    text("vmname", &cfg.vm_name);
    if !cfg.vm_uuid.is_empty() {
        text("vmuuid", &cfg.vm_uuid);
    }
    text("servername", &cfg.server_name);
    text("datacenter", &cfg.datacenter);
    text("folder", &cfg.folder);
    text("hostsystem", &cfg.host_system);
    text("resourcepool", &cfg.resource_pool);
    text("dsname", &cfg.datastore);
    text("directory", &cfg.directory);
    text("vmx-name", &cfg.vmx_name);
    text("vmx-rename", cfg.target_vmx());
    for (n, disk) in cfg.disks.iter().enumerate() {
        let mut text = |field: &str, value: &str| {
            let _ = writeln!(out, "vmdk.{n}.{field} = \"{value}\"");
        };
        text("name", &disk.name);
        text("rename", disk.target_name());
        text("extent-name", &disk.extent_name);
        text("extent-rename", &disk.target_extent());
        text("dsname", &disk.datastore);
        text("directory", &disk.directory);
        let _ = writeln!(out, "vmdk.{n}.size = {}", disk.size);
        let _ = writeln!(out, "vmdk.{n}.type = \"{}\"", provisioning_str(disk.provisioning));
    }
    let _ = writeln!(out, "on-conflict = \"{}\"", cfg.on_conflict.as_str());
    let _ = writeln!(out, "register-after-import = {}", u8::from(cfg.register));
    if let Some(time) = cfg.access_time {
        let _ = writeln!(out, "access-time = {time}");
    }
    out
}
