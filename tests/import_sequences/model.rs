//! What must be true of the import share, told by what its clients were answered: directories, files, what each disk holds, what is
//! wrong. Knows nothing of how the service keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use smb_proto::Status;
use smb_proto::msg::FileId;

use super::texts::{Cfg, Differential};

/// The disks of every virtual machine here.
pub const DISKS: [&str; 2] = ["a", "b"];
/// Their sizes, in bytes: some grains and a torn end.
pub const SIZES: [usize; 2] = [5 * GRAIN + 512, 2 * GRAIN + 512];
/// Everything is as in earnest but a sixty-fourth as large.
pub const GRAIN: usize = 1024;

/// Files that a client may name in a session's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Cfg,
    SecondCfg,
    Extent(usize),
    Descriptor(usize),
    Differential(usize, u32),
    Vmx,
    Nvram,
    Unsupported,
    Log,
    CfgErr,
}

impl Name {
    pub const ALL: [Self; 16] = [
        Self::Extent(0),
        Self::Extent(1),
        Self::Cfg,
        Self::SecondCfg,
        Self::Vmx,
        Self::Descriptor(0),
        Self::Descriptor(1),
        Self::Differential(0, 0),
        Self::Differential(0, 1),
        Self::Differential(1, 0),
        Self::Nvram,
        Self::Unsupported,
        Self::Log,
        Self::CfgErr,
        Self::Extent(0),
        Self::Extent(1),
    ];

    pub fn text(self) -> String {
        match self {
            Self::Cfg => "c.cfg".into(),
            Self::SecondCfg => "d.cfg".into(),
            Self::Extent(disk) => format!("{}-flat.vmdk", DISKS[disk]),
            Self::Descriptor(disk) => format!("{}.vmdk", DISKS[disk]),
            Self::Differential(disk, 0) => format!("{}-flat.pancbt", DISKS[disk]),
            Self::Differential(disk, index) => format!("{}-flat.{index}.pancbt", DISKS[disk]),
            Self::Vmx => "v.vmx".into(),
            Self::Nvram => "v.nvram".into(),
            Self::Unsupported => "v.swp".into(),
            Self::Log => "import.log".into(),
            Self::CfgErr => "c.cfg.err".into(),
        }
    }

    pub fn is_cfg(self) -> bool {
        matches!(self, Self::Cfg | Self::SecondCfg)
    }

    pub fn is_own(self) -> bool {
        matches!(self, Self::Log | Self::CfgErr)
    }

    /// Kept as it came, and taken up when it is closed.
    pub fn is_small(self) -> bool {
        !self.is_own() && !matches!(self, Self::Extent(_) | Self::Differential(..) | Self::Unsupported)
    }
}

/// How far a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Absent,
    Receiving,
    Complete,
    Doubtful,
}

impl Stage {
    pub fn text(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Receiving => "receiving",
            Self::Complete => "complete",
            Self::Doubtful => "doubtful",
        }
    }

    pub fn read(text: &str) -> Self {
        let all = [Self::Absent, Self::Receiving, Self::Complete, Self::Doubtful];
        all.into_iter().find(|stage| stage.text() == text).unwrap()
    }
}

/// What is known of one byte of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Byte {
    /// What its client sent last and was told had gone well.
    pub value: u8,
    /// It came.
    pub came: bool,
    /// Its client was told that it failed, or was not told: it must come again.
    pub failed: bool,
    /// It may have to come again.
    pub doubtful: bool,
    /// A read sees the value.
    pub sure: bool,
    /// It is as it was when its client was told that all is durable.
    pub durable: bool,
}

const NOTHING: Byte =
    Byte { value: 0, came: false, failed: false, doubtful: false, sure: true, durable: false };

/// Whether a disk has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    No,
    Maybe,
    Yes,
}

/// A disk of a session.
#[derive(Clone)]
pub struct Disk {
    /// It was made, so that its destination can't change.
    pub made: bool,
    pub stage: Stage,
    pub bytes: Vec<Byte>,
    pub end: usize,
    /// An end of file that a client set.
    pub declared: Option<usize>,
    /// The place in the chain that the next differential must have at least, and the change id of the last.
    pub merged: u32,
    pub target: u8,
    /// A differential was refused before it changed anything.
    pub refused: bool,
    /// Of a differential, a part was merged.
    pub half: bool,
    /// `.cfg.err` tells of a differential.
    pub told: bool,
    /// A failure to write what was held may still be told.
    pub late: bool,
}

impl Disk {
    pub fn new(disk: usize) -> Self {
        Self {
            made: false,
            stage: Stage::Absent,
            bytes: vec![NOTHING; SIZES[disk]],
            end: 0,
            declared: None,
            merged: 0,
            target: 0,
            refused: false,
            half: false,
            told: false,
            late: false,
        }
    }

    pub fn values(&self) -> Vec<u8> {
        self.bytes.iter().map(|byte| byte.value).collect()
    }

    pub fn whole(&self) -> Whole {
        let declared = self.declared == Some(self.bytes.len());
        if self.half || self.bytes.iter().any(|byte| byte.failed || !byte.came && !declared) {
            return Whole::No;
        }
        if self.bytes.iter().any(|byte| byte.doubtful) { Whole::Maybe } else { Whole::Yes }
    }

    /// The extent comes anew, or more of it.
    pub fn begin(&mut self) {
        self.stage = Stage::Receiving;
        self.merged = 0;
        self.target = 0;
    }

    /// It comes from its start.
    pub fn restart(&mut self) {
        self.begin();
        (self.refused, self.half, self.told) = (false, false, false);
    }

    pub fn wrote(&mut self, offset: usize, data: &[u8]) {
        for (byte, value) in self.bytes[offset..offset + data.len()].iter_mut().zip(data) {
            *byte = Byte { value: *value, came: true, ..NOTHING };
        }
        self.end = self.end.max(offset + data.len());
    }

    /// Its client was told that this failed, or was told nothing.
    pub fn failed(&mut self, range: Range<usize>) {
        for byte in &mut self.bytes[range] {
            (byte.failed, byte.doubtful, byte.sure, byte.durable) = (true, true, false, false);
        }
    }

    /// An operation on the datastore failed: of what is not durable, any may have gone.
    pub fn troubled(&mut self) {
        self.late = true;
        for byte in self.bytes.iter_mut().filter(|byte| !byte.durable) {
            (byte.doubtful, byte.sure) = (true, false);
        }
    }

    pub fn cut(&mut self, end: usize) {
        self.bytes[end..].fill(NOTHING);
        self.half &= end > 0;
        self.end = end;
        self.declared = Some(end);
    }

    pub fn cut_or_grow(&mut self, end: usize) {
        if end < self.end {
            return self.cut(end);
        }
        (self.end, self.declared) = (end, Some(end));
    }

    /// All of it may have to come again.
    pub fn doubt(&mut self) {
        self.bytes.iter_mut().for_each(|byte| (byte.doubtful, byte.sure) = (true, false));
    }

    pub fn flushed(&mut self) {
        self.bytes.iter_mut().for_each(|byte| byte.durable = true);
    }

    /// The service was killed, and is there again.
    pub fn survived(&mut self) {
        if self.bytes.iter().any(|byte| !byte.durable) {
            self.bytes.iter_mut().for_each(|byte| {
                byte.doubtful = true;
                byte.sure &= byte.durable;
            });
        }
        if self.stage != Stage::Complete {
            self.declared = None;
        }
        self.late = false;
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (made, stage, end, declared) = (self.made, self.stage, self.end, self.declared);
        let (merged, target, refused, told, late) =
            (self.merged, self.target, self.refused, self.told, self.late);
        write!(f, "{stage:?} made {made} end {end} declared {declared:?} merged {merged} target {target} ")?;
        write!(f, "half {} ", self.half)?;
        write!(f, "refused {refused} told {told} late {late}:")?;
        let mut from = 0;
        for run in self.bytes.chunk_by(|one, next| Byte { value: 0, ..*one } == Byte { value: 0, ..*next }) {
            let Byte { came, failed, doubtful, sure, durable, .. } = run[0];
            let flags = [
                (came, "came"),
                (failed, "failed"),
                (doubtful, "doubtful"),
                (sure, "sure"),
                (durable, "durable"),
            ];
            let flags: Vec<_> = flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
            write!(f, " {from}+{} {}", run.len(), flags.join(" "))?;
            from += run.len();
        }
        Ok(())
    }
}

/// A client's file.
#[derive(Clone, Default)]
pub struct Stored {
    /// Of a small one, what it holds.
    pub bytes: Vec<u8>,
    /// It goes with its last close.
    pub doomed: bool,
    /// Another for each file that has had that name.
    pub serial: u64,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes{}", self.bytes.len(), if self.doomed { ", doomed" } else { "" })
    }
}

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub cfg: Cfg,
    /// On the datastore, after redirection.
    pub directory: String,
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    pub serial: u64,
    pub files: BTreeMap<Name, Stored>,
    pub plan: Option<Plan>,
    pub disks: [Disk; 2],
    /// The CFG has errors: those stop data.
    pub stopped: bool,
    /// It has, and the session goes on by the one before.
    pub told: bool,
    /// The VMX could not be taken up.
    pub vmx_told: bool,
    /// The VMX that is in place.
    pub imported: Option<Vec<u8>>,
    pub was_complete: bool,
    /// `.cfg.err` is there.
    pub shown: bool,
    /// An operation on the datastore failed while it changed: what it is now has to be looked at.
    pub unsure: bool,
}

impl Session {
    pub fn new(serial: u64) -> Self {
        Self {
            serial,
            files: BTreeMap::new(),
            plan: None,
            disks: [Disk::new(0), Disk::new(1)],
            stopped: false,
            told: false,
            vmx_told: false,
            imported: None,
            was_complete: false,
            shown: false,
            unsure: false,
        }
    }

    pub fn has_data(&self) -> bool {
        self.disks.iter().any(|disk| disk.made)
    }

    /// Whether `.cfg.err` is there under that CFG's name.
    pub fn shown_as(&self, cfg: Name) -> bool {
        self.shown && self.cfg_name() == Some(cfg)
    }

    /// The service writes `.cfg.err` anew, or removes it.
    pub fn report(&mut self) {
        self.shown = self.cfg_name().is_some() && self.has_errors();
    }

    pub fn has_errors(&self) -> bool {
        self.stopped || self.told || self.vmx_told || self.disks.iter().any(|disk| disk.told)
    }

    pub fn cfg_name(&self) -> Option<Name> {
        self.files.keys().copied().find(|name| name.is_cfg())
    }

    /// Whether data is taken at all.
    pub fn receives(&self) -> Result<(), Status> {
        if self.plan.is_some() && !self.stopped { Ok(()) } else { Err(Status::MEDIA_WRITE_PROTECTED) }
    }

    pub fn forget_differentials(&mut self, disk: usize) {
        self.files.retain(|name, _| !matches!(name, Name::Differential(of, _) if *of == disk));
    }

    /// Before data comes for a disk: one that was whole is not any more.
    pub fn reopen(&mut self, disk: usize) -> Result<(), Status> {
        match self.disks[disk].stage {
            Stage::Receiving => return Ok(()),
            Stage::Doubtful => return Err(Status::MEDIA_WRITE_PROTECTED),
            Stage::Complete | Stage::Absent => self.disks[disk].begin(),
        }
        self.forget_differentials(disk);
        self.imported = None;
        Ok(())
    }

    /// The extent comes again from its start.
    pub fn restart(&mut self, disk: usize) {
        self.forget_differentials(disk);
        self.imported = None;
        let told = self.disks[disk].told;
        self.disks[disk].restart();
        if told {
            self.report();
        }
    }

    /// Nothing is planned any more, and nothing of its disks known.
    pub fn withdrawn(&mut self) {
        self.plan = None;
        self.disks = [Disk::new(0), Disk::new(1)];
        (self.imported, self.was_complete) = (None, false);
    }
}

/// An open as its client knows it.
#[derive(Debug, Clone)]
pub struct Held {
    pub id: FileId,
    /// The connection that it belongs to; `None` while its client is away.
    pub link: Option<u64>,
    /// Its session's serial.
    pub session: u64,
    pub name: Name,
    /// [`Stored::serial`].
    pub file: u64,
    /// What it may do: FileAccess of its CREATE.
    pub access: u32,
    /// It was opened so that data may come.
    pub writes: bool,
    pub wrote: bool,
    /// It waits for its client, as long as its batch oplock is not broken.
    pub durable: bool,
    pub batch: bool,
    /// A differential on its way, and how much of it was sent.
    pub sends: Option<(Differential, usize)>,
    /// A part of that was refused.
    pub refused: bool,
    /// Its header was not.
    pub begun: bool,
    pub may_have_begun: bool,
    /// A refusal of it was logged.
    pub complained: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Model {
    /// By their place in the share.
    pub sessions: BTreeMap<&'static str, Session>,
    pub opens: BTreeMap<u64, Held>,
    /// Which session made a directory of the datastore and may use it again.
    pub owners: BTreeMap<String, u64>,
    /// Directories that were made just when the service was killed or the datastore failed: whose they are it may not know.
    pub unknown: BTreeSet<String>,
    /// Directories in which a virtual machine was completed.
    pub complete: BTreeSet<String>,
    /// Directories of the datastore that nothing may change any more, with what is in them.
    pub left: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Model {
    pub fn session(&mut self, serial: u64) -> &mut Session {
        self.sessions.values_mut().find(|session| session.serial == serial).expect("a session")
    }

    pub fn session_of(&self, held: &Held) -> &Session {
        self.sessions.values().find(|session| session.serial == held.session).expect("a session")
    }

    pub fn opens_of(&self, serial: u64, name: Name) -> impl Iterator<Item = &Held> {
        self.opens.values().filter(move |held| held.session == serial && held.name == name)
    }

    pub fn writers(&self, serial: u64, disk: usize) -> usize {
        self.opens_of(serial, Name::Extent(disk)).filter(|held| held.writes).count()
    }

    pub fn is_merging(&self, serial: u64, disk: usize) -> bool {
        let merges = |held: &Held| {
            held.session == serial
                && matches!(held.name, Name::Differential(of, _) if of == disk)
                && held.sends.is_some()
        };
        self.opens.values().any(merges)
    }

    /// Whether a disk's differential may come.
    pub fn takes_differential(&self, session: &Session, disk: usize) -> Result<(), Status> {
        let whole = session.disks[disk].stage == Stage::Complete
            && self.writers(session.serial, disk) == 0
            && !self.is_merging(session.serial, disk);
        session.receives()?;
        if whole { Ok(()) } else { Err(Status::MEDIA_WRITE_PROTECTED) }
    }

    /// Whether the VMX may come.
    pub fn takes_vmx(&self, session: &Session) -> Result<(), Status> {
        session.receives()?;
        (0..DISKS.len()).try_for_each(|disk| {
            self.takes_differential(session, disk)?;
            if session.disks[disk].refused { Err(Status::MEDIA_WRITE_PROTECTED) } else { Ok(()) }
        })
    }
}
