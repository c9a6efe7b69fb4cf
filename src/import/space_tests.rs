//! What a client sees of the room there is.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::tests::{VMX, cfg, data, memory_dir, put};
use super::*;
use crate::datastore::altered::Altered;
use crate::datastore::{DirectoryDatastore, Space};

const MIB: u64 = 1 << 20;

#[test]
fn the_room_is_that_of_the_fullest_datastore_in_use() {
    let root = memory_dir();
    let store = |name: &str, uuid: Option<&str>, bytes: u64| {
        let path = root.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let space = Some(Space { total: bytes * 2, available: bytes });
        let directory = Altered::of(DirectoryDatastore::open(&path).unwrap());
        let store = Arc::new(Altered { space, ..directory });
        DatastoreEntry { name: name.into(), uuid: uuid.map(str::to_owned), store, written: None }
    };
    let datastores = vec![
        store("ds1", None, 500 * MIB),
        store("ds2", Some("4e31-aa"), 300 * MIB),
        store("ds3", None, 7 * MIB),
    ];
    let local = Hypervisor { name: "local".into(), aliases: Vec::new(), datastores, inventory: None };
    let engine = Engine::new(EngineSettings::new(root.path().join("data"), vec![local])).unwrap();
    assert_eq!(engine.space(), Space { total: 14 * MIB, available: 7 * MIB }, "anything might come");
    let session = engine.create_directory(&["vm".into()]).unwrap();
    // The VMX to ds2, both disks to ds1.
    put(&session, "vm.cfg", cfg("vm", "").as_bytes()).unwrap();
    assert_eq!(engine.space().available, 300 * MIB, "only the session's datastores count");
    put(&session, "a-flat.vmdk", &data(1)).unwrap();
    put(&session, "b-flat.vmdk", &data(2)).unwrap();
    put(&session, "a.vmx", VMX).unwrap();
    assert_eq!(engine.space().available, 7 * MIB, "that one writes nothing more");
}
