//! Sequences of operations on several connections of two clients, over a directory share, without sockets: after each step,
//! what the clients were answered is held against a model of what must be. The proptest `tests/sequences.rs` and the fuzz
//! target `sequences` both drive it.
//!
//! Checked: no panic; each request is answered exactly once, or parked and answered later; nothing is parked when what it
//! waits for is gone; no status that the model can't explain; opens, locks and caches that may not stand beside each other never
//! do; clients and server agree on who caches what; who watches is told of names that come and go; data read is data written; in the end no table keeps anything, and the
//! directory on disk is the model's.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // as in `desk`

mod answers;
mod model;
mod requests;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use importfs::smb::oplock::{Asker, LeaseKey};

use self::model::{Cache, Content, Holder, Lock, Model};
use self::requests::Asked;
use self::step::{Action, STEP_BYTES, STEPS_MAX, Step};
use crate::desk::{Client, Desk, Message};

/// Connections at once: two of each client, so that a client may be back before its loss is seen, or have two channels.
const LINKS_MAX: usize = 4;
/// Rounds of signals after which nothing may be left to do.
const ROUNDS_MAX: usize = 10_000;

/// A connection: a channel of a session, and what was asked on it.
struct Link {
    /// Its session's.
    serial: u64,
    client: Client,
    /// Which of the two clients.
    guid: u8,
    /// Requests that have no answer yet, by MessageId.
    asked: BTreeMap<u64, Asked>,
    /// Those of them that were told to be pending: their interim responses.
    parked: BTreeMap<u64, Message>,
    /// Its session has logged off.
    ended: bool,
}

/// The server, its clients, and what must be true.
struct World {
    desk: Desk,
    links: Vec<Link>,
    model: Model,
    /// Lease epochs as the clients know them.
    epochs: BTreeMap<Holder, u16>,
    /// Named streams, by their file's number and their own: numbers of the model.
    streams: BTreeMap<(u64, String), u64>,
    next_serial: u64,
    next_guid: u32,
    next_fill: u8,
    /// Steps and answers are printed.
    shows: bool,
}

/// Runs the sequence that `input` spells. Panics where anything is wrong.
pub fn run(input: &[u8]) {
    let mut world = World::new();
    let (steps, _) = input.as_chunks::<STEP_BYTES>();
    for bytes in steps.iter().take(STEPS_MAX) {
        let step = Step::decode(*bytes);
        if world.shows {
            eprintln!("{step:?}");
        }
        world.step(step);
        world.tables_agree();
        if step.settles {
            world.settle();
        }
    }
    // Either every client does what it still has to, or all are gone at once.
    if steps.len().is_multiple_of(2) {
        world.finish_all();
    }
    world.leave();
}

impl World {
    fn new() -> Self {
        let desk = Desk::new();
        std::fs::create_dir(desk.directory.path().join("d")).unwrap();
        let mut world = Self {
            desk,
            links: Vec::new(),
            model: Model::default(),
            epochs: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_serial: 0,
            next_guid: 0,
            next_fill: 0,
            shows: std::env::var_os("SEQUENCES_SHOW").is_some(),
        };
        let number = number_of(&world.desk.directory.path().join("d"));
        world.model.names.insert("d".into(), number);
        world.model.files.insert(number, Content { directory: true, ..Content::default() });
        world.connect(1);
        world.connect(2);
        world
    }

    fn connect(&mut self, guid: u8) {
        self.next_serial += 1;
        let client = self.desk.client(guid, "user");
        let (asked, parked) = (BTreeMap::new(), BTreeMap::new());
        self.links.push(Link { serial: self.next_serial, client, guid, asked, parked, ended: false });
    }

    /// One more channel of a connection's session.
    fn bind(&mut self, at: usize) {
        let Link { serial, guid, client, ended, .. } = &self.links[at];
        if *ended {
            return;
        }
        let client = self.desk.channel(&client.session, client.tree);
        let (serial, guid, asked, parked) = (*serial, *guid, BTreeMap::new(), BTreeMap::new());
        self.links.push(Link { serial, client, guid, asked, parked, ended: false });
    }

    fn step(&mut self, step: Step) {
        let at = usize::from(step.link) % self.links.len();
        match step.action {
            Action::NewLink if self.links.len() < LINKS_MAX && step.a & 0x40 != 0 => self.bind(at),
            Action::NewLink if self.links.len() < LINKS_MAX => self.connect(1 + step.a % 2),
            Action::NewLink | Action::Settle => self.settle(),
            Action::Lose => self.lose(at),
            Action::Cancel => self.cancel(at, step),
            Action::Expire => self.expire(at, step),
            _ => {
                self.ask(at, step);
                if self.links[at].ended {
                    self.lose(at);
                }
            }
        }
    }

    /// The connection is cut; its client connects anew if that was its last one.
    fn lose(&mut self, at: usize) {
        self.settle(); // what the client believes is what the server decides by
        self.cancel_creates(at);
        let link = self.links.remove(at);
        let guid = link.guid;
        self.cut(link);
        if self.links.iter().all(|other| other.guid != guid || other.ended) {
            self.connect(guid);
        }
    }

    /// A CREATE with a GUID goes on when its channel is lost, and its answer is sent to nobody: what it comes to is left to tests of
    /// replays, and cancelled here.
    fn cancel_creates(&mut self, at: usize) {
        let link = &mut self.links[at];
        let goes_on = |id: &&u64| matches!(&link.asked[*id], Asked::Create(create) if create.guid.is_some());
        let ids: Vec<_> = link.parked.keys().filter(goes_on).copied().collect();
        for id in ids {
            let link = &mut self.links[at];
            let Some(interim) = link.parked.get(&id).map(|interim| Message(interim.0.clone())) else {
                continue;
            };
            link.client.send_cancel(&interim);
            self.settle();
        }
    }

    /// A session goes with its last channel; until then, only what waits on a lost one is forgotten.
    fn cut(&mut self, link: Link) {
        let Link { serial, client, .. } = link;
        let own: Vec<_> =
            self.model.opens.values().filter(|held| held.link == Some(serial)).cloned().collect();
        client.lose();
        if self.links.iter().all(|other| other.serial != serial) {
            return self.left(&own);
        }
        for held in own {
            let there = self.desk.server.opens.by_id(held.id.volatile).is_some();
            assert!(there, "{held:?} went with one of its session's channels");
        }
    }

    /// The session of these opens has ended: which of them wait for their client, and whether those are the right ones.
    fn left(&mut self, opens: &[model::Held]) {
        let is_directory =
            |held: &&model::Held| self.model.files.get(&held.file).is_some_and(|content| content.directory);
        let (directories, others): (Vec<_>, Vec<_>) = opens.iter().partition(is_directory);
        let directories: Vec<_> = directories.into_iter().cloned().collect();
        let emptied: Vec<_> = directories.iter().map(|held| held.file).collect();
        for held in directories.iter().chain(others) {
            let waits = self.desk.server.opens.by_id(held.id.volatile).is_some();
            let may = self.model.outlives(held);
            assert!(may || !waits, "{held:?} waits for its client");
            assert!(waits || !may || self.is_undone(held, opens), "{held:?} does not wait for its client");
            if waits {
                self.model.opens.get_mut(&held.id.volatile).unwrap().link = None;
            } else {
                self.model.close(held.id.volatile);
            }
        }
        // In which order they were closed is the server's: a directory that was deleted after what was in it is gone, one before stays.
        for file in emptied {
            let Some(name) = self.model.name_of(file).map(str::to_owned) else { continue };
            let there = self.desk.directory.path().join(name.replace('\\', "/")).exists();
            if !there && !self.model.is_open(file) && self.model.below(&name).is_empty() {
                self.model.remove(file);
            }
        }
    }

    /// Whether another open of the same session, closed first, deletes the file, or deletes or has written something in the leased
    /// directory.
    fn is_undone(&self, held: &model::Held, opens: &[model::Held]) -> bool {
        let directory = self.model.name_of(held.file).unwrap_or_default();
        opens.iter().any(|other| {
            let deletes = other.deletes || self.model.files.get(&other.file).is_none_or(|file| file.doomed);
            let inside = self.model.name_of(other.file).is_none_or(|name| model::parent(name) == directory);
            other.id != held.id && (deletes && other.file == held.file || (deletes || other.wrote) && inside)
        })
    }

    /// Opens whose clients are away may be closed at any time: by a break that nobody can be told of.
    fn notice_closed(&mut self) {
        self.notice_closed_but(&[]);
    }

    /// The same, but for opens of these files.
    fn notice_closed_but(&mut self, files: &[u64]) {
        let away =
            self.model.opens.values().filter(|held| held.link.is_none() && !files.contains(&held.file));
        let gone: Vec<_> = away
            .map(|held| held.id.volatile)
            .filter(|id| self.desk.server.opens.by_id(*id).is_none())
            .collect();
        gone.into_iter().for_each(|id| self.model.close(id));
    }

    fn cancel(&mut self, at: usize, step: Step) {
        let link = &mut self.links[at];
        let Some(id) = pick(link.parked.keys(), step.which) else { return };
        let interim = Message(link.parked[&id].0.clone());
        link.client.send_cancel(&interim);
        if step.settles {
            self.settle();
            assert!(!self.links[at].asked.contains_key(&id), "a cancelled request has no answer");
        }
    }

    /// The time of a parked request is over; LOCKs and watches have none.
    fn expire(&mut self, at: usize, step: Step) {
        let link = &mut self.links[at];
        let timed = link
            .parked
            .keys()
            .filter(|id| !matches!(link.asked[id], Asked::Lock { .. } | Asked::Watch { .. }));
        let Some(id) = pick(timed, step.which) else { return };
        let interim = Message(link.parked[&id].0.clone());
        if let Asked::TakeBack { timed_out, .. } = link.asked.get_mut(&id).unwrap() {
            *timed_out = true;
        }
        let sent = link.client.expire(&interim);
        sent.into_iter().for_each(|message| self.receive(at, &message));
    }

    /// Does all that signals ask for, until nothing is left to do; then what clients believe is what the server has.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut idle = true;
            for at in 0..self.links.len() {
                if let Some(sent) = self.links[at].client.poll_one() {
                    idle = false;
                    sent.iter().for_each(|message| self.receive(at, message));
                }
            }
            if idle {
                self.notice_closed();
                self.tables_agree();
                self.caches_agree();
                self.nobody_waits_for_nothing();
                self.model.check();
                return;
            }
        }
        panic!("signals without end");
    }

    fn tables_agree(&mut self) {
        self.notice_closed();
        let server: BTreeSet<_> =
            self.desk.server.opens.select(|_| true).iter().map(|open| open.id.volatile).collect();
        let model: BTreeSet<_> = self.model.opens.keys().copied().collect();
        assert_eq!(server, model, "the opens that there are");
        assert_eq!(self.desk.server.opens.len(), model.len(), "their count");
        for link in &self.links {
            let parked = link.client.connection.parked.lock().unwrap().len();
            assert_eq!(parked, link.asked.len(), "requests without an answer: {:?}", link.asked);
            assert!(link.asked.keys().eq(link.parked.keys()), "each of them was told to be pending");
        }
    }

    fn caches_agree(&self) {
        for held in self.model.opens.values() {
            let open = self.desk.server.opens.by_id(held.id.volatile).unwrap();
            let server = open.entry.with_oplocks(|caches| caches.granted_to(open.asker()));
            let cache = held.holder.and_then(|holder| self.model.caches.get(&holder));
            let believed = cache.map_or((0, false), |cache| (cache.state, cache.breaking.is_some()));
            assert_eq!(
                (server.state, server.breaking),
                believed,
                "what {held:?} caches, and the client believes"
            );
        }
    }

    /// Every request that still waits has a reason to.
    fn nobody_waits_for_nothing(&self) {
        let model = &self.model;
        for link in &self.links {
            for asked in link.asked.values() {
                let reason = match asked {
                    Asked::Lock { lock, .. } => {
                        model.lock_barred(lock) && model.opens.contains_key(&lock.open)
                    }
                    Asked::Watch { id } => model.watches.get(&id.volatile).is_some_and(|watch| {
                        watch.due.is_empty() && !model.files[&model.opens[&id.volatile].file].doomed
                    }),
                    // What it waits for may have another name by now, or lie below a directory that was closed.
                    Asked::Create(_) | Asked::Rename { .. } => {
                        model.caches.values().any(|cache| cache.breaking.is_some())
                    }
                    Asked::TakeBack { id, .. } => {
                        model.opens.get(&id.volatile).is_some_and(|held| held.link.is_some())
                    }
                    Asked::Delete { id, .. } => {
                        model.opens.get(&id.volatile).is_some_and(|held| model.is_breaking(held.file))
                    }
                    _ => false,
                };
                assert!(reason, "{asked:?} waits for nothing: {model:#?}");
            }
        }
    }

    /// Every client acknowledges and closes what it has: then nothing may wait any more.
    fn finish_all(&mut self) {
        self.settle();
        while let Some(holder) = self.broken() {
            self.acknowledge_as_told(holder);
            self.settle();
        }
        let own: Vec<_> = self.model.opens.values().filter_map(|held| Some((held.link?, held.id))).collect();
        for (serial, id) in own {
            let at = self.links.iter().position(|link| link.serial == serial).unwrap();
            if self.model.opens.contains_key(&id.volatile) {
                self.close(at, id);
            }
            self.settle();
            while let Some(holder) = self.broken() {
                self.acknowledge_as_told(holder);
                self.settle();
            }
        }
        // Opens that a request which waited has made meanwhile are left to `leave`.
        for link in &self.links {
            let asked: Vec<_> =
                link.asked.values().filter(|asked| !matches!(asked, Asked::TakeBack { .. })).collect();
            let made = self.model.opens.values().any(|held| held.link.is_some());
            assert!(made || asked.is_empty(), "nothing is open, and these wait: {asked:?}");
        }
    }

    fn broken(&self) -> Option<Holder> {
        let mut caches = self.model.caches.iter();
        caches.find(|(_, cache)| cache.breaking.is_some()).map(|(holder, _)| *holder)
    }

    /// Both clients go and never come back: nothing is left of them.
    fn leave(mut self) {
        self.settle();
        let used: Vec<_> = self.model.opens.values().map(|held| held.file).collect();
        let server = self.desk.server.clone();
        let keys: Vec<_> = server.opens.select(|_| true).iter().map(|open| open.entry.key.clone()).collect();
        assert_eq!(keys.len(), used.len());
        while let Some(last) = self.links.len().checked_sub(1) {
            self.cancel_creates(last);
            let link = self.links.remove(last);
            self.cut(link);
            self.settle(); // what it closed breaks others' caches
        }
        let unsure = self.emptied_directories();
        server.scavenge(Instant::now() + Duration::from_hours(1));
        self.notice_closed();
        assert!(server.opens.is_empty() && self.model.opens.is_empty(), "every open is closed");
        assert!(self.model.locks.is_empty() && self.model.caches.is_empty());
        assert!(keys.iter().all(|key| server.opens.entry(key).is_none()), "no file is remembered");
        assert!(server.opens.directories.is_idle() && server.notify.is_idle());
        assert_eq!((server.session_count(), server.waiting()), (0, 0), "sessions and requests that wait");
        for client in [1, 2] {
            let lease = |key| LeaseKey { client: [client; 16], key: [key; 16] };
            assert!((0..=u8::MAX).all(|key| server.opens.leased(lease(key)).is_none()), "no lease is kept");
            let guids = (0..=self.next_guid).map(guid_bytes);
            assert!(guids.into_iter().all(|guid| server.opens.guids.open_of([client; 16], guid).is_none()));
        }
        self.disk_agrees(&unsure);
    }

    /// Directories that are to be deleted with opens that wait for their client: of those that run out of time at once, some may
    /// be deleted in them only after their turn, and then they stay.
    fn emptied_directories(&self) -> BTreeSet<String> {
        let deleted = |file: &u64| {
            let content = &self.model.files[file];
            content.directory && (content.doomed || self.model.opens_of(*file).any(|held| held.deletes))
        };
        self.model.names.iter().filter(|(_, file)| deleted(file)).map(|(name, _)| name.clone()).collect()
    }

    fn disk_agrees(&self, unsure: &BTreeSet<String>) {
        let mut found = BTreeMap::new();
        walk(self.desk.directory.path(), "", &mut found);
        found.retain(|name, _| !unsure.contains(name));
        // Streams lie in a hidden directory of their own.
        let (streams, files): (Vec<_>, Vec<_>) = self.model.names.keys().partition(|name| name.contains(':'));
        let (area, mut stored) = (self.desk.directory.path().join(".importfs-streams"), BTreeMap::new());
        if area.exists() {
            walk(&area, "", &mut stored);
        }
        let stored = stored.values().filter_map(Option::as_ref).count();
        assert!(!unsure.is_empty() || stored == streams.len(), "{stored} streams on disk, and {streams:?}");
        let names: Vec<_> = files.into_iter().filter(|name| !unsure.contains(*name)).collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), names, "the names on disk");
        for (name, data) in found {
            let content = &self.model.files[&self.model.names[&name]];
            assert_eq!(data.unwrap_or_default(), content.data, "what is in {name}");
        }
    }

    /// What the model calls a stream: no file of a disk has as high a number.
    fn number_of_stream(&mut self, file: u64, stream: &str) -> u64 {
        let next = u64::MAX - self.streams.len() as u64;
        *self.streams.entry((file, stream.to_owned())).or_insert(next)
    }

    fn asker(&self, holder: Holder) -> Asker {
        match holder {
            Holder::Open(open) => Asker { open, lease: None },
            Holder::Lease(client, key) => {
                Asker { open: 0, lease: Some(LeaseKey { client: [client; 16], key: [key; 16] }) }
            }
        }
    }

    fn lock_of(&self, id: u64, step: Step) -> Lock {
        let file = self.model.opens.get(&id).map_or(0, |held| held.file);
        let (offset, length) = (u64::from(step.b % 8) * 4, u64::from(step.b >> 3 & 7) * 3);
        Lock { file, open: id, offset, length, exclusive: step.a & 1 != 0 }
    }
}

/// The create GUID of that number.
fn guid_bytes(number: u32) -> [u8; 16] {
    let mut guid = [0xA5; 16];
    guid[..4].copy_from_slice(&number.to_le_bytes());
    guid
}

fn number_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().ino()
}

/// One of several, by a byte.
fn pick<T: Clone>(of: impl Iterator<Item = impl std::borrow::Borrow<T>>, by: u8) -> Option<T> {
    let all: Vec<T> = of.map(|one| one.borrow().clone()).collect();
    (!all.is_empty()).then(|| all[usize::from(by) % all.len()].clone())
}

fn walk(directory: &Path, prefix: &str, found: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if name == ".importfs-streams" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{name}\\"), found);
            found.insert(name, None);
        } else {
            found.insert(name, Some(std::fs::read(entry.path()).unwrap()));
        }
    }
}

/// A cache that was just granted.
fn granted(file: u64, state: u32, epoch: u16) -> Cache {
    Cache { file, state, epoch, breaking: None }
}
