//! Lines in the log that clients can call for as often as they like: a flood of them is cut to so many a second, and the next line
//! that is written tells how many were left out. Knows no clock.

use std::time::{Duration, Instant};

/// How often a kind of line is written.
#[derive(Debug)]
pub struct Seldom {
    /// Lines a second.
    most: u32,
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Seldom {
    /// At most so many lines a second.
    pub fn new(most: u32) -> Self {
        Self { most, since: None, lines: 0, left_out: 0 }
    }

    /// Has `log` write a line, unless there were enough of them; it is told how many were left out before this one.
    pub fn note(&mut self, now: Instant, log: impl FnOnce(u64)) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == self.most {
            self.left_out += 1;
            return;
        }
        self.lines += 1;
        log(std::mem::take(&mut self.left_out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_its_number() {
        let (mut seldom, begin, mut told) = (Seldom::new(3), Instant::now(), Vec::new());
        for millis in [0, 10, 20, 30, 990, 1001, 1002, 5000] {
            seldom.note(begin + Duration::from_millis(millis), |more| told.push((millis, more)));
        }
        assert_eq!(told, [(0, 0), (10, 0), (20, 0), (1001, 2), (1002, 0), (5000, 0)]);
    }
}
