//! What clients are told, taken into the model; a status that the model can't explain is a failure.

use importfs::smb::oplock::of_level;
use smb_proto::fscc::access;
use smb_proto::msg::create::context::{self, LEASE_FLAG_BREAK_IN_PROGRESS, LEASE_READ, Lease};
use smb_proto::msg::create::{self, action, disposition, oplock};
use smb_proto::msg::oplock_break::{LEASE_BREAK_ACK_REQUIRED, LeaseNotification, Request as Break};
use smb_proto::msg::{FileId, change_notify, read};
use smb_proto::{Command, Status};

use super::model::{Content, Held, Holder, Lock, Number};
use super::requests::{Asked, Create};
use super::{World, granted};
use crate::desk::Message;

/// MessageId of what answers no request.
const UNASKED: u64 = u64::MAX;
/// StructureSize of a lease's break notification.
const LEASE_NOTIFICATION: [u8; 2] = [44, 0];

impl World {
    /// Takes one message from the server.
    pub(super) fn receive(&mut self, at: usize, message: &Message) {
        let header = message.header();
        if self.shows {
            let asked = self.links[at].asked.get(&header.message_id);
            eprintln!("    {at}: {} {asked:?}", header.status);
        }
        // A new open was admitted before its breaks closed anything, and a file has its new name before who caches its directories hears
        // of that.
        if header.command != Command::CREATE || header.status != Status::SUCCESS {
            let parents = self.parents_of_rename(at, message);
            self.notice_closed_but(&parents);
        }
        if header.message_id == UNASKED {
            assert_eq!(header.command, Command::OPLOCK_BREAK, "nothing else comes unasked");
            self.told_to_break(at, message);
            return;
        }
        let (id, status) = (header.message_id, header.status);
        let link = &mut self.links[at];
        if status == Status::PENDING {
            assert!(link.asked.contains_key(&id), "an interim response to nothing");
            let before = link.parked.insert(id, Message(message.0.clone()));
            assert!(before.is_none(), "two interim responses to {:?}", link.asked[&id]);
            return;
        }
        let asked = link.asked.remove(&id).expect("an answer to nothing, or a second one");
        if let Some(interim) = link.parked.remove(&id) {
            assert_eq!(interim.header().async_id, header.async_id, "{asked:?} is told apart by its AsyncId");
        }
        self.answered(at, asked, status, message);
        self.notice_closed();
    }

    /// The directories of a file that was renamed by this answer, before and now.
    fn parents_of_rename(&self, at: usize, message: &Message) -> Vec<Number> {
        let asked = self.links[at].asked.get(&message.header().message_id);
        let Some(Asked::Rename { id, to, .. }) = asked.filter(|_| message.status() == Status::SUCCESS) else {
            return Vec::new();
        };
        let from = self.held(at, *id).and_then(|held| self.model.name_of(held.file).map(str::to_owned));
        let names = [from.as_deref().unwrap_or_default(), to].map(super::model::parent);
        names.iter().filter_map(|name| self.model.names.get(*name).copied()).collect()
    }

    fn answered(&mut self, at: usize, asked: Asked, status: Status, message: &Message) {
        if self.is_ended(at, &asked, status) {
            return;
        }
        match asked {
            Asked::Create(create) if status == Status::SUCCESS => self.created(at, &create, message),
            Asked::Create(create) => {
                assert!(
                    self.explains_create(at, &create, status),
                    "{status} to {create:?}: {:#?}",
                    self.model
                );
            }
            Asked::TakeBack { id, name, timed_out } => self.taken_back(at, id, (&name, timed_out), status),
            Asked::Close { id } => match self.held(at, id) {
                Some(_) => {
                    assert_eq!(status, Status::SUCCESS, "CLOSE of {id:?}");
                    self.model.close(id.volatile);
                }
                None => assert_eq!(status, Status::FILE_CLOSED),
            },
            Asked::Read { id, offset, length } => self.was_read(at, id, (offset, length), message),
            Asked::Write { id, offset, data } => self.was_written(at, id, offset, &data, status),
            Asked::Watch { id } => self.was_told(at, id, message),
            Asked::Lock { id, lock, waits } => self.was_locked(at, id, lock, waits, status),
            Asked::Unlock { id, lock } => self.was_unlocked(at, id, lock, status),
            Asked::Rename { id, to, replace } => self.was_renamed(at, id, to, replace, status),
            Asked::Delete { id, delete } => self.was_deleted(at, id, delete, status),
            Asked::EndOfFile { id, size } => {
                let Some(held) = self.changeable(at, id, status, Status::INVALID_PARAMETER) else { return };
                assert_eq!(status, Status::SUCCESS);
                self.content(held.file).data.resize(size as usize, 0);
            }
            Asked::Acknowledge { holder, state } => self.acknowledged(holder, state, status),
            Asked::Logoff => {
                assert_eq!(status, Status::SUCCESS);
                let serial = self.links[at].serial;
                let own: Vec<_> =
                    self.model.opens.values().filter(|held| held.link == Some(serial)).cloned().collect();
                self.left(&own);
                let channels = self.links.iter_mut().filter(|link| link.serial == serial);
                channels.for_each(|link| link.ended = true);
            }
        }
    }

    /// What was cancelled, or asked of a session that has ended.
    fn is_ended(&self, at: usize, asked: &Asked, status: Status) -> bool {
        match status {
            Status::CANCELLED => true,
            Status::USER_SESSION_DELETED => {
                assert!(self.links[at].ended, "{asked:?} on a session that goes on");
                true
            }
            _ => false,
        }
    }

    /// The open, where this connection has it.
    fn held(&self, at: usize, id: FileId) -> Option<Held> {
        let held = self.model.opens.get(&id.volatile)?;
        (held.link == Some(self.links[at].serial)).then(|| held.clone())
    }

    fn content(&mut self, file: Number) -> &mut Content {
        self.model.files.get_mut(&file).unwrap()
    }

    /// An open whose data may be changed; otherwise the status is checked to say why not.
    fn changeable(&mut self, at: usize, id: FileId, status: Status, directory: Status) -> Option<Held> {
        let Some(held) = self.held(at, id) else {
            assert_eq!(status, Status::FILE_CLOSED);
            return None;
        };
        let refusals = [
            (held.access & (access::WRITE_DATA | access::APPEND_DATA) == 0, Status::ACCESS_DENIED),
            (self.content(held.file).directory, directory),
        ];
        if refusals.iter().any(|(refused, _)| *refused) {
            assert!(refusals.contains(&(true, status)), "{status} of {held:?}");
            return None;
        }
        Some(held)
    }

    fn created(&mut self, at: usize, asked: &Create, message: &Message) {
        let response = create::Response::decode(&message.0).unwrap();
        let id = response.file_id.volatile;
        let link = &self.links[at];
        if let Some(held) = self.model.opens.get_mut(&id) {
            // Sent again, and answered as the first one.
            assert!(asked.replay && held.guid == asked.guid && held.client == link.guid, "{held:?} twice");
            assert!(held.link.is_none_or(|serial| serial == link.serial));
            held.link = Some(link.serial);
            return;
        }
        let open = self.desk.server.opens.by_id(id).expect("an open");
        assert_eq!(open.granted, asked.access);
        let (key, directory) = (open.entry.key.clone(), open.file.is_directory());
        drop(open);
        let (client, link) = (link.guid, Some(link.serial));
        let base = key.file;
        let file = if key.stream.is_empty() { base } else { self.number_of_stream(base, &key.stream) };
        if file != base {
            self.enter_base(asked, base, response.create_action);
        }
        self.enter_file(asked, (file, directory), response.create_action);
        if file != base {
            self.content(file).stream_of = Some(base);
        }
        let replaces = matches!(asked.disposition, disposition::SUPERSEDE | disposition::OVERWRITE..);
        let needs =
            if replaces && response.create_action != action::CREATED { access::WRITE_DATA } else { 0 };
        assert!(
            !self.model.conflicts(file, id, asked.access | needs, asked.share)
                && !self.model.barred_by_streams(file, asked.access | needs),
            "{asked:?}: {:#?}",
            self.model
        );
        let durable = [context::DHNQ, context::DH2Q].iter().any(|tag| response.contexts.find(tag).is_some());
        let mut held = Held {
            id: response.file_id,
            link,
            client,
            file,
            access: asked.access,
            share: asked.share,
            deletes: asked.deletes,
            wrote: false,
            durable,
            guid: asked.guid,
            holder: None,
        };
        held.holder = self.cached(&held, &response);
        self.model.opens.insert(id, held);
    }

    /// The file of a stream that was opened or made, which may have been made with it.
    fn enter_base(&mut self, asked: &Create, file: Number, action: u32) {
        let name = super::model::base(asked.name);
        let known = self.model.names.get(name).copied();
        if known.is_none() && action == action::CREATED {
            assert!(self.model.has_parent(name), "{asked:?}: {:#?}", self.model);
            self.model.names.insert(name.into(), file);
            assert!(self.model.files.insert(file, Content::default()).is_none(), "a number of two files");
            return;
        }
        assert_eq!(known, Some(file), "{asked:?} opened a stream of another file");
        assert!(!self.content(file).doomed, "{asked:?} opened a stream of what is being deleted");
    }

    /// The file that was opened or made: whether that could be.
    fn enter_file(&mut self, asked: &Create, (file, directory): (Number, bool), action: u32) {
        let known = self.model.names.get(asked.name).copied();
        if action == action::CREATED {
            assert!(known.is_none() && self.model.has_parent(asked.name), "{asked:?}: {:#?}", self.model);
            assert!(!matches!(asked.disposition, disposition::OPEN | disposition::OVERWRITE));
            self.model.names.insert(asked.name.into(), file);
            let content = Content { directory, ..Content::default() };
            assert!(self.model.files.insert(file, content).is_none(), "a number of two files");
            if !asked.name.contains(':') {
                self.model.tell(asked.name, change_notify::action::ADDED);
            }
            return;
        }
        assert_eq!(known, Some(file), "{asked:?} opened another file");
        let content = self.content(file);
        assert_eq!(content.directory, directory);
        assert!(!content.doomed, "{asked:?} opened what is being deleted");
        if action != action::OPENED {
            content.data.clear();
            self.model.clear_streams(file);
        }
    }

    /// What a new open may cache.
    fn cached(&mut self, held: &Held, response: &create::Response<'_>) -> Option<Holder> {
        if response.oplock_level != oplock::LEASE {
            let state = of_level(response.oplock_level);
            let holder = Holder::Open(held.id.volatile);
            if state == 0 {
                return None;
            }
            self.model.caches.insert(holder, granted(held.file, state, 0));
            return Some(holder);
        }
        let lease = Lease::decode(response.contexts.find(context::RQLS).unwrap()).unwrap();
        let holder = Holder::Lease(held.client, lease.key[0]);
        let epoch = lease.v2.unwrap().epoch;
        self.epochs.insert(holder, epoch);
        let cache = self.model.caches.entry(holder).or_insert_with(|| granted(held.file, 0, epoch));
        assert_eq!(cache.file, held.file, "one lease for two files");
        (cache.state, cache.epoch) = (lease.state, epoch);
        let breaking = lease.flags & LEASE_FLAG_BREAK_IN_PROGRESS != 0;
        // One whose notification is still on its way may be told of here first.
        assert!(breaking || cache.breaking.is_none(), "a break of {holder:?} is under way");
        Some(holder)
    }

    fn explains_create(&self, at: usize, asked: &Create, status: Status) -> bool {
        let model = &self.model;
        let file = model.names.get(asked.name).copied();
        let client = self.links[at].guid;
        let replaces = matches!(asked.disposition, disposition::SUPERSEDE | disposition::OVERWRITE..);
        let needs = if replaces { access::WRITE_DATA } else { 0 };
        let directory = file.is_some_and(|file| model.files[&file].directory);
        let opens_by_guid =
            || model.opens.values().any(|held| held.guid == asked.guid && held.client == client);
        // A replay that differs from the first CREATE: its lease, or the name of a leased file.
        let differs = [Status::OBJECT_NAME_NOT_FOUND, Status::INVALID_PARAMETER, Status::ACCESS_DENIED];
        if asked.replay && opens_by_guid() && differs.contains(&status) {
            return true;
        }
        let base = model.names.get(super::model::base(asked.name)).copied();
        match status {
            Status::SHARING_VIOLATION => file.is_some_and(|file| {
                model.conflicts(file, 0, asked.access | needs, asked.share)
                    || model.barred_by_streams(file, asked.access | needs)
            }),
            Status::DELETE_PENDING => file.into_iter().chain(base).any(|file| model.files[&file].doomed),
            Status::OBJECT_NAME_NOT_FOUND => {
                file.is_none() && matches!(asked.disposition, disposition::OPEN | disposition::OVERWRITE)
            }
            Status::OBJECT_PATH_NOT_FOUND => !model.has_parent(asked.name),
            Status::OBJECT_NAME_COLLISION => {
                file.is_some() && (asked.disposition == disposition::CREATE || directory && replaces)
            }
            Status::NOT_A_DIRECTORY => asked.directory && file.is_some() && !directory,
            Status::INVALID_PARAMETER => {
                let leased = asked.lease.and_then(|key| model.caches.get(&Holder::Lease(client, key)));
                let elsewhere = leased.is_some_and(|cache| Some(cache.file) != file);
                let deletes = asked.deletes && asked.access & access::DELETE == 0;
                elsewhere || deletes || asked.directory && replaces
            }
            Status::DUPLICATE_OBJECTID => asked.guid.is_some() && opens_by_guid(),
            Status::FILE_NOT_AVAILABLE => self.links.iter().any(|link| {
                link.guid == client
                    && link.asked.values().any(|other| {
                        matches!(other, Asked::Create(other) if other.guid.is_some() && other.guid == asked.guid)
                    })
            }),
            _ => false,
        }
    }

    fn taken_back(&mut self, at: usize, id: FileId, (name, timed_out): (&str, bool), status: Status) {
        let serial = self.links[at].serial;
        let file = self.model.names.get(name).copied();
        let Some(held) = self.model.opens.get_mut(&id.volatile) else {
            assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND, "{id:?} is closed");
            return;
        };
        if held.link.is_some() {
            assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND, "{held:?} has a connection");
            assert!(timed_out, "{held:?} may lose its connection soon");
            return;
        }
        // While the request was parked its file got another name, by which a leased one is to be known.
        if matches!(held.holder, Some(Holder::Lease(..))) && file != Some(held.file) {
            return assert_eq!(status, Status::INVALID_PARAMETER, "{held:?} is not {name}");
        }
        assert_eq!(status, Status::SUCCESS, "{held:?} waits for its client");
        held.link = Some(serial);
    }

    fn was_read(&mut self, at: usize, id: FileId, (offset, length): (u64, u64), message: &Message) {
        let status = message.status();
        let Some(held) = self.held(at, id) else {
            return assert_eq!(status, Status::FILE_CLOSED);
        };
        let content = &self.model.files[&held.file];
        if content.directory {
            return assert_eq!(status, Status::INVALID_DEVICE_REQUEST);
        }
        if held.access & (access::READ_DATA | access::EXECUTE) == 0 {
            return assert_eq!(status, Status::ACCESS_DENIED);
        }
        if self.model.io_barred(&held, offset, length, false) {
            return assert_eq!(status, Status::FILE_LOCK_CONFLICT);
        }
        let from = (offset as usize).min(content.data.len());
        let to = (from + length as usize).min(content.data.len());
        if from == to {
            return assert_eq!(status, Status::END_OF_FILE);
        }
        assert_eq!(status, Status::SUCCESS, "{held:?}");
        assert_eq!(read::Response::decode(&message.0).unwrap().data, &content.data[from..to], "{held:?}");
    }

    fn was_written(&mut self, at: usize, id: FileId, offset: u64, data: &[u8], status: Status) {
        let Some(held) = self.changeable(at, id, status, Status::INVALID_DEVICE_REQUEST) else { return };
        if self.model.io_barred(&held, offset, data.len() as u64, true) {
            return assert_eq!(status, Status::FILE_LOCK_CONFLICT);
        }
        assert_eq!(status, Status::SUCCESS, "{held:?}");
        self.model.opens.get_mut(&id.volatile).unwrap().wrote = true;
        let (from, to) = (offset as usize, offset as usize + data.len());
        let content = &mut self.content(held.file).data;
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(data);
    }

    /// Names came and went: what is told must be what is due.
    fn was_told(&mut self, at: usize, id: FileId, message: &Message) {
        let status = message.status();
        let Some(held) = self.held(at, id) else {
            return assert!(matches!(status, Status::FILE_CLOSED | Status::NOTIFY_CLEANUP), "{status}");
        };
        let content = &self.model.files[&held.file];
        if !content.directory {
            return assert_eq!(status, Status::INVALID_PARAMETER);
        }
        if held.access & access::LIST_DIRECTORY == 0 {
            return assert_eq!(status, Status::ACCESS_DENIED);
        }
        if content.doomed {
            return assert_eq!(status, Status::DELETE_PENDING);
        }
        assert_eq!(status, Status::SUCCESS, "{held:?}");
        let data = change_notify::Response::decode(&message.0).unwrap().data;
        let due = &mut self.model.watches.get_mut(&id.volatile).expect("a watch").due;
        for (action, name) in change_notify::decode_events(data).unwrap() {
            let name = name.decode().unwrap();
            if action == change_notify::action::MODIFIED || name.contains(':') {
                continue; // of these only that they are told about what is there is known
            }
            let told = due.iter().position(|due| *due == (action, name.clone()));
            due.remove(told.unwrap_or_else(|| panic!("{action} {name} to {held:?}, and not {due:?}")));
        }
        assert!(due.is_empty(), "{held:?} was not told {due:?}");
    }

    fn was_locked(&mut self, at: usize, id: FileId, lock: Lock, waits: bool, status: Status) {
        let Some(held) = self.held(at, id) else {
            // It was parked when its open went, or there never was one.
            return assert!(matches!(status, Status::FILE_CLOSED | Status::RANGE_NOT_LOCKED), "{status}");
        };
        if self.content(held.file).directory {
            return assert_eq!(status, Status::INVALID_PARAMETER, "directories have no locks");
        }
        if self.model.lock_barred(&lock) {
            assert!(!waits, "{lock:?} was not waited for");
            return assert_eq!(status, Status::LOCK_NOT_GRANTED);
        }
        assert_eq!(status, Status::SUCCESS, "{lock:?} in {:#?}", self.model.locks);
        self.model.locks.push(lock);
    }

    fn was_unlocked(&mut self, at: usize, id: FileId, lock: Lock, status: Status) {
        let Some(held) = self.held(at, id) else {
            return assert_eq!(status, Status::FILE_CLOSED);
        };
        if self.content(held.file).directory {
            return assert_eq!(status, Status::INVALID_PARAMETER, "directories have no locks");
        }
        let same = |held: &Lock, exclusive: bool| *held == Lock { exclusive, ..lock };
        let locks = &mut self.model.locks;
        let found = locks.iter().position(|held| same(held, true));
        match found.or_else(|| locks.iter().position(|held| same(held, false))) {
            Some(at) => {
                assert_eq!(status, Status::SUCCESS);
                locks.remove(at);
            }
            None => assert_eq!(status, Status::RANGE_NOT_LOCKED),
        }
    }

    fn was_renamed(&mut self, at: usize, id: FileId, to: &str, replace: bool, status: Status) {
        let Some(held) = self.held(at, id) else {
            return assert_eq!(status, Status::FILE_CLOSED);
        };
        let model = &self.model;
        if model.files[&held.file].stream_of.is_some() {
            // To a path: no stream goes there.
            let may = held.access & access::DELETE != 0;
            return assert_eq!(status, if may { Status::SHARING_VIOLATION } else { Status::ACCESS_DENIED });
        }
        let from = model.name_of(held.file).unwrap().to_owned();
        let target = model.names.get(to).copied().filter(|file| *file != held.file);
        let open = |file: Number| model.is_open(file);
        let streams = model.has_open_streams(held.file);
        let below = model.below(&from);
        if status == Status::SUCCESS {
            let may = held.access & access::DELETE != 0
                && model.has_parent(to)
                && !streams
                && below.iter().all(|(_, file)| !open(*file))
                && target.is_none_or(|file| replace && !open(file) && !model.files[&file].directory);
            assert!(may, "{held:?} became {to}: {model:#?}");
            return self.model.rename(held.file, to);
        }
        let directory = model.files[&held.file].directory;
        let parent = model.names.get(super::model::parent(to));
        let explained = match status {
            Status::OBJECT_NAME_COLLISION => target.is_some() && !replace,
            Status::OBJECT_PATH_NOT_FOUND => !model.has_parent(to),
            Status::SHARING_VIOLATION => parent.is_some_and(|parent| {
                let share = create::share_access::READ | create::share_access::WRITE;
                model.conflicts(*parent, 0, access::ADD_FILE, share)
            }),
            Status::ACCESS_DENIED => {
                held.access & access::DELETE == 0
                    || directory && to.starts_with(&format!("{from}\\"))
                    || streams
                    || below.iter().any(|(_, file)| open(*file))
                    || target.is_some_and(|file| open(file) || directory || model.files[&file].directory)
            }
            _ => false,
        };
        assert!(explained, "{status} to a rename of {held:?} to {to}: {model:#?}");
    }

    fn was_deleted(&mut self, at: usize, id: FileId, delete: bool, status: Status) {
        let Some(held) = self.held(at, id) else {
            return assert_eq!(status, Status::FILE_CLOSED);
        };
        if held.access & access::DELETE == 0 {
            return assert_eq!(status, Status::ACCESS_DENIED);
        }
        let name = self.model.name_of(held.file).unwrap_or("?"); // a stream whose file was overwritten
        if delete && !self.model.below(name).is_empty() {
            return assert_eq!(status, Status::DIRECTORY_NOT_EMPTY);
        }
        assert_eq!(status, Status::SUCCESS, "{held:?}");
        self.content(held.file).doomed = delete;
    }

    fn told_to_break(&mut self, at: usize, message: &Message) {
        if message.0[64..66] == LEASE_NOTIFICATION {
            let told = LeaseNotification::decode(&message.0).unwrap();
            let holder = Holder::Lease(self.links[at].guid, told.key[0]);
            let Some(cache) = self.model.caches.get_mut(&holder) else { return };
            let newer = told.new_epoch.wrapping_sub(cache.epoch);
            if newer > 0x7FFF {
                return; // of before the last answer
            }
            cache.epoch = told.new_epoch;
            self.epochs.insert(holder, told.new_epoch);
            if told.flags & LEASE_BREAK_ACK_REQUIRED == 0 {
                cache.state = told.new_state;
            } else {
                // Told again where the connection that it was first sent on was lost: nothing new in it, and nothing to do
                // where it was acknowledged meanwhile.
                if newer == 0 && cache.breaking.is_none() && told.current_state != cache.state {
                    return;
                }
                let known = cache.breaking.is_none_or(|before| newer == 0 && before == told.new_state);
                assert!(known && told.current_state == cache.state, "{told:?} to {cache:?}");
                cache.breaking = Some(told.new_state);
            }
            return;
        }
        let Ok(Break::Oplock(told)) = Break::decode(&message.0) else { panic!("a break of neither kind") };
        let Some(cache) = self.model.caches.get_mut(&Holder::Open(told.file_id.volatile)) else { return };
        let to = of_level(told.level);
        if cache.breaking == Some(to) {
            return; // told again, where the channel that it was told on is lost
        }
        assert_eq!(cache.breaking, None, "an oplock breaks once");
        if cache.state == LEASE_READ {
            cache.state = to;
        } else {
            cache.breaking = Some(to);
        }
    }

    fn acknowledged(&mut self, holder: Holder, state: u32, status: Status) {
        let Some(cache) = self.model.caches.get_mut(&holder) else {
            // It did not go far enough, and the next break found nobody but opens whose client is away.
            return assert_eq!(status, Status::SUCCESS);
        };
        let told = cache.breaking.expect("a break");
        if let Holder::Lease(..) = holder
            && state & !told != 0
        {
            return assert_eq!(status, Status::REQUEST_NOT_ACCEPTED);
        }
        assert_eq!(status, Status::SUCCESS, "the break of {holder:?} was acknowledged");
        (cache.state, cache.breaking) = (state & told, None);
        if let (Holder::Open(id), 0) = (holder, cache.state) {
            self.model.caches.remove(&holder);
            self.model.opens.get_mut(&id).unwrap().holder = None;
        }
    }
}
