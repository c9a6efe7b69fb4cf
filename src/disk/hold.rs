//! Where small writes are put together: a few windows of the disk, each a buffer with the ranges that have arrived.
//!
//! A window may be filled in any order, because a client's small writes reach several threads. It leaves when it is full,
//! when another window needs its place (a gap), and when the disk is flushed.

use std::ops::Range;

/// Bytes of a window unless the options say otherwise.
pub(super) const WINDOW: u64 = 1024 * 1024;

/// Windows held per disk: enough for a few streams into one disk and their stragglers, 4 MiB in all.
const MAX_WINDOWS: usize = 4;

/// Separate pieces within one window before it is written out: what jumps about so much gains nothing by waiting.
const MAX_PIECES: usize = 256;

/// Small writes that wait.
#[derive(Debug)]
pub(super) struct Hold {
    /// Bytes of a window, at a multiple of which it lies on the disk: the largest write that goes out.
    size: u64,
    /// Least recently written first.
    windows: Vec<Window>,
    /// Buffers for the next windows.
    spare: Vec<Box<[u8]>>,
}

/// A window of the disk.
#[derive(Debug)]
pub(super) struct Window {
    /// Its place on the disk, in bytes.
    start: u64,
    buffer: Box<[u8]>,
    /// What has arrived, relative to the window: ascending, disjoint, not adjacent.
    filled: Vec<Range<usize>>,
}

impl Hold {
    /// Nothing held, in windows of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { size: size.max(1), windows: Vec::new(), spare: Vec::new() }
    }

    /// Takes the first part of `data`, up to the end of its window. Returns how much that was, and a window that must now
    /// be written out.
    pub(super) fn add(&mut self, data: &[u8], offset: u64) -> (usize, Option<Window>) {
        let start = offset - offset % self.size;
        let inside = (offset - start) as usize;
        let length = data.len().min(self.size as usize - inside);
        let mut window = match self.windows.iter().position(|window| window.start == start) {
            Some(index) => self.windows.remove(index),
            None => Window { start, buffer: self.buffer(), filled: Vec::new() },
        };
        window.buffer[inside..inside + length].copy_from_slice(&data[..length]);
        window.fill(inside..inside + length);
        if window.is_due() {
            return (length, Some(window));
        }
        self.windows.push(window);
        let evicted = (self.windows.len() > MAX_WINDOWS).then(|| self.windows.remove(0));
        (length, evicted)
    }

    /// Forgets what is held of `range`, because something newer takes its place.
    pub(super) fn discard(&mut self, range: &Range<u64>) {
        for window in &mut self.windows {
            window.discard(range);
        }
        let (keep, empty) =
            std::mem::take(&mut self.windows).into_iter().partition(|window| !window.filled.is_empty());
        self.windows = keep;
        for window in empty {
            self.recycle(window);
        }
    }

    /// The next window to write out, oldest first.
    pub(super) fn pop(&mut self) -> Option<Window> {
        if self.windows.is_empty() { None } else { Some(self.windows.remove(0)) }
    }

    /// The pieces held of `range`: offset on the disk, bytes.
    pub(super) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        self.windows.iter().flat_map(Window::pieces).filter_map(move |(offset, bytes)| {
            let from = offset.max(range.start);
            let to = (offset + bytes.len() as u64).min(range.end);
            (from < to).then(|| (from, &bytes[(from - offset) as usize..(to - offset) as usize]))
        })
    }

    /// Takes a window's buffer back.
    pub(super) fn recycle(&mut self, window: Window) {
        if self.spare.len() < MAX_WINDOWS {
            self.spare.push(window.buffer);
        }
    }

    fn buffer(&mut self) -> Box<[u8]> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.size as usize].into_boxed_slice())
    }
}

impl Window {
    /// From the first to the last byte held, on the disk.
    pub(super) fn span(&self) -> Range<u64> {
        let first = self.filled.first().map_or(0, |piece| piece.start);
        let last = self.filled.last().map_or(0, |piece| piece.end);
        self.start + first as u64..self.start + last as u64
    }

    /// What it holds: offset on the disk, bytes.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.filled.iter().map(|piece| (self.start + piece.start as u64, &self.buffer[piece.clone()]))
    }

    fn is_due(&self) -> bool {
        self.filled.first().is_some_and(|piece| *piece == (0..self.buffer.len()))
            || self.filled.len() > MAX_PIECES
    }

    fn fill(&mut self, new: Range<usize>) {
        let from = self.filled.partition_point(|piece| piece.end < new.start);
        let to = self.filled.partition_point(|piece| piece.start <= new.end);
        let start = self.filled[from..to].first().map_or(new.start, |piece| piece.start.min(new.start));
        let end = self.filled[from..to].last().map_or(new.end, |piece| piece.end.max(new.end));
        self.filled.splice(from..to, std::iter::once(start..end));
    }

    fn discard(&mut self, range: &Range<u64>) {
        let from = range.start.saturating_sub(self.start).min(self.buffer.len() as u64) as usize;
        let to = range.end.saturating_sub(self.start).min(self.buffer.len() as u64) as usize;
        if from >= to {
            return;
        }
        self.filled = std::mem::take(&mut self.filled)
            .into_iter()
            .flat_map(|piece| [piece.start..piece.end.min(from), piece.start.max(to)..piece.end])
            .filter(|piece| !piece.is_empty())
            .collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sectors_in_any_order_become_one_write() {
        let mut hold = Hold::new(WINDOW);
        let sectors = WINDOW / 512;
        let mut due = None;
        for step in 0..sectors {
            let sector = (step ^ 1) % sectors; // Every pair swapped, as two threads would.
            let (taken, window) = hold.add(&[step as u8; 512], 3 * WINDOW + sector * 512);
            assert_eq!(taken, 512);
            assert_eq!(window.is_some(), step == sectors - 1);
            due = window;
        }
        let window = due.unwrap();
        let pieces: Vec<_> = window.pieces().map(|(offset, bytes)| (offset, bytes.len())).collect();
        assert_eq!(pieces, [(3 * WINDOW, WINDOW as usize)]);
        assert!(hold.pop().is_none());
    }

    #[test]
    fn a_gap_evicts_the_oldest_and_windows_are_cut_at_their_end() {
        let mut hold = Hold::new(WINDOW);
        for window in 0..MAX_WINDOWS as u64 {
            assert!(hold.add(&[1; 16], window * WINDOW).1.is_none());
        }
        assert!(hold.add(&[2; 16], 16).1.is_none(), "the first is now the youngest");
        let (taken, evicted) = hold.add(&[3; 100], 10 * WINDOW - 40);
        assert_eq!(taken, 40);
        assert_eq!(evicted.unwrap().span(), WINDOW..WINDOW + 16);
    }

    #[test]
    fn discarding_splits_pieces() {
        let mut hold = Hold::new(WINDOW);
        hold.add(&[7; 300], 100);
        hold.discard(&(200..300));
        let pieces: Vec<_> = hold.pieces(0..1000).map(|(at, bytes)| at..at + bytes.len() as u64).collect();
        assert_eq!(pieces, [100..200, 300..400]);
        hold.discard(&(0..WINDOW));
        assert!(hold.pop().is_none());
    }
}
