//! Sequences of operations of two clients on an import share, without sockets, with a datastore that fails and a service that is
//! killed: after each step, what the clients were answered is held against a model of what must be. The proptest
//! `tests/import_sequences.rs` and the fuzz target `import_sequences` both drive it.
//!
//! Checked: no panic; no status that the model can't explain, and each refusal of a session in its import.log; data read is data
//! written; a disk that the service calls whole has, byte for byte, what its clients were told had gone well, on the datastore, and
//! nothing of it that failed; what was told to be durable is there after a kill; `.cfg.err` is there as long as something is wrong;
//! nothing of others is touched; what deleted sessions left is known as orphans; in the end every directory can be restored from the
//! start, and when all are deleted nothing is kept.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // as in `desk`

mod agree;
mod differentials;
mod directories;
mod extents;
mod model;
mod requests;
mod small;
mod step;
mod store;
mod texts;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use importfs::datastore::Datastore;
use importfs::disk::Options;
use importfs::import::{DatastoreEntry, Engine, EngineSettings, Hypervisor};
use importfs::share::import::ImportShare;
use smb_proto::msg::oplock_break::{self, Request as Break};
use smb_proto::{Command, Status};

use self::model::{GRAIN, Model};
use self::step::{Action, STEP_BYTES, STEPS_MAX, Step};
use self::store::Troubles;
use crate::desk::{Client, Desk, Message};

/// Connections at once: two of each client.
const LINKS_MAX: usize = 4;
/// Rounds of signals after which nothing may be left to do.
const ROUNDS_MAX: usize = 1000;
/// MessageId of what answers no request.
const UNASKED: u64 = u64::MAX;

/// A connection and its session.
struct Link {
    serial: u64,
    guid: u8,
    client: Client,
}

/// A service that runs.
struct Service {
    desk: Desk,
    engine: Arc<Engine>,
}

/// The service, its clients, and what must be true.
struct World {
    links: Vec<Link>,
    service: Option<Service>,
    troubles: Arc<Troubles>,
    model: Model,
    /// An operation on the datastore failed within the present request.
    struck: bool,
    /// The service was killed within the present step.
    dead: bool,
    /// It was, ever.
    restarted: bool,
    /// A CFG that was closed when the datastore failed, and the session's serial.
    asked: Option<(u64, Option<texts::Cfg>)>,
    /// The datastore's directories before the present step.
    directories: BTreeSet<String>,
    last_serial: u64,
    last_fill: u8,
    /// Steps and answers are printed.
    shows: bool,
    root: tempfile::TempDir,
}

/// Runs the sequence that `input` spells. Panics where anything is wrong.
pub fn run(input: &[u8]) {
    let mut world = World::new();
    let (steps, rest) = input.as_chunks::<STEP_BYTES>();
    for bytes in steps.iter().take(STEPS_MAX) {
        let step = Step::decode(*bytes);
        if world.shows {
            eprintln!("{step:?}");
        }
        world.troubles.set(step.trouble);
        world.step(step);
        world.troubles.set(None);
        if world.dead {
            world.restart();
        }
        world.agree();
    }
    world.finish(rest.first().copied().unwrap_or(input.len() as u8));
}

fn hypervisors(store: Arc<dyn Datastore>) -> Vec<Hypervisor> {
    let datastores = vec![DatastoreEntry { name: "ds1".into(), uuid: None, store, written: None }];
    vec![Hypervisor { name: "local".into(), aliases: Vec::new(), datastores, inventory: None }]
}

impl Service {
    fn start(root: &Path, troubles: &Arc<Troubles>) -> Self {
        let (hold_below, window) = (GRAIN, 4 * GRAIN as u64);
        let disk_options = Options { grain: GRAIN as u64, hold_below, window, ..Options::default() };
        let settings = EngineSettings::new(root.join("data"), hypervisors(troubles.datastore()));
        let engine = Arc::new(Engine::new(EngineSettings { disk_options, ..settings }).unwrap());
        let share = ImportShare::new(Arc::clone(&engine), "import");
        Self { desk: Desk::over(tempfile::tempdir().unwrap(), Arc::new(share)), engine }
    }
}

impl World {
    fn new() -> Self {
        // What a kill leaves does not depend on fsync, so that a sequence need not wait for a disk.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let taken = root.path().join("ds").join(texts::TAKEN);
        std::fs::create_dir_all(&taken).unwrap();
        std::fs::write(taken.join("theirs"), agree::THEIRS).unwrap();
        let troubles = Troubles::new(root.path());
        let service = Some(Service::start(root.path(), &troubles));
        let mut world = Self {
            links: Vec::new(),
            service,
            troubles,
            model: Model::default(),
            struck: false,
            dead: false,
            restarted: false,
            asked: None,
            directories: BTreeSet::from([texts::TAKEN.to_owned()]),
            last_serial: 0,
            last_fill: 0,
            shows: std::env::var_os("SEQUENCES_SHOW").is_some(),
            root,
        };
        world.connect(1);
        world.connect(2);
        world
    }

    fn serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    fn connect(&mut self, guid: u8) {
        let (serial, client) = (self.serial(), self.service().desk.client(guid, "user"));
        self.links.push(Link { serial, guid, client });
    }

    fn step(&mut self, step: Step) {
        let at = usize::from(step.link) % self.links.len();
        match step.action {
            Action::Next => self.next(at, step),
            Action::Make => self.make(at, step.directory()),
            Action::Remove => self.remove(at, step.directory()),
            Action::Move => self.rename(at, step),
            Action::Cfg => self.copy_cfg(at, step),
            Action::Open => self.open_any(at, step),
            Action::Descriptor | Action::Vmx | Action::Beside => self.copy_small(at, step),
            Action::Differential => self.copy_differential(at, step),
            Action::Delete => self.delete_any(at, step),
            Action::Lose if step.a & 0x40 != 0 && self.links.len() < LINKS_MAX => {
                self.connect(1 + step.a % 2);
            }
            Action::Lose => self.lose(at),
            Action::TakeBack => self.take_back(at, step),
            Action::Expire => self.expire(),
            Action::Restart => {
                self.troubles.kill();
                self.troubles.take_killed();
                self.dead = true;
            }
            _ => self.use_open(at, step),
        }
    }

    /// Sends a request; gives its answer. Clients answer breaks at once, so that no request stays parked.
    fn call(&mut self, at: usize, command: Command, encode: impl FnOnce(&mut Vec<u8>)) -> Message {
        self.struck = false;
        let sent = self.links[at].client.request(command, encode);
        let answer = self.settle(at, sent);
        if self.shows {
            eprintln!(
                "    {at}: {command:?} {} {}",
                answer.status(),
                if self.struck { "(struck)" } else { "" }
            );
        }
        answer
    }

    fn settle(&mut self, at: usize, sent: Message) -> Message {
        let id = sent.header().message_id;
        let mut answer = (sent.status() != Status::PENDING).then_some(sent);
        for _ in 0..ROUNDS_MAX {
            let mut idle = true;
            for other in 0..self.links.len() {
                while let Some(messages) = self.links[other].client.poll_one() {
                    idle = false;
                    for message in messages {
                        if message.header().message_id == UNASKED {
                            self.acknowledge(other, &message);
                            continue;
                        }
                        assert!(other == at && message.header().message_id == id && answer.is_none());
                        answer = Some(message);
                    }
                }
            }
            if idle {
                self.look();
                self.notice_closed();
                return answer.expect("an answer");
            }
        }
        panic!("signals without end");
    }

    /// Whether the datastore failed, or the service was killed.
    fn look(&mut self) {
        self.struck |= self.troubles.take_struck();
        self.dead |= self.troubles.take_killed();
    }

    fn acknowledge(&mut self, at: usize, message: &Message) {
        let Ok(Break::Oplock(told)) = Break::decode(&message.0) else { panic!("a break of an oplock") };
        let Some(held) = self.model.opens.get_mut(&told.file_id.volatile) else { return };
        held.durable = false;
        if !std::mem::take(&mut held.batch) {
            return; // from level II to none: nothing is to be said to that
        }
        let request = Break::Oplock(oplock_break::Oplock { level: told.level, file_id: told.file_id });
        let answer = self.links[at].client.request(Command::OPLOCK_BREAK, |out| request.encode(out));
        assert_eq!(answer.status(), Status::SUCCESS);
    }

    /// Opens whose clients are away may be closed at any time: by a break that nobody can be told of.
    fn notice_closed(&mut self) {
        if self.dead {
            return;
        }
        let away = self.model.opens.values().filter(|held| held.link.is_none());
        let ids: Vec<_> = away.map(|held| held.id.volatile).collect();
        for id in ids {
            if self.service().desk.server.opens.by_id(id).is_none() {
                self.closed(id, false, Status::SUCCESS);
            }
        }
    }

    /// The connection is cut; its client connects anew if that was its last one.
    fn lose(&mut self, at: usize) {
        let link = self.links.remove(at);
        let own: Vec<_> =
            self.model.opens.values().filter(|held| held.link == Some(link.serial)).cloned().collect();
        self.struck = false;
        link.client.lose();
        self.look();
        for held in own {
            let waits = self.service().desk.server.opens.by_id(held.id.volatile).is_some();
            let doomed = self.stored(&held).is_some_and(|stored| stored.doomed);
            assert_eq!(waits, held.durable && !doomed, "whether {held:?} waits for its client");
            if waits {
                self.model.opens.get_mut(&held.id.volatile).unwrap().link = None;
            } else {
                self.closed(held.id.volatile, false, Status::SUCCESS);
            }
        }
        if !self.dead && self.links.iter().all(|other| other.guid != link.guid) {
            self.connect(link.guid);
        }
    }

    /// Those who are away don't come back.
    fn expire(&mut self) {
        self.struck = false;
        self.service().desk.server.scavenge(Instant::now() + Duration::from_hours(1));
        self.look();
        self.notice_closed();
        let away = self.model.opens.values().filter(|held| held.link.is_none()).count();
        assert!(self.dead || away == 0, "nobody waits for ever");
    }

    /// The service was killed, and starts with what it had left.
    fn restart(&mut self) {
        self.links.clear();
        self.service = None; // what it does at its end, a kill leaves undone: it is dead to the datastore, and its data not looked at
        let (data, left) = (self.root.path().join("data"), self.root.path().join("left"));
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(left, data).unwrap();
        self.service = Some(Service::start(self.root.path(), &self.troubles));
        (self.dead, self.struck, self.restarted) = (false, false, true);
        self.connect(1);
        self.connect(2);
        self.survived();
    }
}
