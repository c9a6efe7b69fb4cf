//! What clients do with directories of the share.

use smb_proto::fscc::info::class;
use smb_proto::msg::create::{disposition, options};
use smb_proto::msg::{FileId, close};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Status};

use super::World;
use super::model::Session;
use super::requests::Verdict;
use super::step::{DIRECTORIES, Step};
use crate::desk::{Message, Open};

impl World {
    pub(super) fn open_directory(&mut self, at: usize, directory: &str, disposition: u32) -> Message {
        let open = Open { disposition, options: options::DIRECTORY_FILE, ..Open::file(directory) };
        self.call(at, Command::CREATE, |out| open.encode(out))
    }

    pub(super) fn close_directory(&mut self, at: usize, file_id: FileId) -> Status {
        self.call(at, Command::CLOSE, |out| close::Request { flags: 0, file_id }.encode(out)).status()
    }

    pub(super) fn make(&mut self, at: usize, directory: &'static str) {
        let answer = self.open_directory(at, directory, disposition::CREATE);
        let expected = if self.model.sessions.contains_key(directory) {
            Err(Status::OBJECT_NAME_COLLISION)
        } else {
            Ok(())
        };
        if self.judge(answer.status(), expected, "making a directory") == Verdict::Done {
            let serial = self.serial();
            self.model.sessions.insert(directory, Session::new(serial));
            assert_eq!(self.close_directory(at, answer.file_id()), Status::SUCCESS);
        }
    }

    pub(super) fn remove(&mut self, at: usize, directory: &'static str) {
        let answer = self.open_directory(at, directory, disposition::OPEN);
        let session = self.model.sessions.get(directory);
        let there = session.map(|_| ()).ok_or(Status::OBJECT_NAME_NOT_FOUND);
        if self.judge(answer.status(), there, "opening a directory") != Verdict::Done {
            return;
        }
        let id = answer.file_id();
        let status = self.set(at, id, class::DISPOSITION, &[1]).status();
        let session = &self.model.sessions[directory];
        let expected = if !session.files.is_empty() {
            Err(Status::DIRECTORY_NOT_EMPTY)
        } else if self.model.opens.values().any(|held| held.session == session.serial) {
            Err(Status::SHARING_VIOLATION)
        } else {
            Ok(())
        };
        let verdict = self.judge(status, expected, "deleting a directory");
        if self.dead {
            return;
        }
        assert_eq!(self.close_directory(at, id), Status::SUCCESS);
        if verdict == Verdict::Done {
            self.forget(directory);
        }
    }

    pub(super) fn rename(&mut self, at: usize, step: Step) {
        let (from, to) = (step.directory(), DIRECTORIES[usize::from(step.a) % DIRECTORIES.len()]);
        if !self.model.sessions.contains_key(from) {
            return;
        }
        let id = self.open_directory(at, from, disposition::OPEN).file_id();
        let name = utf16::encode(to);
        let mut data = Vec::new();
        let target = smb_proto::fscc::set::Target { flags: 0, root_directory: 0, name: Utf16(&name) };
        target.encode(&mut data);
        let status = self.set(at, id, class::RENAME, &data).status();
        let serial = self.model.sessions[from].serial;
        let used = self.model.opens.values().any(|held| held.session == serial);
        let expected = match () {
            () if used => Err(Status::ACCESS_DENIED),
            () if from != to && self.model.sessions.contains_key(to) => Err(Status::OBJECT_NAME_COLLISION),
            () => Ok(()),
        };
        if self.judge(status, expected, "renaming a directory") == Verdict::Done {
            let session = self.model.sessions.remove(from).unwrap();
            self.model.sessions.insert(to, session);
        }
        assert_eq!(self.close_directory(at, id), Status::SUCCESS);
    }
}
