#![allow(clippy::unwrap_used)]
use std::io;

use proptest::prelude::*;

use super::*;

/// A disk in memory that takes only its own size.
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn header(&mut self, header: &Header) -> Result<(), String> {
        if header.disk_size == self.0.len() as u64 { Ok(()) } else { Err("wrong size".into()) }
    }
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.0[offset as usize..][..length as usize].fill(0);
        Ok(())
    }
}

fn header(disk_size: u64) -> Header {
    Header { disk_size, disk_uuid: Some([7; 16]), base: "52 de/1".into(), target: "52 de/2".into() }
}

fn differential(base: &[u8], new: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let size = new.len() as u64;
    let writer = Writer::new(&mut file, &header(size)).unwrap();
    create_from_images(&mut &base[..], &mut &new[..], size, writer).unwrap();
    file
}

fn apply(file: &[u8], disk: Vec<u8>) -> Result<Vec<u8>, PancbtError> {
    let (mut parser, mut sink) = (Parser::new(), Memory(disk));
    parser.feed(file, &mut sink)?;
    parser.finish()?;
    Ok(sink.0)
}

/// A base and a later state: data, zeros, and a tail that is no whole sector.
fn images() -> (Vec<u8>, Vec<u8>) {
    let base: Vec<u8> = (0..5 * 65536 + 512 + 7u32).map(|i| (i % 251) as u8).collect();
    let mut new = base.clone();
    new[65536..131_072].fill(0);
    new[200_000] ^= 1;
    let last = new.len() - 1;
    new[last] ^= 1;
    (base, new)
}

#[test]
fn what_was_made_applies_and_counts() {
    let (base, new) = images();
    let file = differential(&base, &new);
    assert_eq!(apply(&file, base).unwrap(), new);
    let mut parser = Parser::new();
    parser.feed(&file, &mut Memory(new)).unwrap();
    let summary = parser.finish().unwrap();
    assert_eq!((summary.zero_records, summary.zero_bytes), (1, 65536));
    assert_eq!(summary.data_bytes, 65536 + 519);
    assert_eq!(parser.header().unwrap(), &header(5 * 65536 + 519));
}

#[test]
fn every_truncation_is_seen() {
    let (base, new) = images();
    let file = differential(&base, &new);
    for length in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        assert!(apply(&file[..length], base.clone()).is_err(), "{length} bytes were taken for whole");
    }
}

#[test]
fn every_flipped_bit_of_the_headers_is_seen() {
    let (base, new) = images();
    let file = differential(&base, &new);
    for at in (0..HEADER_LEN + RECORD_LEN).chain(file.len() - RECORD_LEN - END_LEN..file.len()) {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        assert!(apply(&bad, base.clone()).is_err(), "byte {at} changed, and nobody saw it");
    }
}

#[test]
fn a_corrupt_payload_never_reaches_the_disk() {
    let (base, new) = images();
    let mut file = differential(&base, &new);
    file[HEADER_LEN + RECORD_LEN + RECORD_LEN + 100] ^= 1;
    let (mut parser, mut sink) = (Parser::new(), Memory(base.clone()));
    let error = parser.feed(&file, &mut sink).unwrap_err();
    assert!(matches!(error, PancbtError::Corrupt { what: "a record's payload", .. }), "{error}");
    assert_eq!(sink.0[131_072..], base[131_072..]);
}

#[test]
fn an_unknown_record_is_passed_over_unless_critical() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, &header(512)).unwrap();
    writer.data(0, &[5; 512]).unwrap();
    writer.finish().unwrap();
    // Retagging needs the checksums made anew: the record header's, and the digest in the end record.
    let retag = |flags: u32| {
        let mut changed = file.clone();
        let at = HEADER_LEN;
        changed[at..at + 4].copy_from_slice(b"NOTE");
        changed[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
        let crc = crc32c::crc32c(&changed[at..at + RECORD_LEN - 4]);
        changed[at + RECORD_LEN - 4..at + RECORD_LEN].copy_from_slice(&crc.to_le_bytes());
        changed
    };
    let outcome = apply(&retag(FLAG_CRITICAL), vec![1; 512]);
    assert!(matches!(outcome, Err(PancbtError::UnknownCritical { .. })));
    // Not critical: passed over, and only the end record, which counts a DATA record, disagrees.
    let outcome = apply(&retag(0), vec![1; 512]);
    assert!(matches!(outcome, Err(PancbtError::Corrupt { what: "the end record's totals", .. })));
}

#[test]
fn a_wrong_disk_is_refused_before_anything_is_written() {
    let (base, new) = images();
    let file = differential(&base, &new);
    let error = apply(&file, vec![0; 512]).unwrap_err();
    assert_eq!(error.to_string(), "wrong size");
}

#[test]
fn areas_are_read_in_both_shapes_and_widened_to_sectors() {
    let areas = parse_areas(r#"[{"start": 65000, "length": 1000}]"#).unwrap();
    assert_eq!(
        areas,
        parse_areas(r#"{"startOffset": 0, "changedArea": [{"start": 65000, "length": 1000}]}"#).unwrap()
    );
    let (base, new) = images();
    let image = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &new, 0).unwrap();
    let mut file = Vec::new();
    let size = new.len() as u64;
    create_from_areas(&areas, &image, size, Writer::new(&mut file, &header(size)).unwrap()).unwrap();
    let mut expected = base.clone();
    expected[64512..66048].copy_from_slice(&new[64512..66048]);
    assert_eq!(apply(&file, base).unwrap(), expected);
}

#[test]
fn an_area_past_the_end_is_an_error() {
    let image = tempfile::tempfile().unwrap();
    let writer = Writer::new(Vec::new(), &header(1024)).unwrap();
    let area = Area { start: u64::MAX - 5, length: 512 };
    assert!(create_from_areas(&[area], &image, 1024, writer).is_err());
}

#[test]
fn a_part_that_was_merged_may_not_change() {
    let (base, new) = images();
    let file = differential(&base, &new);
    let dir = tempfile::tempdir().unwrap();
    let (mut merger, mut sink) = (Merger::new(dir.path().join("spill")), Memory(base));
    merger.write(0, &file[..1000], &mut sink).unwrap();
    assert!(matches!(merger.write(500, &file[500..600], &mut sink), Err(PancbtError::Rewritten { at: 500 })));
    assert!(merger.finish().is_err());
}

#[test]
fn a_file_that_comes_back_to_front_spills_and_merges() {
    let size = 2 * merge::HELD_MAX + 12_345;
    let new: Vec<u8> = (0..size).map(|i| (i / 3 % 255) as u8 + 1).collect();
    let file = differential(&vec![0; size], &new);
    let dir = tempfile::tempdir().unwrap();
    let spill = dir.path().join("spill");
    let (mut merger, mut sink) = (Merger::new(spill.clone()), Memory(vec![0; size]));
    let pieces: Vec<_> = file.chunks(700_001).enumerate().collect();
    for (index, piece) in pieces.into_iter().rev() {
        merger.write(index as u64 * 700_001, piece, &mut sink).unwrap();
    }
    assert!(spill.exists());
    merger.finish().unwrap();
    drop(merger);
    assert!(!spill.exists());
    assert!(sink.0 == new);
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = apply(&bytes, vec![0; 4096]);
    }

    #[test]
    fn any_mutation_is_an_answer(at in 0usize..132_000, byte in any::<u8>(), cut in 0usize..132_000) {
        let (base, new) = images();
        let mut file = differential(&base, &new);
        let (at, cut) = (at % file.len(), cut % file.len());
        file[at] = byte;
        let _ = apply(&file, base.clone());
        let _ = apply(&file[..cut], base);
    }

    #[test]
    fn any_order_of_pieces_gives_the_same_disk(order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle()) {
        let (base, new) = images();
        let file = differential(&base, &new);
        let step = file.len().div_ceil(40);
        let dir = tempfile::tempdir().unwrap();
        let (mut merger, mut sink) = (Merger::new(dir.path().join("spill")), Memory(base));
        for index in order {
            let from = (index * step).min(file.len());
            let to = (from + step).min(file.len());
            merger.write(from as u64, &file[from..to], &mut sink).unwrap();
        }
        merger.finish().unwrap();
        prop_assert!(sink.0 == new);
    }
}
