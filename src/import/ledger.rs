//! What a session made on datastores and has not given back, as a running service knows it; the journal holds the same.
//!
//! An object is noted before it is made, and by what its datastore recognises it after. So a path alone is never taken for
//! the object: somebody may have put another there since.

use std::io;

use super::plan::Plan;
use crate::datastore::Datastore;
use crate::journal::fold::{self, Object};
use crate::journal::{LedgerKey, Record};

/// Whose an object is that lies at a path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The one that this session made.
    Ours,
    /// This session was about to make one there, or its datastore can't tell two objects apart.
    Unknown,
    /// None of this session's, or nothing is there.
    NotOurs,
}

/// What the ledger has of an object, whatever is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made<'l> {
    /// This session made it; by this it is recognised.
    Known(&'l str),
    /// It made it, or was about to, and nothing is known to recognise it by.
    Unknown,
    /// Nothing.
    Not,
}

/// The objects of a session.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// With what each is recognised by, once that is known.
    objects: Vec<(LedgerKey, Option<String>)>,
}

impl Ledger {
    /// What the records of a journal leave. `hypervisor` is that of keys without one: of a version that had one for all objects
    /// of a session.
    pub(super) fn of(records: &[Record], hypervisor: &str) -> Self {
        let whole = |mut object: Object| {
            if object.key.hypervisor.is_empty() {
                hypervisor.clone_into(&mut object.key.hypervisor);
            }
            (object.key, object.identity)
        };
        Self { objects: fold::objects(records).into_iter().map(whole).collect() }
    }

    /// It is about to be made. What was known of the one before does not hold for it.
    pub(super) fn note(&mut self, key: &LedgerKey) {
        self.strike(key);
        self.objects.push((key.clone(), None));
    }

    /// It was made, and is recognised by this.
    pub(super) fn recognise(&mut self, key: &LedgerKey, identity: &str) {
        if let Some((_, known)) = self.objects.iter_mut().find(|(object, _)| object == key) {
            *known = Some(identity.to_owned());
        }
    }

    /// It is gone, or is this session's no more.
    pub(super) fn strike(&mut self, key: &LedgerKey) {
        self.objects.retain(|(object, _)| object != key);
    }

    pub(super) fn contains(&self, key: &LedgerKey) -> bool {
        self.objects.iter().any(|(object, _)| object == key)
    }

    /// Whether the session made what a plan has at that path now, wherever it was then.
    pub(super) fn made(&self, plan: &Plan, datastore: &str, path: &str) -> Made<'_> {
        let find = |path: &str| {
            let key = plan.key(datastore, path);
            self.objects.iter().find(|(object, _)| *object == key)
        };
        let moved = || plan.swaps.iter().find_map(|swap| swap.other(datastore, path));
        match find(path).or_else(|| find(&moved()?)) {
            Some((_, Some(identity))) => Made::Known(identity),
            Some((_, None)) => Made::Unknown,
            None => Made::Not,
        }
    }

    /// Those of which nothing is known by which to recognise them: a kill may have come before they were made.
    pub(super) fn unknown(&self) -> Vec<LedgerKey> {
        self.objects.iter().filter(|(_, known)| known.is_none()).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Those of which `which` says so; it holds them no more.
    pub(super) fn take(&mut self, which: impl Fn(&LedgerKey) -> bool) -> Vec<LedgerKey> {
        self.objects.extract_if(.., |(key, _)| which(key)).map(|(key, _)| key).collect()
    }

    /// Whose it is what lies at the key's path on `store` now. An error is the datastore's.
    pub(super) fn whose(&self, store: &dyn Datastore, key: &LedgerKey) -> io::Result<Whose> {
        let Some((_, known)) = self.objects.iter().find(|(object, _)| object == key) else {
            return Ok(Whose::NotOurs);
        };
        let Some(known) = known else { return Ok(Whose::Unknown) };
        match store.identity(&key.path) {
            Ok(Some(now)) if now == *known => Ok(Whose::Ours),
            Ok(_) => Ok(Whose::NotOurs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Whose::NotOurs),
            Err(error) => Err(error),
        }
    }
}
