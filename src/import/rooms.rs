//! The room on datastores, asked so that one that does not answer (a lost NFS server) holds up nobody for long.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::datastore::{Datastore, Space};

/// How long one who asks for the room waits for a datastore.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What datastores said last, by hypervisor and name.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<(String, String), Arc<Room>>>);

#[derive(Default)]
struct Room {
    known: Mutex<Known>,
    answered: Condvar,
}

#[derive(Default)]
struct Known {
    last: Option<Space>,
    /// It was asked then and has not answered: nobody else asks meanwhile, so that it holds one thread at most.
    asked: Option<Instant>,
}

impl Rooms {
    /// The room on a datastore: what it says now, or said last where it does not answer. `None`: nothing is known.
    pub(super) fn of(&self, hypervisor: &str, datastore: &str, store: &Arc<dyn Datastore>) -> Option<Space> {
        let key = (hypervisor.to_owned(), datastore.to_owned());
        let room = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let mut known = room.lock();
        if known.asked.is_none() {
            let (asking, store) = (Arc::clone(&room), Arc::clone(store));
            let ask = move || {
                let answer = store.space().ok();
                let mut known = asking.lock();
                (known.last, known.asked) = (answer, None);
                asking.answered.notify_all();
            };
            if std::thread::Builder::new().name("room".into()).spawn(ask).is_err() {
                return known.last;
            }
            known.asked = Some(Instant::now());
        }
        let left = known.asked.map_or(ANSWER_MAX, |asked| ANSWER_MAX.saturating_sub(asked.elapsed()));
        let waited = room.answered.wait_timeout_while(known, left, |known| known.asked.is_some());
        waited.map_or_else(|poisoned| poisoned.into_inner().0.last, |(known, _)| known.last)
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
