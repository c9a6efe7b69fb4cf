//! What a well-formed configuration must also satisfy; every problem at once, each naming its key.

use std::collections::HashSet;

use super::{Config, ShareKind};

/// The smallest and largest grain: a sector cluster, and what still finds holes in a sparse disk.
const GRAIN_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
/// Bounds of the coalescing buffer, which every open disk has one of.
const COALESCE_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
/// The longest NetBIOS-style name that clients accept.
const NAME_CHARS_MAX: usize = 15;
/// The longest share name (MS-SRVS 2.2.4.23: NNLEN).
const SHARE_CHARS_MAX: usize = 80;

/// Sentences, empty if all is well.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    server(config, &mut found);
    shares(config, &mut found);
    hypervisors(config, &mut found);
    found
}

fn server(config: &Config, found: &mut Vec<String>) {
    let name = &config.server.name;
    if name.is_empty()
        || name.len() > NAME_CHARS_MAX
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        found.push(format!("server.name: '{name}' is not 1 to {NAME_CHARS_MAX} letters, digits or '-'"));
    }
    if config.server.listen.is_empty() {
        found.push("server.listen: at least one address is needed".into());
    }
    if config.server.max_connections == 0 {
        found.push("server.max-connections: at least 1 is needed".into());
    }
    if config.smb.min_dialect > config.smb.max_dialect {
        found.push("smb.min-dialect: is newer than smb.max-dialect".into());
    }
    let grain = config.import.skip_grain;
    if !grain.is_power_of_two() || !GRAIN_BYTES.contains(&grain) {
        found.push(format!("import.skip-grain: {grain} is not a power of two from 4096 to 16777216"));
    }
    if !COALESCE_BYTES.contains(&config.import.coalesce) {
        found.push(format!("import.coalesce: {} is not from 4096 to 16777216", config.import.coalesce));
    }
    if config.import.keep_alive_seconds == 0 {
        found.push("import.keep-alive-seconds: at least 1 is needed".into());
    }
    if config.import.max_sessions == 0 {
        found.push("import.max-sessions: at least 1 is needed".into());
    }
}

fn shares(config: &Config, found: &mut Vec<String>) {
    let mut names = HashSet::new();
    let mut imports = 0;
    for share in &config.shares {
        let name = &share.name;
        let forbidden = |c: char| c.is_control() || "\\/:*?\"<>|[]+;,=".contains(c);
        if name.is_empty() || name.chars().count() > SHARE_CHARS_MAX || name.contains(forbidden) {
            found.push(format!("share.name: '{name}' is not a share name"));
        }
        if name.eq_ignore_ascii_case("IPC$") || !names.insert(name.to_lowercase()) {
            found.push(format!("share.name: '{name}' is there already (names are compared without case)"));
        }
        match share.kind {
            ShareKind::Import => imports += 1,
            ShareKind::Directory if share.path.is_none() => {
                found.push(format!("share.path: share '{name}' of kind \"directory\" needs a path"));
            }
            ShareKind::Directory => {}
        }
        if share.kind == ShareKind::Import && share.path.is_some() {
            found.push(format!("share.path: share '{name}' of kind \"import\" has no path of its own"));
        }
    }
    if imports > 1 {
        found.push("share.kind: only one share can be of kind \"import\"".into());
    }
    if config.shares.is_empty() {
        found.push("share: at least one [[share]] is needed".into());
    }
}

fn hypervisors(config: &Config, found: &mut Vec<String>) {
    let mut names = HashSet::new();
    for hypervisor in &config.hypervisors {
        for name in std::iter::once(&hypervisor.name).chain(&hypervisor.aliases) {
            if name.is_empty() || !names.insert(name.to_lowercase()) {
                found.push(format!("hypervisor.name: '{name}' is empty or names two hypervisors"));
            }
        }
        let mut stores = HashSet::new();
        for store in &hypervisor.datastores {
            for name in std::iter::once(&store.name).chain(&store.uuid) {
                if name.is_empty() || !stores.insert(name.clone()) {
                    found.push(format!(
                        "hypervisor.datastore: '{name}' is empty or names two datastores of '{}'",
                        hypervisor.name
                    ));
                }
            }
        }
        if hypervisor.datastores.is_empty() {
            found.push(format!("hypervisor.datastore: '{}' has no datastore", hypervisor.name));
        }
    }
}
