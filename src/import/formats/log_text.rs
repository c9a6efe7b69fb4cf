//! The texts of import.log, word for word as in the sample (import_fs.txt, 'Import Session Log File'; behaviour.md
//! section 5). Paths are the session's, from the share's root: `/x`.

use std::fmt;
use std::panic::Location;

use jiff::civil::DateTime;

use super::cfg::{Cfg, provisioning_str};
use super::one_line;
use crate::disk::Statistics;

/// Bytes of the log's `kb`.
const KB: u64 = 1024;

/// One line of the log, with its line end: `2012-02-28 13:51:49.750429: Open /import.log`. A control character in a
/// name that a client chose can't start another line.
pub fn line(when: DateTime, text: &impl fmt::Display) -> String {
    format!("{}: {}\n", when.strftime("%Y-%m-%d %H:%M:%S.%6f"), one_line(&text.to_string()))
}

/// The numbers of a `stats:` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes that came in.
    pub total: u64,
    /// Bytes passed to the driver.
    pub written: u64,
    /// Bytes skipped.
    pub skipped: u64,
    /// Bytes per second that came in.
    pub rate: u64,
    /// Keep-alives sent.
    pub keep_alives: u64,
    /// Average bytes of a write that came in.
    pub incoming: u64,
    /// Average bytes of a write that went out.
    pub outgoing: u64,
}

impl From<&Statistics> for Stats {
    fn from(from: &Statistics) -> Self {
        Self {
            total: from.total,
            written: from.written,
            skipped: from.skipped,
            rate: from.rate(),
            keep_alives: from.keep_alives,
            incoming: from.average_incoming(),
            outgoing: from.average_outgoing(),
        }
    }
}

/// What the log says. `Display` gives the text behind the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An existing file was opened.
    Open(&'a str),
    /// A file was created.
    Create(&'a str),
    /// A file was cut, or its end of file set.
    Truncate(&'a str, u64),
    /// A file was flushed, which closing it does too.
    Flush(&'a str),
    /// A CFG made a session of its directory; the session's path.
    SessionCreated(&'a str),
    /// `on-conflict = "rename"` took another directory.
    RedirectingRecover {
        /// As in the CFG.
        from: &'a str,
        /// With its number.
        to: &'a str,
    },
    /// The VMX is being put in place (and registered); its path, see [`volume_path`].
    Importing(&'a str),
    /// A disk of the VMX got its new name.
    RedirectingDisk {
        /// In the backup.
        from: &'a str,
        /// On the datastore.
        to: &'a str,
    },
    /// The VMX is in place.
    DoneImporting(&'a str),
    /// What went through a file, when it is closed.
    Stats(&'a str, Stats),
    /// Something that is worth a line but not wrong: an unknown key of the CFG, a value of the VMX that was dropped.
    Note(&'a str),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Open(path) => write!(f, "Open {path}"),
            Self::Create(path) => write!(f, "Create file {path}"),
            Self::Truncate(path, to) => write!(f, "Truncate {path} to offset {to}"),
            Self::Flush(path) => write!(f, "Flush {path}"),
            Self::SessionCreated(path) => write!(f, "import_session: created {path}"),
            Self::RedirectingRecover { from, to } => {
                write!(f, "import session redirecting recover from {from} to {to}")
            }
            Self::Importing(path) => write!(f, "importing {path}"),
            Self::RedirectingDisk { from, to } => write!(f, "redirecting disk from {from} to {to}"),
            Self::DoneImporting(path) => write!(f, "done importing {path}"),
            Self::Stats(path, stats) => write!(
                f,
                "stats: {path} total {} kb, write thru {} kb, skipped {} kb ({} kb/s), keep alive {}, incoming avg \
                 write size {}, outgoing avg write size {}",
                stats.total / KB,
                stats.written / KB,
                stats.skipped / KB,
                stats.rate / KB,
                stats.keep_alives,
                stats.incoming,
                stats.outgoing
            ),
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// An ERROR line: who found what, where in the service's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The thread, as a number.
    pub thread: u64,
    /// Source file, without its directories.
    pub file: String,
    /// Line of it.
    pub line: u32,
    /// 1 for what the client did wrong, as in the sample; an errno where the system said no.
    pub error: i32,
    /// What happened.
    pub message: String,
}

impl Fault {
    /// With the caller's place in the source.
    #[track_caller]
    pub fn here(thread: u64, error: i32, message: impl Into<String>) -> Self {
        let at = Location::caller();
        let file = at.file().rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        Self { thread, file, line: at.line(), error, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ERROR [thread:{}, where:{}:{}, error:{}] {}",
            self.thread, self.file, self.line, self.error, self.message
        )
    }
}

/// The message of a file that a session does not take (S6).
pub fn unsupported(path: &str) -> String {
    format!("Cannot create {path} of unsupported file type")
}

/// Where a file of a datastore is on a host: `/vmfs/volumes/<datastore>/<directory>/<name>`.
pub fn volume_path(datastore: &str, directory: &str, name: &str) -> String {
    format!("/vmfs/volumes/{datastore}/{directory}/{name}")
}

/// The `Import Session …:` block, a text a line: the CFG after redirection. `session` is the directory's path.
pub fn session_block(session: &str, cfg: &Cfg) -> Vec<String> {
    let mut texts = vec![
        format!("Import Session {session}:"),
        format!("vm name      : {}", cfg.vm_name),
        format!("server       : {}", cfg.server_name),
        format!("host system  : {}", cfg.host_system),
        format!("datacenter   : {}", cfg.datacenter),
        format!("resource pool: {}", cfg.resource_pool),
        format!("mode         : {}", cfg.on_conflict.mode()),
        format!("register vm  : {}", u8::from(cfg.register)),
        format!(
            "vmx:         : {} => [{}] {}/{}",
            cfg.vmx_name,
            cfg.datastore,
            cfg.directory,
            cfg.target_vmx()
        ),
    ];
    for (n, disk) in cfg.disks.iter().enumerate() {
        let place = format!("[{}] {}", disk.datastore, disk.directory);
        let label = format!("{:<13}", format!("disk {n}"));
        texts.push(format!("{label}: {} => {place}/{}", disk.name, disk.target_name()));
        texts.push(format!(
            "{label}: {} => {place}/{} ({} bytes {})",
            disk.extent_name,
            disk.target_extent(),
            disk.size,
            provisioning_str(disk.provisioning)
        ));
    }
    texts
}
