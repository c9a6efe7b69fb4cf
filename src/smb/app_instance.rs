//! Opens of applications that fail over (MS-SMB2 3.3.5.9.13): when a machine takes an application over from another one, such as
//! a virtual machine with its disks, its opens come with the same application instance id, and the server closes those that the
//! other machine left. Knows opens by their volatile FileId only.

use std::collections::HashMap;
use std::sync::Mutex;

use smb_proto::Status;
use smb_proto::msg::create::context::AppVersion;

use super::durable::Owner;
use super::open::locked;

/// The opens that were made with an instance id, by it. As many as there are opens.
#[derive(Debug, Default)]
pub struct AppInstances(Mutex<HashMap<[u8; 16], Vec<u64>>>);

impl AppInstances {
    /// An open was made.
    pub fn enter(&self, owner: &Owner, open: u64) {
        if let Some(app) = owner.app_instance {
            locked(&self.0).entry(app.id).or_default().push(open);
        }
    }

    /// An open is closed.
    pub fn remove(&self, owner: &Owner, open: u64) {
        let Some(app) = owner.app_instance else { return };
        let mut known = locked(&self.0);
        if let Some(opens) = known.get_mut(&app.id) {
            opens.retain(|other| *other != open);
            if opens.is_empty() {
                known.remove(&app.id);
            }
        }
    }

    /// The opens of an instance.
    pub fn of(&self, id: [u8; 16]) -> Vec<u64> {
        locked(&self.0).get(&id).cloned().unwrap_or_default()
    }
}

/// Whether a request with `new` may take over from an open with `old`: not without a version from one that had one, nor with an
/// older one or the same; versions count where the dialect has them.
pub fn check_version(old: Option<AppVersion>, new: Option<AppVersion>) -> Result<(), Status> {
    match (old, new) {
        (Some(old), Some(new)) if old >= new => Err(Status::FILE_FORCED_CLOSED),
        (Some(_), None) => Err(Status::FILE_FORCED_CLOSED),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use smb_proto::msg::create::context::AppInstance;

    use super::*;

    #[test]
    fn an_older_instance_takes_nothing_over() {
        let version = |high, low| Some(AppVersion { high, low });
        for (old, new, may) in [
            (None, None, true),
            (None, version(0, 0), true),
            (version(1, 0), None, false),
            (version(1, 5), version(1, 5), false),
            (version(1, 5), version(1, 4), false),
            (version(2, 0), version(1, 9), false),
            (version(1, 5), version(1, 6), true),
            (version(1, 5), version(2, 0), true),
        ] {
            assert_eq!(check_version(old, new).is_ok(), may, "{old:?} {new:?}");
        }
    }

    #[test]
    fn what_is_closed_is_forgotten() {
        let app_instance = Some(AppInstance { id: [3; 16], version: None });
        let owner = Owner { user: "a".into(), client: [1; 16], create_guid: None, app_instance };
        let apps = AppInstances::default();
        apps.enter(&owner, 5);
        apps.enter(&owner, 6);
        apps.remove(&owner, 5);
        assert_eq!(apps.of([3; 16]), [6]);
        apps.remove(&owner, 6);
        assert!(locked(&apps.0).is_empty());
    }
}
