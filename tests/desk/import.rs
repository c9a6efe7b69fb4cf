//! A desk whose share is an import share.

use std::sync::Arc;

use importfs::datastore::DirectoryDatastore;
use importfs::import::{DatastoreEntry, Engine, EngineSettings, Hypervisor};
use importfs::inventory::Inventory;
use importfs::share::import::ImportShare;
use smb_proto::Status;
use smb_proto::msg::create::options;

use super::{Client, Desk, Open};

/// Bytes of the only disk of a session that was begun.
pub const DISK_BYTES: usize = 3 << 20;

impl Desk {
    /// A server whose `dir` imports to the datastore `ds1` of the hypervisor `local`.
    pub fn import(inventory: Option<Arc<dyn Inventory>>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("ds");
        std::fs::create_dir(&store).unwrap();
        let store = Arc::new(DirectoryDatastore::open(&store).unwrap());
        let datastores = vec![DatastoreEntry { name: "ds1".into(), uuid: None, store, written: None }];
        let local = Hypervisor { name: "local".into(), aliases: Vec::new(), datastores, inventory };
        let engine = Engine::new(EngineSettings::new(root.path().join("data"), vec![local]));
        let share = ImportShare::new(Arc::new(engine.unwrap()), "import");
        Self::over(root, Arc::new(share))
    }
}

/// An import session whose CFG has come, with some lines more.
pub fn begin(client: &mut Client, more: &str) {
    let cfg = format!(
        "version = \"4\"\nvmname = \"w\"\nvmuuid = \"50133967-ae5a-052c-0140-e47ce07219ee\"\nservername = \"local\"\n\
         datacenter = \"\"\nfolder = \"\"\nhostsystem = \"\"\nresourcepool = \"\"\ndsname = \"ds1\"\ndirectory = \"w\"\n\
         vmx-name = \"w.vmx\"\nvmdk.0.name = \"w.vmdk\"\nvmdk.0.extent-name = \"w-flat.vmdk\"\nvmdk.0.dsname = \"ds1\"\n\
         vmdk.0.directory = \"w\"\nvmdk.0.size = {DISK_BYTES}\nvmdk.0.type = \"thin\"\n{more}"
    );
    let directory = Open { options: options::DIRECTORY_FILE, ..Open::file("w") };
    let made = client.open(&directory).file_id();
    client.close(made);
    let id = client.open(&Open::file("w\\w.cfg")).file_id();
    assert_eq!(client.write(id, 0, cfg.as_bytes()), Status::SUCCESS);
    assert_eq!(client.close(id), Status::SUCCESS);
}
