//! Who watches which directory, and what has happened there since (MS-SMB2 3.3.5.19, MS-FSA 2.1.5.11): a table without
//! input or output, told of changes by [`super::changes`].
//!
//! A watch belongs to an open and begins with its first CHANGE_NOTIFY, which settles filter, depth and room for as long as
//! the open lives. Between two requests the changes are kept; where they outgrow the room, the client is told to list the
//! directory again. Directories are known by their path in a share: a change is looked up at its parent and at each
//! directory above, so that it costs the depth of the path, and not the number of watches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smb_proto::Status;
use smb_proto::msg::change_notify::{action, encode_events};
use smb_proto::utf16;

use super::share::SharePath;

/// Bytes kept for one watch, as they would be answered: what Windows' clients ask for at most.
pub const WATCH_BYTES_MAX: usize = 64 << 10;
/// Bytes kept for all watches: past that, whoever watches lists again.
pub const BYTES_MAX: usize = 64 << 20;
/// Watches at once: some Explorer windows for each of a thousand users. Each change in a directory goes to all of its watches.
pub const WATCHES_MAX: usize = 16_384;
/// A change before its name: next offset, action, length of the name (MS-FSCC 2.7.1).
const EVENT_HEADER: usize = 12;

/// Tells one share from another.
pub type ShareId = usize;

/// What a CHANGE_NOTIFY asks to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// CompletionFilter.
    pub filter: u32,
    /// Changes further down too.
    pub tree: bool,
    /// Bytes that its answer may have.
    pub room: usize,
}

/// One change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What changed: a file, directory or stream.
    pub path: &'a SharePath,
    /// Action (MS-FSCC 2.7.1).
    pub action: u32,
    /// The bits of CompletionFilter that it answers to.
    pub filter: u32,
}

/// What has happened since a watch was last asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Happened {
    /// Nothing: wait.
    Nothing,
    /// These changes, encoded.
    Changes(Vec<u8>),
    /// More than there was room for.
    TooMuch,
}

struct Watch {
    share: ShareId,
    /// Folded.
    path: Vec<String>,
    interest: Interest,
    events: Vec<(u32, String)>,
    bytes: usize,
    overflowed: bool,
}

#[derive(Default)]
struct State {
    /// By the open's volatile FileId.
    watches: HashMap<u64, Watch>,
    /// Watches of each directory, by its folded path.
    places: HashMap<ShareId, HashMap<Vec<String>, Vec<u64>>>,
    /// Bytes of all events kept.
    bytes: usize,
}

/// All watches of a server.
#[derive(Default)]
pub struct NotifyTable {
    /// How many there are: 0 lets changes pass without the mutex.
    count: AtomicUsize,
    state: Mutex<State>,
}

impl Watch {
    /// Keeps a change, within `spare` bytes of all that this watch keeps.
    fn push(&mut self, action: u32, name: String, spare: usize) {
        let again = |last: &(u32, String)| last.0 == action && last.1 == name;
        if self.overflowed || action == action::MODIFIED && self.events.last().is_some_and(again) {
            return; // of two equal modifications in a row one says it all
        }
        let bytes = (EVENT_HEADER + utf16::len(&name)).next_multiple_of(4);
        if self.bytes + bytes > self.interest.room.min(spare) {
            (self.overflowed, self.bytes) = (true, 0);
            self.events = Vec::new();
            return;
        }
        self.bytes += bytes;
        self.events.push((action, name));
    }
}

/// How directories are compared: names that clients give may differ by case from those stored.
fn fold(path: &[String]) -> Vec<String> {
    path.iter().map(|name| name.to_lowercase()).collect()
}

/// The name of what changed, as seen from a directory `depth` components down.
fn relative(path: &SharePath, depth: usize) -> String {
    let mut name = path.components[depth..].join("\\");
    if let Some(stream) = &path.stream {
        name.push(':');
        name.push_str(stream);
    }
    name
}

impl NotifyTable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody watches anything.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Begins a watch of the directory `path` for an open, unless that has one already.
    pub fn watch(
        &self,
        open: u64,
        share: ShareId,
        path: &[String],
        interest: Interest,
    ) -> Result<(), Status> {
        let mut state = self.state();
        if state.watches.contains_key(&open) {
            return Ok(());
        }
        if state.watches.len() >= WATCHES_MAX {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let interest = Interest { room: interest.room.min(WATCH_BYTES_MAX), ..interest };
        let path = fold(path);
        state.places.entry(share).or_default().entry(path.clone()).or_default().push(open);
        let (events, bytes, overflowed) = (Vec::new(), 0, false);
        state.watches.insert(open, Watch { share, path, interest, events, bytes, overflowed });
        self.count.store(state.watches.len(), Ordering::Release);
        Ok(())
    }

    /// Takes what has happened; it is told once. `room`: bytes of this answer.
    pub fn take(&self, open: u64, room: usize) -> Happened {
        let mut state = self.state();
        let Some(watch) = state.watches.get_mut(&open) else { return Happened::Nothing };
        if std::mem::take(&mut watch.overflowed) {
            return Happened::TooMuch;
        }
        if watch.events.is_empty() {
            return Happened::Nothing;
        }
        let (events, bytes) = (std::mem::take(&mut watch.events), std::mem::take(&mut watch.bytes));
        state.bytes -= bytes;
        drop(state);
        let events = events.iter().map(|(action, name)| (*action, name.as_str()));
        encode_events(events, room).map_or(Happened::TooMuch, Happened::Changes)
    }

    /// Enters changes that belong together, and gives the opens whose watches saw any.
    pub fn report(&self, share: ShareId, changes: &[Change<'_>]) -> Vec<u64> {
        let mut told = Vec::new();
        let mut state = self.state();
        let State { watches, places, bytes } = &mut *state;
        let Some(places) = places.get(&share) else { return told };
        for change in changes {
            let components = fold(&change.path.components);
            for depth in 0..components.len() {
                for open in places.get(&components[..depth]).into_iter().flatten() {
                    let Some(watch) = watches.get_mut(open) else { continue };
                    let near = depth + 1 == components.len();
                    if watch.interest.filter & change.filter == 0 || !(near || watch.interest.tree) {
                        continue;
                    }
                    *bytes -= watch.bytes;
                    watch.push(change.action, relative(change.path, depth), BYTES_MAX - *bytes);
                    *bytes += watch.bytes;
                    told.push(*open);
                }
            }
        }
        told.sort_unstable();
        told.dedup();
        told
    }

    /// The opens that watch this very directory.
    pub fn watchers(&self, share: ShareId, path: &[String]) -> Vec<u64> {
        let state = self.state();
        state.places.get(&share).and_then(|places| places.get(&fold(path))).cloned().unwrap_or_default()
    }

    /// A directory has another name: the watches of it and of all below go with it.
    pub fn moved(&self, share: ShareId, from: &[String], to: &[String]) {
        let (from, to) = (fold(from), fold(to));
        let mut state = self.state();
        let State { watches, places, .. } = &mut *state;
        let Some(places) = places.get_mut(&share) else { return };
        let below: Vec<_> = places.keys().filter(|path| path.starts_with(&from)).cloned().collect();
        for old in below {
            let new: Vec<_> = to.iter().chain(&old[from.len()..]).cloned().collect();
            let opens = places.remove(&old).unwrap_or_default();
            for open in &opens {
                if let Some(watch) = watches.get_mut(open) {
                    watch.path.clone_from(&new);
                }
            }
            places.entry(new).or_default().extend(opens);
        }
    }

    /// The open is closed: its watch is over.
    pub fn forget(&self, open: u64) {
        if self.is_idle() {
            return;
        }
        let mut state = self.state();
        let Some(watch) = state.watches.remove(&open) else { return };
        state.bytes -= watch.bytes;
        if let Some(places) = state.places.get_mut(&watch.share) {
            if let Some(opens) = places.get_mut(&watch.path) {
                opens.retain(|other| *other != open);
                if opens.is_empty() {
                    places.remove(&watch.path);
                }
            }
            if places.is_empty() {
                state.places.remove(&watch.share);
            }
        }
        self.count.store(state.watches.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use smb_proto::msg::change_notify::{decode_events, filter};

    use super::*;

    const ALL: Interest = Interest { filter: u32::MAX, tree: true, room: 4096 };

    fn at(path: &str) -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn report(table: &NotifyTable, action: u32, filter: u32, path: &str) -> Vec<u64> {
        let path = SharePath { components: at(path), stream: None };
        table.report(1, &[Change { path: &path, action, filter }])
    }

    fn taken(table: &NotifyTable, open: u64) -> Vec<(u32, String)> {
        match table.take(open, 4096) {
            Happened::Nothing => Vec::new(),
            Happened::TooMuch => vec![(0, "?".into())],
            Happened::Changes(data) => decode_events(&data)
                .unwrap()
                .into_iter()
                .map(|(action, name)| (action, name.decode().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn changes_go_to_the_directory_and_to_trees_above() {
        let table = NotifyTable::default();
        table.watch(1, 1, &at(""), Interest { tree: false, ..ALL }).unwrap();
        table.watch(2, 1, &at(""), ALL).unwrap();
        table.watch(3, 1, &at("a/b"), Interest { tree: false, ..ALL }).unwrap();
        table.watch(4, 2, &at("a/b"), ALL).unwrap(); // another share
        table.watch(5, 1, &at("a/b"), Interest { filter: filter::DIR_NAME, ..ALL }).unwrap();
        let mut told = report(&table, action::ADDED, filter::FILE_NAME, "a/b/c");
        told.sort_unstable();
        assert_eq!(told, [2, 3]);
        assert_eq!(taken(&table, 2), [(action::ADDED, "a\\b\\c".into())]);
        assert_eq!(taken(&table, 3), [(action::ADDED, "c".into())]);
        assert_eq!(taken(&table, 3), [], "told once");
        assert_eq!(report(&table, action::MODIFIED, filter::SIZE, "a"), [1, 2]);
        assert_eq!(report(&table, action::MODIFIED, filter::SIZE, "a/b"), [2], "not its own directory's");
    }

    #[test]
    fn the_first_request_settles_what_is_watched() {
        let table = NotifyTable::default();
        table.watch(1, 1, &[], Interest { filter: filter::SIZE, ..ALL }).unwrap();
        table.watch(1, 1, &[], ALL).unwrap();
        assert!(report(&table, action::ADDED, filter::FILE_NAME, "a").is_empty());
    }

    #[test]
    fn what_outgrows_the_room_is_to_be_listed() {
        let table = NotifyTable::default();
        table.watch(1, 1, &[], Interest { room: 32, ..ALL }).unwrap();
        report(&table, action::ADDED, 1, "aa");
        report(&table, action::ADDED, 1, "bb");
        assert_eq!(taken(&table, 1).len(), 2);
        for name in ["aa", "bb", "cc"] {
            report(&table, action::ADDED, 1, name);
        }
        assert_eq!(table.take(1, 4096), Happened::TooMuch);
        assert_eq!(table.take(1, 4096), Happened::Nothing);
        report(&table, action::ADDED, 1, "aa");
        assert_eq!(table.take(1, 4), Happened::TooMuch, "no room in this answer");
        assert_eq!(table.state().bytes, 0);
    }

    #[test]
    fn equal_modifications_in_a_row_are_one() {
        let table = NotifyTable::default();
        table.watch(1, 1, &[], ALL).unwrap();
        for name in ["a", "a", "b", "a"] {
            report(&table, action::MODIFIED, filter::SIZE, name);
        }
        assert_eq!(taken(&table, 1).len(), 3);
    }

    #[test]
    fn watches_go_with_their_directory_and_end_with_their_open() {
        let table = NotifyTable::default();
        table.watch(1, 1, &at("a/b"), ALL).unwrap();
        table.moved(1, &at("a"), &at("x/y"));
        assert_eq!(report(&table, action::ADDED, 1, "x/Y/b/f"), [1]);
        assert!(report(&table, action::ADDED, 1, "a/b/f").is_empty());
        assert_eq!(table.watchers(1, &at("x/y/b")), [1]);
        table.forget(1);
        assert!(table.is_idle());
        let state = table.state();
        assert!(state.places.is_empty() && state.watches.is_empty() && state.bytes == 0);
    }

    #[test]
    fn watches_and_their_bytes_are_bounded() {
        let table = NotifyTable::default();
        for open in 0..WATCHES_MAX as u64 {
            table.watch(open, 1, &[], Interest { room: usize::MAX, ..ALL }).unwrap();
        }
        assert_eq!(table.watch(u64::MAX, 1, &[], ALL), Err(Status::INSUFFICIENT_RESOURCES));
        let name = "n".repeat(255);
        for i in 0..20 {
            report(&table, action::ADDED, 1, &format!("{i}/{name}"));
        }
        let state = table.state();
        assert!(state.bytes <= BYTES_MAX);
        assert_eq!(state.bytes, state.watches.values().map(|watch| watch.bytes).sum::<usize>());
        assert!(state.watches.values().any(|watch| watch.overflowed));
    }

    /// What may happen to a table: by opens 0 to 5, on paths of the names a and b.
    #[derive(Debug, Clone)]
    enum Step {
        Watch(u64, String, usize),
        Report(String),
        Take(u64),
        Move(String, String),
        Forget(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (open, path) = (0..6_u64, "[abAB](/[ab]){0,3}");
        prop_oneof![
            (open.clone(), path, 0..200_usize).prop_map(|(open, path, room)| Step::Watch(open, path, room)),
            path.prop_map(Step::Report),
            open.clone().prop_map(Step::Take),
            (path, path).prop_map(|(from, to)| Step::Move(from, to)),
            open.prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_books_are_right(steps in prop::collection::vec(step(), 0..60)) {
            let table = NotifyTable::default();
            for step in steps {
                match step {
                    Step::Watch(open, path, room) => {
                        table.watch(open, 1, &at(&path), Interest { room, ..ALL }).unwrap();
                    }
                    Step::Report(path) => drop(report(&table, action::ADDED, 1, &path)),
                    Step::Take(open) => drop(table.take(open, 4096)),
                    Step::Move(from, to) => table.moved(1, &at(&from), &at(&to)),
                    Step::Forget(open) => table.forget(open),
                }
                let state = table.state();
                prop_assert_eq!(state.bytes, state.watches.values().map(|watch| watch.bytes).sum::<usize>());
                prop_assert!(state.watches.values().all(|watch| watch.bytes <= watch.interest.room));
                prop_assert_eq!(table.count.load(Ordering::Acquire), state.watches.len());
                // Each watch is found at its path, and nothing else is there.
                let placed = state.places.values().flatten().map(|(_, opens)| opens.len()).sum::<usize>();
                prop_assert_eq!(placed, state.watches.len());
                for (open, watch) in &state.watches {
                    prop_assert!(state.places[&watch.share][&watch.path].contains(open));
                }
            }
        }
    }
}
