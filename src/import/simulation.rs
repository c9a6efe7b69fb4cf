//! A whole session under simulation: a kill at every step, and datastores that fail, from a seed.
//!
//! A datastore that watches has a copy taken of everything on disk before each of its operations, which is what a kill -9
//! leaves at that moment; what the journal had not yet got by then is covered by cutting it at every record since the copy
//! before. Each copy is taken up by a new engine, which must find what had been acknowledged, and the restore is made again on it.

#![allow(clippy::unwrap_used)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::tests::{cfg, differential_in, engine_with, killed, memory_dir, put_in};
use super::*;
use crate::datastore::altered::{Altered, by_name};
use crate::datastore::filter::{FaultDatastore, FaultPlan, Injector};
use crate::datastore::{Capabilities, Datastore, DirectoryDatastore, Disk, DiskSpec, Space};
use crate::disk::Options;

/// Everything is as in earnest but a sixteenth as large: grains, windows, disks, writes.
const GRAIN: u64 = 4096;
/// Bytes of each disk: several grains and a torn end.
const SIZE: u64 = 5 * GRAIN + 512;
/// A journal's header, and that of each of its frames.
const JOURNAL_HEADER: usize = 12;
const FRAME_HEADER: usize = 8;
/// Seeds of the faults that are simulated unless SIMULATION_SEEDS says how many, or SIMULATION_SEED names one.
const SEEDS: u64 = 40;
/// A client gives up after so many copies from the start; faults of a few percent let one through long before.
const TRIES_MAX: usize = 200;

fn image(seed: u64) -> Vec<u8> {
    (0..SIZE).map(|at| if at / GRAIN % 3 == seed % 3 { 0 } else { (at * (seed + 7) % 251) as u8 }).collect()
}

fn small_engine(root: &Path, store: Arc<dyn Datastore>) -> Engine {
    let (hold_below, window) = (GRAIN as usize, 16 * GRAIN);
    engine_with(root, store, Options { grain: GRAIN, hold_below, window, ..Options::default() })
}

/// One step of a restore: what a client does, and how it is called.
type Step = (&'static str, fn(&Arc<Session>) -> Result<(), ImportError>);

fn steps() -> Vec<Step> {
    vec![
        ("cfg", |session| put_in(session, "vm.cfg", cfg_of_size().as_bytes(), 1 << 20)),
        ("a-flat.vmdk", |session| put_in(session, "a-flat.vmdk", &image(1), 6_250)),
        ("b-flat.vmdk", |session| put_in(session, "b-flat.vmdk", &image(2), 4_096)),
        ("a-flat.pancbt", |session| {
            let bytes = differential_in(&image(1), &image(3), "", "later", 512);
            put_in(session, "a-flat.pancbt", &bytes, 3_125)
        }),
        ("a.vmx", |session| put_in(session, "a.vmx", b"scsi0:0.fileName = \"a.vmdk\"\n", 1 << 20)),
    ]
}

fn cfg_of_size() -> String {
    let lines: Vec<_> = cfg("vm", "").lines().map(str::to_owned).collect();
    let sized = lines.iter().map(|line| match line.split_once(".size = ") {
        Some((key, _)) => format!("{key}.size = {SIZE}\n"),
        None => format!("{line}\n"),
    });
    sized.collect()
}

fn vm() -> Vec<String> {
    vec!["vm".to_owned()]
}

/// What the datastore's files are once everything has been copied.
fn check_whole(root: &Path, what: &str) {
    let at = root.join("ds/vm");
    assert!(std::fs::read(at.join("a-flat.vmdk")).unwrap() == image(3), "{what}: the merged disk");
    assert!(std::fs::read(at.join("b-flat.vmdk")).unwrap() == image(2), "{what}: the other disk");
    let mut names: Vec<_> = std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["a-flat.vmdk", "a.vmdk", "a.vmx", "b-flat.vmdk", "b.vmdk"],
        "{what}: nothing else is left"
    );
    let beside = std::fs::read_dir(root.join("ds")).unwrap().count();
    assert_eq!(beside, 1, "{what}: no other directory is left");
}

/// A copy of what is on disk, taken before an operation, and what had been acknowledged by then.
pub(super) struct Left {
    pub(super) root: tempfile::TempDir,
    pub(super) before: String,
    acknowledged: Vec<&'static str>,
}

/// Takes copies of `root` as operations come.
pub(super) struct Watch {
    root: PathBuf,
    pub(super) left: Mutex<Vec<Left>>,
    acknowledged: Mutex<Vec<&'static str>>,
}

impl Watch {
    pub(super) fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), left: Mutex::default(), acknowledged: Mutex::default() })
    }

    pub(super) fn look(&self, before: &str) {
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let left = Left { root: killed(&self.root), before: before.to_owned(), acknowledged };
        self.left.lock().unwrap().push(left);
    }
}

pub(super) struct Watched<T: ?Sized>(pub(super) Arc<Watch>, pub(super) Box<T>);

impl Disk for Watched<dyn Disk> {
    fn size(&self) -> u64 {
        self.1.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.look("a write");
        // Half of it has gone through.
        let half = data.len() / 2;
        self.1.write_at(&data[..half], offset)?;
        self.0.look("the second half of a write");
        self.1.write_at(&data[half..], offset + half as u64)
    }
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.look("zeroing");
        self.1.zero(offset, length)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.look("a flush");
        self.1.flush()
    }
    fn release(&self) -> io::Result<()> {
        self.0.look("a disk is given back");
        self.1.release()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.1.allocated()
    }
}

impl Datastore for Watched<dyn Datastore> {
    fn capabilities(&self) -> Capabilities {
        self.1.capabilities()
    }
    fn space(&self) -> io::Result<Space> {
        self.1.space()
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.1.exists(path)
    }
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.0.look("a directory is made");
        self.1.create_directory(path)?;
        self.0.look("a directory was made");
        Ok(())
    }
    fn create_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        self.0.look("an extent is made");
        let disk = self.1.create_disk(spec)?;
        self.0.look("an extent was made");
        Ok(Box::new(Watched(Arc::clone(&self.0), disk)))
    }
    fn open_disk(&self, spec: &DiskSpec) -> io::Result<Box<dyn Disk>> {
        let disk = self.1.open_disk(spec)?;
        Ok(Box::new(Watched(Arc::clone(&self.0), disk)))
    }
    fn put_file(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.0.look("a file is put");
        self.1.put_file(path, contents)?;
        self.0.look("a file was put");
        Ok(())
    }
    fn get_file(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.1.get_file(path, limit)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.0.look("a file is removed");
        self.1.remove_file(path)
    }
    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.0.look("a directory is removed");
        self.1.remove_directory(path)
    }
    // No identities: a copy has others.
    fn can_swap(&self) -> Result<(), &'static str> {
        self.1.can_swap()
    }
    fn list(&self, path: &str, limit: usize) -> io::Result<Vec<(String, bool)>> {
        self.1.list(path, limit)
    }
    fn move_directory(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.look(&format!("{from} becomes {to}"));
        self.1.move_directory(from, to)
    }
}

fn directory(root: &Path) -> Arc<dyn Datastore> {
    let at = root.join("ds");
    std::fs::create_dir_all(&at).unwrap();
    Arc::new(Altered { identity: by_name, ..Altered::of(DirectoryDatastore::open(&at).unwrap()) })
}

/// What must be there of what had been acknowledged, and that a copy from the start ends well.
fn take_up(root: &Path, acknowledged: &[&'static str], what: &str) {
    let engine = small_engine(root, directory(root));
    let session = match engine.session(&vm()) {
        Some(session) => session,
        None => {
            assert!(acknowledged.is_empty(), "{what}: the session is lost");
            engine.create_directory(&vm()).unwrap()
        }
    };
    let at = root.join("ds/vm");
    for name in acknowledged {
        let shown = if *name == "cfg" { "vm.cfg" } else { name };
        assert!(session.find(shown).is_some(), "{what}: {name} was acknowledged and is not listed");
    }
    let merging = acknowledged.contains(&"b-flat.vmdk");
    if acknowledged.contains(&"a-flat.vmdk") && !merging {
        assert!(
            std::fs::read(at.join("a-flat.vmdk")).unwrap() == image(1),
            "{what}: an extent that was closed"
        );
    }
    if merging {
        assert!(
            std::fs::read(at.join("b-flat.vmdk")).unwrap() == image(2),
            "{what}: an extent that was closed"
        );
    }
    if acknowledged.contains(&"a-flat.pancbt") {
        assert!(
            std::fs::read(at.join("a-flat.vmdk")).unwrap() == image(3),
            "{what}: a merge that was closed"
        );
    }
    for (name, step) in steps() {
        step(&session).unwrap_or_else(|error| panic!("{what}: copying {name} again: {error}"));
    }
    assert!(session.find("vm.cfg.err").is_none(), "{what}");
    check_whole(root, what);
    // And once more after a restart in peace.
    drop((session, engine));
    let engine = small_engine(root, directory(root));
    let snapshot = engine.snapshot();
    assert!(
        snapshot.sessions.len() == 1 && snapshot.sessions[0].state == "imported",
        "{what}: imported after a restart"
    );
}

/// The journals below `root`, longest first: the session's, and that of the root, which has one record.
pub(super) fn journal(root: &Path) -> Option<PathBuf> {
    let sessions = std::fs::read_dir(root.join("data/sessions")).ok()?;
    let journals = sessions.map(|entry| entry.unwrap().path().join("journal")).filter(|path| path.exists());
    journals.max_by_key(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len()))
}

/// Where the frames of a journal end.
pub(super) fn ends(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (JOURNAL_HEADER, vec![JOURNAL_HEADER]);
    while let Some(length) = bytes.get(at..at + 4) {
        at += FRAME_HEADER + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        ends.push(at);
    }
    ends
}

#[test]
fn a_kill_at_any_step_costs_a_copy_and_nothing_else() {
    let root = memory_dir();
    let watch = Watch::new(root.path());
    let inner: Box<dyn Datastore> = Box::new({
        std::fs::create_dir_all(root.path().join("ds")).unwrap();
        DirectoryDatastore::open(&root.path().join("ds")).unwrap()
    });
    let engine = small_engine(root.path(), Arc::new(Watched(Arc::clone(&watch), inner)));
    let session = engine.create_directory(&vm()).unwrap();
    for round in 0..2 {
        for (name, step) in steps() {
            watch.look(name);
            // A file that comes again is in doubt from its first byte on, and with an extent its differentials.
            let doubtful: &[&str] = match name {
                "a-flat.vmdk" => &["a-flat.vmdk", "a-flat.pancbt"],
                "a-flat.pancbt" => &["a-flat.pancbt"],
                "b-flat.vmdk" => &["b-flat.vmdk"],
                _ => &[],
            };
            watch.acknowledged.lock().unwrap().retain(|done| !doubtful.contains(done));
            step(&session).unwrap();
            watch.acknowledged.lock().unwrap().push(name);
        }
        check_whole(root.path(), &format!("round {round}"));
    }
    let left = std::mem::take(&mut *watch.left.lock().unwrap());
    assert!(left.len() > 100, "{} moments only", left.len());
    let mut earlier = 0;
    for (number, moment) in left.iter().enumerate() {
        let what = format!("kill {number}, before {}", moment.before);
        let path = journal(moment.root.path()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let cuts: Vec<_> =
            ends(&bytes).into_iter().filter(|end| (earlier + 1..bytes.len()).contains(end)).collect();
        for cut in cuts {
            for torn in [0, 5] {
                let copy = killed(moment.root.path());
                let journal = journal(copy.path()).unwrap();
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(journal)
                    .unwrap()
                    .set_len((cut + torn) as u64)
                    .unwrap();
                // What was acknowledged then is told by the copy before.
                let acknowledged = &left[number.saturating_sub(1)].acknowledged;
                let known: Vec<_> =
                    acknowledged.iter().filter(|name| moment.acknowledged.contains(name)).copied().collect();
                take_up(copy.path(), &known, &format!("{what}, journal cut to {}", cut + torn));
            }
        }
        earlier = bytes.len();
        take_up(moment.root.path(), &moment.acknowledged, &what);
    }
}

/// A client that copies everything again until it went through, on a datastore that fails now and then; killed once.
fn with_faults(seed: u64) {
    let root = memory_dir();
    let plan = FaultPlan { seed, reads: 20, writes: 60, zeros: 60, flushes: 60, others: 40 };
    let injector = Injector::new(plan);
    let faulty = Arc::new(FaultDatastore::new(directory(root.path()), Arc::clone(&injector)));
    let engine = small_engine(root.path(), faulty);
    let session = engine.create_directory(&vm()).unwrap();
    let kill_at = seed % 7 * 3 + 1;
    let (mut attempts, mut acknowledged) = (0, Vec::new());
    let copied = (0..TRIES_MAX).any(|_| {
        acknowledged.clear();
        steps().into_iter().all(|(name, step)| {
            attempts += 1;
            let done = attempts <= kill_at * 10 && step(&session).is_ok();
            if done && session.find("vm.cfg.err").is_none() {
                acknowledged.push(name);
            }
            done && session.find("vm.cfg.err").is_none()
        })
    });
    let left = killed(root.path());
    if copied {
        check_whole_but_for_temporaries(left.path(), seed);
    }
    injector.arm(false);
    // Errors that the faults left in `.cfg.err` must go by copying again, before a restart and after it.
    take_up(left.path(), &[], &format!("seed {seed} after {} faults, killed", injector.injected()));
    for (name, step) in steps() {
        step(&session)
            .unwrap_or_else(|error| panic!("seed {seed}: copying {name} again without faults: {error}"));
    }
    check_whole(root.path(), &format!("seed {seed}, not killed"));
}

fn check_whole_but_for_temporaries(root: &Path, seed: u64) {
    let at = root.join("ds/vm");
    assert!(std::fs::read(at.join("a-flat.vmdk")).unwrap() == image(3), "seed {seed}: the merged disk");
    assert!(std::fs::read(at.join("b-flat.vmdk")).unwrap() == image(2), "seed {seed}: the other disk");
}

#[test]
fn datastores_that_fail_cost_copies_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("SIMULATION_SEED") {
        Some(seed) => with_faults(seed),
        None => (0..number("SIMULATION_SEEDS").unwrap_or(SEEDS)).for_each(with_faults),
    }
}
