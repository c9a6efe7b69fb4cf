//! Small files: what a session does when one was closed, what goes with one that is deleted, and how a restore goes on that goes well.

use smb_proto::Status;
use smb_proto::msg::create::disposition;

use super::World;
use super::model::{DISKS, Held, Model, Name, Plan, Session, Stage};
use super::requests::{Verdict, Way};
use super::step::{Action, Step};
use super::texts::{self, Cfg};

impl World {
    pub(super) fn closed_small(&mut self, held: &Held, clean: bool, status: Status) -> Verdict {
        if !held.wrote || !clean {
            return self.judge(status, Ok(()), "CLOSE of a small file that nothing came for");
        }
        let bytes = self.stored(held).map(|stored| stored.bytes.clone()).unwrap_or_default();
        match held.name {
            Name::Cfg | Name::SecondCfg => self.closed_cfg(held, &bytes, status),
            Name::Vmx => self.closed_vmx(held, &bytes, status),
            Name::Descriptor(disk) => {
                let expected = match self.model.session_of(held).plan {
                    // After a restart nothing says any more that it is one: a file of any other name.
                    None if status == Status::ACCESS_DENIED => Err(status),
                    None => Err(Status::MEDIA_WRITE_PROTECTED),
                    Some(_) if bytes == texts::descriptor(disk, true) => Ok(()),
                    Some(_) => Err(Status::INVALID_PARAMETER),
                };
                self.judge(status, expected, "CLOSE of a descriptor")
            }
            _ => {
                let planned = self.model.session_of(held).plan.as_ref().map(|_| ());
                self.judge(status, planned.ok_or(Status::ACCESS_DENIED), "CLOSE of an nvram")
            }
        }
    }

    /// What is wrong with a CFG is no failure of its CLOSE.
    fn closed_cfg(&mut self, held: &Held, bytes: &[u8], status: Status) -> Verdict {
        let verdict = self.judge(status, Ok(()), "CLOSE of a CFG");
        if bytes.is_empty() {
            return verdict; // an editor is about to write it
        }
        let asked = Cfg::read(bytes).filter(|cfg| !cfg.is_wrong());
        let vague = |cfg: Cfg| self.model.unknown.iter().any(|made| made.starts_with(cfg.directory));
        if self.struck || self.dead || asked.is_some_and(vague) {
            self.model.session(held.session).unsure = true;
            // Which of the two CFGs holds, where it leads will show.
            self.asked = Some((held.session, asked));
            return verdict;
        }
        let accepted = self.accepts(held.session, asked);
        let session = self.model.session(held.session);
        (session.stopped, session.told) = (false, false);
        match accepted {
            None if session.has_data() => session.told = true,
            None => session.stopped = true,
            Some(plan) => {
                if session.plan.as_ref().is_none_or(|before| before.directory != plan.directory) {
                    let left = session.plan.replace(plan.clone());
                    session.imported = None;
                    self.model.owners.insert(plan.directory, held.session);
                    self.given_back(left);
                } else {
                    session.plan = Some(plan);
                }
            }
        }
        self.model.session(held.session).report();
        verdict
    }

    /// The plan that a CFG leads to; `None` where it has errors, there or here.
    fn accepts(&self, serial: u64, asked: Option<Cfg>) -> Option<Plan> {
        let session = self.model.sessions.values().find(|session| session.serial == serial).unwrap();
        let asked = asked?;
        if let Some(plan) = &session.plan {
            let same = plan.cfg.directory == asked.directory;
            if same && (session.has_data() || self.is_there(&plan.directory)) {
                return Some(Plan { cfg: asked, ..plan.clone() });
            }
            if session.has_data() {
                return None;
            }
        }
        let own = |directory: &str| {
            self.model.owners.get(directory) == Some(&serial)
                || session.plan.as_ref().is_some_and(|plan| plan.directory == directory)
        };
        let free = |directory: &str| own(directory) || !self.was_there(directory);
        if !asked.renames && !free(asked.directory) {
            return None;
        }
        let numbered = (1..).map(|number| format!("{}({number})", asked.directory));
        let mut names = std::iter::once(asked.directory.to_owned()).chain(numbered);
        let directory = names.find(|name| free(name)).unwrap();
        Some(Plan { cfg: asked, directory })
    }

    /// Whether a directory was on the datastore before the present request.
    fn was_there(&self, directory: &str) -> bool {
        self.directories.contains(directory)
    }

    pub(super) fn is_there(&self, directory: &str) -> bool {
        self.root.path().join("ds").join(directory).exists()
    }

    /// Empty directories of a plan that does not hold any more are gone.
    fn given_back(&mut self, plan: Option<Plan>) {
        if let Some(plan) = plan
            && !self.is_there(&plan.directory)
        {
            self.model.owners.remove(&plan.directory);
        }
    }

    fn closed_vmx(&mut self, held: &Held, bytes: &[u8], status: Status) -> Verdict {
        let session = self.model.session_of(held);
        let same = session.imported.as_deref() == Some(bytes);
        let taken = self.model.takes_vmx(session);
        let good = bytes.starts_with(texts::VMX_BEGINS);
        let expected = match taken {
            Ok(()) if !same && !good => Err(Status::INVALID_PARAMETER),
            taken => taken,
        };
        let verdict = self.judge(status, expected, "CLOSE of a VMX");
        let session = self.model.session(held.session);
        if taken.is_err() || same {
            return verdict;
        }
        session.vmx_told = verdict != Verdict::Done;
        session.report();
        if verdict == Verdict::Done {
            session.imported = Some(bytes.to_vec());
            session.was_complete = true;
            let merged = session.disks.iter().all(|disk| !disk.told);
            assert!(merged, "a virtual machine is complete without its differentials: {session:#?}");
            let directory = session.plan.as_ref().unwrap().directory.clone();
            assert!(self.root.path().join("ds").join(&directory).join("v.vmx").exists());
            self.model.complete.insert(directory);
        }
        verdict
    }

    /// The last open of a file that was to be deleted is gone.
    pub(super) fn deleted(&mut self, held: &Held) {
        let (struck, serial) = (self.struck || self.dead, held.session);
        let session = self.model.session(serial);
        session.files.remove(&held.name);
        match held.name {
            Name::Cfg | Name::SecondCfg => {
                (session.shown, session.stopped, session.told) = (false, false, false);
                if !session.has_data() {
                    let left = session.plan.take();
                    self.given_back(left);
                }
            }
            Name::Extent(disk) => {
                session.disks[disk].begin();
                session.disks[disk].stage = Stage::Absent;
                session.disks[disk].refused = false;
            }
            _ => {}
        }
        let session = self.model.session(serial);
        session.unsure |= struck;
        if session.files.is_empty() && session.plan.is_some() && session.has_data() {
            if session.was_complete {
                self.model.owners.retain(|_, owner| *owner != serial);
            }
            let session = self.model.session(serial);
            session.withdrawn();
            session.vmx_told = false;
            session.told = false;
        }
    }

    /// A directory of the share is gone: what it led to on the datastore stays as it is.
    pub(super) fn forget(&mut self, directory: &str) {
        let session = self.model.sessions.remove(directory).unwrap();
        let made: Vec<_> = self
            .model
            .owners
            .iter()
            .filter(|(_, owner)| **owner == session.serial)
            .map(|(at, _)| at.clone())
            .collect();
        for directory in made {
            self.model.owners.remove(&directory);
            if self.is_there(&directory) {
                let files = super::agree::files(&self.root.path().join("ds").join(&directory));
                self.model.left.insert(directory, files);
            }
        }
    }

    /// Copies a small file, as most clients do: all at once.
    fn put(&mut self, at: usize, directory: &'static str, name: Name, bytes: &[u8]) {
        let Some(id) = self.open(at, directory, name, Way::COPY) else { return };
        if !self.dead {
            self.write(at, id, 0, bytes);
        }
        if !self.dead {
            self.close(at, id);
        }
    }

    pub(super) fn copy_cfg(&mut self, at: usize, step: Step) {
        let cfg = Cfg::of(step.a, step.b);
        let name = if step.c % 0x20 == 7 { Name::SecondCfg } else { Name::Cfg };
        // Some rewrite it in place.
        let disposition = if step.c & 0x20 == 0 { disposition::OVERWRITE_IF } else { disposition::OPEN_IF };
        let Some(id) = self.open(at, step.directory(), name, Way { disposition, ..Way::COPY }) else {
            return;
        };
        self.write(at, id, 0, &cfg.text());
        // And some keep it open.
        if !self.dead && step.c & 0x40 == 0 {
            self.close(at, id);
        }
    }

    pub(super) fn copy_small(&mut self, at: usize, step: Step) {
        let good = step.b & 7 != 0;
        let (name, bytes) = match step.action {
            Action::Descriptor => (Name::Descriptor(step.disk()), texts::descriptor(step.disk(), good)),
            Action::Vmx => (Name::Vmx, texts::vmx(step.c, good)),
            _ => (Name::Nvram, vec![step.c; 30]),
        };
        self.put(at, step.directory(), name, &bytes);
    }

    /// Copies an extent from its start.
    fn put_extent(&mut self, at: usize, directory: &'static str, disk: usize, kind: u8) {
        let way = Way { durable: kind & 8 != 0, ..Way::COPY };
        let Some(id) = self.open(at, directory, Name::Extent(disk), way) else { return };
        if !self.dead {
            self.fill(at, id, kind);
        }
        // Some go on later.
        if !self.dead && kind & 0x05 != 0x05 {
            self.close(at, id);
        }
    }

    /// What a restore that goes well does next.
    pub(super) fn next(&mut self, at: usize, step: Step) {
        let directory = step.directory();
        let Some(session) = self.model.sessions.get(directory) else { return self.make(at, directory) };
        let (stage, has) = (|disk: usize| session.disks[disk].stage, session.cfg_name().is_some());
        if !has && session.plan.is_none() || session.stopped || session.told {
            // One that is right and leads to where it can go.
            let mut cfg = Cfg::of(step.a | ((step.b & 1) << 4), 2 + 8 * (step.c & 1));
            if let Some(plan) = session.plan.as_ref().filter(|_| session.has_data()) {
                cfg = plan.cfg;
            }
            return self.put(at, directory, session.cfg_name().unwrap_or(Name::Cfg), &cfg.text());
        }
        for disk in 0..DISKS.len() {
            if stage(disk) != Stage::Complete || session.disks[disk].refused {
                return self.put_extent(at, directory, disk, step.b);
            }
        }
        let bytes = texts::vmx(step.c, true);
        self.put(at, directory, Name::Vmx, &bytes);
    }

    /// A restore from the start, which must go well, however things stand.
    pub(super) fn restore(&mut self, directory: &'static str) {
        let session = &self.model.sessions[directory];
        let cfg = match &session.plan {
            Some(plan) => plan.cfg,
            None => Cfg::of(0, 2),
        };
        let name = session.cfg_name().unwrap_or(Name::Cfg);
        self.put(0, directory, name, &cfg.text());
        self.agree();
        assert!(self.model.sessions[directory].receives().is_ok(), "{cfg:?} is right: {:#?}", self.model);
        for disk in 0..DISKS.len() {
            self.put_extent(0, directory, disk, 0x80);
            assert_eq!(self.model.sessions[directory].disks[disk].stage, Stage::Complete);
        }
        self.put(0, directory, Name::Vmx, &texts::vmx(0, true));
        let session = &self.model.sessions[directory];
        assert!(session.imported.is_some(), "everything came: {session:#?}");
        self.agree();
    }
}

/// Whether nothing that a model knows of is left.
pub fn is_over(model: &Model) -> bool {
    model.sessions.values().all(|session: &Session| session.files.is_empty()) && model.opens.is_empty()
}
