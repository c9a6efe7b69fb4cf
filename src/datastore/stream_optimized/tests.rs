//! Streams read back by a reader of the tests' own, which follows footer, directory and tables, and the markers too.

#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::ZlibDecoder;
use proptest::prelude::*;

use super::{Description, Options, Progress, StreamOptimized};
use crate::datastore::Disk;
use crate::datastore::filter::{Fault, FaultPlan, Injector};
use crate::datastore::memory::MemoryDisk;

const GRAIN: usize = 64 * 1024;
const SECTOR: usize = 512;

fn description() -> Description {
    Description {
        file: "x.vmdk".into(),
        adapter: "lsilogic".into(),
        geometry: (4, 255, 63),
        uuid: None,
        hardware_version: 13,
    }
}

fn filled(size: usize, runs: &[(Range<usize>, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for (range, kind) in runs {
        for byte in &mut bytes[range.clone()] {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = if *kind == 0 { random as u8 } else { *kind };
        }
    }
    bytes
}

fn disk(bytes: &[u8]) -> Arc<dyn Disk> {
    let disk = MemoryDisk::new(bytes.len());
    disk.write_at(bytes, 0).unwrap();
    Arc::new(disk)
}

fn stream(bytes: &[u8], allocated: &[Range<u64>], options: &Options) -> Vec<u8> {
    let mut out = Vec::new();
    let mut made = StreamOptimized::new(&disk(bytes), allocated, description(), options).unwrap();
    made.read_to_end(&mut out).unwrap();
    out
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The grain whose record is at a sector: its number and contents.
fn grain(vmdk: &[u8], sector: usize) -> (u64, Vec<u8>) {
    let at = sector * SECTOR;
    let size = word(vmdk, at + 8) as usize;
    let mut data = Vec::new();
    ZlibDecoder::new(&vmdk[at + 12..at + 12 + size]).read_to_end(&mut data).unwrap();
    assert_eq!(data.len(), GRAIN);
    assert_eq!(long(vmdk, at) % 128, 0);
    (long(vmdk, at) / 128, data)
}

/// The disk by way of footer, directory and tables.
fn by_tables(vmdk: &[u8]) -> Vec<u8> {
    let footer = vmdk.len() - 2 * SECTOR;
    assert_eq!(&vmdk[footer..footer + 4], b"KDMV");
    assert_eq!(word(vmdk, footer - SECTOR + 12), 3, "the footer's marker");
    assert_eq!((word(vmdk, 4), word(vmdk, 8), long(vmdk, 20)), (3, 0x3_0001, 128));
    assert_eq!(long(vmdk, 56), u64::MAX, "the header's directory is at the end");
    let size = long(vmdk, footer + 12) as usize * SECTOR;
    let directory = long(vmdk, footer + 56) as usize * SECTOR;
    let mut bytes = vec![0; size.next_multiple_of(GRAIN)];
    for number in 0..size.div_ceil(GRAIN) {
        let table = word(vmdk, directory + number / 512 * 4) as usize * SECTOR;
        let place = if table == 0 { 0 } else { word(vmdk, table + number % 512 * 4) };
        if place != 0 {
            let (found, data) = grain(vmdk, place as usize);
            assert_eq!(found, number as u64);
            bytes[number * GRAIN..][..GRAIN].copy_from_slice(&data);
        }
    }
    assert!(bytes[size..].iter().all(|byte| *byte == 0));
    bytes.truncate(size);
    bytes
}

/// The grains as a reader meets them that only goes forward: ascending, with what markers announce between.
fn by_markers(vmdk: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let (mut sector, mut kinds) = (128, Vec::new());
    loop {
        let at = sector * SECTOR;
        let (value, size) = (long(vmdk, at), word(vmdk, at + 8));
        if size > 0 {
            let (number, data) = grain(vmdk, sector);
            assert!(found.last_key_value().is_none_or(|(last, _)| *last < number), "grains ascend");
            assert!(data.iter().any(|byte| *byte != 0), "zero grains are left out");
            found.insert(number, data);
            sector += (size as usize + 12).div_ceil(SECTOR);
            continue;
        }
        kinds.push(word(vmdk, at + 12));
        sector += 1 + value as usize;
        if kinds.last() == Some(&0) {
            break;
        }
    }
    assert_eq!(sector * SECTOR, vmdk.len());
    assert!(
        kinds.ends_with(&[2, 3, 0]) && kinds[..kinds.len() - 3].iter().all(|kind| *kind == 1),
        "{kinds:?}"
    );
    found
}

fn check(bytes: &[u8], allocated: &[Range<u64>], options: &Options) -> Vec<u8> {
    let vmdk = stream(bytes, allocated, options);
    assert_eq!(vmdk.len() % SECTOR, 0);
    assert_eq!(by_tables(&vmdk), bytes);
    let grains = bytes.chunks(GRAIN).filter(|grain| grain.iter().any(|byte| *byte != 0)).count();
    assert_eq!(by_markers(&vmdk).len(), grains);
    vmdk
}

#[test]
fn data_across_tables_survives_at_every_level_and_zero_tables_are_left_out() {
    // Three tables' worth: data at the border of the first two, nothing in most of the third, an odd end.
    let size = 3 * 512 * GRAIN - 7 * SECTOR;
    let border = 512 * GRAIN;
    let bytes = filled(size, &[(border - 100_000..border + 100_000, 0), (size - 900..size, 7), (0..3, 1)]);
    let whole = [0..size as u64];
    for level in [0, 1, 6, 9] {
        let vmdk = check(&bytes, &whole, &Options { level, threads: 3 });
        assert!(vmdk.len() < 500_000, "level {level}: {} bytes", vmdk.len());
    }
    let vmdk = check(&filled(size, &[(size - 1..size, 1)]), &whole, &Options::default());
    assert_eq!(by_markers(&vmdk).len(), 1);
}

#[test]
fn an_empty_disk_is_a_valid_stream() {
    for size in [SECTOR, GRAIN, 600 * GRAIN] {
        let vmdk = check(&vec![0; size], &[], &Options::default());
        check(&vec![0; size], &[0..size as u64], &Options::default());
        assert!(vmdk.len() < 80 * 1024);
    }
}

#[test]
fn what_does_not_compress_is_stored() {
    let bytes = filled(16 * GRAIN, &[(0..16 * GRAIN, 0)]);
    let vmdk = check(&bytes, &[0..bytes.len() as u64], &Options { level: 1, threads: 1 });
    // 65536 bytes stored, with header and record, are 129 sectors.
    assert_eq!(vmdk.len(), (128 + 16 * 129 + 5 + 2 + 3) * SECTOR);
}

#[test]
fn threads_and_the_size_of_reads_change_nothing() {
    let bytes = filled(100 * GRAIN, &[(5000..4_000_000, 0), (5_000_000..6_000_000, 3)]);
    let allocated = [5000..4_000_000, 5_000_000..6_000_000];
    let expected = stream(&bytes, &allocated, &Options { level: 1, threads: 1 });
    assert_eq!(by_tables(&expected), bytes);
    for threads in [2, 5, 99] {
        assert_eq!(stream(&bytes, &allocated, &Options { level: 1, threads }), expected);
    }
    let options = Options::default();
    let mut made = StreamOptimized::new(&disk(&bytes), &allocated, description(), &options).unwrap();
    let (mut out, mut buffer) = (Vec::new(), [0; 777]);
    loop {
        match made.read(&mut buffer).unwrap() {
            0 => break,
            length => out.extend_from_slice(&buffer[..length]),
        }
    }
    assert_eq!(out, expected);
}

#[test]
fn the_descriptor_says_what_it_was_told_and_nothing_breaks_out_of_it() {
    let bytes = vec![0; 8 * GRAIN];
    let told = Description {
        file: "a\"\nRW 1 FLAT \"/etc/passwd".into(),
        uuid: Some("60 00".into()),
        ..description()
    };
    let mut made = StreamOptimized::new(&disk(&bytes), &[], told, &Options::default()).unwrap();
    let mut head = vec![0; 128 * SECTOR];
    made.read_exact(&mut head).unwrap();
    let text = String::from_utf8(head[SECTOR..].to_vec()).unwrap();
    assert!(text.contains("RW 1024 SPARSE \"aRW 1 FLAT /etc/passwd\"\n"), "{text}");
    assert!(text.contains("ddb.adapterType = \"lsilogic\"") && text.contains("ddb.uuid = \"60 00\""));
    assert!(text.contains("createType=\"streamOptimized\""));
}

#[test]
fn progress_reaches_its_total_and_the_stream_its_length() {
    let bytes = filled(64 * GRAIN, &[(0..10 * GRAIN, 0)]);
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let tell = move |progress: Progress| {
        assert!(progress.done <= progress.total);
        assert!(progress.stream >= seen.swap(progress.stream, Ordering::Relaxed));
    };
    let options = Options::default();
    let made = StreamOptimized::new(&disk(&bytes), &[1..10, 20 * 65536..30 * 65536], description(), &options);
    let mut made = made.unwrap().with_progress(Box::new(tell));
    let length = io::copy(&mut made, &mut io::sink()).unwrap();
    assert_eq!(made.progress(), Progress { total: 11 * 65536, done: 11 * 65536, stream: length });
    assert_eq!(last.load(Ordering::Relaxed), length);
}

#[test]
fn a_failed_read_fails_the_stream_for_good_and_dropping_one_early_ends_its_threads() {
    let bytes = filled(64 * GRAIN, &[(0..64 * GRAIN, 0)]);
    let inner = MemoryDisk::new(bytes.len());
    inner.write_at(&bytes, 0).unwrap();
    let injector = Injector::new(FaultPlan { reads: 500, seed: 3, ..FaultPlan::default() });
    let faulty: Arc<dyn Disk> = Arc::new(Fault::new(Box::new(inner), injector));
    let whole = 0..bytes.len() as u64;
    let options = Options::default();
    let mut made =
        StreamOptimized::new(&faulty, std::slice::from_ref(&whole), description(), &options).unwrap();
    let error = io::copy(&mut made, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("injected"), "{error}");
    assert!(made.read(&mut [0; 8]).is_err());

    let mut made =
        StreamOptimized::new(&disk(&bytes), std::slice::from_ref(&whole), description(), &options).unwrap();
    made.read_exact(&mut [0; 70_000]).unwrap();
    drop(made); // Joins the workers: hangs if one of them waits for ever.
}

#[test]
fn nonsense_is_refused() {
    let bytes = vec![0; 1024];
    let new = |bytes: &[u8], ranges: &[Range<u64>], level| {
        let made = StreamOptimized::new(&disk(bytes), ranges, description(), &Options { level, threads: 1 });
        made.err().map(|error| error.kind())
    };
    assert_eq!(new(&bytes, &[0..512, 512..1024], 1), None);
    for (size, ranges, level) in [
        (1000, vec![], 1),
        (0, vec![], 1),
        (1024, vec![0..1025], 1),
        (1024, vec![512..600, 0..10], 1),
        (1024, vec![Range { start: 9, end: 9 }], 1),
        (1024, vec![], 10),
    ] {
        let wrong = new(&vec![0; size], &ranges, level);
        assert_eq!(wrong, Some(io::ErrorKind::InvalidInput), "{size} {ranges:?} {level}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_disk_survives(
        sectors in 1..5_000_usize,
        runs in prop::collection::vec((0..5_000_usize, 1..600_usize, 0..3_u8), 0..12),
        level in 0..4_u32,
        threads in 1..4_usize,
    ) {
        let size = sectors * SECTOR;
        let mut data = Vec::new();
        let mut allocated: Vec<Range<u64>> = Vec::new();
        let mut sorted = runs;
        sorted.sort_unstable();
        for (start, length, kind) in sorted {
            let start = (start * SECTOR).max(allocated.last().map_or(0, |last| last.end as usize));
            let end = (start + length * 700).min(size);
            if start < end {
                data.push((start..end, kind));
                allocated.push(start as u64..end as u64);
            }
        }
        check(&filled(size, &data), &allocated, &Options { level, threads });
    }
}
