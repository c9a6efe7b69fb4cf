//! A thread that does something at an interval until it is dropped: keeps a session alive, tells a lease's progress.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ends its thread when it is dropped, and waits for what that is doing.
pub(super) struct Keeper {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Does `work` after each `interval`, until it breaks. Where there is no thread to be had, nothing is kept, which is logged.
    pub(super) fn start(
        name: &str,
        interval: Duration,
        mut work: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let (flag, changed) = &*stopped;
            loop {
                let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = changed.wait_timeout_while(guard, interval, |stop| !*stop);
                let (stop, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if *stop {
                    return;
                }
                drop(stop);
                if work().is_break() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        Self { stop, thread: thread.map_err(|error| tracing::warn!("no thread for {name}: {error}")).ok() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let (flag, changed) = &*self.stop;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to tell
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    #[test]
    fn it_goes_on_until_it_breaks_or_is_dropped() {
        let done = Arc::new(AtomicU32::new(0));
        let counted = |until: u32| {
            let done = Arc::clone(&done);
            move || {
                let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                if count == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        };
        let keeper = Keeper::start("test", Duration::from_millis(1), counted(3));
        let deadline = Instant::now() + Duration::from_secs(20);
        while done.load(Ordering::Relaxed) < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(keeper);
        assert_eq!(done.load(Ordering::Relaxed), 3);
        // Dropped, it does not wait for its interval.
        let begun = Instant::now();
        drop(Keeper::start("test", Duration::from_hours(1), counted(u32::MAX)));
        assert!(begun.elapsed() < Duration::from_mins(1));
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }
}
