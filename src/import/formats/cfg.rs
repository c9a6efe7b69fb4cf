//! The CFG file: what a session is to import, and to where (behaviour.md section 2; import_fs.txt, 'Virtual Machine
//! Configuration File').
//!
//! [`parse`] reads the bytes into a [`Cfg`], or says everything that is wrong with them at once. The grammar is here;
//! what the keys may hold is `cfg_check`'s. Pure: bytes in, values out. Whether a datastore exists or a directory is taken
//! is the engine's business, which reports it with [`Cfg::problem`] in the same form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::cfg_check;
use crate::datastore::Provisioning;
use crate::inventory;

/// Longest CFG. The appliance's own have 150 lines and some 200 more a disk; this holds 256 disks with their comments.
pub const CFG_BYTES_MAX: usize = 1 << 20;
/// Most disks of a virtual machine: what vSphere 8 allows with four paravirtual controllers.
pub const DISKS_MAX: usize = 256;
/// Problems that are kept of one CFG, so that a file of nonsense does not become an error file as long.
pub const PROBLEMS_MAX: usize = 200;

/// What happens when a destination exists (`on-conflict`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// It is an error.
    #[default]
    Stop,
    /// Another directory, and another name of the VM, are taken.
    Rename,
    /// The virtual machine that is there is replaced, when the restored one is complete.
    Overwrite,
    /// The disks of the VM that exists are written, after a snapshot of it.
    Snapshot,
}

impl OnConflict {
    /// As in a CFG.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Rename => "rename",
            Self::Overwrite => "overwrite",
            Self::Snapshot => "snapshot",
        }
    }

    /// As the `mode` line of import.log shows it.
    pub fn mode(self) -> u32 {
        match self {
            Self::Stop => 0,
            Self::Rename => 1,
            Self::Overwrite => 2,
            Self::Snapshot => 3,
        }
    }
}

/// `thick` or `thin`, as in a CFG.
pub fn provisioning_str(provisioning: Provisioning) -> &'static str {
    match provisioning {
        Provisioning::Thin => "thin",
        Provisioning::Thick => "thick",
    }
}

/// One disk of a CFG (`vmdk.N.…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmdk {
    /// The descriptor's name in the backup.
    pub name: String,
    /// Its new name, where one is asked for.
    pub rename: Option<String>,
    /// The extent's name in the backup: what a client copies into the session.
    pub extent_name: String,
    /// The extent's new name, where one is asked for.
    pub extent_rename: Option<String>,
    /// Datastore, by name or UUID.
    pub datastore: String,
    /// Directory on that datastore.
    pub directory: String,
    /// Bytes, a multiple of 512.
    pub size: u64,
    /// Thin or thick.
    pub provisioning: Provisioning,
}

impl Vmdk {
    /// The descriptor's name on the datastore.
    pub fn target_name(&self) -> &str {
        self.rename.as_deref().unwrap_or(&self.name)
    }

    /// Whether the backup is of a raw device mapping, which is restored as an ordinary disk.
    pub fn is_rdm(&self) -> bool {
        ends_with_ignore_case(&self.extent_name, "-rdm.vmdk")
    }

    /// The extent's name on the datastore: as asked for; else after the new descriptor name, if there is one or if the
    /// old extent's name is a raw device mapping's; else as it was.
    pub fn target_extent(&self) -> String {
        match &self.extent_rename {
            Some(name) => name.clone(),
            None if self.rename.is_some() || self.is_rdm() => flat_name(self.target_name()),
            None => self.extent_name.clone(),
        }
    }
}

/// `x.vmdk` gives `x-flat.vmdk`.
pub fn flat_name(descriptor: &str) -> String {
    format!("{}-flat.vmdk", strip_suffix_ignore_case(descriptor, ".vmdk").unwrap_or(descriptor))
}

/// Whether `name` ends with `suffix`, which is ASCII, in any case.
pub(super) fn ends_with_ignore_case(name: &str, suffix: &str) -> bool {
    strip_suffix_ignore_case(name, suffix).is_some()
}

/// `name` without `suffix`, which is ASCII, in any case.
pub(super) fn strip_suffix_ignore_case<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(suffix.len())?;
    name.get(at..)?.eq_ignore_ascii_case(suffix).then(|| &name[..at])
}

/// A CFG that is whole and without errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cfg {
    /// `vmname`.
    pub vm_name: String,
    /// `vmuuid`; empty where the CFG has none.
    pub vm_uuid: String,
    /// `servername`: the hypervisor.
    pub server_name: String,
    /// `datacenter`.
    pub datacenter: String,
    /// `folder`.
    pub folder: String,
    /// `hostsystem`; empty lets the hypervisor choose.
    pub host_system: String,
    /// `resourcepool`.
    pub resource_pool: String,
    /// `dsname`: the VMX's datastore, by name or UUID.
    pub datastore: String,
    /// `directory`: the VMX's.
    pub directory: String,
    /// `vmx-name`: what a client copies into the session.
    pub vmx_name: String,
    /// `vmx-rename`.
    pub vmx_rename: Option<String>,
    /// `vmdk.N`, in order.
    pub disks: Vec<Vmdk>,
    /// `on-conflict`.
    pub on_conflict: OnConflict,
    /// `register-after-import`.
    pub register: bool,
    /// `access-time`, seconds since 1970.
    pub access_time: Option<i64>,
    pub(super) lines: BTreeMap<String, u32>,
}

impl Cfg {
    /// The VMX's name on the datastore.
    pub fn target_vmx(&self) -> &str {
        self.vmx_rename.as_deref().unwrap_or(&self.vmx_name)
    }

    /// Where in an inventory it goes.
    pub fn inventory(&self) -> inventory::Place {
        inventory::Place {
            datacenter: self.datacenter.clone(),
            folder: self.folder.clone(),
            host: self.host_system.clone(),
            pool: self.resource_pool.clone(),
        }
    }

    /// Whether `other` is registered otherwise.
    pub fn registers_like(&self, other: &Self) -> bool {
        let same = self.inventory() == other.inventory() && self.vm_name == other.vm_name;
        self.register == other.register && (same || !other.register)
    }

    /// The line that holds `key`, counted from 1.
    pub fn line(&self, key: &str) -> Option<u32> {
        self.lines.get(key).copied()
    }

    /// Something that came out later about a key (a datastore that is not there, a directory that is taken), in the form
    /// of the CFG's own errors.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> CfgProblem {
        CfgProblem { line: self.line(key), key: key.to_owned(), message: message.into() }
    }

    /// Whether `other` leads every byte to the same place: a rewrite of the CFG may change the rest at any time, but this
    /// only until data has arrived (behaviour.md S5). Returns the keys that differ.
    pub fn changed_destinations(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut differ = |key: String, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        differ("servername".into(), self.server_name == other.server_name);
        differ("dsname".into(), self.datastore == other.datastore);
        differ("directory".into(), self.directory == other.directory);
        differ("vmx-rename".into(), self.target_vmx() == other.target_vmx());
        for n in 0..self.disks.len().max(other.disks.len()) {
            let (Some(old), Some(new)) = (self.disks.get(n), other.disks.get(n)) else {
                differ(format!("vmdk.{n}.name"), false);
                continue;
            };
            differ(format!("vmdk.{n}.extent-name"), old.extent_name == new.extent_name);
            differ(format!("vmdk.{n}.rename"), old.target_name() == new.target_name());
            differ(format!("vmdk.{n}.extent-rename"), old.target_extent() == new.target_extent());
            differ(format!("vmdk.{n}.dsname"), old.datastore == new.datastore);
            differ(format!("vmdk.{n}.directory"), old.directory == new.directory);
            differ(format!("vmdk.{n}.size"), old.size == new.size);
            differ(format!("vmdk.{n}.type"), old.provisioning == new.provisioning);
        }
        keys
    }
}

/// One thing that is wrong with a CFG.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CfgProblem {
    /// The line, counted from 1; `None` where a key is missing.
    pub line: Option<u32>,
    /// The key, empty where the line has none.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl std::fmt::Display for CfgProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: ")?,
            None => f.write_str("not in the file: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// What became of a CFG's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The CFG, or everything that is wrong with it, by line.
    pub cfg: Result<Cfg, Vec<CfgProblem>>,
    /// Unknown keys and the like: for import.log, never an error.
    pub warnings: Vec<CfgProblem>,
    /// What can be looked up on the hypervisor all the same where something else is wrong.
    pub draft: Draft,
}

/// The parts of a CFG that name things outside of it, each as far as it is well-formed: so that an unknown datastore and a
/// typing error are told at once, not one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// `servername`.
    pub server_name: Option<String>,
    /// `register-after-import`.
    pub register: bool,
    /// `on-conflict`.
    pub on_conflict: OnConflict,
    /// `vmname`.
    pub vm_name: Option<String>,
    /// `datacenter`, `folder`, `hostsystem` and `resourcepool`.
    pub inventory: inventory::Place,
    /// The VMX's place, then those of the disks.
    pub places: Vec<DraftPlace>,
    pub(super) lines: BTreeMap<String, u32>,
}

/// A place of a [`Draft`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DraftPlace {
    /// `dsname` or `vmdk.N.dsname`.
    pub datastore_key: String,
    /// Its value, or the VM's where the disk has none of its own.
    pub datastore: Option<String>,
    /// `directory` or `vmdk.N.directory`.
    pub directory_key: String,
    /// Its value, or the VM's where the disk has none of its own.
    pub directory: Option<String>,
    /// Bytes of the disk there, and whether it takes them at once.
    pub size: u64,
    /// Thick.
    pub thick: bool,
}

impl Draft {
    /// Whether the file has that key: what a disk takes over from the VM is reported there and not again.
    pub fn has(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// As [`Cfg::problem`].
    pub fn problem(&self, key: &str, message: impl Into<String>) -> CfgProblem {
        CfgProblem { line: self.lines.get(key).copied(), key: key.to_owned(), message: message.into() }
    }
}

/// Reads a CFG. `on_conflict` is what a file without that key gets.
pub fn parse(bytes: &[u8], on_conflict: OnConflict) -> Parsed {
    if let Some(problem) = unreadable(bytes) {
        return Parsed { cfg: Err(vec![problem]), warnings: Vec::new(), draft: Draft::default() };
    }
    let mut problems = Vec::new();
    let entries = lex(bytes, &mut problems);
    let mut checker = cfg_check::Checker::new(entries, problems, on_conflict);
    let cfg = checker.check();
    let (mut problems, warnings, draft) = checker.finish();
    sort(&mut problems);
    let cfg = match cfg {
        Some(cfg) if problems.is_empty() => Ok(cfg),
        _ => Err(problems),
    };
    Parsed { cfg, warnings, draft }
}

/// By line; what is not in the file comes last.
pub fn sort(problems: &mut [CfgProblem]) {
    problems.sort_by_key(|problem| problem.line.unwrap_or(u32::MAX));
}

/// The text of `<name>.cfg.err`: one line a problem.
pub fn render_problems(cfg_file: &str, problems: &[impl ToString]) -> String {
    let mut text = String::new();
    let count = problems.len();
    let errors = if count == 1 { "1 error" } else { &format!("{count} errors") };
    let _ = writeln!(
        text,
        "# {errors} in {cfg_file}. Correct what is named and copy it again; when all is well, this file disappears."
    );
    for problem in problems {
        let _ = writeln!(text, "{}", super::one_line(&problem.to_string()));
    }
    text
}

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
}

/// One `key = value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) line: u32,
    pub(super) key: String,
    pub(super) value: Value,
}

/// Why a file can't be read as lines at all, if so.
fn unreadable(bytes: &[u8]) -> Option<CfgProblem> {
    let message = if bytes.len() > CFG_BYTES_MAX {
        format!(
            "the file has {} bytes, more than the {CFG_BYTES_MAX} of a CFG; check that it is one",
            bytes.len()
        )
    } else if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        "the file is UTF-16; save it as UTF-8".to_owned()
    } else {
        return None;
    };
    Some(CfgProblem { line: Some(1), key: String::new(), message })
}

/// Splits the file into entries; lines that are none become problems.
fn lex(bytes: &[u8], problems: &mut Vec<CfgProblem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    for (index, raw) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index as u32 + 1;
        let raw = raw.trim_ascii();
        // Comments may be in any encoding: the appliance wrote the VM's name into them as it came.
        if raw.is_empty() || raw[0] == b'#' {
            continue;
        }
        match lex_line(raw) {
            Ok((key, value)) => entries.push(Entry { line, key: key.to_owned(), value }),
            Err((key, message)) if problems.len() < PROBLEMS_MAX => {
                problems.push(CfgProblem {
                    line: Some(line),
                    key: key.to_owned(),
                    message: message.to_owned(),
                });
            }
            Err(_) => break,
        }
    }
    entries
}

/// `key = "text"` or `key = integer`, with an optional comment behind. An error names the key, where one can be told.
fn lex_line(raw: &[u8]) -> Result<(&str, Value), (&str, &'static str)> {
    let text = str::from_utf8(raw).map_err(|_| ("", "the line is not UTF-8; save the file as UTF-8"))?;
    let (key, value) = text
        .split_once('=')
        .ok_or(("", "the line is neither a comment nor key = value; correct it or put # before it"))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(("", "what stands before = is not a key; keys are letters, digits, '.' and '-'"));
    }
    if let Some(rest) = value.strip_prefix('"') {
        return quoted(rest)
            .map(|text| (key, Value::Text(text.to_owned())))
            .ok_or((key, "the text does not end in a quotation mark; close it on the same line"));
    }
    let digits = value.split('#').next().unwrap_or_default().trim();
    let plain = !digits.starts_with('+');
    match digits.parse() {
        Ok(number) if plain => Ok((key, Value::Integer(number))),
        _ => Err((key, "the value is neither \"text\" in quotation marks nor a whole number")),
    }
}

/// The text up to its closing quotation mark. There are no escapes, and VMs may have quotation marks in their names: one
/// closes the text where nothing but blanks or a comment follows it.
fn quoted(rest: &str) -> Option<&str> {
    rest.match_indices('"').find_map(|(at, _)| {
        let behind = rest[at + 1..].trim_start();
        (behind.is_empty() || behind.starts_with('#')).then(|| &rest[..at])
    })
}
