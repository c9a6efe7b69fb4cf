//! What clients do with directories and open files, and what they may be answered.

use smb_proto::fscc::access;
use smb_proto::fscc::info::class;
use smb_proto::msg::create::context::{self, Writer};
use smb_proto::msg::create::{disposition, oplock};
use smb_proto::msg::{FileId, close, create, ioctl, set_info};
use smb_proto::{Command, Status};

use super::World;
use super::model::{Held, Name, SIZES, Session, Stage, Stored};
use super::step::{Action, Step};
use super::texts::{self, Cfg, Differential};
use crate::desk::{Message, Open};

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It went well.
    Done,
    /// It was refused, as it had to be.
    Refused,
    /// It failed with its datastore, or its client was told nothing.
    Failed,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub access: u32,
    pub disposition: u32,
    pub durable: bool,
}

impl Way {
    /// As copy programs do.
    pub const COPY: Self =
        Self { access: access::ALL, disposition: disposition::OVERWRITE_IF, durable: false };

    fn of(step: Step) -> Self {
        let read = access::READ_DATA | access::READ_ATTRIBUTES | access::SYNCHRONIZE;
        let access = match step.b & 7 {
            0 => access::READ_ATTRIBUTES | access::SYNCHRONIZE,
            1 | 2 => read,
            _ => access::ALL,
        };
        let disposition = match step.b >> 3 & 7 {
            0 => disposition::OPEN,
            1 => disposition::CREATE,
            2 | 3 => disposition::OVERWRITE_IF,
            _ => disposition::OPEN_IF,
        };
        Self { access, disposition, durable: step.b & 0x40 != 0 }
    }

    fn truncates(self) -> bool {
        self.disposition == disposition::OVERWRITE_IF
    }

    fn writes(self) -> bool {
        self.truncates() || self.access & (access::WRITE_DATA | access::APPEND_DATA) != 0
    }
}

impl World {
    /// Whether a request did what it had to.
    pub(super) fn judge(&self, status: Status, expected: Result<(), Status>, what: &str) -> Verdict {
        let outcome = if status == Status::SUCCESS { Ok(()) } else { Err(status) };
        if self.dead || self.struck && outcome.is_err() {
            return Verdict::Failed;
        }
        assert_eq!(outcome, expected, "{what}: {:#?}", self.model);
        if outcome.is_ok() { Verdict::Done } else { Verdict::Refused }
    }

    /// Lines of a directory's import.log that tell of errors.
    pub(super) fn errors_logged(&self, directory: &str) -> usize {
        let Some(session) = self.service().engine.session(&[directory.to_owned()]) else { return 0 };
        let log = session.open_file("import.log", importfs::import::How::Attributes).unwrap();
        let mut bytes = vec![0; log.info().unwrap().size as usize];
        log.read_at(&mut bytes, 0).unwrap();
        log.close(true).unwrap();
        bytes.windows(7).filter(|text| text == b"ERROR [").count()
    }

    /// A refusal by a session stands in its log.
    pub(super) fn must_be_logged(&self, directory: &str, before: usize, what: &str) {
        assert!(self.dead || self.errors_logged(directory) > before, "import.log says nothing of {what}");
    }

    pub(super) fn directory_of(&self, held: &Held) -> &'static str {
        let mut sessions = self.model.sessions.iter();
        sessions.find(|(_, session)| session.serial == held.session).map(|(at, _)| *at).expect("a session")
    }

    /// The file of an open, unless another has its name by now.
    pub(super) fn stored(&self, held: &Held) -> Option<&Stored> {
        let stored = self.model.session_of(held).files.get(&held.name);
        stored.filter(|stored| stored.serial == held.file)
    }

    pub(super) fn set(&mut self, at: usize, file_id: FileId, info_class: u8, data: &[u8]) -> Message {
        let request =
            set_info::Request { info_type: 1, info_class, additional_information: 0, file_id, data };
        self.call(at, Command::SET_INFO, |out| request.encode(out))
    }

    /// Whether a CREATE may go well, and whether it makes a file.
    fn may_open(&self, session: &Session, name: Name, way: Way) -> Result<bool, Status> {
        let own = name == Name::Log || name == Name::CfgErr && session.shown_as(Name::Cfg);
        let stored = session.files.get(&name);
        if stored.is_some() || own {
            if way.disposition == disposition::CREATE {
                return Err(Status::OBJECT_NAME_COLLISION);
            }
            if own && way.writes() {
                return Err(Status::ACCESS_DENIED);
            }
            if stored.is_some_and(|stored| stored.doomed) {
                return Err(Status::DELETE_PENDING);
            }
            if way.writes() {
                match name {
                    Name::Extent(disk) => {
                        session.receives()?;
                        if self.model.is_merging(session.serial, disk) {
                            return Err(Status::MEDIA_WRITE_PROTECTED);
                        }
                    }
                    Name::Differential(disk, _) => {
                        self.model.takes_differential(session, disk)?;
                        if way.truncates() {
                            return Err(Status::MEDIA_WRITE_PROTECTED); // it is merged
                        }
                    }
                    Name::Vmx => self.model.takes_vmx(session)?,
                    _ => {}
                }
            }
            return Ok(false);
        }
        if way.disposition == disposition::OPEN {
            return Err(Status::OBJECT_NAME_NOT_FOUND);
        }
        match name {
            Name::Cfg | Name::SecondCfg if session.cfg_name().is_some() => Err(Status::ACCESS_DENIED),
            Name::Cfg | Name::SecondCfg => Ok(true),
            Name::Unsupported | Name::Log | Name::CfgErr => Err(Status::ACCESS_DENIED),
            Name::Extent(disk) => {
                session.receives()?;
                if self.model.is_merging(session.serial, disk) {
                    return Err(Status::MEDIA_WRITE_PROTECTED);
                }
                Ok(true)
            }
            Name::Differential(disk, index) => {
                self.model.takes_differential(session, disk)?;
                if index < session.disks[disk].merged { Err(Status::MEDIA_WRITE_PROTECTED) } else { Ok(true) }
            }
            Name::Vmx => self.model.takes_vmx(session).map(|()| true),
            Name::Descriptor(_) | Name::Nvram => session.receives().map(|()| true),
        }
    }

    /// Opens a file; gives the open.
    pub(super) fn open(&mut self, at: usize, directory: &'static str, name: Name, way: Way) -> Option<u64> {
        let path = format!("{directory}\\{}", name.text());
        let mut contexts = Writer::new();
        contexts.push(context::DHNQ, &[0; 16]);
        let mut open = Open { access: way.access, disposition: way.disposition, ..Open::file(&path) };
        if way.durable {
            (open.oplock, open.contexts) = (oplock::BATCH, contexts.contexts());
        }
        let before = self.errors_logged(directory);
        let answer = self.call(at, Command::CREATE, |out| open.encode(out));
        let Some(session) = self.model.sessions.get(directory) else {
            self.judge(answer.status(), Err(Status::OBJECT_PATH_NOT_FOUND), "a file of no directory");
            return None;
        };
        // Where another's close failed within this one, the service decided by what is not known yet.
        let expected = match answer.status() {
            Status::SUCCESS if session.unsure => Ok(!session.files.contains_key(&name)),
            status if session.unsure => Err(status),
            _ => self.may_open(session, name, way),
        };
        let what = format!("{way:?} of {path}");
        let verdict = self.judge(answer.status(), expected.map(|_| ()), &what);
        let by_session = [Status::ACCESS_DENIED, Status::MEDIA_WRITE_PROTECTED];
        let by_session = by_session.contains(&answer.status()) && !name.is_own(); // those are no step of a restore
        if verdict == Verdict::Failed || verdict == Verdict::Refused && by_session {
            self.must_be_logged(directory, before, &what);
        }
        let (dead, struck) = (self.dead, self.struck);
        let session = self.model.sessions.get_mut(directory).unwrap();
        if struck || dead {
            session.unsure = true;
            session.disks.iter_mut().for_each(super::model::Disk::troubled);
        }
        if verdict != Verdict::Done {
            if let (Verdict::Failed, Name::Extent(disk)) = (verdict, name) {
                session.disks[disk].doubt(); // it may have come anew already, or nothing was changed yet
            }
            return None;
        }
        let created = expected == Ok(true);
        Some(self.opened(at, directory, name, way, created, &answer))
    }

    fn opened(
        &mut self,
        at: usize,
        directory: &'static str,
        name: Name,
        way: Way,
        created: bool,
        answer: &Message,
    ) -> u64 {
        let response = create::Response::decode(&answer.0).unwrap();
        let (serial, link) = (self.serial(), self.links[at].serial);
        self.last_fill = self.last_fill.wrapping_add(7);
        let session = self.model.sessions.get_mut(directory).unwrap();
        let truncates = way.truncates() && !created;
        if created {
            session.files.insert(name, Stored { serial, ..Stored::default() });
        }
        match name {
            Name::Extent(disk) if created => {
                if session.disks[disk].made {
                    session.restart(disk);
                    session.disks[disk].cut(0);
                } else {
                    let before = std::mem::replace(&mut session.disks[disk], super::model::Disk::new(disk));
                    session.disks[disk].told = before.told;
                    session.disks[disk].made = true;
                    session.disks[disk].stage = Stage::Receiving;
                }
            }
            Name::Extent(disk) if truncates => {
                if session.disks[disk].end > 0 {
                    session.restart(disk);
                }
                session.disks[disk].cut(0);
            }
            _ if truncates && name.is_small() => session.files.get_mut(&name).unwrap().bytes.clear(),
            _ => {}
        }
        let sends = match name {
            // What it holds, its client decides when it begins to send.
            Name::Differential(disk, _) if created => {
                Some((Differential::new(disk, (0, 0x11, 0), self.last_fill), 0))
            }
            _ => None,
        };
        let id = response.file_id;
        let durable = response.contexts.find(context::DHNQ).is_some();
        let held = Held {
            id,
            link: Some(link),
            session: session.serial,
            name,
            file: session.files.get(&name).map_or(0, |stored| stored.serial),
            access: way.access,
            writes: way.writes() || created,
            wrote: truncates,
            durable,
            batch: response.oplock_level == oplock::BATCH,
            sends,
            refused: false,
            begun: false,
            may_have_begun: false,
            complained: false,
        };
        self.model.opens.insert(id.volatile, held);
        id.volatile
    }

    pub(super) fn open_any(&mut self, at: usize, step: Step) {
        let name = Name::ALL[usize::from(step.a) % Name::ALL.len()];
        self.open(at, step.directory(), name, Way::of(step));
    }

    /// Does something with an open of that connection.
    pub(super) fn use_open(&mut self, at: usize, step: Step) {
        let link = Some(self.links[at].serial);
        let own: Vec<_> =
            self.model.opens.values().filter(|held| held.link == link).map(|held| held.id.volatile).collect();
        if own.is_empty() {
            return self.next(at, step);
        }
        let id = own[usize::from(step.which) % own.len()];
        let held = self.model.opens[&id].clone();
        let size = match held.name {
            Name::Extent(disk) => SIZES[disk],
            _ => 1500,
        };
        // Mostly within the disk.
        let offset = usize::from(step.b) * 23 % (size + 64);
        match step.action {
            Action::Close => self.close(at, id),
            Action::Fill => self.fill(at, id, step.c),
            Action::Write if held.sends.is_some() => self.send(at, id, 1 + usize::from(step.c) * 16),
            // These are written whole, so that what they say is known.
            Action::Write if held.name.is_small() => {
                let bytes = match held.name {
                    Name::Vmx => texts::vmx(step.a, step.b & 7 != 0),
                    Name::Descriptor(disk) => texts::descriptor(disk, step.b & 7 != 0),
                    _ => Cfg::of(step.a, step.b).text(),
                };
                self.write(at, id, 0, &bytes);
            }
            Action::Write => {
                let data = self.data(1 + usize::from(step.c) * 9, step.a);
                self.write(at, id, offset, &data);
            }
            Action::Zero => self.zero(at, id, offset, usize::from(step.c) * 23),
            Action::Size => {
                let size = match step.c % 6 {
                    0 => 0,
                    _ if held.name.is_cfg() => 100,
                    _ if held.name.is_small() => 0,
                    1 | 2 => size,
                    3 => size + 512,
                    _ => offset.min(size),
                };
                self.resize(at, id, size);
            }
            Action::Read => self.read(at, id, offset, 1 + usize::from(step.c) * 17),
            Action::Flush => self.flush(at, id),
            Action::Copy => self.copy(at, id, &own, step),
            Action::Ranges => self.ranges(at, id),
            other => unreachable!("{other:?}"),
        }
    }

    pub(super) fn fsctl(
        &mut self,
        at: usize,
        file_id: FileId,
        ctl_code: u32,
        input: &[u8],
        room: u32,
    ) -> Message {
        let request = ioctl::Request {
            ctl_code,
            file_id,
            max_input_response: 0,
            max_output_response: room,
            flags: ioctl::FLAG_IS_FSCTL,
            input,
        };
        self.call(at, Command::IOCTL, |out| request.encode(out))
    }

    /// Deletes a file as clients do: opened for that, marked, closed.
    pub(super) fn delete(&mut self, at: usize, directory: &'static str, name: Name) {
        let access = access::DELETE | access::READ_ATTRIBUTES | access::SYNCHRONIZE;
        let way = Way { access, disposition: disposition::OPEN, durable: false };
        let Some(id) = self.open(at, directory, name, way) else { return };
        let held = self.model.opens[&id].clone();
        if self.dead {
            return;
        }
        let status = self.set(at, held.id, class::DISPOSITION, &[1]).status();
        if self.judge(status, Ok(()), "marking a file") == Verdict::Done {
            let files = &mut self.model.session(held.session).files;
            if let Some(stored) = files.get_mut(&name).filter(|stored| stored.serial == held.file) {
                stored.doomed = true;
            }
        }
        if !self.dead {
            self.close(at, id);
        }
    }

    pub(super) fn delete_any(&mut self, at: usize, step: Step) {
        let name = Name::ALL[usize::from(step.a) % Name::ALL.len()];
        self.delete(at, step.directory(), name);
    }

    pub(super) fn take_back(&mut self, at: usize, step: Step) {
        let away: Vec<_> =
            self.model.opens.values().filter(|held| held.link.is_none()).map(|held| held.id).collect();
        if away.is_empty() {
            return;
        }
        let id = away[usize::from(step.which) % away.len()];
        let mut data = Vec::new();
        id.encode(&mut data);
        let mut contexts = Writer::new();
        contexts.push(context::DHNC, &data);
        let open = Open { oplock: oplock::BATCH, contexts: contexts.contexts(), ..Open::file("whatever") };
        let answer = self.call(at, Command::CREATE, |out| open.encode(out));
        assert_eq!(answer.status(), Status::SUCCESS, "{id:?} waits for its client");
        self.model.opens.get_mut(&id.volatile).unwrap().link = Some(self.links[at].serial);
    }

    pub(super) fn close(&mut self, at: usize, id: u64) {
        let held = self.model.opens[&id].clone();
        let before = self.errors_logged(self.directory_of(&held));
        let request = close::Request { flags: 0, file_id: held.id };
        let status = self.call(at, Command::CLOSE, |out| request.encode(out)).status();
        let directory = self.directory_of(&held);
        let verdict = self.closed(id, true, status);
        if verdict == Verdict::Refused || verdict == Verdict::Failed && status != Status::SUCCESS {
            self.must_be_logged(directory, before, &format!("a close of {:?}", held.name));
        }
    }

    /// An open has ended: what that does to its session.
    pub(super) fn closed(&mut self, id: u64, clean: bool, status: Status) -> Verdict {
        let held = self.model.opens.remove(&id).expect("an open");
        let verdict = match held.name {
            Name::Extent(disk) => self.closed_extent(&held, disk, clean, status),
            Name::Differential(disk, index) => self.closed_differential(&held, (disk, index), clean, status),
            name if name.is_small() => self.closed_small(&held, clean, status),
            _ => self.judge(status, Ok(()), "CLOSE"),
        };
        self.note_trouble(&held);
        let others = self.model.opens.values();
        let last = !others.clone().any(|other| other.session == held.session && other.file == held.file);
        if last && self.stored(&held).is_some_and(|stored| stored.doomed) {
            self.deleted(&held);
        }
        verdict
    }
}

/// A failure of the datastore, by its status.
pub fn is_failure(status: Status) -> bool {
    [Status::IO_DEVICE_ERROR, Status::DISK_FULL].contains(&status)
}
