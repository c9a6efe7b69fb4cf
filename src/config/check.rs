//! What a well-formed configuration must also satisfy; every problem at once, each with the key's place in the file
//! (`share[1].name`) and a sentence.

use std::collections::HashSet;

use super::{Config, DatastoreConfig, HypervisorConfig, HypervisorKind, NbdConfig, ShareKind, Writer};
use crate::datastore::stream_optimized::{LEVEL_MAX, THREADS_MAX};
use crate::tls::Thumbprint;

/// Longest time for which a client is held while a hypervisor can't be reached: after an hour nobody waits any more.
const REGISTER_RETRY_SECONDS_MAX: u64 = 3600;
/// The smallest and largest grain: a sector cluster, and what still finds holes in a sparse disk.
const GRAIN_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
/// Bounds of the coalescing buffer, which every open disk has one of.
const COALESCE_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
/// The messages of one login, with a Kerberos ticket that is offered first.
const LOGIN_BYTES_MIN: u64 = 256 << 10;
/// Four of the largest frames.
const BYTES_IN_FLIGHT_MIN: usize = 32 << 20;
/// Connections to an NBD server for each disk: more only queue at the server.
const NBD_CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=16;
/// How long a client may be held: a day is already past any backup window.
const RETRY_SECONDS: std::ops::RangeInclusive<u64> = 1..=86_400;
/// How long a kernel may take to show a disk: past that it never will.
const DEVICE_SECONDS: std::ops::RangeInclusive<u64> = 1..=600;
/// The longest NetBIOS-style name that clients accept.
const NAME_CHARS_MAX: usize = 15;
/// The longest share name (MS-SRVS 2.2.4.23: NNLEN).
const SHARE_CHARS_MAX: usize = 80;

/// The largest write of a client.
const WRITE_BYTES_MAX: u64 = 8 << 20;

/// The least and most bytes of an import.log: the first lines of a session, and what a text viewer still opens.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 30;

/// Where and what.
type Problem = (String, String);

/// Empty if all is well.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    server(config, &mut found);
    limits(config, &mut found);
    shares(config, &mut found);
    hypervisors(config, &mut found);
    found
}

fn server(config: &Config, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, message: String| found.push((key.to_owned(), message));
    let name = &config.server.name;
    if name.is_empty()
        || name.len() > NAME_CHARS_MAX
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        wrong("server.name", format!("'{name}' is not 1 to {NAME_CHARS_MAX} letters, digits or '-'"));
    }
    if config.server.listen.is_empty() {
        wrong("server.listen", "at least one address is needed".into());
    }
    if config.smb.min_dialect > config.smb.max_dialect {
        wrong("smb.min-dialect", "it is newer than smb.max-dialect".into());
    }
    let import = &config.import;
    let grain = import.skip_grain;
    if !grain.is_power_of_two() || !GRAIN_BYTES.contains(&grain) {
        wrong("import.skip-grain", format!("{grain} is not a power of two from 4096 to 16777216"));
    }
    let coalesce = import.coalesce;
    if !coalesce.is_multiple_of(4096) || !COALESCE_BYTES.contains(&coalesce) {
        wrong("import.coalesce", format!("{coalesce} is not a multiple of 4096 from 4096 to 16777216"));
    }
    if import.register_retry_seconds > REGISTER_RETRY_SECONDS_MAX {
        let seconds = import.register_retry_seconds;
        wrong(
            "import.register-retry-seconds",
            format!("{seconds} is more than {REGISTER_RETRY_SECONDS_MAX}"),
        );
    }
    if import.keep_alive_seconds == 0 {
        wrong("import.keep-alive-seconds", "at least 1 is needed".into());
    }
    if import.max_sessions == 0 {
        wrong("import.max-sessions", "at least 1 is needed".into());
    }
    let in_flight = [
        ("import.disk-bytes-in-flight", import.disk_bytes_in_flight),
        ("import.session-bytes-in-flight", import.session_bytes_in_flight),
    ];
    for (key, bytes) in in_flight {
        if bytes < WRITE_BYTES_MAX {
            wrong(key, format!("{bytes} is less than one write, {WRITE_BYTES_MAX}"));
        }
    }
    for (key, patterns) in [("pass-names", &import.pass_names), ("refuse-names", &import.refuse_names)] {
        for (number, pattern) in patterns.iter().enumerate() {
            if pattern.is_empty() || pattern.contains(['/', '\\']) {
                let message = format!("'{pattern}' is no pattern of file names");
                wrong(&format!("import.{key}[{number}]"), message);
            }
        }
    }
    if !LOG_BYTES.contains(&import.log_max_bytes) {
        let bytes = import.log_max_bytes;
        wrong(
            "import.log-max-bytes",
            format!("{bytes} is not from {} to {}", LOG_BYTES.start(), LOG_BYTES.end()),
        );
    }
}

fn limits(config: &Config, found: &mut Vec<Problem>) {
    let limits = &config.limits;
    let counts = [
        ("connections", limits.connections),
        ("connections-per-address", limits.connections_per_address),
        ("sessions-per-connection", limits.sessions_per_connection),
        ("login-seconds", limits.login_seconds as usize),
        ("idle-seconds", limits.idle_seconds as usize),
        ("frame-seconds", limits.frame_seconds as usize),
    ];
    let mut wrong = |key: &str, message: String| found.push((format!("limits.{key}"), message));
    for (key, _) in counts.into_iter().filter(|(_, value)| *value == 0) {
        wrong(key, "at least 1 is needed".into());
    }
    if limits.login_bytes < LOGIN_BYTES_MIN {
        wrong("login-bytes", format!("at least {LOGIN_BYTES_MIN} are needed, or nobody can log in"));
    }
    if limits.bytes_in_flight < BYTES_IN_FLIGHT_MIN {
        wrong("bytes-in-flight", format!("at least {BYTES_IN_FLIGHT_MIN} are needed"));
    }
}

fn shares(config: &Config, found: &mut Vec<Problem>) {
    let mut names = HashSet::new();
    let mut imports = 0;
    for (number, share) in config.shares.iter().enumerate() {
        let mut wrong = |key: &str, message: String| found.push((format!("share[{number}].{key}"), message));
        let name = &share.name;
        let forbidden = |c: char| c.is_control() || "\\/:*?\"<>|[]+;,=".contains(c);
        if name.is_empty() || name.chars().count() > SHARE_CHARS_MAX || name.contains(forbidden) {
            wrong("name", format!("'{name}' is not a share name"));
        }
        if name.eq_ignore_ascii_case("IPC$") || !names.insert(name.to_lowercase()) {
            wrong("name", format!("'{name}' is there already (names are compared without case)"));
        }
        match share.kind {
            ShareKind::Import => imports += 1,
            ShareKind::Directory if share.path.is_none() => {
                wrong("path", format!("share '{name}' of kind \"directory\" needs a path"));
            }
            ShareKind::Directory => {}
        }
        if share.kind == ShareKind::Import && share.path.is_some() {
            wrong("path", format!("share '{name}' of kind \"import\" has no path of its own"));
        }
        if imports > 1 && share.kind == ShareKind::Import {
            wrong("kind", "only one share can be of kind \"import\"".into());
        }
    }
    if config.shares.is_empty() {
        found.push(("share".into(), "at least one [[share]] is needed".into()));
    }
}

/// How a vSphere hypervisor is reached and trusted; nothing of that for others.
fn connection(hypervisor: &HypervisorConfig, at: &str, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, message: &str| found.push((format!("{at}.{key}"), message.to_owned()));
    let keys = [
        ("url", hypervisor.url.is_some()),
        ("username", hypervisor.username.is_some()),
        ("password-file", hypervisor.password_file.is_some()),
        ("thumbprint", hypervisor.thumbprint.is_some()),
        ("ca-file", hypervisor.ca_file.is_some()),
        ("appliance", hypervisor.appliance.is_some()),
    ];
    match hypervisor.kind {
        HypervisorKind::Directory => {
            for (key, _) in keys.into_iter().filter(|(_, given)| *given) {
                wrong(key, "it belongs to kind = \"vsphere\"");
            }
        }
        HypervisorKind::Vsphere => {
            for (key, _) in keys.into_iter().take(3).filter(|(_, given)| !given) {
                wrong(key, "kind = \"vsphere\" needs it");
            }
            if hypervisor.url.as_ref().is_some_and(|url| !url.starts_with("https://")) {
                wrong("url", "it is no https:// address; a vCenter's or ESXi host's is https://HOST/sdk");
            }
            if hypervisor.thumbprint.is_some() == hypervisor.ca_file.is_some() {
                wrong(
                    "thumbprint",
                    "either thumbprint or ca-file says which server is trusted; give one of them",
                );
            }
            if let Some(Err(message)) = hypervisor.thumbprint.as_deref().map(Thumbprint::parse) {
                wrong("thumbprint", &message);
            }
        }
    }
}

fn hypervisors(config: &Config, found: &mut Vec<Problem>) {
    let mut names = HashSet::new();
    for (number, hypervisor) in config.hypervisors.iter().enumerate() {
        let at = format!("hypervisor[{number}]");
        let own = std::iter::once((format!("{at}.name"), &hypervisor.name));
        let aliases = hypervisor.aliases.iter().enumerate();
        for (key, name) in own.chain(aliases.map(|(n, alias)| (format!("{at}.aliases[{n}]"), alias))) {
            if name.is_empty() || !names.insert(name.to_lowercase()) {
                found.push((key, format!("'{name}' is empty or names two hypervisors")));
            }
        }
        connection(hypervisor, &at, found);
        let mut stores = HashSet::new();
        for (n, store) in hypervisor.datastores.iter().enumerate() {
            let keys = [("name", Some(&store.name)), ("uuid", store.uuid.as_ref())];
            for (key, name) in keys.into_iter().filter_map(|(key, name)| Some((key, name?))) {
                if name.is_empty() || !stores.insert(name.to_lowercase()) {
                    let message =
                        format!("'{name}' is empty or names two datastores of '{}'", hypervisor.name);
                    found.push((format!("{at}.datastore[{n}].{key}"), message));
                }
            }
        }
        for (n, store) in hypervisor.datastores.iter().enumerate() {
            writer(&format!("{at}.datastore[{n}]"), hypervisor, store, found);
        }
        if hypervisor.datastores.is_empty() {
            found.push((format!("{at}.datastore"), format!("'{}' has no datastore", hypervisor.name)));
        }
    }
}

/// Whether a datastore has what its driver needs, and nothing that another's would.
fn writer(at: &str, hypervisor: &HypervisorConfig, store: &DatastoreConfig, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, message: String| found.push((format!("{at}.{key}"), message));
    let (writer, _) = store.written(hypervisor);
    let name = writer.as_str();
    match writer {
        Writer::Directory | Writer::Nbd if store.path.is_none() => {
            wrong(
                "path",
                format!("'{}' needs the path at which it is mounted here (writer = \"{name}\")", store.name),
            );
        }
        Writer::Nfc if hypervisor.kind != HypervisorKind::Vsphere => {
            wrong("writer", "\"nfc\" uploads to a vCenter or an ESXi host: kind = \"vsphere\"".to_owned());
        }
        Writer::Hotadd if hypervisor.kind != HypervisorKind::Vsphere => {
            wrong(
                "writer",
                "\"hotadd\" attaches disks to a virtual machine of a vSphere: kind = \"vsphere\"".to_owned(),
            );
        }
        _ => {}
    }
    if writer == Writer::Nbd && store.nbd.is_none() {
        wrong("nbd", "writer = \"nbd\" needs the table [hypervisor.datastore.nbd]".to_owned());
    }
    let tables = [
        (Writer::Nbd, "nbd", store.nbd.is_some()),
        (Writer::Nfc, "nfc", store.nfc.is_some()),
        (Writer::Hotadd, "hotadd", store.hotadd.is_some()),
    ];
    for (of, table, _) in tables.into_iter().filter(|(of, _, given)| *given && *of != writer) {
        wrong(
            table,
            format!(
                "it belongs to writer = \"{}\", and '{}' is written by \"{name}\"",
                of.as_str(),
                store.name
            ),
        );
    }
    if let Some(nfc) = &store.nfc {
        if nfc.level > LEVEL_MAX {
            wrong("nfc.level", format!("{} is not from 0 to {LEVEL_MAX}", nfc.level));
        }
        if let Some(threads) = nfc.threads.filter(|threads| !(1..=THREADS_MAX).contains(threads)) {
            wrong("nfc.threads", format!("{threads} is not from 1 to {THREADS_MAX}"));
        }
        if !RETRY_SECONDS.contains(&nfc.retry_seconds) {
            wrong("nfc.retry-seconds", format!("{} is not from 1 to 86400", nfc.retry_seconds));
        }
    }
    if let Some(hotadd) = &store.hotadd
        && !DEVICE_SECONDS.contains(&hotadd.device_seconds)
    {
        wrong("hotadd.device-seconds", format!("{} is not from 1 to 600", hotadd.device_seconds));
    }
    if let Some(nbd) = &store.nbd {
        nbd_problems(&format!("{at}.nbd"), nbd, found);
    }
}

fn nbd_problems(at: &str, nbd: &NbdConfig, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, message: String| found.push((format!("{at}.{key}"), message));
    if !NBD_CONNECTIONS.contains(&nbd.connections) {
        wrong("connections", format!("{} is not from 1 to 16", nbd.connections));
    }
    if !RETRY_SECONDS.contains(&nbd.retry_seconds) {
        wrong("retry-seconds", format!("{} is not from 1 to 86400", nbd.retry_seconds));
    }
    let keys = [
        ("thumbprint", nbd.thumbprint.is_some()),
        ("ca-file", nbd.ca_file.is_some()),
        ("server-name", nbd.server_name.is_some()),
        ("client-certificate", nbd.client_certificate.is_some()),
        ("client-key", nbd.client_key.is_some()),
    ];
    if !nbd.uri.starts_with("nbds") {
        for (key, _) in keys.into_iter().filter(|(_, given)| *given) {
            wrong(key, "it belongs to an address with TLS, nbds:// or nbds+unix://".to_owned());
        }
        return;
    }
    if nbd.thumbprint.is_some() == nbd.ca_file.is_some() {
        let told = "either thumbprint or ca-file says which server is trusted by nbds; give one of them";
        wrong("thumbprint", told.to_owned());
    }
    if let Some(Err(message)) = nbd.thumbprint.as_deref().map(Thumbprint::parse) {
        wrong("thumbprint", message);
    }
    if nbd.ca_file.is_some() && nbd.server_name.is_none() && nbd.uri.starts_with("nbds+unix") {
        let told = "a socket has no name that a certificate could be for; give the certificate's";
        wrong("server-name", told.to_owned());
    }
    if nbd.client_certificate.is_some() != nbd.client_key.is_some() {
        wrong("client-key", "client-certificate and client-key go together".to_owned());
    }
}
