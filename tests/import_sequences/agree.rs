//! The service and the datastore are what the model says: after each step, after a kill, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use importfs::import::{Hypervisors, SessionSnapshot, orphans};

use super::World;
use super::model::{DISKS, Name, Plan, SIZES, Session, Stage, Stored, Whole};
use super::step::DIRECTORIES;
use super::texts::TAKEN;

/// What somebody else's file holds.
pub const THEIRS: &str = "not yours";

/// The files of a directory with what they hold; those of directories in it, too.
pub fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(
                files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)),
            );
        } else {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// The directories below that one, by their paths.
fn directories(directory: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            directories(&entry.path(), &format!("{name}/"), found);
            found.insert(name);
        }
    }
}

impl World {
    fn datastore(&self) -> std::path::PathBuf {
        self.root.path().join("ds")
    }

    /// The service was killed and is there again.
    pub(super) fn survived(&mut self) {
        let opens = std::mem::take(&mut self.model.opens);
        for session in self.model.sessions.values_mut() {
            for held in opens.values().filter(|held| held.session == session.serial && held.sends.is_some()) {
                let Name::Differential(disk, _) = held.name else { continue };
                session.files.remove(&held.name);
                session.disks[disk].half |= held.begun;
                session.unsure |= held.may_have_begun;
                if held.begun && session.disks[disk].stage == Stage::Complete {
                    session.disks[disk].stage = Stage::Doubtful;
                }
            }
            session.files.values_mut().for_each(|stored| stored.doomed = false);
            session.disks.iter_mut().for_each(super::model::Disk::survived);
        }
        let directories: Vec<_> = self.model.sessions.keys().copied().collect();
        directories.into_iter().for_each(|directory| self.take_up(directory));
    }

    /// What a session is after a kill is told by itself, within what it may be.
    fn take_up(&mut self, directory: &'static str) {
        let told = self.snapshot(directory);
        let session = self.model.sessions.get_mut(directory).unwrap();
        let absent = [0, 1].map(|disk: usize| session.disks[disk].stage == Stage::Absent);
        for (number, disk) in session.disks.iter_mut().enumerate() {
            let Some(told) = told.disks.get(number) else { continue };
            let stage = Stage::read(&told.stage);
            let may = match disk.stage {
                _ if session.unsure => true,
                Stage::Complete => stage == Stage::Complete,
                Stage::Receiving => stage == Stage::Receiving,
                Stage::Doubtful => stage == Stage::Doubtful,
                // One that was deleted is listed again.
                Stage::Absent => disk.made || stage == Stage::Absent,
            };
            assert!(may, "{:?} is {stage:?} after a kill: {told:?}", disk.stage);
            disk.stage = stage;
            if told.differentials != disk.merged {
                disk.target = if told.differentials == 0 { 0 } else { u8::MAX };
            }
            disk.merged = told.differentials;
        }
        let listed = self.listed(directory);
        let session = self.model.sessions.get_mut(directory).unwrap();
        for name in session.files.keys() {
            // Those of an extent that was deleted have to come again.
            let forgotten = matches!(name, Name::Differential(disk, _) if absent[*disk]);
            assert!(
                session.unsure || forgotten || listed.contains_key(name),
                "{name:?} is gone after a kill"
            );
        }
        let unsure = session.unsure;
        let back = |name: &Name| matches!(name, Name::Extent(_) | Name::Differential(..));
        for name in listed.keys().filter(|name| !self.model.sessions[directory].files.contains_key(name)) {
            assert!(unsure || name.is_own() || back(name), "{name:?} is there after a kill");
        }
        self.adopt(directory);
        let listed = self.listed(directory);
        let session = self.model.sessions.get_mut(directory).unwrap();
        for (number, disk) in session.disks.iter_mut().enumerate() {
            let Some((end, _)) = listed.get(&Name::Extent(number)) else { continue };
            let all_durable = disk.bytes.iter().all(|byte| byte.durable);
            assert!(
                !all_durable || unsure || *end >= disk.end.min(SIZES[number]),
                "what was flushed is there"
            );
            disk.end = *end;
        }
    }

    fn snapshot(&self, directory: &str) -> SessionSnapshot {
        let path = format!("/{directory}");
        let mut sessions = self.service().engine.snapshot().sessions.into_iter();
        sessions.find(|session| session.path == path).expect("the session")
    }

    /// Size and contents of what is listed in a directory; contents of small files only.
    fn listed(&self, directory: &str) -> BTreeMap<Name, (usize, Vec<u8>)> {
        let session = self.service().engine.session(&[directory.to_owned()]).expect("the session");
        let mut found = BTreeMap::new();
        for info in session.list() {
            let Some(name) = Name::ALL.into_iter().find(|name| name.text() == info.name) else {
                assert!(info.own, "{} is listed", info.name);
                continue;
            };
            let mut bytes = Vec::new();
            if name.is_small() {
                let file = session.open_file(&info.name, importfs::import::How::Attributes).unwrap();
                bytes = vec![0; info.size as usize];
                assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
                file.close(true).unwrap();
            }
            found.insert(name, (info.size as usize, bytes));
        }
        found
    }

    /// Takes over what can't be known after an operation on the datastore has failed.
    fn adopt(&mut self, directory: &'static str) {
        let (told, listed) = (self.snapshot(directory), self.listed(directory));
        let serial = self.serial();
        let asked = self.asked.take();
        let complete = told.disks.iter().map(|disk| Stage::read(&disk.stage)).collect::<Vec<_>>();
        let session = self.model.sessions.get_mut(directory).unwrap();
        let unsure = std::mem::take(&mut session.unsure);
        session.files.retain(|name, _| listed.contains_key(name));
        for (name, (_, bytes)) in listed.iter().filter(|(name, _)| !name.is_own()) {
            let stored = session.files.entry(*name).or_insert_with(|| Stored { serial, ..Stored::default() });
            stored.bytes.clone_from(bytes);
        }
        session.shown = session.cfg_name().is_some_and(|cfg| {
            cfg == Name::Cfg && listed.contains_key(&Name::CfgErr)
                || cfg == Name::SecondCfg && !told.errors.is_empty()
        });
        let before = session.plan.take();
        if let Some(disk) = told.disks.first() {
            let path = disk.destination.strip_prefix("/vmfs/volumes/ds1/").unwrap();
            let to = path.rsplit_once('/').unwrap().0.to_owned();
            let new = asked.filter(|(of, _)| *of == session.serial).and_then(|(_, cfg)| cfg);
            let new = new.filter(|cfg| to.starts_with(cfg.directory));
            let old = before.clone().filter(|plan| plan.directory == to).map(|plan| plan.cfg);
            let cfg = new.or(old).unwrap_or_else(|| panic!("{to} is nobody's: {session:#?}"));
            session.plan = Some(Plan { cfg, directory: to.clone() });
            self.model.owners.insert(to, session.serial);
        } else {
            session.disks = [super::model::Disk::new(0), super::model::Disk::new(1)];
            (session.imported, session.was_complete) = (None, false);
        }
        for (number, stage) in complete.iter().enumerate() {
            let disk = &mut session.disks[number];
            disk.made |= *stage != Stage::Absent;
            disk.half |= *stage == Stage::Doubtful;
            disk.stage = *stage;
            if disk.merged != told.disks[number].differentials {
                disk.target = if told.disks[number].differentials == 0 { 0 } else { u8::MAX };
                disk.merged = told.disks[number].differentials;
            }
            disk.end = listed.get(&Name::Extent(number)).map_or(disk.end, |(end, _)| *end);
        }
        session.adopt_errors(&told.errors);
        if told.state != "imported" {
            session.imported = None;
        } else if session.imported.is_none() {
            session.imported = session.files.get(&Name::Vmx).map(|stored| stored.bytes.clone());
            session.was_complete = true;
            self.model.complete.insert(session.plan.as_ref().unwrap().directory.clone());
        }
        let serial = session.serial;
        // One that was made for a CFG that was not taken any more.
        let mut now = BTreeSet::new();
        directories(&self.datastore(), "", &mut now);
        for made in now.difference(&self.directories).filter(|_| unsure) {
            if !self.model.owners.contains_key(made) {
                self.model.unknown.insert(made.clone());
            }
        }
        let gone: Vec<_> = self
            .model
            .owners
            .iter()
            .filter(|(at, owner)| **owner == serial && !self.is_there(at))
            .map(|(at, _)| at.clone())
            .collect();
        gone.iter().for_each(|at| {
            self.model.owners.remove(at);
        });
    }

    /// After each step.
    pub(super) fn agree(&mut self) {
        let all: Vec<_> = self.model.sessions.keys().copied().collect();
        let known: BTreeSet<_> = all.iter().map(|at| format!("/{at}")).collect();
        let there: BTreeSet<_> =
            self.service().engine.snapshot().sessions.into_iter().map(|session| session.path).collect();
        assert_eq!(there, known, "the sessions");
        for directory in all {
            if self.model.sessions[directory].unsure {
                self.adopt(directory);
            }
            self.forget_vmx_error(directory);
            self.session_agrees(directory);
        }
        let opens: BTreeSet<_> =
            self.service().desk.server.opens.select(|_| true).iter().map(|open| open.id.volatile).collect();
        assert!(self.model.opens.keys().copied().eq(opens), "the opens");
        self.directories.clear();
        directories(&self.datastore(), "", &mut self.directories);
        let theirs = files(&self.datastore().join(TAKEN));
        assert!(theirs.len() == 1 && theirs["theirs"] == THEIRS.as_bytes(), "others' files: {theirs:?}");
        for (directory, before) in &self.model.left {
            assert_eq!(&files(&self.datastore().join(directory)), before, "{directory} is nobody's any more");
        }
    }

    /// After a restart, what a VMX's failure says of a disk is taken for that disk's, unless that is whole, and goes when that comes
    /// again.
    fn forget_vmx_error(&mut self, directory: &'static str) {
        let told = !self.snapshot(directory).errors.is_empty();
        let session = self.model.sessions.get_mut(directory).unwrap();
        if self.restarted && session.vmx_told && !told {
            session.vmx_told = false;
            session.report();
        }
    }

    fn session_agrees(&self, directory: &'static str) {
        let session = &self.model.sessions[directory];
        let (told, listed) = (self.snapshot(directory), self.listed(directory));
        let handles = self.model.opens.values().filter(|held| held.session == session.serial).count();
        assert_eq!(told.handles, handles, "open files of {directory}");
        let names: BTreeSet<_> = listed.keys().copied().filter(|name| !name.is_own()).collect();
        assert!(session.files.keys().copied().eq(names.iter().copied()), "{names:?} in {session:#?}");
        for (name, stored) in session.files.iter().filter(|(name, _)| name.is_small()) {
            assert_eq!(listed[name].1, stored.bytes, "{name:?}");
        }
        assert_eq!(!told.errors.is_empty(), session.has_errors(), "{:?}: {session:#?}", told.errors);
        if session.cfg_name() != Some(Name::SecondCfg) {
            assert_eq!(listed.contains_key(&Name::CfgErr), session.shown, "{:?}: {session:#?}", told.errors);
        }
        assert_eq!(told.disks.is_empty(), session.plan.is_none(), "{session:#?}");
        assert_eq!(told.state == "imported", session.imported.is_some(), "{session:#?}");
        let Some(plan) = &session.plan else { return };
        for (number, told) in told.disks.iter().enumerate() {
            let at = format!("/vmfs/volumes/ds1/{}/{}", plan.directory, Name::Extent(number).text());
            assert_eq!(told.destination, at);
            assert_eq!(told.stage, session.disks[number].stage.text(), "disk {number} of {session:#?}");
            if let Some((end, _)) = listed.get(&Name::Extent(number)) {
                assert_eq!(*end, session.disks[number].end, "the end of disk {number}: {session:#?}");
            }
            self.disk_agrees(session, number, &plan.directory);
        }
    }

    /// What is called whole is whole, on the datastore; what was flushed is there.
    fn disk_agrees(&self, session: &Session, number: usize, directory: &str) {
        let disk = &session.disks[number];
        let path = self.datastore().join(directory).join(Name::Extent(number).text());
        if !disk.made {
            return;
        }
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), SIZES[number]);
        let whole = disk.stage == Stage::Complete && !self.model.is_merging(session.serial, number);
        if whole {
            assert!(disk.whole() != Whole::No, "disk {number} is called whole, and is not: {session:#?}");
        }
        for (at, (byte, found)) in disk.bytes.iter().zip(&found).enumerate() {
            let must = whole || byte.sure && byte.durable && disk.stage != Stage::Doubtful;
            let what = if whole { "whole" } else { "durable" };
            assert!(
                !must || byte.value == *found,
                "byte {at} of disk {number} is {what}, and {found}: {byte:?}"
            );
        }
    }

    /// Everybody closes what is open; some directories are restored once more, all are deleted, and nothing is left.
    pub(super) fn finish(mut self, choice: u8) {
        if choice & 0x80 == 0 {
            while let Some(at) = (0..self.links.len()).rev().find(|_| self.links.len() > 1) {
                let link = self.links[at].serial;
                let held = self
                    .model
                    .opens
                    .values()
                    .find(|held| held.link == Some(link))
                    .map(|held| held.id.volatile);
                match held {
                    Some(id) => {
                        self.close(at, id);
                        self.agree();
                    }
                    None => {
                        self.links.remove(at).client.lose();
                    }
                }
            }
        }
        while !self.links.is_empty() {
            self.lose(0);
            if self.model.opens.values().all(|held| held.link.is_none()) {
                break;
            }
        }
        self.expire();
        if self.links.is_empty() {
            self.connect(1);
        }
        self.agree();
        for (number, directory) in DIRECTORIES.into_iter().enumerate() {
            if self.model.sessions.contains_key(directory) && choice & 1 << number == 0 {
                self.restore(directory);
            }
        }
        for directory in DIRECTORIES {
            if self.model.sessions.contains_key(directory) {
                self.delete_all(directory);
            }
        }
        self.agree();
        self.nothing_is_kept();
    }

    fn delete_all(&mut self, directory: &'static str) {
        let names: Vec<_> = self.model.sessions[directory].files.keys().copied().collect();
        for name in names {
            self.delete(0, directory, name);
        }
        self.remove(0, directory);
        assert!(!self.model.sessions.contains_key(directory), "all of it is deleted: {:#?}", self.model);
        let again = self.service().engine.session(&[directory.to_owned()]);
        assert!(again.is_none(), "{directory}");
    }

    fn nothing_is_kept(&self) {
        assert!(super::small::is_over(&self.model));
        let server = &self.service().desk.server;
        assert!(server.opens.is_empty() && server.notify.is_idle());
        let kept = std::fs::read_dir(self.root.path().join("data/sessions")).unwrap().count();
        assert_eq!(kept, 1, "of the sessions, only the root's is kept");
        let known = self.orphans();
        for path in files(&self.datastore()).keys().filter(|path| !path.starts_with(&format!("{TAKEN}/"))) {
            let directory = path.rsplit_once('/').unwrap().0;
            let registered = self.model.complete.contains(directory);
            assert!(registered || known.contains(path), "{path} is nobody's, and not known: {known:?}");
        }
    }

    /// The paths that are known to be left behind.
    fn orphans(&self) -> BTreeSet<String> {
        let hypervisors = Hypervisors(super::hypervisors(self.troubles.beside()));
        let list = orphans::list(&self.root.path().join("data"), &hypervisors).unwrap();
        let objects = list.into_iter().flat_map(|session| session.objects);
        objects
            .filter(|object| object.state == "there" || object.state == "unknown")
            .map(|object| object.path)
            .collect()
    }
}

impl Session {
    /// What is wrong, by the sentences of `.cfg.err`.
    fn adopt_errors(&mut self, errors: &[String]) {
        let of_cfg = |line: &str| line.starts_with("line ") || line.starts_with("not in the file: ");
        let of_disk = |line: &str, disk: &str| {
            line.contains(&format!("/{disk}-flat.pancbt: "))
                || line.contains(&format!("/{disk}-flat.1.pancbt: "))
        };
        for (number, disk) in DISKS.iter().enumerate() {
            let told = errors.iter().any(|line| of_disk(line, disk));
            self.disks[number].told = told;
            self.disks[number].refused = told && self.disks[number].stage == Stage::Complete;
        }
        self.vmx_told =
            errors.iter().any(|line| !of_cfg(line) && !DISKS.iter().any(|disk| of_disk(line, disk)));
        let others = errors.iter().any(|line| of_cfg(line));
        (self.stopped, self.told) = (others && !self.has_data(), others && self.has_data());
    }
}
