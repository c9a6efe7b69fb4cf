//! The requests of a sequence: which of them a step means, and what is remembered of them until they are answered.

use importfs::smb::durable::Owner;
use smb_proto::fscc::info::class;
use smb_proto::fscc::set;
use smb_proto::msg::change_notify::{self, FLAG_WATCH_TREE, filter};
use smb_proto::msg::create::context::{
    self, DurableV2Reconnect, DurableV2Request, LEASE_READ, Lease, LeaseV2,
};
use smb_proto::msg::create::{oplock, options};
use smb_proto::msg::lock::{self, Element, FLAG_EXCLUSIVE, FLAG_FAIL_IMMEDIATELY, FLAG_SHARED, FLAG_UNLOCK};
use smb_proto::msg::{FileId, close, logoff, oplock_break, read, set_info, write};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Flags};

use super::model::{Holder, Lock};
use super::step::{Action, Step};
use super::{World, guid_bytes, pick};
use crate::desk::{Open, part};

/// What a CREATE asked for.
#[derive(Debug, Clone)]
pub struct Create {
    pub name: &'static str,
    pub access: u32,
    pub share: u32,
    pub disposition: u32,
    pub deletes: bool,
    pub directory: bool,
    pub lease: Option<u8>,
    pub guid: Option<u32>,
    pub replay: bool,
}

/// A request that has no answer yet.
#[derive(Debug, Clone)]
pub enum Asked {
    Create(Create),
    TakeBack { id: FileId, name: String, timed_out: bool },
    Close { id: FileId },
    Read { id: FileId, offset: u64, length: u64 },
    Write { id: FileId, offset: u64, data: Vec<u8> },
    Watch { id: FileId },
    Lock { id: FileId, lock: Lock, waits: bool },
    Unlock { id: FileId, lock: Lock },
    Rename { id: FileId, to: &'static str, replace: bool },
    Delete { id: FileId, delete: bool },
    EndOfFile { id: FileId, size: u64 },
    Acknowledge { holder: Holder, state: u32 },
    Logoff,
}

impl World {
    /// Sends what a step means, if there is anything to send.
    pub(super) fn ask(&mut self, at: usize, step: Step) {
        // Any open of any client: one of another's must not be found.
        let own = self.links[at].serial;
        let mine = self.model.opens.values().filter(|held| step.which & 0x80 != 0 || held.link == Some(own));
        let Some(id) = pick(mine.map(|held| held.id), step.which & 0x7F) else {
            return match step.action {
                Action::Acknowledge => self.acknowledge(step),
                Action::TakeBack => self.take_back(at, step),
                Action::Logoff => self.logoff(at),
                _ => self.create(at, step),
            };
        };
        match step.action {
            Action::Create | Action::CreateAgain => self.create(at, step),
            Action::TakeBack => self.take_back(at, step),
            Action::Close => self.close(at, id),
            Action::Read => self.read(at, id, step),
            Action::Write => self.write(at, id, step),
            Action::Watch => self.watch(at, step),
            Action::Lock => self.lock(at, id, step),
            Action::Unlock => self.unlock(at, id, step),
            Action::Rename => self.rename(at, id, step),
            Action::Delete => {
                let delete = step.a & 3 != 0;
                let data = [u8::from(delete)];
                self.set(at, id, class::DISPOSITION, &data, Asked::Delete { id, delete });
            }
            Action::EndOfFile => {
                let size = u64::from(step.b % 96);
                let data = size.to_le_bytes();
                self.set(at, id, class::END_OF_FILE, &data, Asked::EndOfFile { id, size });
            }
            Action::Acknowledge => self.acknowledge(step),
            Action::Logoff => self.logoff(at),
            _ => {}
        }
    }

    /// Sends a request, and takes what is answered at once.
    pub(super) fn send(
        &mut self,
        at: usize,
        command: Command,
        asked: Asked,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        self.send_flagged(at, (command, Flags::default()), asked, encode);
    }

    fn send_flagged(
        &mut self,
        at: usize,
        (command, flags): (Command, Flags),
        asked: Asked,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let link = &mut self.links[at];
        link.asked.insert(link.client.message_id(), asked);
        let mut request = part(command, false, encode);
        request.flags = flags;
        for message in link.client.compound(vec![request]) {
            self.receive(at, &message);
        }
    }

    fn create(&mut self, at: usize, step: Step) {
        let client = self.links[at].guid;
        let lease = step.cache().err().map(|state| (step.lease_key(), state));
        if lease.is_some() {
            self.settle(); // a new lease must not be taken for one that was broken before
        }
        let mut contexts = context::Writer::new();
        if let Some((key, state)) = lease {
            contexts.push(context::RQLS, &self.lease(client, key, state));
        }
        let (mut guid, mut replay) = (None, false);
        match step.c >> 5 {
            _ if step.stream() => {}
            2 | 3 => drop(contexts.push(context::DHNQ, &[0; 16])),
            4..=7 => {
                let again = step.action == Action::CreateAgain && self.next_guid > 0;
                self.next_guid += u32::from(!again);
                (guid, replay) = (Some(self.next_guid), again && step.c & 0x80 != 0);
                let create_guid = guid_bytes(self.next_guid);
                let asked = DurableV2Request { timeout_ms: 0, flags: 0, create_guid };
                contexts.push(context::DH2Q, &asked.encode());
            }
            _ => {}
        }
        let asked = Create {
            name: step.name(),
            access: step.access(),
            share: step.share(),
            disposition: step.disposition(),
            deletes: step.deletes(),
            directory: step.directory(),
            lease: lease.map(|(key, _)| key),
            guid,
            replay,
        };
        let directory = if asked.directory { options::DIRECTORY_FILE } else { 0 };
        let open = Open {
            name: asked.name,
            access: asked.access,
            share: asked.share,
            disposition: asked.disposition,
            options: directory | if asked.deletes { options::DELETE_ON_CLOSE } else { 0 },
            oplock: step.cache().unwrap_or(oplock::LEASE),
            contexts: contexts.contexts(),
        };
        let flags = if replay { Flags::REPLAY_OPERATION } else { Flags::default() };
        self.send_flagged(at, (Command::CREATE, flags), Asked::Create(asked), |out| open.encode(out));
    }

    fn lease(&self, client: u8, key: u8, state: u32) -> Vec<u8> {
        let epoch = self.epochs.get(&Holder::Lease(client, key)).copied().unwrap_or_default();
        let v2 = Some(LeaseV2 { parent_key: [0; 16], epoch });
        Lease { key: [key; 16], state, flags: 0, v2 }.encode()
    }

    /// A client that was away, or is taken for it, wants an open back.
    fn take_back(&mut self, at: usize, step: Step) {
        let client = self.links[at].guid;
        let durable = self.model.opens.values().filter(|held| held.durable && held.client == client);
        let Some(id) = pick(durable.map(|held| held.id), step.which) else { return };
        let open = self.desk.server.opens.by_id(id.volatile).unwrap();
        let held = &self.model.opens[&id.volatile];
        let mut contexts = context::Writer::new();
        if let Some(Holder::Lease(client, key)) = held.holder {
            contexts.push(context::RQLS, &self.lease(client, key, LEASE_READ));
        }
        let Owner { create_guid, .. } = open.owner;
        match create_guid {
            Some(create_guid) => {
                let back = DurableV2Reconnect { file_id: id, create_guid, flags: 0 };
                contexts.push(context::DH2C, &back.encode());
            }
            None => {
                let mut data = Vec::new();
                id.encode(&mut data);
                contexts.push(context::DHNC, &data);
            }
        }
        let name = open.file.path().components.join("\\");
        drop(open);
        let level = if held.holder.is_some_and(|holder| matches!(holder, Holder::Lease(..))) {
            oplock::LEASE
        } else {
            oplock::BATCH
        };
        let open = Open { oplock: level, contexts: contexts.contexts(), ..Open::file(&name) };
        let asked = Asked::TakeBack { id, name: name.clone(), timed_out: false };
        self.send(at, Command::CREATE, asked, |out| open.encode(out));
    }

    pub(super) fn close(&mut self, at: usize, file_id: FileId) {
        let request = close::Request { flags: 0, file_id };
        self.send(at, Command::CLOSE, Asked::Close { id: file_id }, |out| request.encode(out));
    }

    fn read(&mut self, at: usize, file_id: FileId, step: Step) {
        let (offset, length) = (u64::from(step.a % 32), u64::from(step.b) + 1);
        let request = read::Request::new(file_id, offset, length as u32);
        self.send(at, Command::READ, Asked::Read { id: file_id, offset, length }, |out| request.encode(out));
    }

    fn write(&mut self, at: usize, file_id: FileId, step: Step) {
        self.next_fill = self.next_fill.wrapping_add(1);
        let data = vec![self.next_fill; usize::from(step.b % 24) + 1];
        let offset = u64::from(step.a % 64);
        let asked = Asked::Write { id: file_id, offset, data: data.clone() };
        let request = write::Request::new(file_id, offset, &data);
        self.send(at, Command::WRITE, asked, |out| request.encode(out));
    }

    /// Mostly of a directory, where there is one.
    fn watch(&mut self, at: usize, step: Step) {
        let own = self.links[at].serial;
        let mine = || self.model.opens.values().filter(|held| held.link == Some(own));
        let directories = mine().filter(|held| self.model.files[&held.file].directory);
        let Some(id) = pick(directories.map(|held| held.id), step.which)
            .or_else(|| pick(mine().map(|held| held.id), step.which))
        else {
            return;
        };
        let (flags, names) = (step.a & FLAG_WATCH_TREE as u8, filter::FILE_NAME | filter::DIR_NAME);
        let completion_filter = if step.b & 1 == 0 { names } else { u32::MAX };
        self.model.watch(id.volatile, flags != 0);
        let flags = u16::from(flags);
        let request =
            change_notify::Request { flags, output_buffer_length: 4096, file_id: id, completion_filter };
        self.send(at, Command::CHANGE_NOTIFY, Asked::Watch { id }, |out| request.encode(out));
    }

    fn lock(&mut self, at: usize, id: FileId, step: Step) {
        let lock = self.lock_of(id.volatile, step);
        let waits = step.a & 2 != 0;
        let flags = if lock.exclusive { FLAG_EXCLUSIVE } else { FLAG_SHARED };
        let flags = flags | if waits { 0 } else { FLAG_FAIL_IMMEDIATELY };
        self.send_lock(at, id, flags, lock, Asked::Lock { id, lock, waits });
    }

    fn unlock(&mut self, at: usize, id: FileId, step: Step) {
        // Mostly one that is held.
        let held = self.model.locks.iter().filter(|lock| lock.open == id.volatile);
        let lock = pick(held.copied(), step.c).unwrap_or_else(|| self.lock_of(id.volatile, step));
        self.send_lock(at, id, FLAG_UNLOCK, lock, Asked::Unlock { id, lock });
    }

    fn send_lock(&mut self, at: usize, file_id: FileId, flags: u32, lock: Lock, asked: Asked) {
        let locks = vec![Element { offset: lock.offset, length: lock.length, flags }];
        let request = lock::Request { lock_sequence: 0, file_id, locks };
        self.send(at, Command::LOCK, asked, |out| request.encode(out));
    }

    fn rename(&mut self, at: usize, id: FileId, step: Step) {
        let to = super::step::NAMES[usize::from(step.b) % super::step::NAMES.len()];
        let (name, replace) = (utf16::encode(to), step.a & 1 != 0);
        let mut data = Vec::new();
        let flags = if replace { set::RENAME_REPLACE_IF_EXISTS } else { 0 };
        set::Target { flags, root_directory: 0, name: Utf16(&name) }.encode(&mut data);
        self.set(at, id, class::RENAME, &data, Asked::Rename { id, to, replace });
    }

    fn set(&mut self, at: usize, file_id: FileId, info_class: u8, data: &[u8], asked: Asked) {
        let request =
            set_info::Request { info_type: 1, info_class, additional_information: 0, file_id, data };
        self.send(at, Command::SET_INFO, asked, |out| request.encode(out));
    }

    fn logoff(&mut self, at: usize) {
        self.settle(); // as before a loss
        self.send(at, Command::LOGOFF, Asked::Logoff, |out| logoff::Request.encode(out));
    }

    /// A break is acknowledged: as told, with less, or with more than may be kept.
    fn acknowledge(&mut self, step: Step) {
        let broken = self.model.caches.iter().filter(|(_, cache)| cache.breaking.is_some());
        let Some(holder) = pick(broken.map(|(holder, _)| *holder), step.which) else { return };
        let told = self.model.caches[&holder].breaking.unwrap_or_default();
        let state = match step.a % 8 {
            0 => told & LEASE_READ,
            1 => 0,
            2 => 7,
            _ => told,
        };
        self.send_acknowledgement(holder, state);
    }

    pub(super) fn acknowledge_as_told(&mut self, holder: Holder) {
        let told = self.model.caches[&holder].breaking.unwrap_or_default();
        self.send_acknowledgement(holder, told);
    }

    /// On the open's connection, or any one of the lease's client.
    fn send_acknowledgement(&mut self, holder: Holder, state: u32) {
        let asked = Asked::Acknowledge { holder, state };
        let (link, request) = match holder {
            Holder::Open(id) => {
                let held = &self.model.opens[&id];
                let level = if state & LEASE_READ != 0 { oplock::LEVEL_II } else { oplock::NONE };
                let request = oplock_break::Request::Oplock(oplock_break::Oplock { level, file_id: held.id });
                (self.links.iter().position(|link| Some(link.serial) == held.link), request)
            }
            Holder::Lease(client, key) => {
                let lease = oplock_break::Lease { flags: 0, key: [key; 16], state };
                let link = self.links.iter().position(|link| link.guid == client && !link.ended);
                (link, oplock_break::Request::Lease(lease))
            }
        };
        if let Some(at) = link {
            self.send(at, Command::OPLOCK_BREAK, asked, |out| request.encode(out));
        }
    }
}
