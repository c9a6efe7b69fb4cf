//! What must be true of the server, told by what its clients were answered: names, data, opens, locks, caches. Knows nothing of
//! how the server keeps them.

use std::collections::{BTreeMap, BTreeSet};

use smb_proto::fscc::access;
use smb_proto::msg::FileId;
use smb_proto::msg::change_notify::action;
use smb_proto::msg::create::context::{LEASE_HANDLE, LEASE_WRITE};
use smb_proto::msg::create::share_access;

/// A file's number on its disk.
pub type Number = u64;

/// Who caches: an open by its volatile FileId, or a client's lease by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Open(u64),
    Lease(u8, u8),
}

/// An open as its client knows it.
#[derive(Debug, Clone)]
pub struct Held {
    pub id: FileId,
    /// The connection that it belongs to; `None` while its client is away.
    pub link: Option<u64>,
    pub client: u8,
    pub file: Number,
    pub access: u32,
    pub share: u32,
    pub deletes: bool,
    /// It has written data: its close breaks the lease on its directory.
    pub wrote: bool,
    pub durable: bool,
    pub guid: Option<u32>,
    pub holder: Option<Holder>,
}

/// A file.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub data: Vec<u8>,
    pub directory: bool,
    pub doomed: bool,
    /// The file that it is a named stream of.
    pub stream_of: Option<Number>,
}

/// A byte-range lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    pub file: Number,
    pub open: u64,
    pub offset: u64,
    pub length: u64,
    pub exclusive: bool,
}

impl Lock {
    fn meets(&self, offset: u64, length: u64) -> bool {
        self.offset < offset + length && offset < self.offset + self.length
    }
}

/// What a client believes that it may cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    pub file: Number,
    pub state: u32,
    pub epoch: u16,
    /// It was told to go down to this, and has not acknowledged it yet.
    pub breaking: Option<u32>,
}

/// What an open of a directory is to be told of names in it.
#[derive(Debug, Default)]
pub struct Watch {
    /// And below.
    pub tree: bool,
    /// What it was not told yet: actions with names as seen from the directory.
    pub due: Vec<(u32, String)>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Model {
    /// By the volatile FileId of the directory's open.
    pub watches: BTreeMap<u64, Watch>,
    pub opens: BTreeMap<u64, Held>,
    pub files: BTreeMap<Number, Content>,
    pub names: BTreeMap<String, Number>,
    pub locks: Vec<Lock>,
    pub caches: BTreeMap<Holder, Cache>,
}

/// The directory of a name; empty for the root.
pub fn parent(name: &str) -> &str {
    name.rsplit_once('\\').map_or("", |(parent, _)| parent)
}

/// The file of a stream's name.
pub fn base(name: &str) -> &str {
    name.split_once(':').map_or(name, |(base, _)| base)
}

/// Whether two opens can't stand beside each other (MS-FSA 2.1.5.1.2.2).
fn bars(one: (u32, u32), other: (u32, u32)) -> bool {
    const KINDS: [(u32, u32); 3] = [
        (access::READ_DATA | access::EXECUTE, share_access::READ),
        (access::WRITE_DATA | access::APPEND_DATA, share_access::WRITE),
        (access::DELETE, share_access::DELETE),
    ];
    let uses = |open: (u32, u32)| KINDS.iter().any(|(bits, _)| open.0 & bits != 0);
    let barred = |user: (u32, u32), owner: (u32, u32)| {
        KINDS.iter().any(|(bits, share)| user.0 & bits != 0 && owner.1 & share == 0)
    };
    uses(one) && uses(other) && (barred(one, other) || barred(other, one))
}

impl Model {
    pub fn opens_of(&self, file: Number) -> impl Iterator<Item = &Held> {
        self.opens.values().filter(move |held| held.file == file)
    }

    /// Whether an open of the file, `own` aside, can't stand beside that access and sharing.
    pub fn conflicts(&self, file: Number, own: u64, access: u32, share: u32) -> bool {
        self.opens_of(file)
            .any(|held| held.id.volatile != own && bars((held.access, held.share), (access, share)))
    }

    /// Whether an open of one of the file's streams keeps it from being opened for deletion (MS-FSA 2.1.5.1.2).
    pub fn barred_by_streams(&self, file: Number, access: u32) -> bool {
        let bars = |held: &Held| self.is_stream_of(held.file, file) && held.share & share_access::DELETE == 0;
        access & access::DELETE != 0 && self.opens.values().any(bars)
    }

    pub fn is_stream_of(&self, stream: Number, file: Number) -> bool {
        self.files.get(&stream).is_some_and(|content| content.stream_of == Some(file))
    }

    /// Whether the file or one of its streams is open.
    pub fn is_open(&self, file: Number) -> bool {
        self.opens.values().any(|held| held.file == file || self.is_stream_of(held.file, file))
    }

    pub fn has_open_streams(&self, file: Number) -> bool {
        self.opens.values().any(|held| self.is_stream_of(held.file, file))
    }

    /// The file is emptied, replaced or deleted: its streams are gone, but for who has them open.
    pub fn clear_streams(&mut self, file: Number) {
        let streams: Vec<_> =
            self.files.keys().copied().filter(|stream| self.is_stream_of(*stream, file)).collect();
        for stream in streams {
            self.names.retain(|_, number| *number != stream);
            if self.opens_of(stream).next().is_some() {
                self.files.get_mut(&stream).unwrap().doomed = true;
            } else {
                self.files.remove(&stream);
            }
        }
    }

    /// Whether the directory of that name is there.
    pub fn has_parent(&self, name: &str) -> bool {
        let parent = parent(name);
        parent.is_empty() || self.names.get(parent).is_some_and(|file| self.files[file].directory)
    }

    pub fn name_of(&self, file: Number) -> Option<&str> {
        self.names.iter().find(|(_, number)| **number == file).map(|(name, _)| name.as_str())
    }

    /// A client begins to watch by an open, unless it does already.
    pub fn watch(&mut self, id: u64, tree: bool) {
        let held = self.opens.get(&id).filter(|held| held.access & access::LIST_DIRECTORY != 0);
        if held.is_some_and(|held| self.files[&held.file].directory) {
            self.watches.entry(id).or_insert(Watch { tree, due: Vec::new() });
        }
    }

    /// A name came or went: who watches its directory, or the tree above, is to be told.
    pub fn tell(&mut self, name: &str, action: u32) {
        for (id, watch) in &mut self.watches {
            let file = self.opens[id].file;
            let Some((directory, _)) = self.names.iter().find(|(_, number)| **number == file) else {
                continue;
            };
            let inside = name.strip_prefix(directory.as_str()).and_then(|rest| rest.strip_prefix('\\'));
            if let Some(inside) = inside.filter(|inside| watch.tree || !inside.contains('\\')) {
                watch.due.push((action, inside.to_owned()));
            }
        }
    }

    /// What lies below a directory.
    pub fn below(&self, directory: &str) -> Vec<(String, Number)> {
        let prefix = format!("{directory}\\");
        let inside = self.names.iter().filter(|(name, _)| name.starts_with(&prefix));
        inside.map(|(name, file)| (name.clone(), *file)).collect()
    }

    /// Whether a lock of the file keeps that open from locking there.
    pub fn lock_barred(&self, new: &Lock) -> bool {
        self.locks.iter().any(|held| {
            let agrees = match (held.exclusive, new.exclusive) {
                (false, false) => true,
                (true, false) => held.open == new.open,
                (_, true) => false,
            };
            held.file == new.file && !agrees && held.meets(new.offset, new.length)
        })
    }

    /// Whether a lock of the file keeps that open from reading or writing there.
    pub fn io_barred(&self, open: &Held, offset: u64, length: u64, write: bool) -> bool {
        self.locks.iter().any(|held| {
            let own = held.open == open.id.volatile;
            let bars = if write { !own || !held.exclusive } else { !own && held.exclusive };
            held.file == open.file && bars && held.meets(offset, length)
        })
    }

    /// Whether a break of a cache of that file waits for its acknowledgement.
    pub fn is_breaking(&self, file: Number) -> bool {
        self.caches.values().any(|cache| cache.file == file && cache.breaking.is_some())
    }

    /// Whether an open would wait for its client, should that lose its connection (MS-SMB2 3.3.7.1).
    pub fn outlives(&self, held: &Held) -> bool {
        let cache = held.holder.and_then(|holder| self.caches.get(&holder));
        let guarded = cache.is_some_and(|cache| {
            let locked = self.locks.iter().any(|lock| lock.open == held.id.volatile);
            cache.state & LEASE_HANDLE != 0
                && cache.breaking.is_none()
                && (cache.state & LEASE_WRITE != 0 || !locked)
        });
        held.durable && guarded && !self.files[&held.file].doomed
    }

    /// An open is gone, and with the last one a file that is to be deleted.
    pub fn close(&mut self, id: u64) {
        self.watches.remove(&id);
        let held = self.opens.remove(&id).expect("an open");
        self.locks.retain(|lock| lock.open != id);
        if let Some(holder) = held.holder
            && self.opens.values().all(|other| other.holder != Some(holder))
        {
            self.caches.remove(&holder);
        }
        let name = self.name_of(held.file).map(str::to_owned);
        let full = name.is_some_and(|name| !self.below(&name).is_empty());
        let file = self.files.get_mut(&held.file).expect("its file");
        file.doomed |= held.deletes;
        let (doomed, base) = (file.doomed, file.stream_of);
        if doomed && !self.is_open(held.file) {
            if full {
                self.files.get_mut(&held.file).unwrap().doomed = false; // a directory that is not empty stays
                return;
            }
            self.remove(held.file);
        }
        // A file that was to be deleted waited for its streams.
        if let Some(base) = base
            && self.files.get(&base).is_some_and(|file| file.doomed)
            && !self.is_open(base)
        {
            let name = self.name_of(base).unwrap_or_default();
            if self.below(name).is_empty() {
                self.remove(base);
            } else {
                self.files.get_mut(&base).unwrap().doomed = false;
            }
        }
    }

    /// Takes a file out, as its deletion does.
    pub fn remove(&mut self, file: Number) {
        if let Some(name) = self.name_of(file).filter(|name| !name.contains(':')).map(str::to_owned) {
            self.tell(&name, action::REMOVED);
        }
        self.replace(file);
    }

    /// It is gone, and nobody is told.
    fn replace(&mut self, file: Number) {
        self.clear_streams(file);
        self.files.remove(&file);
        self.names.retain(|_, number| *number != file);
    }

    /// A file has another name, and with it all that is below.
    pub fn rename(&mut self, file: Number, to: &str) {
        let from = self.name_of(file).expect("a name").to_owned();
        if from == to {
            return;
        }
        if let Some(replaced) = self.names.remove(to) {
            assert!(!self.is_open(replaced), "an open file was replaced");
            self.replace(replaced);
        }
        let streams = self.names.iter().filter(|(name, _)| base(name) == from && **name != from);
        let streams: Vec<_> = streams.map(|(name, number)| (name.clone(), *number)).collect();
        for (name, below) in self.below(&from).into_iter().chain(streams) {
            self.names.remove(&name);
            self.names.insert(format!("{to}{}", &name[from.len()..]), below);
        }
        self.names.remove(&from);
        self.names.insert(to.to_owned(), file);
        let stays = parent(&from) == parent(to);
        self.tell(&from, if stays { action::RENAMED_OLD_NAME } else { action::REMOVED });
        self.tell(to, if stays { action::RENAMED_NEW_NAME } else { action::ADDED });
    }

    /// What can't be, whatever was asked: opens that bar one another, locks that overlap, two who cache for writing.
    pub fn check(&self) {
        for held in self.opens.values() {
            let alone = !self.conflicts(held.file, held.id.volatile, held.access, held.share);
            assert!(alone, "two opens that bar each other: {held:?} in {:#?}", self.opens);
        }
        for (at, lock) in self.locks.iter().enumerate() {
            let others = self.locks[..at].iter().filter(|other| other.file == lock.file);
            let clash = others.clone().any(|other| {
                other.open != lock.open
                    && (other.exclusive || lock.exclusive)
                    && other.meets(lock.offset, lock.length)
            });
            assert!(!clash, "overlapping locks: {:#?}", self.locks);
        }
        for file in self.files.keys() {
            let caching = || self.caches.values().filter(|cache| cache.file == *file && cache.state != 0);
            let writes = caching().any(|cache| cache.state & LEASE_WRITE != 0);
            assert!(!writes || caching().count() == 1, "a writer's cache beside another: {:#?}", self.caches);
        }
        let known: BTreeSet<_> = self.names.values().collect();
        assert_eq!(known.len(), self.names.len(), "a file of two names: {:#?}", self.names);
    }
}
