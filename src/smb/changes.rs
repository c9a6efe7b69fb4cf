//! What clients do to files, told to those who watch (MS-FSA 2.1.5.11): which action and which bits of CompletionFilter an
//! operation is. Who watches is in [`super::notify`]; without any watch nothing here costs more than a look at a counter.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use smb_proto::msg::change_notify::{action, filter};

use super::notify::{Change, ShareId};
use super::open::Open;
use super::request::WakeKey;
use super::server::{Server, ShareEntry};
use super::share::{BasicChange, OwnChange, SharePath};

/// Milliseconds between two reports of the writes of one open: a copy of gigabytes is told of once a second.
const WRITES_EVERY_MS: u64 = 1000;
/// What a write changes.
const WRITTEN: u32 = filter::SIZE | filter::LAST_WRITE;

/// What an open has done to its file that is not told yet.
#[derive(Default)]
pub struct Untold {
    /// When its writes were told last, in milliseconds; 0 is never.
    at: AtomicU64,
    writes: AtomicBool,
    renamed: AtomicBool,
    /// It has written, which nobody has heard of who has its directory listed.
    unlisted: AtomicBool,
}

impl Untold {
    /// It has written; whether that is to be told now.
    fn wrote(&self, now_ms: u64) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        let due = at == 0 || now_ms.saturating_sub(at) >= WRITES_EVERY_MS;
        if due {
            self.at.store(now_ms.max(1), Ordering::Relaxed);
        }
        self.writes.store(!due, Ordering::Relaxed);
        due
    }
}

fn now_ms() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Tells a share from others for as long as the server lives.
pub fn share_id(entry: &Arc<ShareEntry>) -> ShareId {
    Arc::as_ptr(entry).addr()
}

/// The same change of a stream (MS-FSCC 2.7.1, MS-SMB2 2.2.35).
fn of_stream(action: u32, bits: u32) -> (u32, u32) {
    let action = match action {
        action::ADDED => action::ADDED_STREAM,
        action::REMOVED => action::REMOVED_STREAM,
        action::MODIFIED => action::MODIFIED_STREAM,
        other => other,
    };
    let pairs = [
        (filter::FILE_NAME | filter::DIR_NAME, filter::STREAM_NAME),
        (filter::SIZE, filter::STREAM_SIZE),
        (filter::LAST_WRITE, filter::STREAM_WRITE),
    ];
    (action, pairs.iter().filter(|(file, _)| bits & file != 0).fold(0, |all, (_, stream)| all | stream))
}

fn change(path: &SharePath, action: u32, filter: u32) -> Change<'_> {
    let (action, filter) = if path.stream.is_some() { of_stream(action, filter) } else { (action, filter) };
    Change { path, action, filter }
}

impl Server {
    /// Whether no one watches or caches any directory.
    fn nobody_cares(&self) -> bool {
        self.notify.is_idle() && self.opens.directories.is_idle()
    }

    fn tell_watchers(&self, share: ShareId, changes: &[Change<'_>]) {
        for watcher in self.notify.report(share, changes) {
            self.wake(&WakeKey::Open(watcher));
        }
    }

    /// Tells who watches, and who caches the directories that the changes are in.
    fn tell(&self, open: &Open, changes: &[Change<'_>]) {
        self.tell_watchers(share_id(&open.share), changes);
        self.tell_listers(open, changes);
    }

    /// Who caches a directory lists it again.
    fn tell_listers(&self, open: &Open, changes: &[Change<'_>]) {
        if self.opens.directories.is_idle() {
            return;
        }
        let share = share_id(&open.share);
        for (_, parent) in changes.iter().filter_map(|change| change.path.components.split_last()) {
            for directory in self.opens.directories.at(share, parent) {
                self.send_breaks(directory.change_entries(open.parent_lease));
            }
        }
    }

    /// Has every share tell of what it changes by itself.
    pub(super) fn observe_shares(self: &Arc<Self>) {
        for entry in &self.settings.shares {
            let (server, share) = (Arc::downgrade(self), share_id(entry));
            entry.share.observe(Box::new(move |path, change| {
                if let Some(server) = server.upgrade() {
                    server.told_own(share, path, change);
                }
            }));
        }
    }

    fn told_own(&self, share: ShareId, path: &SharePath, own: OwnChange) {
        if self.notify.is_idle() {
            return;
        }
        let (action, bits) = match own {
            OwnChange::Added => (action::ADDED, filter::FILE_NAME),
            OwnChange::Removed => (action::REMOVED, filter::FILE_NAME),
            OwnChange::Modified => (action::MODIFIED, WRITTEN),
        };
        self.tell_watchers(share, &[change(path, action, bits)]);
    }

    /// An open's file was made.
    pub fn told_added(&self, open: &Open) {
        if !self.nobody_cares() {
            self.tell(open, &[change(&open.file.path(), action::ADDED, open.name_filter())]);
        }
    }

    /// A file has another name (FileLinkInformation).
    pub fn told_linked(&self, open: &Open, to: &SharePath) {
        if !self.nobody_cares() {
            self.tell(open, &[change(to, action::ADDED, filter::FILE_NAME)]);
        }
    }

    /// Something about a file was changed: the bits of CompletionFilter that say what.
    pub fn told_modified(&self, open: &Open, bits: u32) {
        if bits != 0 && !self.nobody_cares() {
            self.tell(open, &[change(&open.file.path(), action::MODIFIED, bits)]);
        }
    }

    /// FileBasicInformation was set.
    pub fn told_basic(&self, open: &Open, new: &BasicChange) {
        let bits = [
            (new.attributes.is_some(), filter::ATTRIBUTES),
            (new.created.is_some(), filter::CREATION),
            (new.accessed.is_some(), filter::LAST_ACCESS),
            (new.written.is_some(), filter::LAST_WRITE),
        ];
        self.told_modified(open, bits.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit));
    }

    /// The size was set.
    pub fn told_resized(&self, open: &Open) {
        self.told_modified(open, WRITTEN);
    }

    /// A file was emptied by a CREATE.
    pub fn told_overwritten(&self, open: &Open) {
        self.told_modified(open, WRITTEN | filter::ATTRIBUTES);
    }

    /// Data was written: watchers are told at once the first time, then every second, and at the close; who caches the directory
    /// only at the close, as by Windows: a copy breaks its lease once, not again each time that it was listed meanwhile.
    pub fn told_written(&self, open: &Open) {
        if self.nobody_cares() {
            return;
        }
        open.untold.unlisted.store(true, Ordering::Relaxed);
        if open.untold.wrote(now_ms()) {
            let path = open.file.path();
            self.tell_watchers(share_id(&open.share), &[change(&path, action::MODIFIED, WRITTEN)]);
        }
    }

    /// A file was `from` and has its present name now: within a directory one change, else two.
    pub fn told_renamed(&self, open: &Open, from: &SharePath) {
        if self.nobody_cares() {
            return;
        }
        let to = open.file.path();
        if *from == to {
            return; // its own name: no name came or went
        }
        if open.file.is_directory() {
            self.notify.moved(share_id(&open.share), &from.components, &to.components);
            self.opens.directories.moved(share_id(&open.share), &from.components, &to.components);
        } else {
            open.untold.renamed.store(true, Ordering::Relaxed);
        }
        let parent = |path: &SharePath| path.components.split_last().map(|(_, parent)| parent.to_vec());
        let stays = parent(from) == parent(&to);
        let (old, new) = if stays {
            (action::RENAMED_OLD_NAME, action::RENAMED_NEW_NAME)
        } else {
            (action::REMOVED, action::ADDED)
        };
        let bits = open.name_filter();
        self.tell(open, &[change(from, old, bits), change(&to, new, bits)]);
    }

    /// A directory is about to go: whoever watches it is told so (DELETE_PENDING).
    pub fn told_deleting(&self, open: &Open) {
        if self.nobody_cares() || !open.file.is_directory() || !open.entry.delete_pending() {
            return;
        }
        for watcher in self.notify.watchers(share_id(&open.share), &open.file.path().components) {
            self.wake(&WakeKey::Open(watcher));
        }
    }

    /// Where an open's file is before it is closed, for [`Server::told_closed`]: asked for only where somebody may be told.
    pub fn place_of(&self, open: &Open) -> SharePath {
        if self.nobody_cares() { SharePath::default() } else { open.file.path() }
    }

    /// An open was closed; `was` is where its file was before. Its own watch is over.
    pub fn told_closed(&self, open: &Open, was: &SharePath) {
        self.notify.forget(open.id.volatile);
        if open.base.as_ref().is_some_and(|base| base.take_deleted()) {
            let file = SharePath { stream: None, ..was.clone() };
            self.tell(open, &[change(&file, action::REMOVED, open.name_filter())]);
        }
        if open.entry.take_deleted() {
            self.tell(open, &[change(was, action::REMOVED, open.name_filter())]);
            return;
        }
        self.told_deleting(open);
        let mut bits = 0;
        if open.untold.writes.swap(false, Ordering::Relaxed) {
            bits |= WRITTEN;
        }
        // A rename marks a file as changed since its last backup, which its last close tells (as NTFS does).
        if open.untold.renamed.swap(false, Ordering::Relaxed) {
            bits |= filter::ATTRIBUTES;
        }
        if open.untold.unlisted.swap(false, Ordering::Relaxed) && bits == 0 {
            self.tell_listers(open, &[change(was, action::MODIFIED, WRITTEN)]);
        }
        self.told_modified(open, bits);
    }
}
