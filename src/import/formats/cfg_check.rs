//! What the keys of a CFG may hold: types, names, sizes, holes, duplicates. Finds every error, not the first.

use std::collections::{BTreeMap, BTreeSet};

use super::cfg::{
    Cfg, CfgProblem, DISKS_MAX, Draft, DraftPlace, Entry, OnConflict, PROBLEMS_MAX, Value, Vmdk,
    ends_with_ignore_case,
};
use crate::datastore::Provisioning;
use crate::inventory;

/// The largest virtual disk of VMFS and NFS datastores: 62 TiB.
pub const DISK_BYTES_MAX: u64 = 62 << 40;
/// Longest file name on VMFS and on every file system that holds a datastore for us, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest directory path, in bytes: leaves room for a file name below the 4096 of a path.
pub const DIRECTORY_BYTES_MAX: usize = 2048;
/// Longest VM name that vSphere registers, in characters.
pub const VM_NAME_CHARS_MAX: usize = 80;
/// Sector size, bytes.
const SECTOR: u64 = 512;

const KEYS: &[&str] = &[
    "version",
    "vmname",
    "vmuuid",
    "servername",
    "datacenter",
    "folder",
    "hostsystem",
    "resourcepool",
    "dsname",
    "directory",
    "vmx-name",
    "vmx-rename",
    "on-conflict",
    "register-after-import",
    "access-time",
];
const DISK_KEYS: &[&str] =
    &["name", "rename", "extent-name", "extent-rename", "dsname", "directory", "size", "type"];

/// What is wrong with a file's name, if anything: it must be one component that every datastore can hold.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty; give one")
    } else if name.len() > NAME_BYTES_MAX {
        Some("the name is longer than 255 bytes; shorten it")
    } else if name == "." || name == ".." {
        Some("'.' and '..' are not names; give the file's own")
    } else if name.contains(['/', '\\']) {
        Some("the name holds a path separator; give the name alone, the directory has a key of its own")
    } else if name.chars().any(char::is_control) {
        Some("the name holds a control character; remove it")
    } else {
        None
    }
}

/// What is wrong with a directory on a datastore, if anything.
pub fn directory_fault(directory: &str) -> Option<&'static str> {
    if directory.is_empty() {
        Some("the directory is empty; name one below the datastore's root")
    } else if directory.len() > DIRECTORY_BYTES_MAX {
        Some("the directory's path is longer than 2048 bytes; shorten it")
    } else if directory.starts_with('/') || directory.ends_with('/') {
        Some("the directory is relative to the datastore; remove the leading or trailing '/'")
    } else if directory.contains('\\') {
        Some("the directory holds a backslash; separate its components by '/'")
    } else if directory.chars().any(char::is_control) {
        Some("the directory holds a control character; remove it")
    } else {
        directory
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == ".." || part.len() > NAME_BYTES_MAX)
            .then_some(
                "a component of the directory is empty, '.', '..' or longer than 255 bytes; correct it",
            )
    }
}

/// Destinations that two files of one CFG share, as (key, key, path). `identity` maps a dsname to what it stands for, so
/// that a name and a UUID of one datastore are seen as the same. Names count as equal in any case: not every datastore
/// tells them apart.
pub fn duplicate_destinations(
    cfg: &Cfg,
    mut identity: impl FnMut(&str) -> String,
) -> Vec<(String, String, String)> {
    let mut places =
        vec![("vmx-name".to_owned(), &cfg.datastore, &cfg.directory, cfg.target_vmx().to_owned())];
    for (n, disk) in cfg.disks.iter().enumerate() {
        let descriptor = disk.target_name().to_owned();
        places.push((format!("vmdk.{n}.name"), &disk.datastore, &disk.directory, descriptor));
        places.push((
            format!("vmdk.{n}.extent-name"),
            &disk.datastore,
            &disk.directory,
            disk.target_extent(),
        ));
    }
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    for (key, datastore, directory, name) in places {
        let folded = format!("[{}] {directory}/{name}", identity(datastore)).to_lowercase();
        if let Some(first) = seen.get(&folded) {
            found.push((key, first.clone(), format!("[{datastore}] {directory}/{name}")));
        } else {
            seen.insert(folded, key);
        }
    }
    found
}

/// Collects values and problems while a [`Cfg`] is put together.
pub(super) struct Checker {
    entries: BTreeMap<String, Entry>,
    disks: BTreeSet<usize>,
    problems: Vec<CfgProblem>,
    warnings: Vec<CfgProblem>,
    on_conflict: OnConflict,
    draft: Draft,
}

impl Checker {
    pub(super) fn new(entries: Vec<Entry>, problems: Vec<CfgProblem>, on_conflict: OnConflict) -> Self {
        let mut checker = Self {
            entries: BTreeMap::new(),
            disks: BTreeSet::new(),
            problems,
            warnings: Vec::new(),
            on_conflict,
            draft: Draft::default(),
        };
        for entry in entries {
            checker.admit(entry);
        }
        checker
    }

    /// Problems, warnings, and what can be looked up all the same. A key whose line could not be read is not reported as
    /// missing too.
    pub(super) fn finish(mut self) -> (Vec<CfgProblem>, Vec<CfgProblem>, Draft) {
        let placed: BTreeSet<_> =
            self.problems.iter().filter(|p| p.line.is_some()).map(|p| p.key.clone()).collect();
        self.problems.retain(|problem| problem.line.is_some() || !placed.contains(&problem.key));
        (self.problems, self.warnings, self.draft)
    }

    /// Everything that the keys say; `None` where one without a default is missing or wrong.
    pub(super) fn check(&mut self) -> Option<Cfg> {
        self.version();
        let vm_name = self.required_text("vmname");
        if let Some(name) = &vm_name {
            self.vm_name(name);
        }
        let server_name = self.required_text("servername");
        let datastore = self.required_text("dsname");
        let directory = self.directory("directory", None);
        let vmx_name = self.required_text("vmx-name");
        self.file_name("vmx-name", vmx_name.as_deref(), &[".vmx"]);
        let vmx_rename = self.optional_name("vmx-rename", &[".vmx"]);
        let on_conflict = self.on_conflict();
        let register = match self.integer("register-after-import", 0, 1) {
            Some(flag) => flag == 1,
            None => false,
        };
        let access_time = self.integer("access-time", i64::MIN as i128, i64::MAX as i128);
        let lines: BTreeMap<_, _> =
            self.entries.iter().map(|(key, entry)| (key.clone(), entry.line)).collect();
        let inventory = inventory::Place {
            datacenter: self.optional_text("datacenter").unwrap_or_default(),
            folder: self.optional_text("folder").unwrap_or_default(),
            host: self.optional_text("hostsystem").unwrap_or_default(),
            pool: self.optional_text("resourcepool").unwrap_or_default(),
        };
        self.draft = Draft {
            server_name: server_name.clone(),
            register,
            on_conflict,
            vm_name: vm_name.clone(),
            inventory: inventory.clone(),
            places: vec![DraftPlace {
                datastore_key: "dsname".to_owned(),
                datastore: datastore.clone(),
                directory_key: "directory".to_owned(),
                directory: directory.clone(),
                ..DraftPlace::default()
            }],
            lines: lines.clone(),
        };
        let disks = self.disks(datastore.as_deref(), directory.as_deref());
        let cfg = Cfg {
            vm_name: vm_name?,
            vm_uuid: self.optional_text("vmuuid").unwrap_or_default(),
            server_name: server_name?,
            datacenter: inventory.datacenter,
            folder: inventory.folder,
            host_system: inventory.host,
            resource_pool: inventory.pool,
            datastore: datastore?,
            directory: directory?,
            vmx_name: vmx_name?,
            vmx_rename,
            disks: disks?,
            on_conflict,
            register,
            access_time: access_time.map(|seconds| seconds as i64),
            lines,
        };
        self.duplicates(&cfg);
        Some(cfg)
    }

    fn report(&mut self, key: &str, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            let line = self.entries.get(key).map(|entry| entry.line);
            self.problems.push(CfgProblem { line, key: key.to_owned(), message: message.into() });
        }
    }

    /// Sorts an entry in: known, unknown (a warning), or there already.
    fn admit(&mut self, entry: Entry) {
        let known = KEYS.contains(&entry.key.as_str()) || self.disk_key(&entry.key);
        if !known {
            if self.warnings.len() < PROBLEMS_MAX {
                let message = "unknown key, ignored".to_owned();
                self.warnings.push(CfgProblem { line: Some(entry.line), key: entry.key, message });
            }
        } else if let Some(first) = self.entries.get(&entry.key) {
            let message = format!("the key stands on line {} already; remove one of them", first.line);
            if self.problems.len() < PROBLEMS_MAX {
                self.problems.push(CfgProblem { line: Some(entry.line), key: entry.key, message });
            }
        } else {
            self.entries.insert(entry.key.clone(), entry);
        }
    }

    /// Whether `key` is `vmdk.N.field`; notes N.
    fn disk_key(&mut self, key: &str) -> bool {
        let Some((number, field)) = key.strip_prefix("vmdk.").and_then(|rest| rest.split_once('.')) else {
            return false;
        };
        let Ok(n) = number.parse::<usize>() else { return false };
        if number != n.to_string() || !DISK_KEYS.contains(&field) {
            return false;
        }
        // One past the limit is kept, to be reported once.
        self.disks.insert(n.min(DISKS_MAX));
        true
    }

    fn optional_text(&mut self, key: &str) -> Option<String> {
        match self.entries.get(key).map(|entry| entry.value.clone())? {
            Value::Text(text) if text.chars().any(char::is_control) => {
                self.report(key, "the text holds a control character; remove it");
                None
            }
            Value::Text(text) => Some(text),
            Value::Integer(number) => {
                self.report(key, format!("the value must be text; write \"{number}\" in quotation marks"));
                None
            }
        }
    }

    fn required_text(&mut self, key: &str) -> Option<String> {
        if !self.entries.contains_key(key) {
            self.report(key, format!("the key is missing; add {key} = \"…\""));
            return None;
        }
        let text = self.optional_text(key)?;
        if text.trim().is_empty() {
            self.report(key, "the text is empty; it must be given");
            return None;
        }
        Some(text)
    }

    /// An integer within bounds; `None` where it is absent or wrong.
    fn integer(&mut self, key: &str, min: i128, max: i128) -> Option<i128> {
        match self.entries.get(key)?.value.clone() {
            Value::Integer(number) if (min..=max).contains(&number) => Some(number),
            Value::Integer(number) => {
                self.report(key, format!("{number} is out of range; it must lie between {min} and {max}"));
                None
            }
            Value::Text(text) => {
                self.report(key, format!("\"{text}\" is text; write a whole number without quotation marks"));
                None
            }
        }
    }

    fn version(&mut self) {
        if let Some(version) = self.required_text("version")
            && version != "4"
        {
            self.report("version", format!("version \"{version}\" is not supported; only \"4\" is"));
        }
    }

    fn vm_name(&mut self, name: &str) {
        let count = name.chars().count();
        if count > VM_NAME_CHARS_MAX {
            let message = format!("the VM's name has {count} characters; shorten it to {VM_NAME_CHARS_MAX}");
            self.report("vmname", message);
        }
    }

    fn on_conflict(&mut self) -> OnConflict {
        let key = "on-conflict";
        let Some(mode) = self.optional_text(key) else { return self.on_conflict };
        match mode.as_str() {
            "stop" => return OnConflict::Stop,
            "rename" => return OnConflict::Rename,
            "overwrite" => return OnConflict::Overwrite,
            "snapshot" => return OnConflict::Snapshot,
            _ => self.report(
                key,
                format!("\"{mode}\" is not a mode; use \"stop\", \"rename\", \"overwrite\" or \"snapshot\""),
            ),
        }
        OnConflict::Stop
    }

    fn directory(&mut self, key: &str, default: Option<&str>) -> Option<String> {
        if !self.entries.contains_key(key)
            && let Some(default) = default
        {
            return Some(default.to_owned());
        }
        if !self.entries.contains_key(key) {
            self.report(key, format!("the key is missing; add {key} = \"…\""));
            return None;
        }
        let directory = self.optional_text(key)?;
        if let Some(fault) = directory_fault(&directory) {
            self.report(key, fault);
            return None;
        }
        Some(directory)
    }

    /// Reports a name that no datastore can hold, or that ends otherwise than its kind of file does.
    fn file_name(&mut self, key: &str, name: Option<&str>, endings: &[&str]) {
        let Some(name) = name else { return };
        if let Some(fault) = name_fault(name) {
            self.report(key, fault);
        } else if !endings.iter().any(|e| name.len() > e.len() && ends_with_ignore_case(name, e)) {
            self.report(
                key,
                format!("\"{name}\" does not end in {}; correct the name", endings.join(" or ")),
            );
        }
    }

    fn optional_name(&mut self, key: &str, endings: &[&str]) -> Option<String> {
        let name = self.optional_text(key)?;
        // An emptied value means the same as the key commented out.
        if name.is_empty() {
            return None;
        }
        self.file_name(key, Some(&name), endings);
        Some(name)
    }

    fn disks(&mut self, datastore: Option<&str>, directory: Option<&str>) -> Option<Vec<Vmdk>> {
        let count = self.disks.last().map_or(0, |last| last + 1);
        if count > DISKS_MAX {
            let message = format!("a virtual machine has at most {DISKS_MAX} disks; number them from 0");
            let key = format!("vmdk.{DISKS_MAX}");
            self.report(&key, message);
            return None;
        }
        if count == 0 {
            let message = "the CFG names no disk: only the VMX will be imported".to_owned();
            self.warnings.push(CfgProblem { line: None, key: "vmdk.0".to_owned(), message });
        }
        let mut disks = Vec::with_capacity(count);
        for n in 0..count {
            if self.disks.contains(&n) {
                disks.push(self.disk(n, datastore, directory));
            } else {
                disks.push(None);
                let message = format!("disk {n} is missing; number the disks from 0 without holes");
                self.report(&format!("vmdk.{n}"), message);
            }
        }
        disks.into_iter().collect()
    }

    fn disk(&mut self, n: usize, datastore: Option<&str>, directory: Option<&str>) -> Option<Vmdk> {
        let key = |field: &str| format!("vmdk.{n}.{field}");
        let name = self.required_text(&key("name"));
        self.file_name(&key("name"), name.as_deref(), &[".vmdk"]);
        let rename = self.optional_name(&key("rename"), &[".vmdk"]);
        let extent_name = self.required_text(&key("extent-name"));
        self.file_name(&key("extent-name"), extent_name.as_deref(), &["-flat.vmdk", "-rdm.vmdk"]);
        // A raw device mapping can't be made again: what arrives is an ordinary disk and must be named as one.
        let extent_rename = self.optional_name(&key("extent-rename"), &["-flat.vmdk"]);
        let own_datastore = if self.entries.contains_key(&key("dsname")) {
            self.required_text(&key("dsname"))
        } else {
            datastore.map(str::to_owned)
        };
        // Where the VM's own directory is wrong, that is reported already: any default will do to go on.
        let own_directory = self.directory(&key("directory"), Some(directory.unwrap_or_default()));
        let size = self.size(&key("size"));
        let provisioning = self.provisioning(&key("type"));
        self.draft.places.push(DraftPlace {
            datastore_key: key("dsname"),
            datastore: own_datastore.clone(),
            directory_key: key("directory"),
            directory: own_directory.clone().filter(|directory| !directory.is_empty()),
            size: size.unwrap_or_default(),
            thick: provisioning == Some(Provisioning::Thick),
        });
        let disk = Vmdk {
            name: name?,
            rename,
            extent_name: extent_name?,
            extent_rename,
            datastore: own_datastore?,
            directory: own_directory?,
            size: size?,
            provisioning: provisioning?,
        };
        self.redirect(n, &disk);
        Some(disk)
    }

    /// An RDM's destination must be an ordinary disk (import_fs.txt, 'Restoring Virtual RDM Disk').
    fn redirect(&mut self, n: usize, disk: &Vmdk) {
        let target = disk.target_name();
        if ["-rdm.vmdk", "-rdmp.vmdk"].iter().any(|ending| ends_with_ignore_case(target, ending)) {
            let message = format!(
                "\"{target}\" is a raw device mapping, which can't be created; set vmdk.{n}.rename to the name of an \
                 ordinary disk"
            );
            let field = if disk.rename.is_some() { "rename" } else { "name" };
            self.report(&format!("vmdk.{n}.{field}"), message);
        } else if ends_with_ignore_case(target, "-flat.vmdk") {
            let field = if disk.rename.is_some() { "rename" } else { "name" };
            let message = format!("\"{target}\" is an extent's name; give the descriptor's, without -flat");
            self.report(&format!("vmdk.{n}.{field}"), message);
        }
    }

    fn size(&mut self, key: &str) -> Option<u64> {
        if !self.entries.contains_key(key) {
            self.report(key, format!("the key is missing; add {key} = bytes of the disk"));
            return None;
        }
        let size = self.integer(key, 1, i128::from(DISK_BYTES_MAX))? as u64;
        if !size.is_multiple_of(SECTOR) {
            self.report(
                key,
                format!("{size} is not a multiple of {SECTOR}; give the extent's size in bytes"),
            );
            return None;
        }
        Some(size)
    }

    fn provisioning(&mut self, key: &str) -> Option<Provisioning> {
        match self.required_text(key)?.as_str() {
            "thick" => Some(Provisioning::Thick),
            "thin" => Some(Provisioning::Thin),
            other => {
                self.report(key, format!("\"{other}\" is not a type of disk; use \"thick\" or \"thin\""));
                None
            }
        }
    }

    /// Names that clash in the session's one directory, and destinations that do on a datastore.
    fn duplicates(&mut self, cfg: &Cfg) {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        for (n, disk) in cfg.disks.iter().enumerate() {
            for (field, name) in [("name", &disk.name), ("extent-name", &disk.extent_name)] {
                let key = format!("vmdk.{n}.{field}");
                if let Some(first) = names.get(&name.to_lowercase()) {
                    let message = format!(
                        "\"{name}\" is what {first} names already; the files of a session need names of their own"
                    );
                    self.report(&key, message);
                } else {
                    names.insert(name.to_lowercase(), key);
                }
            }
        }
        for (key, first, place) in duplicate_destinations(cfg, str::to_owned) {
            let message =
                format!("its destination {place} is that of {first} too; rename one or change its directory");
            if !self.problems.iter().any(|problem| problem.key == key) {
                self.report(&key, message);
            }
        }
    }
}
