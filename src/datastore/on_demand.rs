//! What a disk holds only while it is used: an open file, connections. Taken by the first call that needs it, given back when
//! nothing more comes for now ([`super::Disk::release`]).

use std::io;
use std::sync::{PoisonError, RwLock};

/// Something that is there while it is used.
#[derive(Debug)]
pub(super) struct OnDemand<T>(RwLock<Option<T>>);

impl<T> OnDemand<T> {
    /// It is there already, or will be taken.
    pub(super) fn new(held: Option<T>) -> Self {
        Self(RwLock::new(held))
    }

    /// Does something with it, after taking it where it is not there. Others who need it wait for the same attempt.
    pub(super) fn with<R>(
        &self,
        take: impl Fn() -> io::Result<T>,
        work: impl FnOnce(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            if let Some(held) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
                return work(held);
            }
            let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if held.is_none() {
                *held = Some(take()?);
            }
        }
    }

    /// Does something with it, if it is there.
    pub(super) fn if_held<R>(&self, work: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }

    /// Gives it back once nobody uses it, after `last`; where that fails it stays.
    pub(super) fn give_back(&self, last: impl FnOnce(&T) -> io::Result<()>) -> io::Result<()> {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = &*held {
            last(there)?;
        }
        *held = None;
        Ok(())
    }
}
