//! `clock`: time never goes back, on any CPU, nor ahead by much at once.
//!
//! ```text
//!   a thread for each CPU:  read what was seen last by anyone ─► read CLOCK_MONOTONIC ─► must not be less
//!                           CLOCK_REALTIME moved as CLOCK_MONOTONIC did, within the limit
//!   each of its steps is at most the limit
//! ```

use crate::control::Control;
use crate::{Report, say};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Between two readings of a thread: often enough for a step of a millisecond to be told, and the guest still
/// has time for other loads.
const PAUSE: Duration = Duration::from_millis(1);
/// Threads bear with each other on a busy machine; what is told is bounded.
const TOLD: u64 = 10;

/// What all threads have seen.
#[derive(Debug, Default)]
struct Seen {
    /// Nanoseconds from the beginning, of the latest reading.
    last: AtomicU64,
    readings: AtomicU64,
    longest: AtomicU64,
    apart: AtomicU64,
    errors: AtomicU64,
    over: AtomicBool,
}

impl Seen {
    fn wrong(&self, words: &str) {
        if self.errors.fetch_add(1, SeqCst) < TOLD {
            say(&format!("clock: WRONG: {words}"));
        }
    }

    /// A reading of the monotonic clock, `last` having been loaded before it.
    fn monotonic(&self, last: u64, now: u64) {
        self.readings.fetch_add(1, SeqCst);
        if now < last {
            self.wrong(&format!("monotonic time went back by {} ns", last - now));
        }
        self.last.fetch_max(now, SeqCst);
    }

    /// The step between two readings of one thread, of both clocks.
    fn step(&self, step: Duration, wall: Option<Duration>, limit: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(nanos(step), SeqCst);
        if step > limit {
            self.wrong(&format!("monotonic time went ahead by {:.1} ms", ms(nanos(step))));
        }
        let Some(wall) = wall else {
            self.wrong("the time of day went back");
            return;
        };
        let apart = wall.abs_diff(step);
        self.apart.fetch_max(nanos(apart), SeqCst);
        if apart > limit {
            self.wrong(&format!("the time of day moved {:.1} ms besides", ms(nanos(apart))));
        }
    }

    fn report(&self) -> Report {
        let errors = self.errors.load(SeqCst);
        let line = format!(
            "clock: {} readings, longest step {:.1} ms, time of day apart by {:.1} ms, {errors} errors",
            self.readings.load(SeqCst),
            ms(self.longest.load(SeqCst)),
            ms(self.apart.load(SeqCst)),
        );
        Report { line, errors }
    }
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn watch(seen: &Seen, begin: Instant, limit: Duration) {
    let mut before = (Instant::now(), SystemTime::now());
    while !seen.over.load(SeqCst) {
        thread::sleep(PAUSE);
        let last = seen.last.load(SeqCst);
        let now = (Instant::now(), SystemTime::now());
        // Before the beginning is back, too.
        let since = now.0.checked_duration_since(begin).unwrap_or_default();
        seen.monotonic(last, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        if let Some(step) = now.0.checked_duration_since(before.0) {
            seen.step(step, now.1.duration_since(before.1).ok(), limit);
        }
        before = now;
    }
}

pub(crate) fn clock(limit: Duration, control: &mut Control) -> Report {
    let (seen, begin) = (Seen::default(), Instant::now());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| watch(&seen, begin, limit));
        }
        while !control.is_over(|| seen.report()) {
            thread::sleep(Duration::from_millis(20));
        }
        seen.over.store(true, SeqCst);
    });
    seen.report()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    fn errors_of(what: impl FnOnce(&Seen)) -> u64 {
        let seen = Seen::default();
        what(&seen);
        seen.report().errors
    }

    #[test]
    fn steps_back_and_ahead_are_errors_and_steps_within_the_limit_are_not() {
        let step = Duration::from_millis(2);
        assert_eq!(errors_of(|seen| seen.monotonic(5, 5)), 0);
        assert_eq!(errors_of(|seen| seen.monotonic(6, 5)), 1);
        assert_eq!(errors_of(|seen| seen.step(step, Some(step), LIMIT)), 0);
        assert_eq!(errors_of(|seen| seen.step(step, None, LIMIT)), 1, "the day went back");
        assert_eq!(errors_of(|seen| seen.step(step, Some(step + 2 * LIMIT), LIMIT)), 1, "the day went ahead");
        assert_eq!(errors_of(|seen| seen.step(2 * LIMIT, Some(2 * LIMIT), LIMIT)), 1, "both went ahead");
    }
}
