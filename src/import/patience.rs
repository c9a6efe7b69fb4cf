//! How long a client is held while a hypervisor can't be reached, instead of being told at once.

use std::time::{Duration, Instant};

use crate::datastore::sink::Course;
use crate::inventory::InventoryError;

/// The first pause; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause: a hypervisor that is back is not left waiting for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Goes on trying until a moment that is settled when it begins, or the service ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    until: Instant,
    stopping: &'a Course,
}

impl<'a> Patience<'a> {
    /// From now on for that long; zero tries once.
    pub(super) fn new(limit: Duration, stopping: &'a Course) -> Self {
        Self { until: Instant::now() + limit, stopping }
    }

    /// Does something until it succeeds, fails for good, or time is up. `told` gets a line before each pause.
    pub(super) fn hold<T>(
        &self,
        told: &dyn Fn(&str),
        mut work: impl FnMut() -> Result<T, InventoryError>,
    ) -> Result<T, InventoryError> {
        let mut pause = PAUSE_MIN;
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match work() {
                Err(error) if error.transient && !left.is_zero() => {
                    let wait = pause.min(left);
                    told(&format!("{error}; it is tried again in {:.1} s", wait.as_secs_f64()));
                    if !self.stopping.pause(wait) {
                        return Err(error);
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Fails so often, then succeeds: the outcome, how often it was tried, the lines.
    fn held(
        limit: Duration,
        failures: u32,
        transient: bool,
    ) -> (Result<(), InventoryError>, u32, Vec<String>) {
        let (tries, lines) = (Cell::new(0), RefCell::new(Vec::new()));
        let course = Course::default();
        let done =
            Patience::new(limit, &course).hold(&|line| lines.borrow_mut().push(line.to_owned()), || {
                tries.set(tries.get() + 1);
                let failed = Err(InventoryError { message: "away".into(), transient });
                if tries.get() <= failures { failed } else { Ok(()) }
            });
        (done, tries.get(), lines.into_inner())
    }

    #[test]
    fn what_may_pass_is_tried_again_until_time_is_up_and_nothing_else_is() {
        let (done, tries, lines) = held(Duration::from_secs(20), 2, true);
        assert!(done.is_ok() && tries == 3, "{done:?} after {tries}");
        assert_eq!(lines, ["away; it is tried again in 0.5 s", "away; it is tried again in 1.0 s"]);
        let (done, tries, _) = held(Duration::from_millis(700), 1000, true);
        assert!(
            done.unwrap_err().message == "away" && tries == 3,
            "{tries}: at the start, after a pause, at the end"
        );
        assert_eq!(held(Duration::from_secs(20), 1, false).1, 1);
        assert_eq!(held(Duration::ZERO, 1, true).1, 1);
    }

    #[test]
    fn nobody_is_waited_for_where_the_service_ends() {
        let course = Course::default();
        course.cancel("the service ends");
        let failed = || Err::<(), _>(InventoryError { message: "away".into(), transient: true });
        let begun = Instant::now();
        assert!(Patience::new(Duration::from_mins(1), &course).hold(&|_| {}, failed).is_err());
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
