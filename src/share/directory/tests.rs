//! The share over a temporary directory: MS-FSA's rules, escapes, races, scale.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::security::{ALL, DELETE, MAXIMUM_ALLOWED, WRITE_DATA};
use super::*;
use crate::smb::share::{
    BasicChange, CreateAction, Disposition, File, FileKey, FileTime, ObjectKind, SharePath,
};

/// Counts what it is asked, and refuses where told to.
#[derive(Default)]
struct Gate {
    asked: Vec<(FileKey, bool, u32)>,
    refuse: Option<Status>,
    /// Looks at the disk at the moment of asking.
    size_seen: Option<(PathBuf, u64)>,
}

impl OpenGate for Gate {
    fn admit(&mut self, key: &FileKey, existed: bool, granted: u32) -> Result<(), Refusal> {
        self.asked.push((key.clone(), existed, granted));
        if let Some((path, size)) = &mut self.size_seen {
            *size = std::fs::metadata(path).unwrap().len();
        }
        self.refuse.map_or(Ok(()), |status| Err(status.into()))
    }
}

struct Fixture {
    directory: TempDir,
    share: DirectoryShare,
}

fn path(path: &str) -> SharePath {
    SharePath {
        components: path.split('/').filter(|c| !c.is_empty()).map(str::to_owned).collect(),
        stream: None,
    }
}

fn request(name: &str, disposition: Disposition, kind: ObjectKind) -> OpenRequest {
    OpenRequest {
        path: path(name),
        disposition,
        kind,
        desired_access: ALL,
        attributes: 0,
        options: 0,
        allocation_size: None,
        security: None,
        extended_attributes: Vec::new(),
    }
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let share = DirectoryShare::open(directory.path(), "test").unwrap();
        Self { directory, share }
    }

    fn on_disk(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open_by(&self, request: &OpenRequest, gate: &mut Gate) -> Result<Opened, Status> {
        let caller = Caller { user: "user".into(), peer: "peer".into() };
        self.share.open(request, &caller, gate).map_err(|refusal| match refusal {
            Refusal::Status(status) => status,
            Refusal::Wait => unreachable!("this gate never waits"),
        })
    }

    fn try_open(&self, name: &str, disposition: Disposition, kind: ObjectKind) -> Result<Opened, Status> {
        self.open_by(&request(name, disposition, kind), &mut Gate::default())
    }

    fn refused(&self, name: &str, disposition: Disposition, kind: ObjectKind) -> Status {
        self.try_open(name, disposition, kind).err().unwrap()
    }

    fn create(&self, name: &str) -> Arc<dyn File> {
        self.try_open(name, Disposition::Create, ObjectKind::File).unwrap().file
    }

    fn scans(&self) -> u64 {
        self.share.volume.index.scans.load(Ordering::Relaxed)
    }
}

use Disposition::{Create, Open, OpenIf, Overwrite, OverwriteIf, Supersede};
use ObjectKind::{Any, Directory, File as Plain};

#[test]
fn dispositions_give_the_statuses_and_actions_of_ms_fsa() {
    let f = Fixture::new();
    assert_eq!(f.refused("a", Open, Any), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(f.refused("a", Overwrite, Any), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(f.refused("no/a", Create, Any), Status::OBJECT_PATH_NOT_FOUND);
    f.create("a");
    assert_eq!(f.refused("A", Create, Any), Status::OBJECT_NAME_COLLISION);
    assert_eq!(f.refused("a/b", Open, Any), Status::OBJECT_PATH_NOT_FOUND);
    assert_eq!(f.refused("a", Open, Directory), Status::NOT_A_DIRECTORY);
    f.try_open("d", Create, Directory).unwrap();
    assert_eq!(f.refused("d", Open, Plain), Status::FILE_IS_A_DIRECTORY);
    assert_eq!(f.refused("d", OverwriteIf, Any), Status::OBJECT_NAME_COLLISION);
    for (disposition, action) in [
        (OpenIf, CreateAction::Opened),
        (Overwrite, CreateAction::Overwritten),
        (OverwriteIf, CreateAction::Overwritten),
        (Supersede, CreateAction::Superseded),
    ] {
        assert_eq!(f.try_open("a", disposition, Plain).unwrap().action, action);
    }
    let mut stream = request("a", Open, Any);
    stream.path.stream = Some("s".to_owned());
    assert_eq!(f.open_by(&stream, &mut Gate::default()).err(), Some(Status::OBJECT_NAME_NOT_FOUND));
    assert!(f.try_open("", Open, Directory).unwrap().file.path().components.is_empty());
}

#[test]
fn the_gate_is_asked_once_and_before_anything_changes() {
    let f = Fixture::new();
    std::fs::write(f.on_disk("a"), "data").unwrap();
    let mut gate = Gate { size_seen: Some((f.on_disk("a"), 0)), ..Gate::default() };
    f.open_by(&request("a", Overwrite, Any), &mut gate).unwrap();
    assert_eq!((gate.asked.len(), gate.size_seen.unwrap().1), (1, 4));
    assert_eq!(std::fs::metadata(f.on_disk("a")).unwrap().len(), 0);

    std::fs::write(f.on_disk("a"), "data").unwrap();
    let mut gate = Gate { refuse: Some(Status::SHARING_VIOLATION), ..Gate::default() };
    assert_eq!(f.open_by(&request("a", Supersede, Any), &mut gate).err(), Some(Status::SHARING_VIOLATION));
    assert_eq!(std::fs::read(f.on_disk("a")).unwrap(), b"data");
    assert!(f.open_by(&request("new", Create, Any), &mut gate).is_err());
    assert!(!f.on_disk("new").exists(), "a refused new file goes again");
    assert_eq!(gate.asked.iter().map(|(_, existed, _)| *existed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn symbolic_links_never_lead_anywhere() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    let f = Fixture::new();
    std::os::unix::fs::symlink(outside.path(), f.on_disk("dir")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), f.on_disk("file")).unwrap();
    std::os::unix::fs::symlink("/nowhere", f.on_disk("dangling")).unwrap();
    assert_eq!(f.refused("dir/secret", Open, Any), Status::OBJECT_PATH_NOT_FOUND);
    assert_eq!(f.refused("file", Open, Any), Status::OBJECT_NAME_NOT_FOUND);
    for name in ["dir", "file", "dangling"] {
        assert!(f.try_open(name, OverwriteIf, Any).is_err(), "{name}");
    }
    assert!(!PathBuf::from("/nowhere").exists());
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"x");
    let root = f.try_open("", Open, Any).unwrap().file;
    let mut listing = root.list().unwrap();
    let mut names = Vec::new();
    while let Some(entry) = listing.next().unwrap() {
        if entry.name == ".." {
            assert_eq!(entry.metadata.file, root.key().file, "the root has nothing above");
        }
        names.push(entry.name);
    }
    assert_eq!(names, [".", ".."]);
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_does_not_lead_out() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    let f = Fixture::new();
    std::fs::create_dir(f.on_disk("d")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::fs::rename(f.on_disk("d"), f.on_disk("d.away")).unwrap();
                std::os::unix::fs::symlink(outside.path(), f.on_disk("d")).unwrap();
                std::fs::remove_file(f.on_disk("d")).unwrap();
                std::fs::rename(f.on_disk("d.away"), f.on_disk("d")).unwrap();
            }
        });
        for _ in 0..2000 {
            assert!(f.try_open("d/secret", Open, Any).is_err());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn names_fold_case_and_keep_it() {
    let f = Fixture::new();
    std::fs::create_dir(f.on_disk("Dir")).unwrap();
    std::fs::write(f.on_disk("Dir/Größe.TXT"), "1").unwrap();
    let opened = f.try_open("dIR/gRÖßE.txt", Open, Any).unwrap();
    assert_eq!(opened.file.path().components, ["Dir", "Größe.TXT"]);
    // Two that differ by case only: the exact one wins.
    std::fs::write(f.on_disk("x"), "lower").unwrap();
    std::fs::write(f.on_disk("X"), "UPPER").unwrap();
    let mut buffer = [0; 5];
    f.try_open("x", Open, Any).unwrap().file.read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"lower");
    // What a stranger adds or takes is seen.
    std::fs::write(f.on_disk("Later"), "").unwrap();
    f.try_open("LATER", Open, Any).unwrap();
    std::fs::remove_file(f.on_disk("Later")).unwrap();
    assert_eq!(f.refused("LATER", Open, Any), Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn a_hundred_thousand_names_are_read_a_few_times_only() {
    let f = Fixture::new();
    for number in 0..100_000 {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::open(f.on_disk(&format!("File-{number}")), flags, Mode::from_raw_mode(0o600)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(100)); // past the stamp's grain
    for number in (0..100_000).step_by(100) {
        f.try_open(&format!("FILE-{number}"), Open, Any).unwrap();
        assert_eq!(f.refused(&format!("gone-{number}"), Open, Any), Status::OBJECT_NAME_NOT_FOUND);
    }
    assert_eq!(f.scans(), 1, "lookups share one reading");
    let began = std::time::Instant::now();
    for number in 0..1000 {
        f.create(&format!("New-{number}"));
        f.try_open(&format!("new-{number}"), Open, Any).unwrap();
    }
    let allowed = 2 + began.elapsed().as_secs();
    assert!(f.scans() <= allowed, "own changes are entered, not read: {} scans", f.scans());
}

#[test]
fn attributes_guard_the_file() {
    let f = Fixture::new();
    let mut hidden = request("h", Create, Plain);
    hidden.attributes = attributes::HIDDEN;
    f.open_by(&hidden, &mut Gate::default()).unwrap();
    assert_eq!(f.refused("h", OverwriteIf, Any), Status::ACCESS_DENIED, "the overwrite does not say hidden");
    hidden.disposition = Overwrite;
    f.open_by(&hidden, &mut Gate::default()).unwrap();

    let file = f.create("r");
    let readonly = BasicChange { attributes: Some(attributes::READONLY), ..BasicChange::default() };
    file.set_basic(&readonly).unwrap();
    assert_eq!(file.metadata().unwrap().attributes, attributes::READONLY);
    assert_eq!(file.check_delete(), Err(Status::CANNOT_DELETE));
    assert_eq!(f.refused("r", Open, Any), Status::ACCESS_DENIED);
    let mut read = request("r", Open, Any);
    read.desired_access = MAXIMUM_ALLOWED;
    let granted = f.open_by(&read, &mut Gate::default()).unwrap().granted;
    assert_eq!(granted & (WRITE_DATA | DELETE), DELETE);
}

#[test]
fn times_that_were_set_stick_to_their_handle() {
    let f = Fixture::new();
    let file = f.create("a");
    let (created, written) = (FileTime(131_000_000_000_000_001), FileTime(132_000_000_000_000_003));
    file.set_basic(&BasicChange { created: Some(created), written: Some(written), ..BasicChange::default() })
        .unwrap();
    file.write_at(b"data", 0, true).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.created, metadata.written, metadata.size), (created, written, 4));
    let other = f.try_open("a", Open, Any).unwrap().file;
    assert_eq!(other.metadata().unwrap().created, created);
    other.write_at(b"more", 4, false).unwrap();
    assert!(other.metadata().unwrap().written > written);
}

#[test]
fn a_change_time_that_was_set_stays_for_its_handle() {
    let f = Fixture::new();
    let file = f.create("a");
    let set = FileTime(133_000_000_000_000_001);
    let only = BasicChange::default();
    file.set_basic(&BasicChange { changed: Some(set), ..only }).unwrap();
    file.set_basic(&BasicChange { attributes: Some(0x2), ..only }).unwrap();
    assert_eq!(file.metadata().unwrap().changed, set, "attributes changed by the same handle");
    std::thread::sleep(std::time::Duration::from_millis(50)); // longer than the grain of what is kept beside the file
    file.write_at(b"more", 0, false).unwrap();
    file.set_end_of_file(2).unwrap();
    assert_eq!(file.metadata().unwrap().changed, set, "data changed by the same handle");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let other = f.try_open("a", Open, Any).unwrap().file;
    other.write_at(b"x", 0, false).unwrap();
    assert!(other.metadata().unwrap().changed > set, "by another");
}

#[test]
fn renames_follow_the_open_and_respect_the_target() {
    let f = Fixture::new();
    let (file, target) = (f.create("a"), f.create("B"));
    let mut gate = Gate::default();
    assert_eq!(file.rename(&path("b"), false, &mut gate), Err(Status::OBJECT_NAME_COLLISION.into()));
    file.rename(&path("A"), false, &mut gate).unwrap();
    assert!(f.on_disk("A").exists() && !f.on_disk("a").exists() && gate.asked.is_empty());
    file.rename(&path("b"), true, &mut gate).unwrap();
    assert_eq!(gate.asked[0].0, target.key(), "asked about the file that is replaced");
    assert!(f.on_disk("b").exists() && !f.on_disk("B").exists());
    target.delete().unwrap();
    assert!(f.on_disk("b").exists(), "deleting the replaced file leaves the new one alone");

    let directory = f.try_open("d", Create, Directory).unwrap().file;
    let inside = f.create("d/inside");
    directory.rename(&path("e"), false, &mut gate).unwrap();
    assert_eq!(inside.path().components, ["e", "inside"]);
    assert_eq!(directory.rename(&path("e/f"), false, &mut gate), Err(Status::ACCESS_DENIED.into()));
    assert_eq!(directory.check_delete(), Err(Status::DIRECTORY_NOT_EMPTY));
    inside.delete().unwrap();
    assert_eq!(inside.path().components, ["e", "inside"], "its last name");
    inside.delete().unwrap();
    let odd = f.create("e (deleted)");
    assert_eq!(odd.path().components, ["e (deleted)"]);
    directory.check_delete().unwrap();
    directory.delete().unwrap();
    assert!(!f.on_disk("e").exists());
}

#[test]
fn links_share_the_file_and_replace_only_when_told() {
    let f = Fixture::new();
    let (file, other) = (f.create("a"), f.create("B"));
    file.write_at(b"a", 0, false).unwrap();
    assert_eq!(file.link(&path("b"), false), Err(Status::OBJECT_NAME_COLLISION));
    file.link(&path("b"), true).unwrap();
    file.link(&path("c"), false).unwrap();
    assert_eq!(std::fs::read(f.on_disk("B")).unwrap(), b"a");
    assert_eq!(file.metadata().unwrap().links, 3);
    assert_eq!(std::fs::read_dir(f.directory.path()).unwrap().count(), 3, "nothing passing stays");
    other.delete().unwrap();
    assert!(f.on_disk("B").exists(), "the name leads to another file now");
}

#[test]
fn sparse_ranges_and_zeroing() {
    const BLOCK: u64 = 65_536;
    let f = Fixture::new();
    let file = f.create("s");
    file.set_end_of_file(4 * BLOCK).unwrap();
    let all = (vec![(0, 4 * BLOCK)], false);
    assert_eq!(file.allocated_ranges(0, u64::MAX, 9).unwrap(), all, "not marked sparse");
    file.set_sparse(true).unwrap();
    file.write_at(&vec![1; BLOCK as usize], BLOCK, false).unwrap();
    file.write_at(&vec![1; BLOCK as usize], 3 * BLOCK, false).unwrap();
    let (ranges, more) = file.allocated_ranges(0, u64::MAX, 1).unwrap();
    assert!(more && ranges[0].0 <= BLOCK);
    file.zero_range(3 * BLOCK, 9 * BLOCK).unwrap();
    assert_eq!(file.metadata().unwrap().size, 4 * BLOCK, "zeroing does not extend");
    let mut buffer = vec![9; BLOCK as usize];
    file.read_at(&mut buffer, 3 * BLOCK).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0));
    file.set_allocation(BLOCK).unwrap();
    assert_eq!(file.metadata().unwrap().size, BLOCK, "allocation below the end truncates");
}

#[test]
fn security_and_extended_attributes_are_kept() {
    let f = Fixture::new();
    let mut create = request("a", Create, Plain);
    create.extended_attributes = vec![("Name".to_owned(), b"value".to_vec())];
    let file = f.open_by(&create, &mut Gate::default()).unwrap().file;
    assert_eq!(file.extended_attributes().unwrap(), [("NAME".to_owned(), b"value".to_vec())]);
    assert_eq!(file.metadata().unwrap().ea_size, 8 + 4 + 1 + 5);
    file.set_extended_attributes(&[("name".to_owned(), Vec::new())]).unwrap();
    assert_eq!(file.metadata().unwrap().ea_size, 0);

    // Owner S-1-5-18, an empty DACL: nobody else may do anything, except what the directory grants.
    let mut descriptor = vec![1, 0, 4, 0x80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0];
    descriptor.extend([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]);
    descriptor.extend([2, 0, 8, 0, 0, 0, 0, 0]);
    file.set_security(1 | 4, &descriptor).unwrap();
    assert_eq!(file.security(1 | 4).unwrap(), descriptor);
    assert_eq!(f.refused("a", Open, Any), Status::ACCESS_DENIED);
    let mut read = request("a", Open, Any);
    read.desired_access = MAXIMUM_ALLOWED;
    assert_eq!(f.open_by(&read, &mut Gate::default()).unwrap().granted, DELETE | 0x80);
    assert_eq!(file.set_security(4, &descriptor[..30]), Err(Status::INVALID_PARAMETER));
}
