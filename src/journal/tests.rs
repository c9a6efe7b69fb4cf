//! Journals that are torn, swapped, shared and compacted.
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use proptest::prelude::*;

use super::record::tests::samples;
use super::*;

fn journal_bytes(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header().to_vec();
    let mut ends = vec![bytes.len()];
    for record in records {
        put_frame(record, &mut bytes).unwrap();
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn what_was_synced_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let (journal, records) = Journal::open(&path).unwrap();
    assert!(records.is_empty());
    let written: Vec<_> = samples()
        .into_iter()
        .filter(|r| !matches!(r, Record::LedgerRemoved { .. } | Record::InventoryRemoved { .. }))
        .collect();
    for record in &written {
        journal.append(record).unwrap();
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), HEADER as u64, "appending alone does no I/O");
    journal.sync().unwrap();
    assert!(matches!(Journal::open(&path), Err(OpenError::Busy(_))));
    drop(journal);
    let (_journal, read) = Journal::open(&path).unwrap();
    // The sample's intent is older than its map.
    let expected: Vec<_> = written.into_iter().filter(|r| !matches!(r, Record::Intent { .. })).collect();
    assert_eq!(read, expected);
}

#[test]
fn a_journal_torn_at_any_byte_keeps_its_whole_records_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let written = [
        Record::SessionCreated { directory: "vm".into() },
        Record::DiskCreated { disk: 0, datastore: "d".into(), path: "p".into() },
        Record::ExtentComplete { disk: 0 },
    ];
    let (bytes, ends) = journal_bytes(&written);
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let (journal, records) = Journal::open(&path).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        assert_eq!(records, written[..whole], "cut at {cut}");
        journal.record(&Record::SessionRemoved).unwrap();
        drop(journal);
        let (_journal, records) = Journal::open(&path).unwrap();
        assert_eq!(records.len(), whole + 1, "appended behind what was intact, cut at {cut}");
        assert_eq!(records.last(), Some(&Record::SessionRemoved));
    }
}

#[test]
fn any_flipped_bit_of_a_frame_ends_the_journal_there() {
    let (bytes, ends) = journal_bytes(&samples());
    for at in HEADER..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let replayed = replay(&damaged).unwrap();
        let whole = ends.iter().filter(|end| **end <= at).count() - 1;
        assert_eq!(replayed.records, samples()[..whole]);
        assert_eq!(replayed.intact, ends[whole]);
    }
}

#[test]
fn other_files_and_versions_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    std::fs::write(&path, b"# not one of ours").unwrap();
    assert!(matches!(Journal::open(&path), Err(OpenError::NotAJournal(_))));
    let mut newer = header();
    newer[8] = 2;
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(Journal::open(&path), Err(OpenError::Version { version: 2, .. })));
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    let mut unknown = header().to_vec();
    let payload = [99];
    let length = 1u32.to_le_bytes();
    unknown.extend_from_slice(&length);
    unknown.extend_from_slice(&checksum_of(length, &payload).to_le_bytes());
    unknown.extend_from_slice(&payload);
    std::fs::write(&path, &unknown).unwrap();
    assert!(matches!(
        Journal::open(&path),
        Err(OpenError::Record { offset: 12, source: DecodeError::UnknownTag(99), .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), unknown);
}

#[test]
fn zeros_behind_the_end_are_a_torn_tail() {
    let (mut bytes, ends) = journal_bytes(&samples());
    bytes.resize(bytes.len() + 4096, 0);
    assert_eq!(replay(&bytes).unwrap().intact, ends[samples().len()]);
}

#[test]
fn a_running_journal_stays_short_and_threads_share_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let (journal, _) = Journal::open(&path).unwrap();
    journal.record(&Record::DiskCreated { disk: 0, datastore: "d".into(), path: "p".into() }).unwrap();
    let written: Vec<_> = (0..40_000u64).map(|n| n << 20..(n << 20) + 70_000).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (journal, written) = (&journal, &written);
            scope.spawn(move || {
                for step in 0..15 {
                    let map =
                        DiskMap { epoch: thread * 15 + step, written: written.clone(), ..DiskMap::default() };
                    journal.record(&Record::Map { disk: 0, map }).unwrap();
                }
            });
        }
    });
    assert!(std::fs::metadata(&path).unwrap().len() < COMPACT_AT + 1024 * 1024);
    drop(journal);
    let (_journal, records) = Journal::open(&path).unwrap();
    assert_eq!(fold::disk_map(&records, 0, u64::MAX).unwrap().written, written);
}

fn key(hypervisor: &str, path: &str) -> LedgerKey {
    LedgerKey { hypervisor: hypervisor.into(), datastore: "d".into(), path: path.into() }
}

#[test]
fn the_ledger_is_what_was_made_and_not_removed() {
    let made = |path: &str| Record::LedgerCreated { key: key("h", path), kind: ObjectKind::File };
    let removed = |path: &str| Record::LedgerRemoved { key: key("h", path) };
    let records = vec![made("a"), made("b"), removed("a"), made("c"), removed("b"), made("b")];
    let expected = [made("c"), made("b")];
    assert_eq!(fold::ledger(&records).cloned().collect::<Vec<_>>(), expected);
    assert_eq!(fold::fold(records), expected);
}

#[test]
fn two_hypervisors_may_have_a_datastore_of_one_name_and_an_old_record_names_none() {
    let made = |on: &str| Record::LedgerCreated { key: key(on, "a"), kind: ObjectKind::File };
    let removed = |on: &str| Record::LedgerRemoved { key: key(on, "a") };
    let left = |records: &[Record]| {
        let left: Vec<_> = fold::objects(records).into_iter().map(|object| object.key.hypervisor).collect();
        let ledger: Vec<_> = fold::ledger(records).collect();
        assert_eq!(ledger.len(), left.len(), "{records:?}");
        left
    };
    assert_eq!(left(&[made("h"), made("g"), removed("h")]), ["g"]);
    assert_eq!(left(&[made(""), made("h")]), ["h"], "a newer version notes it again");
    assert!(left(&[made(""), removed("h")]).is_empty());
    assert_eq!(left(&[made("h"), removed("")]), ["h"], "an older version has never heard of it");
}

#[test]
fn an_inventory_s_objects_are_those_noted_last_and_not_removed() {
    let made = |name: &str, id: &str| Record::InventoryObject {
        hypervisor: "h".into(),
        kind: InventoryKind::VirtualMachine,
        name: name.into(),
        facts: vec![("id".into(), id.into())],
    };
    let gone = Record::InventoryRemoved {
        hypervisor: "h".into(),
        kind: InventoryKind::VirtualMachine,
        name: "b".into(),
    };
    let records = vec![made("a", ""), made("b", "1"), made("a", "2"), gone];
    let told: Vec<_> =
        fold::inventory(&records).into_iter().map(|(_, _, name, facts)| (name, &facts[0].1)).collect();
    assert_eq!(told, [("a", &"2".to_owned())]);
    assert_eq!(fold::fold(records), [made("a", "2")]);
}

fn any_record() -> impl Strategy<Value = Record> {
    let disk = 0..2u32;
    prop_oneof![
        disk.clone().prop_map(|disk| Record::DiskCreated { disk, datastore: "d".into(), path: "p".into() }),
        (disk.clone(), 0..6u64, 0..4u64).prop_map(|(disk, epoch, first)| Record::Intent {
            disk,
            region: Region { epoch, first, count: 1 }
        }),
        (disk, 0..6u64, 0..100u64).prop_map(|(disk, epoch, end)| Record::Map {
            disk,
            map: DiskMap { epoch, written: vec![0..end + 1], ..DiskMap::default() }
        }),
        ("[gh]?", "[ab]", 0..3u8).prop_map(|(on, path, what)| match what {
            0 => Record::LedgerCreated { key: key(&on, &path), kind: ObjectKind::File },
            1 => Record::LedgerRemoved { key: key(&on, &path) },
            _ => Record::LedgerIdentity { key: key(&on, &path), identity: path + "1" },
        }),
        ("[ab]", 0..3u8).prop_map(|(name, what)| {
            let (hypervisor, kind) = ("h".to_owned(), InventoryKind::VirtualMachine);
            match what {
                0 => Record::InventoryRemoved { hypervisor, kind, name },
                _ => Record::InventoryObject {
                    hypervisor,
                    kind,
                    name,
                    facts: vec![(what.to_string(), String::new())],
                },
            }
        }),
        "[ab]".prop_map(|directory| Record::SessionMoved { directory, followers: String::new() }),
        "[ab]".prop_map(|name| Record::FileStored { name, length: 1, digest: [0; 32] }),
    ]
}

proptest! {
    #[test]
    fn folding_loses_nothing_that_is_asked_for(records in prop::collection::vec(any_record(), 0..30)) {
        let folded = fold::fold(records.clone());
        let size = u64::MAX;
        for disk in 0..2 {
            let (before, after) = (fold::disk_map(&records, disk, size), fold::disk_map(&folded, disk, size));
            // Only the number of the next epoch may differ: intents that a map replaced are gone.
            let plain = |map: Option<DiskMap>| map.map(|map| DiskMap { epoch: 0, ..map });
            prop_assert_eq!(plain(before), plain(after));
        }
        prop_assert_eq!(fold::objects(&folded), fold::objects(&records));
        prop_assert_eq!(fold::inventory(&folded), fold::inventory(&records));
        let moved = |records: &[Record]| {
            records.iter().rfind(|record| matches!(record, Record::SessionMoved { .. })).cloned()
        };
        prop_assert_eq!(moved(&records), moved(&folded));
        prop_assert_eq!(fold::fold(folded.clone()), folded);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay(&bytes);
        bytes.splice(0..0, header());
        prop_assert!(replay(&bytes).is_ok());
        let _ = Record::decode(&bytes[HEADER..]);
    }
}

#[test]
fn what_a_push_left_is_known_until_its_machine_is_complete() {
    let pushing = |trace: &str| Record::Pushing {
        hypervisor: "vc".into(),
        datastore: "ds1".into(),
        path: "vm/x.vmx".into(),
        trace: trace.into(),
    };
    let imported = Record::VmxImported { digest: [1; 32] };
    let left = |records: &[Record]| {
        let folded = fold::fold(records.to_vec());
        assert_eq!(fold::left(records), fold::left(&folded), "{records:?}");
        assert!(folded.iter().filter(|record| matches!(record, Record::Pushing { .. })).count() < 2);
        fold::left(records).map(|left| left.trace)
    };
    assert_eq!(left(&[]), None);
    assert_eq!(left(&[pushing("a"), pushing("b")]).as_deref(), Some("b"));
    assert_eq!(left(&[pushing("a"), pushing("")]), None);
    assert_eq!(left(&[pushing("a"), imported.clone()]), None);
    assert_eq!(left(&[pushing("a"), imported, pushing("c")]).as_deref(), Some("c"));
}
