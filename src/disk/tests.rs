//! [`ImportDisk`] against a model: random operations with failing drivers and crashes, and threads that overlap.
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::datastore::filter::{Fault, FaultPlan, Injector};
use crate::datastore::memory::MemoryDisk;
use crate::datastore::{Adapter, Datastore, DirectoryDatastore, Disk, DiskSpec, Provisioning};
use crate::journal::{DiskJournal, Journal, Record, fold};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A session's journal, as far as it is durable: a crash leaves exactly what was recorded by then.
#[derive(Clone)]
struct Recorder(Arc<Mutex<Vec<Record>>>);

impl Recorder {
    fn new() -> Self {
        let made = Record::DiskCreated { disk: 0, datastore: "d".into(), path: "p".into() };
        Self(Arc::new(Mutex::new(vec![made])))
    }

    fn map(&self, size: u64) -> DiskMap {
        fold::disk_map(&self.0.lock().unwrap(), 0, size).unwrap()
    }
}

impl IntentLog for Recorder {
    fn announce(&self, region: Region) -> io::Result<()> {
        self.0.lock().unwrap().push(Record::Intent { disk: 0, region });
        Ok(())
    }

    fn checkpoint(&self, map: &DiskMap) -> io::Result<()> {
        self.0.lock().unwrap().push(Record::Map { disk: 0, map: map.clone() });
        Ok(())
    }
}

fn disk_of(size: u64) -> (MemoryDisk, ImportDisk) {
    let memory = MemoryDisk::new(size as usize);
    let disk = ImportDisk::new(Box::new(memory.clone()), Options::default());
    (memory, disk)
}

fn read_all(disk: &ImportDisk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.end_of_file() as usize];
    assert_eq!(disk.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[test]
fn zeros_are_skipped_only_where_nothing_was_written() {
    let (memory, disk) = disk_of(4 * MIB);
    let zeros = vec![0; MIB as usize];
    disk.write_at(&zeros, 0).unwrap();
    let one = disk.statistics();
    assert_eq!((one.total, one.written, one.skipped, one.outgoing), (MIB, 0, MIB, 0));
    disk.write_at(&vec![5; MIB as usize], MIB / 2).unwrap();
    disk.write_at(&zeros, 0).unwrap();
    let two = disk.statistics();
    assert_eq!((two.total, two.written, two.skipped), (3 * MIB, MIB + MIB / 2, MIB + MIB / 2));
    assert!(
        memory.contents()[..MIB as usize].iter().all(|byte| *byte == 0),
        "zeros over data are not dropped"
    );
    assert_eq!(memory.writes(), [MIB as usize], "data goes out in one write");
    assert_eq!(disk.allocated_ranges(0, 4 * MIB, 9), (vec![(MIB, MIB / 2)], false));
}

#[test]
fn sectors_go_out_in_megabytes_and_are_seen_before() {
    let (memory, disk) = disk_of(4 * MIB);
    for sector in 0..3 * MIB / 512 {
        disk.write_at(&[sector as u8 | 1; 512], sector * 512).unwrap();
    }
    disk.write_at(&[9; 100], 3 * MIB + 7).unwrap();
    assert_eq!(memory.writes(), [MIB as usize; 3]);
    let mut seen = [1; 108];
    assert_eq!(disk.read_at(&mut seen, 3 * MIB).unwrap(), 107);
    assert!(seen[..7] == [0; 7] && seen[7..107] == [9; 100]);
    assert_eq!(disk.allocated_ranges(3 * MIB, 4 * MIB, 9).0, [(3 * MIB + 7, 100)]);
    disk.flush().unwrap();
    assert_eq!(memory.contents()[(3 * MIB + 7) as usize], 9);
    let statistics = disk.statistics();
    assert_eq!((statistics.outgoing, statistics.average_incoming()), (4, 511));
}

#[test]
fn the_end_of_file_decides_and_tails_do_not() {
    let (memory, disk) = disk_of(4 * MIB);
    let all_missing = Completion::Incomplete { missing: 4 * MIB, first: 0 };
    assert_eq!(disk.close().unwrap(), all_missing);
    disk.write_at(&[1; 512], 4 * MIB - 512).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Incomplete { missing: 4 * MIB - 512, first: 0 });
    disk.set_size(4 * MIB).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete, "a sparse restore");
    let refused = disk.set_size(4 * MIB + 1).unwrap_err();
    assert!(matches!(refused, DiskError::BeyondEnd { .. }));
    assert!(matches!(disk.write_at(&[1], 4 * MIB), Err(DiskError::BeyondEnd { .. })));
    assert!(disk.write_at(&[1; 2], u64::MAX).is_err());
    assert_eq!(disk.statistics().total, 512, "setting the end counts as nothing");
    disk.set_size(0).unwrap();
    assert_eq!(disk.close().unwrap(), all_missing);
    assert!(memory.contents().iter().all(|byte| *byte == 0), "truncation resets to zero");
}

#[test]
fn a_copy_from_the_start_counts_anew_and_adds_up() {
    let (_memory, disk) = disk_of(4 * MIB);
    disk.write_at(&vec![1; 3 * MIB as usize], 0).unwrap();
    disk.set_size(2 * MIB).unwrap();
    assert_eq!(
        disk.statistics().written,
        3 * MIB,
        "cutting off zeroes, but passes nothing of the client's on"
    );
    disk.set_size(0).unwrap();
    assert_eq!(disk.statistics(), Statistics::default());
    disk.write_at(&vec![0; MIB as usize], 0).unwrap();
    disk.write_at(&vec![2; MIB as usize], MIB).unwrap();
    disk.zero_range(MIB / 2, MIB + MIB / 2).unwrap();
    let numbers = disk.statistics();
    assert_eq!((numbers.total, numbers.written, numbers.skipped), (3 * MIB, MIB + MIB / 2, MIB + MIB / 2));
}

#[test]
fn an_end_of_file_whose_client_was_lost_completes_nothing() {
    let (_memory, disk) = disk_of(MIB);
    disk.set_size(MIB).unwrap();
    disk.write_at(&vec![1; MIB as usize / 2], 0).unwrap();
    disk.forget_declared_end();
    let missing = Completion::Incomplete { missing: MIB / 2, first: MIB / 2 };
    assert_eq!(disk.close().unwrap(), missing);
    assert_eq!(disk.map().declared_end, None);
    disk.set_size(MIB).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
}

#[test]
fn everything_received_is_complete_without_an_end_of_file() {
    let (_memory, disk) = disk_of(2 * MIB + 100);
    disk.write_at(&vec![0; MIB as usize], MIB).unwrap();
    disk.write_at(&[0; 100], 2 * MIB).unwrap();
    disk.write_at(&vec![1; MIB as usize], 0).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
}

#[test]
fn a_disk_that_promises_nothing_is_zeroed_where_nothing_came() {
    let memory = MemoryDisk::filled(MIB as usize, 0xaa);
    let options = Options { fresh_reads_zero: false, ..Options::default() };
    let disk = ImportDisk::new(Box::new(memory.clone()), options);
    disk.write_at(&vec![0; 128 * KIB as usize], 0).unwrap();
    disk.write_at(&vec![3; 128 * KIB as usize], 256 * KIB).unwrap();
    disk.set_size(MIB).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
    let contents = memory.contents();
    assert!((0..MIB).all(|at| contents[at as usize] == if (256..384).contains(&(at / KIB)) { 3 } else { 0 }));
}

#[test]
fn a_long_run_of_zeros_keeps_the_driver_alive() {
    let memory = MemoryDisk::new(MIB as usize);
    let options = Options { keep_alive: Duration::ZERO, ..Options::default() };
    let disk = ImportDisk::new(Box::new(memory.clone()), options);
    disk.write_at(&vec![0; MIB as usize], 0).unwrap();
    assert_eq!((disk.statistics().keep_alives, memory.keep_alives()), (1, 1));
}

#[test]
fn held_data_that_cannot_be_written_is_told_and_missed() {
    let injector = Injector::new(FaultPlan { writes: 1000, ..FaultPlan::default() });
    let fault = Fault::new(Box::new(MemoryDisk::new(MIB as usize)), Arc::clone(&injector));
    let disk = ImportDisk::new(Box::new(fault), Options::default());
    disk.set_size(MIB).unwrap();
    disk.write_at(&[1; 512], 4096).unwrap();
    assert!(matches!(disk.flush(), Err(DiskError::Late { .. })));
    assert_eq!(disk.completion(), Completion::Incomplete { missing: 512, first: 4096 });
    injector.arm(false);
    disk.write_at(&[1; 512], 4096).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
}

#[test]
fn what_a_failed_flush_covered_must_come_again() {
    let injector = Injector::new(FaultPlan { flushes: 1000, ..FaultPlan::default() });
    let fault = Fault::new(Box::new(MemoryDisk::new(MIB as usize)), Arc::clone(&injector));
    let disk = ImportDisk::new(Box::new(fault), Options::default());
    disk.write_at(&vec![1; MIB as usize], 0).unwrap();
    assert!(matches!(disk.flush(), Err(DiskError::Datastore(_))));
    injector.arm(false);
    disk.flush().unwrap();
    assert_eq!(disk.completion(), Completion::Incomplete { missing: MIB, first: 0 });
    disk.write_at(&vec![1; MIB as usize], 0).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
}

#[test]
fn a_region_is_announced_before_it_is_written() {
    struct Strict(MemoryDisk, Mutex<Vec<Region>>);
    impl IntentLog for Strict {
        fn announce(&self, region: Region) -> io::Result<()> {
            assert!(self.0.writes().is_empty());
            self.1.lock().unwrap().push(region);
            Ok(())
        }
        fn checkpoint(&self, _map: &DiskMap) -> io::Result<()> {
            Ok(())
        }
    }
    let memory = MemoryDisk::new(MIB as usize);
    let log = Arc::new(Strict(memory.clone(), Mutex::default()));
    let options = Options { intents: Some(log.clone()), ..Options::default() };
    let disk = ImportDisk::new(Box::new(memory), options);
    disk.write_at(&vec![0; 128 * KIB as usize], 0).unwrap();
    assert!(log.1.lock().unwrap().is_empty(), "what is skipped needs none");
    disk.write_at(&vec![1; 128 * KIB as usize], 0).unwrap();
    disk.write_at(&vec![1; 128 * KIB as usize], 512 * KIB).unwrap();
    assert_eq!(*log.1.lock().unwrap(), [Region { epoch: 0, first: 0, count: 1 }]);
}

/// Found by `import_sequences`: a short write over what had arrived was lost with the service, and the disk called whole.
#[test]
fn what_was_held_over_what_had_arrived_must_come_again_after_a_crash() {
    let (memory, recorder) = (MemoryDisk::new(MIB as usize), Recorder::new());
    let options = Options { intents: Some(Arc::new(recorder.clone())), ..Options::default() };
    let disk = ImportDisk::new(Box::new(memory.clone()), options.clone());
    disk.write_at(&vec![1; MIB as usize], 0).unwrap();
    disk.flush().unwrap();
    assert_eq!(recorder.map(MIB).completion(MIB), Completion::Complete);
    disk.write_at(&[2; 512], 512).unwrap();
    assert_ne!(recorder.map(MIB).completion(MIB), Completion::Complete);
    assert_eq!(disk.completion(), Completion::Incomplete { missing: 512, first: 512 });
    disk.flush().unwrap();
    assert_eq!(recorder.map(MIB).completion(MIB), Completion::Complete);
    assert_eq!(memory.contents()[512], 2);
}

/// Its client was told that it failed, and would not be believed had the disk been whole without it.
#[test]
fn a_short_write_that_is_refused_for_another_must_come_again() {
    let memory = MemoryDisk::new(8 * MIB as usize);
    let injector = Injector::new(FaultPlan { writes: 1000, ..FaultPlan::default() });
    injector.arm(false);
    let disk =
        ImportDisk::new(Box::new(Fault::new(Box::new(memory), Arc::clone(&injector))), Options::default());
    (0..8).for_each(|at| disk.write_at(&vec![1; MIB as usize], at * MIB).unwrap());
    injector.arm(true);
    // The first is evicted by the last; at 7 MiB something is held.
    [0, 1, 2, 7, 3].iter().for_each(|at| disk.write_at(&[2; 512], at * MIB).unwrap());
    injector.arm(false);
    assert!(matches!(disk.write_at(&[3; 512], 7 * MIB), Err(DiskError::Late { .. })));
    disk.write_at(&[2; 512], 0).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Incomplete { missing: 512, first: 7 * MIB });
    disk.write_at(&[3; 512], 7 * MIB).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
}

#[test]
fn a_restart_finds_what_was_flushed_in_journal_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let datastore = DirectoryDatastore::open(directory.path()).unwrap();
    let spec = DiskSpec {
        directory: String::new(),
        extent: "x-flat.vmdk".into(),
        descriptor: "x.vmdk".into(),
        size: 2 * MIB,
        provisioning: Provisioning::Thin,
        adapter: Adapter::default(),
        machine: None,
    };
    let (journal, _) = Journal::open(&path).unwrap();
    let journal = Arc::new(journal);
    let made = Record::DiskCreated { disk: 3, datastore: "d".into(), path: "x-flat.vmdk".into() };
    journal.record(&made).unwrap();
    let options = |journal: &Arc<Journal>| Options {
        intents: Some(Arc::new(DiskJournal::new(Arc::clone(journal), 3))),
        ..Options::default()
    };
    let disk = ImportDisk::new(datastore.create_disk(&spec).unwrap(), options(&journal));
    disk.write_at(&vec![1; MIB as usize], 0).unwrap();
    disk.flush().unwrap();
    drop((disk, journal)); // As a kill -9 right after the FLUSH: nothing was closed.

    let (journal, records) = Journal::open(&path).unwrap();
    let journal = Arc::new(journal);
    let map = fold::disk_map(&records, 3, spec.size).unwrap();
    let disk = ImportDisk::restore(datastore.open_disk(&spec).unwrap(), options(&journal), &map);
    assert_eq!(disk.completion(), Completion::Incomplete { missing: MIB, first: MIB });
    assert_eq!(read_all(&disk), vec![1; MIB as usize]);
    disk.write_at(&vec![2; MIB as usize], MIB).unwrap();
    drop((disk, journal)); // And now without a FLUSH: all of the region is in doubt.

    let (journal, records) = Journal::open(&path).unwrap();
    let map = fold::disk_map(&records, 3, spec.size).unwrap();
    let disk = ImportDisk::restore(datastore.open_disk(&spec).unwrap(), options(&Arc::new(journal)), &map);
    assert_eq!(disk.completion(), Completion::Incomplete { missing: 2 * MIB, first: 0 });
    disk.write_at(&vec![0; 2 * MIB as usize], 0).unwrap();
    assert_eq!(disk.close().unwrap(), Completion::Complete);
    assert_eq!(disk.statistics().skipped, 0, "in doubt means written");
    assert!(read_all(&disk).iter().all(|byte| *byte == 0));
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: u64,
        length: usize,
        byte: u8,
    },
    /// Data whose every other grain is zero.
    Stripes {
        offset: u64,
        length: usize,
    },
    Zero {
        from: u64,
        length: u64,
    },
    SetSize(u64),
    Flush,
    Crash(u64),
}

const SIZE: u64 = 2 * MIB + 300 * KIB + 77;
const GRAIN: u64 = 4 * KIB;

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..SIZE, (0..SIZE / 512).prop_map(|sector| sector * 512)];
    let length = prop_oneof![3 => 1usize..2000, 2 => 1usize..200_000];
    prop_oneof![
        8 => (offset.clone(), length.clone(), prop_oneof![Just(0u8), 1u8..])
            .prop_map(|(offset, length, byte)| Step::Write { offset, length, byte }),
        3 => (offset.clone(), length).prop_map(|(offset, length)| Step::Stripes { offset, length }),
        1 => (offset.clone(), 0..MIB).prop_map(|(from, length)| Step::Zero { from, length }),
        1 => prop_oneof![Just(SIZE), offset].prop_map(Step::SetSize),
        2 => Just(Step::Flush),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// An [`ImportDisk`], and what it must hold.
struct Simulation {
    memory: MemoryDisk,
    injector: Arc<Injector>,
    recorder: Recorder,
    disk: ImportDisk,
    expected: Vec<u8>,
    /// `expected` at the last flush that succeeded.
    durable: Vec<u8>,
}

impl Simulation {
    fn new(plan: FaultPlan) -> Self {
        let (memory, injector, recorder) =
            (MemoryDisk::new(SIZE as usize), Injector::new(plan), Recorder::new());
        let disk = Self::open(&memory, &injector, &recorder);
        let expected = vec![0; SIZE as usize];
        Self { memory, injector, recorder, disk, durable: expected.clone(), expected }
    }

    fn open(memory: &MemoryDisk, injector: &Arc<Injector>, recorder: &Recorder) -> ImportDisk {
        let options = Options {
            grain: GRAIN,
            hold_below: 8 * KIB as usize,
            intents: Some(Arc::new(recorder.clone())),
            ..Options::default()
        };
        let fault = Fault::new(Box::new(memory.clone()), Arc::clone(injector));
        ImportDisk::restore(Box::new(fault), options, &recorder.map(SIZE))
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        // A short write that tells of an earlier failure is not taken; the client sends it again.
        for _ in 0..2 {
            match self.disk.write_at(data, offset) {
                Err(DiskError::Late { .. }) => {}
                _ => break,
            }
        }
        let offset = offset as usize;
        self.expected[offset..offset + data.len()].copy_from_slice(data);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Write { offset, length, byte } => {
                let length = length.min((SIZE - offset) as usize);
                self.write(&vec![byte; length], offset);
            }
            Step::Stripes { offset, length } => {
                let end = SIZE.min(offset + length as u64);
                let data: Vec<_> = (offset..end)
                    .map(|at| if (at / GRAIN).is_multiple_of(2) { 0 } else { at as u8 })
                    .collect();
                self.write(&data, offset);
            }
            Step::Zero { from, length } => {
                let to = (from + length).min(self.disk.end_of_file());
                let _ = self.disk.zero_range(from, from + length);
                if from < to {
                    self.expected[from as usize..to as usize].fill(0);
                }
            }
            Step::SetSize(size) => {
                let _ = self.disk.set_size(size);
                self.expected[size as usize..].fill(0);
            }
            Step::Flush => {
                // A late failure is told after the checkpoint has succeeded.
                if matches!(self.disk.flush(), Ok(()) | Err(DiskError::Late { .. })) {
                    self.durable.clone_from(&self.expected);
                }
            }
            Step::Crash(seed) => self.crash(seed),
        }
    }

    fn crash(&mut self, mut seed: u64) {
        self.memory.crash(|| {
            seed = seed.rotate_left(1);
            seed & 1 == 1
        });
        self.disk = Self::open(&self.memory, &self.injector, &self.recorder);
        let (map, contents) = (self.disk.map(), self.memory.contents());
        for range in &map.received {
            let range = range.start as usize..range.end as usize;
            assert!(contents[range.clone()] == self.durable[range], "what is acknowledged durable is there");
        }
        self.durable.clone_from(&contents);
        self.expected = contents;
    }

    /// Whatever happened: what is not known as written is zero, and what is not lost reads as expected.
    fn check(&self) {
        let (map, contents) = (self.disk.map(), self.memory.contents());
        let written = ExtentMap::from_ranges(Rounding::Outward, map.written.iter().cloned());
        for gap in written.gaps(0..SIZE) {
            assert!(contents[gap.start as usize..gap.end as usize].iter().all(|byte| *byte == 0));
        }
        let lost = ExtentMap::from_ranges(Rounding::Outward, map.lost.iter().cloned());
        self.injector.arm(false);
        let seen = read_all(&self.disk);
        self.injector.arm(true);
        for part in lost.gaps(0..seen.len() as u64) {
            let part = part.start as usize..part.end as usize;
            assert!(seen[part.clone()] == self.expected[part.clone()], "{part:?} differs");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_bytes_through_faults_and_crashes(
        steps in prop::collection::vec(step(), 1..30),
        seed in any::<u64>(),
        faults in prop_oneof![Just(0u64), Just(100)],
    ) {
        let plan = FaultPlan { seed, writes: faults, zeros: faults, flushes: faults, ..FaultPlan::default() };
        let mut simulation = Simulation::new(plan);
        for step in &steps {
            simulation.run(step);
            simulation.check();
        }
        // The client copies again from the start and ends with the right bytes.
        simulation.injector.arm(false);
        let _ = simulation.disk.flush();
        simulation.disk.set_size(0).unwrap();
        let image: Vec<_> = (0..SIZE).map(|at| if at / 9000 % 3 == 0 { (at / 7) as u8 } else { 0 }).collect();
        for (index, part) in image.chunks(150_000).enumerate() {
            simulation.disk.write_at(part, index as u64 * 150_000).unwrap();
        }
        prop_assert_eq!(simulation.disk.close().unwrap(), Completion::Complete);
        prop_assert!(simulation.memory.contents() == image);
    }
}

/// A sequence of numbers for one thread.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn threads_that_share_blocks_and_windows_lose_nothing() {
    const THREADS: u64 = 4;
    const STRIPE: u64 = 700; // Neither sectors nor blocks: every boundary is shared.
    let (memory, disk) = disk_of(2 * MIB);
    let stripes = 2 * MIB / STRIPE;
    let models: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let disk = &disk;
                scope.spawn(move || {
                    let mut state = thread;
                    let mut model = vec![0u8; stripes as usize];
                    for _ in 0..3000 {
                        let stripe = random(&mut state) % (stripes / THREADS) * THREADS + thread;
                        let byte = (random(&mut state) % 3 * (thread + 1)) as u8;
                        disk.write_at(&[byte; STRIPE as usize], stripe * STRIPE).unwrap();
                        model[stripe as usize] = byte;
                        if random(&mut state).is_multiple_of(500) {
                            disk.flush().unwrap();
                        }
                    }
                    model
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    disk.flush().unwrap();
    let contents = memory.contents();
    for stripe in 0..stripes {
        let expected = models[(stripe % THREADS) as usize][stripe as usize];
        let bytes = &contents[(stripe * STRIPE) as usize..((stripe + 1) * STRIPE) as usize];
        assert!(bytes.iter().all(|byte| *byte == expected), "stripe {stripe}");
    }
}

#[test]
fn zeros_and_data_at_once_leave_one_of_them_whole() {
    let (memory, disk) = disk_of(MIB);
    let data = vec![7; 256 * KIB as usize];
    let zeros = vec![0; 256 * KIB as usize];
    for round in 0..100u64 {
        let offset = round % 4 * 128 * KIB;
        std::thread::scope(|scope| {
            scope.spawn(|| disk.write_at(&data, offset).unwrap());
            scope.spawn(|| disk.write_at(&zeros, offset).unwrap());
        });
        let mut seen = vec![1; 256 * KIB as usize];
        disk.read_at(&mut seen, offset).unwrap();
        assert!(seen == data || seen == zeros, "round {round}");
        assert!(memory.contents()[offset as usize..][..seen.len()] == seen);
    }
    assert!(memory.size() == MIB);
}
