//! What a file name in a session's directory means (behaviour.md S6, S7).
//!
//! Names are compared in any case, as SMB clients do. The temporary names of rsync (`.x-flat.vmdk.AbCdEf`) stand for the
//! name that they will be renamed to.

use super::cfg::{Cfg, ends_with_ignore_case, strip_suffix_ignore_case};

/// The session's log.
pub const IMPORT_LOG: &str = "import.log";
/// Letters and digits that rsync appends to a temporary name.
const RSYNC_SUFFIX_LEN: usize = 6;
/// Most differentials of one disk that a chain may have: longer ones are merged before they are kept.
pub const CHAIN_MAX: u32 = 9999;

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `*.cfg`.
    Cfg,
    /// The extent of disk N.
    Extent(usize),
    /// The descriptor of disk N.
    Descriptor(usize),
    /// A differential.
    Pancbt {
        /// The disk.
        disk: usize,
        /// Its place in the chain, 0 for the name without a number.
        index: u32,
    },
    /// The VMX.
    Vmx,
    /// `*.nvram`, passed through.
    Nvram,
    /// `*.vmxf`, passed through.
    Vmxf,
    /// `*.vmsd`, passed through.
    Vmsd,
    /// Passed through because the configuration says so.
    Extra,
    /// `import.log`: the service's.
    Log,
    /// `*.cfg.err`: the service's.
    CfgErr,
    /// `*.vmcfg`: the service's.
    VmCfg,
    /// A disk, differential or VMX that may be right once there is a CFG to say so.
    AwaitsCfg,
    /// Refused.
    Unsupported,
}

impl Kind {
    /// Whether the service writes it and clients only read it (S7).
    pub fn is_own(self) -> bool {
        matches!(self, Self::Log | Self::CfgErr | Self::VmCfg)
    }
}

/// A name and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// What it means.
    pub kind: Kind,
    /// The name that it stands for: itself, or what a temporary name will be renamed to; spelled as the CFG does.
    pub name: String,
    /// Whether the client used a temporary name.
    pub temporary: bool,
}

/// What the configuration adds: patterns of names, `*` for any characters and `?` for one, compared in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names that are passed through although they mean nothing.
    pub pass: Vec<String>,
    /// Names of clients' files that are refused although they mean something.
    pub refuse: Vec<String>,
}

impl Rules {
    /// [`classify`], and what the configuration says of the name. A destination of the CFG is never a name to pass through:
    /// such a file would lie where a disk or the VMX belongs.
    pub fn classify(&self, name: &str, cfg: Option<&Cfg>) -> Classified {
        let mut known = classify(name, cfg);
        let matches = |patterns: &[String]| {
            let name: Vec<_> = known.name.to_lowercase().chars().collect();
            patterns.iter().any(|pattern| {
                let pattern: Vec<_> = pattern.to_lowercase().chars().collect();
                matches(&pattern, &name)
            })
        };
        if !known.kind.is_own() && matches(&self.refuse) {
            known.kind = Kind::Unsupported;
        } else if known.kind == Kind::Unsupported && matches(&self.pass) && !is_destination(name, cfg) {
            known.kind = Kind::Extra;
        }
        known
    }
}

fn is_destination(name: &str, cfg: Option<&Cfg>) -> bool {
    let same = |target: &str| target.to_lowercase() == name.to_lowercase();
    cfg.is_some_and(|cfg| {
        let mut disks = cfg.disks.iter();
        same(cfg.target_vmx()) || disks.any(|disk| same(disk.target_name()) || same(&disk.target_extent()))
    })
}

/// Whether a pattern matches all of a name, in time that grows with their product.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where the last `*` stands, and where what it matches ends so far.
    let mut star = None;
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[of] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((before, end)) => {
                    star = Some((before, end + 1));
                    (at, of) = (before + 1, end + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Tells what `name` means in a session with that CFG, or without one yet.
pub fn classify(name: &str, cfg: Option<&Cfg>) -> Classified {
    let kind = kind_of(name, cfg);
    if kind == Kind::Unsupported
        && let Some(inner) = rsync_target(name)
    {
        let kind = kind_of(inner, cfg);
        if kind != Kind::Unsupported && !kind.is_own() {
            return Classified { kind, name: spelled(kind, inner, cfg), temporary: true };
        }
    }
    Classified { kind, name: spelled(kind, name, cfg), temporary: false }
}

/// `.NAME.XXXXXX` gives NAME.
fn rsync_target(name: &str) -> Option<&str> {
    let (inner, suffix) = name.strip_prefix('.')?.rsplit_once('.')?;
    let random = suffix.len() == RSYNC_SUFFIX_LEN && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (random && !inner.is_empty()).then_some(inner)
}

fn spelled(kind: Kind, name: &str, cfg: Option<&Cfg>) -> String {
    let disk = |n: usize| cfg.and_then(|cfg| cfg.disks.get(n));
    let known = match kind {
        Kind::Extent(n) => disk(n).map(|disk| disk.extent_name.as_str()),
        Kind::Descriptor(n) => disk(n).map(|disk| disk.name.as_str()),
        Kind::Vmx => cfg.map(|cfg| cfg.vmx_name.as_str()),
        Kind::Log => Some(IMPORT_LOG),
        _ => None,
    };
    known.unwrap_or(name).to_owned()
}

fn kind_of(name: &str, cfg: Option<&Cfg>) -> Kind {
    let folded = name.to_lowercase();
    if folded == IMPORT_LOG {
        return Kind::Log;
    }
    if let Some(cfg) = cfg
        && let Some(kind) = named_by(cfg, &folded)
    {
        return kind;
    }
    let is = |ending: &str| folded.len() > ending.len() && ends_with_ignore_case(&folded, ending);
    // Editors' and file managers' hidden files are none of ours, whatever they end in.
    if folded.starts_with('.') || folded.starts_with('~') {
        Kind::Unsupported
    } else if is(".cfg") {
        Kind::Cfg
    } else if is(".cfg.err") {
        Kind::CfgErr
    } else if is(".vmcfg") {
        Kind::VmCfg
    } else if is(".nvram") {
        Kind::Nvram
    } else if is(".vmxf") {
        Kind::Vmxf
    } else if is(".vmsd") {
        Kind::Vmsd
    } else if cfg.is_none() && (is(".vmdk") || is(".pancbt") || is(".vmx")) {
        Kind::AwaitsCfg
    } else {
        Kind::Unsupported
    }
}

/// Whether the CFG names it.
fn named_by(cfg: &Cfg, folded: &str) -> Option<Kind> {
    if folded == cfg.vmx_name.to_lowercase() {
        return Some(Kind::Vmx);
    }
    for (n, disk) in cfg.disks.iter().enumerate() {
        let extent = disk.extent_name.to_lowercase();
        if folded == extent {
            return Some(Kind::Extent(n));
        }
        if folded == disk.name.to_lowercase() {
            return Some(Kind::Descriptor(n));
        }
        if let Some(index) = pancbt_index(folded, &extent) {
            return Some(Kind::Pancbt { disk: n, index });
        }
    }
    None
}

/// `x-flat.pancbt` is number 0 of `x-flat.vmdk`, `x-flat.1.pancbt` number 1.
fn pancbt_index(folded: &str, extent: &str) -> Option<u32> {
    let stem = strip_suffix_ignore_case(extent, ".vmdk")?;
    let middle = folded.strip_prefix(stem)?.strip_suffix(".pancbt")?;
    if middle.is_empty() {
        return Some(0);
    }
    let digits = middle.strip_prefix('.')?;
    let index: u32 = digits.parse().ok()?;
    (digits == index.to_string() && index <= CHAIN_MAX).then_some(index)
}
