//! The VMX file: a virtual machine's configuration, changed only where the restore must.
//!
//! Lines that are not changed keep every byte. Values are text in quotation marks; `|22` stands for a quotation mark,
//! `|7C` for the bar itself, any other byte likewise. `.encoding` names the character set.

use std::fmt::{self, Write as _};

use super::cfg::{Cfg, ends_with_ignore_case};
use super::log_text::{Event, volume_path};

/// Longest VMX. Real ones have a few hundred lines; those with large guestinfo variables some 100 KiB.
pub const VMX_BYTES_MAX: usize = 4 << 20;
/// Most lines, so that a file of line ends does not become millions of little buffers.
pub const VMX_LINES_MAX: usize = 50_000;

/// Controllers whose disks are restored: `scsi0:1.fileName` and so on.
const CONTROLLERS: &[&str] = &["scsi", "sata", "nvme", "ide"];
/// What the old host noted for a run of its own: meaningless, or a path into another VM's directory, on the new one.
const STALE: &[&str] =
    &["sched.swap.derivedname", "sched.swap.dir", "migrate.hostlog", "checkpoint.vmstate", "workingdir"];
/// Paths of logs, dropped where they lead out of the VM's directory.
const LOGS: &[&str] = &["vmx.log.filename", "log.filename"];
/// Files beside the VMX that may have been copied too.
const COMPANIONS: &[&str] = &["nvram", "extendedconfigfile"];

/// Why a VMX can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VmxError {
    /// Too many bytes or lines.
    #[error(
        "the VMX has more than {VMX_BYTES_MAX} bytes or {VMX_LINES_MAX} lines; check that the right file was copied"
    )]
    TooLong,
    /// Not one `key = "value"`.
    #[error("the file holds no key = \"value\" line, so it is no VMX; check that the right file was copied")]
    NotVmx,
    /// A new value that the file's character set has no bytes for.
    #[error("{key}: \"{value}\" can't be written in the VMX's character set; use plain letters for the name")]
    Charset {
        /// The key.
        key: String,
        /// The new value.
        value: String,
    },
}

/// How the bytes of values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charset {
    Utf8,
    /// windows-1252 and the like: bytes are read as Latin-1.
    Latin,
    /// One that we do not know (GBK, Shift_JIS …): read as Latin-1, but only ASCII is written.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// With its line end.
    raw: Vec<u8>,
    /// Key as spelled, value unescaped.
    entry: Option<(String, String)>,
}

/// A VMX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmx {
    lines: Vec<Line>,
    charset: Charset,
}

/// Something that [`Vmx::rewrite`] did, for import.log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A disk got the name that the CFG gives it.
    Disk {
        /// Its number in the CFG.
        disk: usize,
        /// In the backup.
        from: String,
        /// On the datastore.
        to: String,
    },
    /// A disk that the CFG does not name: the device is switched off, or the VM would open another VM's disk.
    Detached {
        /// `scsi0:1`.
        device: String,
        /// The path that it had.
        from: String,
    },
    /// The VM's name.
    Name {
        /// As it was.
        from: String,
        /// `vmname`.
        to: String,
    },
    /// A line that would lead nowhere.
    Dropped {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The VMX has no device for a disk of the CFG.
    Unused {
        /// Its number in the CFG.
        disk: usize,
        /// Its descriptor.
        name: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { from, to, .. } => write!(f, "{}", Event::RedirectingDisk { from, to }),
            Self::Detached { device, from } => {
                write!(f, "vmx: {device} switched off, its disk {from} is not in the CFG")
            }
            Self::Name { from, to } => write!(f, "vmx: displayName changed from {from} to {to}"),
            Self::Dropped { key, value } => write!(f, "vmx: {key} = \"{value}\" dropped"),
            Self::Unused { disk, name } => write!(f, "vmx: no device uses disk {disk}, {name}"),
        }
    }
}

impl Vmx {
    /// Reads a VMX.
    pub fn parse(bytes: &[u8]) -> Result<Self, VmxError> {
        let lines = bytes.split(|&byte| byte == b'\n').count();
        if bytes.len() > VMX_BYTES_MAX || lines > VMX_LINES_MAX {
            return Err(VmxError::TooLong);
        }
        let charset = charset_of(bytes);
        let lines: Vec<Line> = bytes
            .split_inclusive(|&byte| byte == b'\n')
            .map(|raw| Line { raw: raw.to_vec(), entry: entry(&decode(raw, charset)) })
            .collect();
        if lines.iter().all(|line| line.entry.is_none()) {
            return Err(VmxError::NotVmx);
        }
        Ok(Self { lines, charset })
    }

    /// The bytes: those that were read, but for what was set.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied()).collect()
    }

    /// Keys and values, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines
            .iter()
            .filter_map(|line| line.entry.as_ref().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// The value of a key, which is compared in any case; the last one counts where there are several.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().filter(|(other, _)| other.eq_ignore_ascii_case(key)).last().map(|(_, value)| value)
    }

    /// Sets a key, in its place if it is there, at the end if not.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), VmxError> {
        let charset = || VmxError::Charset { key: key.to_owned(), value: value.to_owned() };
        let encoded = encode(&escape(value), self.charset).ok_or_else(charset)?;
        let end: &[u8] =
            if self.lines.iter().any(|line| line.raw.ends_with(b"\r\n")) { b"\r\n" } else { b"\n" };
        let line_for = |key: &str| {
            let raw = [key.as_bytes(), b" = \"", &encoded, b"\"", end].concat();
            Line { raw, entry: Some((key.to_owned(), value.to_owned())) }
        };
        let mut found = false;
        for line in &mut self.lines {
            if let Some((spelled, _)) = &line.entry
                && spelled.eq_ignore_ascii_case(key)
            {
                *line = line_for(spelled);
                found = true;
            }
        }
        if !found {
            if let Some(last) = self.lines.last_mut()
                && !last.raw.ends_with(b"\n")
            {
                last.raw.extend_from_slice(end);
            }
            self.lines.push(line_for(key));
        }
        Ok(())
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.lines
            .retain(|line| line.entry.as_ref().is_none_or(|(other, _)| !other.eq_ignore_ascii_case(key)));
    }

    /// Disk devices that are present, as (`scsi0:1`, path of its descriptor), in order.
    pub fn disks(&self) -> Vec<(String, String)> {
        let mut devices: Vec<String> = Vec::new();
        for (key, value) in self.entries() {
            if let Some(device) = disk_device(key)
                && ends_with_ignore_case(value, ".vmdk")
                && !devices.iter().any(|other| other.eq_ignore_ascii_case(device))
            {
                devices.push(device.to_owned());
            }
        }
        let on = |device: &String| {
            self.get(&format!("{device}.present")).is_none_or(|value| !value.eq_ignore_ascii_case("false"))
        };
        let path = |device: &String| self.get(&format!("{device}.fileName")).map(str::to_owned);
        devices.into_iter().filter(on).filter_map(|device| path(&device).map(|path| (device, path))).collect()
    }

    /// Makes it the restored VM's: disks lead to where the CFG (after redirection) puts them, `displayName` is `vmname`,
    /// paths that would lead nowhere go. `copied` tells whether a companion (`x.nvram`) came with the session.
    pub fn rewrite(&mut self, cfg: &Cfg, copied: impl Fn(&str) -> bool) -> Result<Vec<Change>, VmxError> {
        let mut changes = self.rewrite_disks(cfg)?;
        let from = self.get("displayName").unwrap_or_default().to_owned();
        if from != cfg.vm_name {
            self.set("displayName", &cfg.vm_name)?;
            changes.push(Change::Name { from, to: cfg.vm_name.clone() });
        }
        let mut dropped = Vec::new();
        let mut moved = Vec::new();
        for (key, value) in self.entries() {
            let folded = key.to_ascii_lowercase();
            let leads_out = value.contains(['/', '\\']);
            let companion = COMPANIONS.contains(&folded.as_str());
            if STALE.contains(&folded.as_str())
                || LOGS.contains(&folded.as_str()) && leads_out
                || companion && !copied(basename(value))
            {
                dropped.push((key.to_owned(), value.to_owned()));
            } else if companion && leads_out {
                moved.push((key.to_owned(), basename(value).to_owned()));
            }
        }
        for (key, value) in moved {
            self.set(&key, &value)?;
        }
        for (key, value) in dropped {
            self.remove(&key);
            changes.push(Change::Dropped { key, value });
        }
        Ok(changes)
    }

    fn rewrite_disks(&mut self, cfg: &Cfg) -> Result<Vec<Change>, VmxError> {
        let mut changes = Vec::new();
        let mut used = vec![false; cfg.disks.len()];
        for (device, from) in self.disks() {
            let free = disk_named(cfg, basename(&from)).filter(|n| !used[*n]);
            let Some(n) = free else {
                self.set(&format!("{device}.present"), "FALSE")?;
                self.remove(&format!("{device}.fileName"));
                changes.push(Change::Detached { device, from });
                continue;
            };
            used[n] = true;
            let disk = &cfg.disks[n];
            let beside = disk.datastore == cfg.datastore && disk.directory == cfg.directory;
            let to = if beside {
                disk.target_name().to_owned()
            } else {
                volume_path(&disk.datastore, &disk.directory, disk.target_name())
            };
            self.set(&format!("{device}.fileName"), &to)?;
            changes.push(Change::Disk { disk: n, from, to });
        }
        let unused = used.iter().enumerate().filter(|(_, used)| !**used);
        changes.extend(unused.map(|(disk, _)| Change::Unused { disk, name: cfg.disks[disk].name.clone() }));
        Ok(changes)
    }
}

/// The disk of the CFG with that descriptor; for a snapshot's (`x-000002.vmdk`) that the CFG does not name, its base's:
/// the backup holds the disk as it was with the snapshot merged.
fn disk_named(cfg: &Cfg, name: &str) -> Option<usize> {
    let find = |name: &str| {
        let folded = name.to_lowercase();
        cfg.disks.iter().position(|disk| disk.name.to_lowercase() == folded)
    };
    find(name).or_else(|| {
        let stem = super::cfg::strip_suffix_ignore_case(name, ".vmdk")?;
        let (base, number) = stem.rsplit_once('-')?;
        let snapshot = number.len() == 6 && number.bytes().all(|byte| byte.is_ascii_digit());
        snapshot.then(|| find(&format!("{base}.vmdk"))).flatten()
    })
}

/// `scsi0:1` of `scsi0:1.fileName`.
fn disk_device(key: &str) -> Option<&str> {
    let device = super::cfg::strip_suffix_ignore_case(key, ".fileName")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let address = CONTROLLERS.iter().find_map(|controller| {
        let head = device.get(..controller.len())?;
        head.eq_ignore_ascii_case(controller).then(|| &device[controller.len()..])
    })?;
    let (bus, unit) = address.split_once(':')?;
    (digits(bus) && digits(unit)).then_some(device)
}

/// The last component of `/vmfs/volumes/ds/dir/x.vmdk`, `[ds] dir/x.vmdk` or `x.vmdk`.
pub(super) fn basename(path: &str) -> &str {
    let path = path.rsplit(['/', '\\']).next().unwrap_or(path);
    if path.starts_with('[') { path.split_once("] ").map_or(path, |(_, name)| name) } else { path }
}

fn charset_of(bytes: &[u8]) -> Charset {
    let named = bytes.split(|&byte| byte == b'\n').find_map(|raw| {
        let (key, value) = entry(&decode(raw, Charset::Latin))?;
        key.eq_ignore_ascii_case(".encoding").then(|| value.to_ascii_lowercase())
    });
    match named.as_deref() {
        None | Some("utf-8" | "utf8") if str::from_utf8(bytes).is_ok() => Charset::Utf8,
        // Where a file says UTF-8 and is not, its bytes must survive all the same.
        None | Some("utf-8" | "utf8" | "windows-1252" | "iso-8859-1" | "latin1") => Charset::Latin,
        Some(_) => Charset::Other,
    }
}

fn decode(raw: &[u8], charset: Charset) -> String {
    match (charset, str::from_utf8(raw)) {
        (Charset::Utf8, Ok(text)) => text.to_owned(),
        _ => raw.iter().map(|&byte| char::from(byte)).collect(),
    }
}

fn encode(text: &str, charset: Charset) -> Option<Vec<u8>> {
    match charset {
        Charset::Utf8 => Some(text.as_bytes().to_vec()),
        // 0x80 to 0x9F differ between windows-1252 and Latin-1.
        Charset::Latin => {
            text.chars().map(|c| u8::try_from(c).ok().filter(|b| !(0x80..0xA0).contains(b))).collect()
        }
        Charset::Other => text.is_ascii().then(|| text.as_bytes().to_vec()),
    }
}

/// `key = "value"`; comments, blank lines and anything else are `None` and stay as they are.
fn entry(line: &str) -> Option<(String, String)> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim();
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains(char::is_whitespace) || !key.is_ascii() {
        return None;
    }
    let value = value.strip_prefix('"')?;
    Some((key.to_owned(), unescape(&value[..value.find('"')?])))
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('|') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
        out.push(byte.map_or('|', char::from));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '|' | '#' | '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "|{:02X}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::import::formats::cfg::{OnConflict, parse};

    const VMX: &str = "#!/usr/bin/vmware\r\n.encoding = \"UTF-8\"\r\nconfig.version = \"8\"\r\n\
        displayName = \"old |22name|22\"\r\nscsi0:0.fileName = \"1GBDirectAttachedEmpty(Production)-000002.vmdk\"\r\n\
        scsi0:0.present = \"TRUE\"\r\nSCSI0:1.filename = \"/vmfs/volumes/ds/other/x.vmdk\"\r\n\
        ide1:0.fileName = \"/vmfs/volumes/iso/x.iso\"\r\nsched.swap.derivedName = \"/vmfs/volumes/a/b.vswp\"\r\n\
        nvram = \"x.nvram\"\r\nextendedConfigFile = \"dir/x.vmxf\"\r\n\r\nodd line\r\nlast = \"1\"";

    fn cfg() -> Cfg {
        let sample = include_bytes!("../../../tests/data/sample.cfg");
        parse(sample, OnConflict::Stop).cfg.unwrap()
    }

    #[test]
    fn unchanged_it_keeps_every_byte() {
        assert_eq!(Vmx::parse(VMX.as_bytes()).unwrap().to_bytes(), VMX.as_bytes());
        let latin = b".encoding = \"windows-1252\"\ndisplayName = \"M\xFCller\"\n";
        let mut vmx = Vmx::parse(latin).unwrap();
        assert_eq!((vmx.get("displayname"), vmx.to_bytes()), (Some("Müller"), latin.to_vec()));
        vmx.set("displayName", "Mäller").unwrap();
        assert_eq!(vmx.to_bytes(), b".encoding = \"windows-1252\"\ndisplayName = \"M\xE4ller\"\n");
        assert!(matches!(vmx.set("displayName", "日本"), Err(VmxError::Charset { .. })));
        assert_eq!(Vmx::parse(b"MZ\0\0"), Err(VmxError::NotVmx));
        assert_eq!(Vmx::parse(&b"\n".repeat(VMX_LINES_MAX)), Err(VmxError::TooLong));
    }

    #[test]
    fn rewritten_it_is_the_restored_vm() {
        let mut cfg = cfg();
        cfg.vm_name = "new | \"name\"".into();
        cfg.disks[0].rename = Some("new.vmdk".into());
        let mut vmx = Vmx::parse(VMX.as_bytes()).unwrap();
        let changes = vmx.rewrite(&cfg, |name| name == "x.vmxf").unwrap();
        let read = Vmx::parse(&vmx.to_bytes()).unwrap();
        assert_eq!(read.get("scsi0:0.fileName"), Some("new.vmdk"));
        assert_eq!((read.get("scsi0:1.present"), read.get("scsi0:1.fileName")), (Some("FALSE"), None));
        assert_eq!(read.get("ide1:0.fileName"), Some("/vmfs/volumes/iso/x.iso"));
        assert_eq!(read.get("displayName"), Some("new | \"name\""));
        assert_eq!((read.get("nvram"), read.get("sched.swap.derivedName")), (None, None));
        assert_eq!(read.get("extendedConfigFile"), Some("x.vmxf"));
        assert!(vmx.to_bytes().windows(8).any(|bytes| bytes == b"odd line"));
        let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said[0],
            "redirecting disk from 1GBDirectAttachedEmpty(Production)-000002.vmdk to new.vmdk"
        );
        assert!(said.iter().any(|text| text.contains("SCSI0:1 switched off")), "{said:?}");
        // A second copy of the restored VMX finds its disks by their new names only if the CFG has them; here the old.
        cfg.disks[0].directory = "elsewhere".into();
        let mut apart = Vmx::parse(VMX.as_bytes()).unwrap();
        apart.rewrite(&cfg, |_| true).unwrap();
        let path = "/vmfs/volumes/4e3193a0-698e20ea-f9ef-180373f1beff/elsewhere/new.vmdk";
        assert_eq!(apart.get("scsi0:0.fileName"), Some(path));
    }

    #[test]
    fn a_disk_of_the_cfg_that_nothing_uses_is_told() {
        let mut vmx = Vmx::parse(b"displayName = \"x\"\n").unwrap();
        let changes = vmx.rewrite(&cfg(), |_| true).unwrap();
        assert!(changes.iter().any(|change| matches!(change, Change::Unused { disk: 0, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let file = [b"a = \"1\"\n", &bytes[..]].concat();
            let mut vmx = Vmx::parse(&file).unwrap();
            prop_assert_eq!(vmx.to_bytes(), file);
            let _ = vmx.rewrite(&cfg(), |_| false);
        }

        #[test]
        fn any_value_is_read_back(value in "\\PC{0,30}|[\"|#\n\t a-f0-9]{0,30}") {
            let mut vmx = Vmx::parse(b"a = \"1\"").unwrap();
            vmx.set("displayName", &value).unwrap();
            let read = Vmx::parse(&vmx.to_bytes()).unwrap();
            prop_assert_eq!(read.get("displayName"), Some(value.as_str()));
            prop_assert_eq!(read.get("a"), Some("1"));
        }
    }
}
