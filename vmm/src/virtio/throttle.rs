//! A bound on what a guest can make us log.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one complaint silences the next.
const QUIET: Duration = Duration::from_secs(1);

/// Lets one complaint through per second, and counts the others.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    silenced: u64,
}

impl Throttle {
    /// Whether to complain now; if so, how many complaints were silenced since the last.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            self.silenced = self.silenced.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silenced))
    }
}

/// A throttle of the whole process, for a `static`: a guest that makes a device anew does not make that anew.
#[derive(Debug)]
pub struct Gate(Mutex<Throttle>);

impl Gate {
    /// One that lets the first through.
    #[expect(clippy::new_without_default, reason = "a static needs a constant")]
    pub const fn new() -> Self {
        Self(Mutex::new(Throttle { last: None, silenced: 0 }))
    }

    /// As [`Throttle::admit`], now.
    pub fn admit(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}

/// Says that a queue is broken. A driver can break one, reset the device and break it again, as fast as it
/// likes: all devices together get a line per second.
pub fn complain(device: &str, error: &dyn fmt::Display) {
    static GATE: Gate = Gate::new();
    if let Some(silenced) = GATE.admit() {
        tracing::warn!(device, %error, silenced, "a queue is broken, and the device asks for a reset");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_line_per_second_with_a_count() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit(start), Some(0));
        for millis in 1..1000 {
            assert_eq!(throttle.admit(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(999));
        assert_eq!(throttle.admit(start + Duration::from_secs(3)), Some(0));
    }
}
