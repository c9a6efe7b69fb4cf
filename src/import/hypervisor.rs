//! What a CFG's servername names: hypervisors with their datastores.

use std::sync::Arc;

use super::error::ImportError;
use crate::datastore::Datastore;
use crate::inventory::Inventory;

/// A datastore as a hypervisor knows it.
pub struct DatastoreEntry {
    /// Its name.
    pub name: String,
    /// Its UUID as in `/vmfs/volumes/<uuid>`.
    pub uuid: Option<String>,
    /// Its driver.
    pub store: Arc<dyn Datastore>,
    /// Which driver that is and why, where the configuration left a choice: a line for the log.
    pub written: Option<String>,
}

/// What a CFG's servername names.
pub struct Hypervisor {
    /// Its name.
    pub name: String,
    /// Other names that CFG files use for it.
    pub aliases: Vec<String>,
    /// What it can write to.
    pub datastores: Vec<DatastoreEntry>,
    /// Where virtual machines are registered; `None` where there are datastores only.
    pub inventory: Option<Arc<dyn Inventory>>,
}

impl Hypervisor {
    /// The datastore of that name or UUID.
    pub fn datastore(&self, dsname: &str) -> Option<&DatastoreEntry> {
        let same = |text: &str| text.eq_ignore_ascii_case(dsname);
        let named = self.datastores.iter().find(|entry| entry.name == dsname);
        named.or_else(|| self.datastores.iter().find(|entry| entry.uuid.as_deref().is_some_and(same)))
    }
}

/// All that are configured.
#[derive(Default)]
pub struct Hypervisors(pub Vec<Hypervisor>);

impl Hypervisors {
    /// The one of that name or alias, in any case.
    pub fn find(&self, name: &str) -> Option<&Hypervisor> {
        let same = |other: &String| other.eq_ignore_ascii_case(name);
        self.0.iter().find(|hypervisor| same(&hypervisor.name) || hypervisor.aliases.iter().any(same))
    }

    /// The driver of a datastore that a plan names. Two hypervisors may each have a datastore of one name.
    pub fn store(&self, hypervisor: &str, datastore: &str) -> Result<Arc<dyn Datastore>, ImportError> {
        let entry = self.find(hypervisor).and_then(|found| found.datastore(datastore));
        entry.map(|entry| Arc::clone(&entry.store)).ok_or_else(|| ImportError::Refused {
            path: format!("[{datastore}]"),
            why: format!(
                "the configuration has no such datastore of '{hypervisor}' any more; add it again and restart the service"
            ),
        })
    }
}
