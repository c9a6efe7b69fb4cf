//! [`ImportDisk`]: a disk being imported, over any driver. It keeps the rules of behaviour.md section 3.
//!
//! How a write goes: small ones are held until a window is full ([`super::hold`]); all others, and windows that leave, take
//! a ticket ([`super::order`]), are scanned by grain without a lock, and reach the driver from the caller's own slice. The
//! state is locked for bookkeeping only, never during I/O; what keeps overlapping operations apart is their ticket.
//!
//! The invariants that everything rests on:
//! - a range that is not in `written` reads as zeros from the driver, now and after any crash;
//! - `written` covers a write before it begins, and the intent log has its region on disk by then;
//! - `received` covers a write only after the driver has accepted it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::DiskError;
use super::extent_map::{ExtentMap, Rounding};
use super::hold::{Hold, Window};
use super::intent::{Announced, DiskMap, IntentLog, Progress};
use super::order::{Access, Order};
use super::state::State;
use super::statistics::{Recent, Statistics};
use super::zero;
use crate::datastore::Disk;

/// How an [`ImportDisk`] behaves.
#[derive(Clone)]
pub struct Options {
    /// The session made the disk and its driver promises that it reads as zeros where nothing was written.
    pub fresh_reads_zero: bool,
    /// Grain of zero skipping, in bytes.
    pub grain: u64,
    /// Writes shorter than this, in bytes, are held and put together; 0 passes all straight on.
    pub hold_below: usize,
    /// Held writes go out in windows of this many bytes, which lie at its multiples.
    pub window: u64,
    /// After so long without anything going out, while zeros are skipped, the driver is kept alive.
    pub keep_alive: Duration,
    /// What must be durable before a write. Without it nothing survives a crash.
    pub intents: Option<Arc<dyn IntentLog>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fresh_reads_zero: true,
            grain: zero::GRAIN,
            hold_below: zero::GRAIN as usize,
            window: super::hold::WINDOW,
            keep_alive: Duration::from_mins(1),
            intents: None,
        }
    }
}

/// Whether a disk has everything (rule 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Every byte arrived, or the client set the end of file to the disk's size (a sparse restore).
    Complete,
    /// Something is missing.
    Incomplete {
        /// Bytes that never arrived or were lost.
        missing: u64,
        /// The first of them.
        first: u64,
    },
}

/// A disk being imported. Shared by reference between any number of threads.
pub struct ImportDisk {
    disk: Box<dyn Disk>,
    size: u64,
    options: Options,
    state: Mutex<State>,
    /// Told when a ticket is given back.
    turn: Condvar,
    /// Held while regions are announced, so that several writers who need one wait for one sync.
    announcing: Mutex<()>,
    /// Held during a checkpoint: a newer map may not be overtaken by an older one.
    checkpointing: Mutex<()>,
}

/// A ticket that is given back when dropped, also when a driver panics.
struct Turn<'a> {
    disk: &'a ImportDisk,
    number: u64,
    /// [`State::failed_flushes`] when the turn came.
    failed_flushes: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.disk.lock().order.leave(self.number);
        self.disk.turn.notify_all();
    }
}

impl ImportDisk {
    /// A disk of which nothing has arrived yet.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, options: Options) -> Self {
        Self::restore(disk, options, &DiskMap::default())
    }

    /// A disk with what is known of it: see [`DiskMap::after_crash`].
    #[must_use]
    pub fn restore(disk: Box<dyn Disk>, options: Options, map: &DiskMap) -> Self {
        let size = disk.size();
        let mut written = ExtentMap::from_ranges(Rounding::Outward, map.written.iter().cloned());
        if !options.fresh_reads_zero {
            written.insert(0..size);
        }
        let state = State {
            order: Order::default(),
            hold: Hold::new(options.window),
            written,
            received: ExtentMap::from_ranges(Rounding::Inward, map.received.iter().cloned()),
            lost: ExtentMap::from_ranges(Rounding::Outward, map.lost.iter().cloned()),
            unflushed: ExtentMap::new(Rounding::Outward),
            failed_flushes: 0,
            announced: Announced::new(map.epoch),
            end_of_file: map.end_of_file.min(size),
            declared_end: map.declared_end,
            statistics: Statistics::default(),
            recent: Recent::default(),
            last_outgoing: Instant::now(),
            dirty: false,
            late: None,
        };
        Self {
            disk,
            size,
            options,
            state: Mutex::new(state),
            turn: Condvar::new(),
            announcing: Mutex::new(()),
            checkpointing: Mutex::new(()),
        }
    }

    /// The disk's size as the CFG gives it, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// End of file: what was set or reached by a write, in bytes.
    pub fn end_of_file(&self) -> u64 {
        self.lock().end_of_file
    }

    /// Bytes that the disk occupies on its datastore.
    pub fn allocated(&self) -> io::Result<u64> {
        self.disk.allocated()
    }

    /// The numbers so far.
    pub fn statistics(&self) -> Statistics {
        self.lock().statistics
    }

    /// Writes all of `data`, skipping zeros where the disk is known to read as zeros. A short write may be held; an error
    /// in writing it later is told by the next short write, [`ImportDisk::flush`] or [`ImportDisk::close`].
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        let range = self.check(offset, data.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        if data.len() < self.options.hold_below {
            return self.write_held(data, &range);
        }
        let mut state = self.lock();
        state.note_incoming(data.len() as u64);
        state.reach(range.end);
        state.hold.discard(&range);
        let turn = self.enter(state, &range, Access::Write);
        self.put(&turn, data, offset)
    }

    /// Reads at `offset`, up to the end of file; returns how many bytes. Sees what is held; what was skipped or never
    /// arrived reads as zeros.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let state = self.lock();
        let end = state.end_of_file.min(offset.saturating_add(buffer.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let range = offset..end;
        let buffer = &mut buffer[..(end - offset) as usize];
        // Copied now, so that all that was acknowledged is seen: what leaves the hold later has a later ticket.
        let held: Vec<_> =
            state.hold.pieces(range.clone()).map(|(at, bytes)| (at, Vec::from(bytes))).collect();
        let turn = self.enter(state, &range, Access::Read);
        let written: Vec<_> = self.lock().written.intersections(range.clone()).collect();
        if written.first() != Some(&range) {
            buffer.fill(0);
        }
        for part in written {
            let inside = (part.start - offset) as usize..(part.end - offset) as usize;
            self.disk.read_at(&mut buffer[inside], part.start).map_err(DiskError::Datastore)?;
        }
        drop(turn);
        for (at, bytes) in held {
            let inside = (at - offset) as usize;
            buffer[inside..inside + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(buffer.len())
    }

    /// Sets the end of file. Growing writes nothing and takes constant time; shrinking makes what is cut off read as zeros,
    /// should the file grow again. Neither counts in the statistics; a file cut to nothing begins anew, and so do they.
    pub fn set_size(&self, new_size: u64) -> Result<(), DiskError> {
        self.check(new_size, 0)?;
        let mut state = self.lock();
        let cut = new_size..state.end_of_file.max(state.received.end()).max(state.lost.end());
        state.end_of_file = new_size;
        state.declared_end = Some(new_size);
        state.dirty = true;
        if cut.is_empty() {
            return Ok(());
        }
        state.hold.discard(&cut);
        let turn = self.enter(state, &cut, Access::Write);
        let zeroed = self.put_zeros(&cut);
        {
            let mut state = self.lock();
            state.received.remove(cut.clone());
            match zeroed {
                Ok(_) => state.lost.remove(cut),
                Err(_) => state.lost.insert(cut),
            }
            if new_size == 0 {
                state.statistics = Statistics::default();
            }
        }
        drop(turn);
        zeroed.map(|_| ())
    }

    /// Forgets that a client set the end of file: it was lost before it closed the file, so that what it left out is not
    /// meant to be zeros. Only what arrived counts until another says so.
    pub fn forget_declared_end(&self) {
        let mut state = self.lock();
        state.dirty |= state.declared_end.take().is_some();
    }

    /// FSCTL_SET_ZERO_DATA: `from..to`, as far as the file reaches, reads as zeros; the same as writing zeros there.
    pub fn zero_range(&self, from: u64, to: u64) -> Result<(), DiskError> {
        let mut state = self.lock();
        let range = from..to.min(state.end_of_file);
        if range.is_empty() {
            return Ok(());
        }
        state.note_incoming(range.end - range.start);
        state.hold.discard(&range);
        let turn = self.enter(state, &range, Access::Write);
        let zeroed = self.put_zeros_counted(&range);
        self.lock().settle(turn.failed_flushes, &range, zeroed.is_ok());
        zeroed
    }

    /// FSCTL_QUERY_ALLOCATED_RANGES: (offset, length) of what may hold data within `from..to`, at most `max` of them, and
    /// whether there are more.
    pub fn allocated_ranges(&self, from: u64, to: u64, max: usize) -> (Vec<(u64, u64)>, bool) {
        let state = self.lock();
        let range = from..to.min(state.end_of_file);
        if range.is_empty() {
            return (Vec::new(), false);
        }
        let mut found = ExtentMap::new(Rounding::Outward);
        // One more than asked tells whether there are more. Held pieces are few; they may join or split nothing here.
        for part in state.written.intersections(range.clone()).take(max.saturating_add(1)) {
            found.insert(part);
        }
        for (at, bytes) in state.hold.pieces(range) {
            found.insert(at..at + bytes.len() as u64);
        }
        let mut ranges: Vec<_> =
            found.to_ranges().into_iter().map(|part| (part.start, part.end - part.start)).collect();
        let more = ranges.len() > max;
        ranges.truncate(max);
        (ranges, more)
    }

    /// Writes out what is held and makes everything that was acknowledged durable, its map too.
    pub fn flush(&self) -> Result<(), DiskError> {
        self.drain();
        let late = self.lock().report_late();
        self.checkpoint()?;
        late
    }

    /// The end of an open: flushes, stops the clock of the statistics, and says whether the disk is complete. On a disk
    /// that does not read as zeros by itself, zeroes what a sparse restore left out.
    pub fn close(&self) -> Result<Completion, DiskError> {
        self.drain();
        if !self.options.fresh_reads_zero && self.completion() == Completion::Complete {
            self.fill_gaps()?;
        }
        let flushed = self.flush();
        self.lock().statistics.closed = Some(Instant::now());
        flushed?;
        Ok(self.completion())
    }

    /// Nothing more comes for now: flushes, and has the driver give back what holding the disk takes elsewhere.
    pub fn release(&self) -> Result<(), DiskError> {
        self.flush()?;
        self.disk.release().map_err(DiskError::Datastore)
    }

    /// Whether everything has arrived. What is still held counts as missing.
    pub fn completion(&self) -> Completion {
        self.map().completion(self.size)
    }

    /// How far it is. What is still held has not arrived.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        Progress::of(&state.received.to_ranges(), &state.written)
    }

    /// Bytes a second that came in during the last seconds; 0 once nothing has come for that long.
    pub fn rate(&self) -> u64 {
        self.lock().recent.rate(Instant::now())
    }

    /// What is known now, as a checkpoint would record it.
    pub fn map(&self) -> DiskMap {
        let state = self.lock();
        state.map(state.announced.epoch())
    }

    /// The range of a write, or the error that it leaves the disk.
    fn check(&self, offset: u64, length: u64) -> Result<Range<u64>, DiskError> {
        let end = offset.saturating_add(length);
        if end > self.size { Err(DiskError::BeyondEnd { end, size: self.size }) } else { Ok(offset..end) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking driver poisons nothing: the state is consistent whenever the lock is free.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a ticket under the lock that the caller holds, and waits for its turn without it.
    fn enter<'a>(&'a self, mut state: MutexGuard<'a, State>, range: &Range<u64>, access: Access) -> Turn<'a> {
        let number = state.order.enter(range, access);
        while !state.order.is_first(number) {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { disk: self, number, failed_flushes: state.failed_flushes }
    }

    /// Holds `data`, window by window, writing out the windows that must go. A failure of theirs is kept for the next call
    /// that can tell it: this one, if it came before.
    fn write_held(&self, mut data: &[u8], range: &Range<u64>) -> Result<(), DiskError> {
        let mut offset = range.start;
        let mut state = self.lock();
        if let Err(late) = state.report_late() {
            // What is held there must not pass for this.
            state.hold.discard(range);
            state.lose(range);
            return Err(late);
        }
        state.note_incoming(data.len() as u64);
        state.reach(range.end);
        while !data.is_empty() {
            state = self.announce_overwrite(state, &(offset..range.end))?;
            let (taken, due) = state.hold.add(data, offset);
            data = &data[taken..];
            offset += taken as u64;
            if let Some(window) = due {
                self.write_window(state, window);
                state = self.lock();
            }
        }
        Ok(())
    }

    /// Before something is held over what has arrived already: a crash would lose it, and what came before would pass for it.
    fn announce_overwrite<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        range: &Range<u64>,
    ) -> Result<MutexGuard<'a, State>, DiskError> {
        let over = |state: &State| state.received.intersections(range.clone()).next().is_some();
        while self.options.intents.is_some()
            && over(&state)
            && state.announced.missing(range, self.size).is_some()
        {
            drop(state);
            self.announce(range)?;
            state = self.lock();
        }
        Ok(state)
    }

    /// Writes out all that is held.
    fn drain(&self) {
        let mut state = self.lock();
        while let Some(window) = state.hold.pop() {
            self.write_window(state, window);
            state = self.lock();
        }
        // A window that another thread took out is not held any more, but under way.
        drop(self.enter(state, &(0..self.size), Access::Read));
    }

    /// Writes out a window that was taken from the hold under `state`. A failure is recorded as lost and told later; the
    /// other pieces are tried all the same.
    fn write_window(&self, state: MutexGuard<'_, State>, window: Window) {
        let turn = self.enter(state, &window.span(), Access::Write);
        for (offset, bytes) in window.pieces() {
            if let Err(error) = self.put(&turn, bytes, offset) {
                self.lock().late.get_or_insert_with(|| (error.kind(), error.to_string()));
            }
        }
        drop(turn);
        self.lock().hold.recycle(window);
    }

    /// Writes `data` under the caller's ticket: zeros are skipped or zeroed, the rest goes to the driver.
    fn put(&self, turn: &Turn<'_>, data: &[u8], offset: u64) -> Result<(), DiskError> {
        let range = offset..offset + data.len() as u64;
        let result = zero::runs(data, offset, self.options.grain).try_for_each(|run| {
            let place = offset + run.range.start as u64..offset + run.range.end as u64;
            if run.zero { self.put_zeros_counted(&place) } else { self.put_data(&data[run.range], &place) }
        });
        self.lock().settle(turn.failed_flushes, &range, result.is_ok());
        result
    }

    /// Data for the driver: its range counts as written first, and its region is announced before that.
    fn put_data(&self, data: &[u8], place: &Range<u64>) -> Result<(), DiskError> {
        self.mark_written(place)?;
        self.disk.write_at(data, place.start).map_err(DiskError::Datastore)?;
        self.lock().note_outgoing(data.len() as u64);
        Ok(())
    }

    /// Zeros of a write: what is known to read as zeros is skipped, the rest zeroed.
    fn put_zeros_counted(&self, place: &Range<u64>) -> Result<(), DiskError> {
        let zeroed = self.put_zeros(place)?;
        let mut state = self.lock();
        zeroed.iter().for_each(|bytes| state.statistics.note_outgoing(*bytes));
        state.statistics.skipped += place.end - place.start - zeroed.iter().sum::<u64>();
        let idle = state.last_outgoing.elapsed() >= self.options.keep_alive;
        if idle {
            state.last_outgoing = Instant::now();
            state.statistics.keep_alives += 1;
            drop(state);
            self.disk.keep_alive().map_err(DiskError::Datastore)?;
        }
        Ok(())
    }

    /// Makes a range read as zeros, under the caller's ticket; returns how many bytes the driver had to zero in each call.
    fn put_zeros(&self, place: &Range<u64>) -> Result<Vec<u64>, DiskError> {
        let parts: Vec<_> = self.lock().written.intersections(place.clone()).collect();
        let mut zeroed = Vec::new();
        for part in parts {
            let length = part.end - part.start;
            // It counts as written already, but a crash in the middle of zeroing leaves it in doubt all the same.
            self.mark_written(&part)?;
            self.disk.zero(part.start, length).map_err(DiskError::Datastore)?;
            let mut state = self.lock();
            state.written.remove(part);
            state.last_outgoing = Instant::now();
            zeroed.push(length);
        }
        Ok(zeroed)
    }

    /// Puts a range into the map of written ranges, after its region is durable in the intent log.
    fn mark_written(&self, range: &Range<u64>) -> Result<(), DiskError> {
        loop {
            let mut state = self.lock();
            let missing = match self.options.intents {
                Some(_) => state.announced.missing(range, self.size),
                None => None,
            };
            if missing.is_none() {
                // In one step with the look at the announced regions: a checkpoint sees either both or neither.
                state.written.insert(range.clone());
                state.unflushed.insert(range.clone());
                state.dirty = true;
                return Ok(());
            }
            drop(state);
            self.announce(range)?;
        }
    }

    /// Announces what `range` needs, unless another thread has just done so.
    fn announce(&self, range: &Range<u64>) -> Result<(), DiskError> {
        let _one_at_a_time = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.lock().announced.missing(range, self.size);
        if let (Some(region), Some(intents)) = (missing, &self.options.intents) {
            intents.announce(region).map_err(DiskError::Journal)?;
            self.lock().announced.add(region);
        }
        Ok(())
    }

    /// Flushes the driver and records the map as it was before that.
    fn checkpoint(&self) -> Result<(), DiskError> {
        let _one_at_a_time = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, flushing) = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.dirty) {
                return Ok(());
            }
            let epoch = state.announced.advance();
            let flushing = std::mem::replace(&mut state.unflushed, ExtentMap::new(Rounding::Outward));
            (state.map(epoch), flushing)
        };
        if let Err(error) = self.disk.flush() {
            self.lock().fail_flush(&flushing);
            return Err(DiskError::Datastore(error));
        }
        let Some(intents) = &self.options.intents else { return Ok(()) };
        intents.checkpoint(&map).map_err(|error| {
            self.lock().dirty = true;
            DiskError::Journal(error)
        })
    }

    /// Zeroes what never arrived, on a disk whose driver promises nothing about it.
    fn fill_gaps(&self) -> Result<(), DiskError> {
        let state = self.lock();
        let turn = self.enter(state, &(0..self.size), Access::Write);
        let gaps: Vec<_> = self.lock().received.gaps(0..self.size).collect();
        for gap in gaps {
            let zeroed = self.put_zeros(&gap);
            self.lock().settle(turn.failed_flushes, &gap, zeroed.is_ok());
            zeroed?;
        }
        drop(turn);
        Ok(())
    }
}
