//! Time that stands while the guest does.

use crate::devices::lock;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A clock that a device reads.
pub trait Clock: Send + Sync + fmt::Debug {
    /// How long the guest has run.
    fn nanoseconds(&self) -> u64;
    /// Goes on from here.
    fn set(&self, nanoseconds: u64);
}

/// A clock that can be stopped. It stands at first.
#[derive(Debug, Default)]
pub struct Stopwatch(Mutex<Reading>);

#[derive(Debug, Default)]
struct Reading {
    before: Duration,
    running_since: Option<Instant>,
}

impl Reading {
    fn elapsed(&self) -> Duration {
        self.before + self.running_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Stopwatch {
    /// Lets it run, if it stands.
    pub fn start(&self) {
        lock(&self.0).running_since.get_or_insert_with(Instant::now);
    }

    /// Stands it still, if it runs.
    pub fn stop(&self) {
        let mut reading = lock(&self.0);
        *reading = Reading { before: reading.elapsed(), running_since: None };
    }
}

impl Clock for Stopwatch {
    fn nanoseconds(&self) -> u64 {
        u64::try_from(lock(&self.0).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn set(&self, nanoseconds: u64) {
        let mut reading = lock(&self.0);
        reading.before = Duration::from_nanos(nanoseconds);
        reading.running_since = reading.running_since.map(|_| Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_until_started_and_when_stopped() {
        let watch = Stopwatch::default();
        assert_eq!(watch.nanoseconds(), 0);
        watch.start();
        while watch.nanoseconds() == 0 {}
        watch.stop();
        let stood = watch.nanoseconds();
        std::thread::yield_now();
        assert_eq!(watch.nanoseconds(), stood);
        watch.set(7);
        assert_eq!(watch.nanoseconds(), 7);
        watch.start();
        while watch.nanoseconds() == 7 {}
    }
}
