//! Opens that outlive their connection (MS-SMB2 3.3.1.10: durable, version 1 and 2, and resilient ones): how long, under which
//! conditions, and who may have them back.
//!
//! Pure, but for the table of create GUIDs. Nothing here is bound to this process: what an open needs to be found again (its
//! persistent FileId, owner, client, create GUID, share, time) is data, so that persistent handles can be written down later.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smb_proto::Status;
use smb_proto::msg::create::context::AppInstance;

use super::open::locked;

/// How long a durable open of version 1 waits for its client: Windows' 16 minutes.
pub const DURABLE_V1: Duration = Duration::from_mins(16);
/// The same of version 2 where the client leaves it to the server.
pub const DURABLE_V2: Duration = Duration::from_mins(1);
/// The most that a client may ask for in version 2: Windows' five minutes.
pub const DURABLE_V2_MAX: Duration = Duration::from_mins(5);
/// How long a resilient open waits where the client leaves it to the server: Windows' two minutes.
pub const RESILIENT: Duration = Duration::from_mins(2);
/// The most that a client may ask for: more is refused (3.3.5.15.9).
pub const RESILIENT_MAX: Duration = Duration::from_mins(5);
/// Opens in the whole server that may wait for their clients: a hundred clients with forty files each. Past that, an open
/// that loses its connection is closed.
pub const AWAY_MAX: usize = 4096;

/// Whose an open is: what a client that wants it back must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The account; compared without case.
    pub user: Arc<str>,
    /// The ClientGuid.
    pub client: [u8; 16],
    /// The CreateGuid, where there was one.
    pub create_guid: Option<[u8; 16]>,
    /// The application's instance, where the CREATE had one. No claim needs it.
    pub app_instance: Option<AppInstance>,
}

/// How long an open lives on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Life {
    /// IsDurable, and for how long it waits.
    pub durable: Option<Duration>,
    /// IsResilient, and for how long it waits.
    pub resilient: Option<Duration>,
    /// It has no connection, until then.
    pub away: Option<Instant>,
}

impl Life {
    /// How long it waits from now on, if at all (3.3.7.1). `cached`: its batch oplock or handle lease is held, unbroken, and no
    /// lock of its would go unguarded.
    pub fn keeps(&self, cached: bool) -> Option<Duration> {
        self.resilient.or(self.durable.filter(|_| cached))
    }
}

/// The time that a durable open of version 2 is granted.
pub fn granted_v2(asked_ms: u32) -> Duration {
    match asked_ms {
        0 => DURABLE_V2,
        asked => Duration::from_millis(asked.into()).min(DURABLE_V2_MAX),
    }
}

/// The time that a resilient open is granted.
pub fn granted_resilient(asked_ms: u32) -> Result<Duration, Status> {
    match Duration::from_millis(asked_ms.into()) {
        Duration::ZERO => Ok(RESILIENT),
        asked if asked > RESILIENT_MAX => Err(Status::INVALID_PARAMETER),
        asked => Ok(asked),
    }
}

/// A client that wants an open back.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who it is now.
    pub owner: Owner,
    /// LeaseKey of its RqLs context.
    pub lease: Option<[u8; 16]>,
    /// The claim is one of version 2.
    pub by_guid: bool,
}

/// Whether the open of `owner` under `lease` may be had back by such a claim (3.3.5.9.7, 3.3.5.9.12).
pub fn check_claim(owner: &Owner, lease: Option<[u8; 16]>, claim: &Claim) -> Result<(), Status> {
    let lost = Err(Status::OBJECT_NAME_NOT_FOUND);
    if claim.lease != lease || (lease.is_some() && claim.owner.client != owner.client) {
        return lost;
    }
    // Version 1 asks for an open by its FileId alone, also for one that version 2 made; its own have a GUID of zeros.
    if claim.by_guid && claim.owner.create_guid.unwrap_or_default() != owner.create_guid.unwrap_or_default() {
        return lost;
    }
    if claim.owner.user.to_lowercase() != owner.user.to_lowercase() {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(())
}

/// ClientGuid and CreateGuid.
type GuidKey = ([u8; 16], [u8; 16]);

/// The CREATEs of version 2, by client and create GUID: a second one is a replay or a mistake (3.3.5.9.10). As many as there are
/// opens and requests.
#[derive(Debug, Default)]
pub struct Guids(Mutex<HashMap<GuidKey, Option<u64>>>);

/// What is known of a create GUID.
#[derive(Debug)]
pub enum Known {
    /// Nothing: it is reserved for this request now.
    New(Reservation),
    /// Another CREATE of that GUID is being worked on.
    Pending,
    /// An open has it: its volatile FileId.
    Open(u64),
}

impl Guids {
    /// Looks a GUID up, and reserves it if it is new.
    pub fn look_up(self: &Arc<Self>, client: [u8; 16], guid: [u8; 16]) -> Known {
        let key = (client, guid);
        match locked(&self.0).entry(key) {
            Entry::Occupied(known) => known.get().map_or(Known::Pending, Known::Open),
            Entry::Vacant(free) => {
                free.insert(None);
                Known::New(Reservation { guids: Arc::clone(self), key })
            }
        }
    }

    /// The open of a GUID.
    pub fn open_of(&self, client: [u8; 16], guid: [u8; 16]) -> Option<u64> {
        locked(&self.0).get(&(client, guid)).copied().flatten()
    }

    /// An open is closed, or its client has heard of it: its GUID, if it has it still, is new again.
    pub fn remove(&self, owner: &Owner, open: u64) {
        let Some(guid) = owner.create_guid else { return };
        if let Entry::Occupied(known) = locked(&self.0).entry((owner.client, guid))
            && *known.get() == Some(open)
        {
            known.remove();
        }
    }
}

/// A create GUID that a request works on; given up with the request unless an open took it.
#[derive(Debug)]
pub struct Reservation {
    guids: Arc<Guids>,
    key: GuidKey,
}

impl Reservation {
    /// The GUID is that open's now.
    pub fn fulfil(self, open: u64) {
        locked(&self.guids.0).insert(self.key, Some(open));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut table = locked(&self.guids.0);
        if table.get(&self.key) == Some(&None) {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn owner() -> Owner {
        Owner { user: "Import".into(), client: [1; 16], create_guid: Some([2; 16]), app_instance: None }
    }

    fn claim() -> Claim {
        Claim { owner: owner(), lease: None, by_guid: true }
    }

    #[test]
    fn only_the_owner_has_an_open_back() {
        let lost = Err(Status::OBJECT_NAME_NOT_FOUND);
        assert_eq!(check_claim(&owner(), None, &claim()), Ok(()));
        let mut other = claim();
        other.owner.user = "IMPORT".into();
        assert_eq!(check_claim(&owner(), None, &other), Ok(()));
        other.owner.user = "somebody".into();
        assert_eq!(check_claim(&owner(), None, &other), Err(Status::ACCESS_DENIED));
        let mut other = claim();
        other.owner.create_guid = Some([3; 16]);
        assert_eq!(check_claim(&owner(), None, &other), lost);
        assert_eq!(check_claim(&owner(), None, &Claim { by_guid: false, ..claim() }), Ok(()));
    }

    #[test]
    fn a_leased_open_needs_its_lease_and_its_client() {
        let lost = Err(Status::OBJECT_NAME_NOT_FOUND);
        let key = Some([7; 16]);
        assert_eq!(check_claim(&owner(), key, &claim()), lost);
        assert_eq!(check_claim(&owner(), None, &Claim { lease: key, ..claim() }), lost);
        assert_eq!(check_claim(&owner(), key, &Claim { lease: Some([8; 16]), ..claim() }), lost);
        let mut whole = Claim { lease: key, ..claim() };
        assert_eq!(check_claim(&owner(), key, &whole), Ok(()));
        whole.owner.client = [9; 16];
        assert_eq!(check_claim(&owner(), key, &whole), lost);
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(granted_v2(0), DURABLE_V2);
        assert_eq!(granted_v2(u32::MAX), DURABLE_V2_MAX);
        assert_eq!(granted_v2(10), Duration::from_millis(10));
        assert_eq!(granted_resilient(0), Ok(RESILIENT));
        assert_eq!(granted_resilient(u32::MAX), Err(Status::INVALID_PARAMETER));
    }

    #[test]
    fn a_durable_open_waits_only_with_its_cache_and_a_resilient_one_always() {
        let mut life = Life { durable: Some(DURABLE_V1), ..Life::default() };
        assert_eq!((life.keeps(true), life.keeps(false)), (Some(DURABLE_V1), None));
        life.resilient = Some(RESILIENT);
        assert_eq!(life.keeps(false), Some(RESILIENT));
        assert_eq!(Life::default().keeps(true), None);
    }

    #[test]
    fn a_guid_is_reserved_until_its_request_ends() {
        let guids = Arc::new(Guids::default());
        let Known::New(first) = guids.look_up([1; 16], [2; 16]) else { panic!("known") };
        assert!(matches!(guids.look_up([1; 16], [2; 16]), Known::Pending));
        assert!(matches!(guids.look_up([9; 16], [2; 16]), Known::New(_)), "another client's");
        drop(first);
        let Known::New(second) = guids.look_up([1; 16], [2; 16]) else { panic!("kept") };
        second.fulfil(5);
        assert!(matches!(guids.look_up([1; 16], [2; 16]), Known::Open(5)));
        guids.remove(&owner(), 4);
        assert!(matches!(guids.look_up([1; 16], [2; 16]), Known::Open(5)), "another's");
        guids.remove(&owner(), 5);
        assert!(guids.open_of([1; 16], [2; 16]).is_none());
    }
}
