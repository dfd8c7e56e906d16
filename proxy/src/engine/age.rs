//! How long a flow's output may wait for its twin.
//!
//! Each flow learns how far apart its two sides usually are, the way a TCP sender learns its
//! retransmission time-out (RFC 6298): a smoothed delay and its mean deviation. What waits several
//! times as long as usual, within a floor and a ceiling, is late enough for a checkpoint.

use super::Config;
use super::verdict::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A flow's delay between its sides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Age {
    /// Smoothed delay in microseconds.
    smoothed: u32,
    /// Its mean deviation in microseconds.
    deviation: u32,
    seen: bool,
}

impl Age {
    /// A match came this long after the first of the two outputs.
    #[inline]
    pub(super) fn observe(&mut self, delay: Nanos) {
        let sample = u32::try_from(delay.0 / 1000).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        if !self.seen {
            *self = Self { smoothed: sample, deviation: sample / 2, seen: true };
            return;
        }
        self.deviation = self.deviation - self.deviation / 4 + self.smoothed.abs_diff(sample) / 4;
        self.smoothed = self.smoothed - self.smoothed / 8 + sample / 8;
    }

    /// The flow's limit: four times the RFC 6298 time-out, since a checkpoint costs more than a
    /// retransmission.
    #[inline]
    pub(super) fn limit(&self, config: &Config) -> Nanos {
        if !self.seen {
            return config.age_ceiling;
        }
        let late = 4 * (u64::from(self.smoothed) + 4 * u64::from(self.deviation));
        Nanos((late * 1000).max(config.age_floor.0).min(config.age_ceiling.0))
    }
}

/// Which flow is to be looked at when. Entries go stale rather than being removed: one counts only
/// if the flow still names the same time.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Nanos, u32, u32)>>);

impl Timers {
    pub(super) fn push(&mut self, at: Nanos, slot: u32, generation: u32) {
        self.0.push(Reverse((at, slot, generation)));
    }

    pub(super) fn next(&self) -> Option<Nanos> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next entry that is due: its time, slot and generation.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<(Nanos, u32, u32)> {
        let Reverse((at, ..)) = *self.0.peek()?;
        (at <= now).then(|| self.0.pop()).flatten().map(|Reverse(entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_starts_patient_and_adapts_between_floor_and_ceiling() {
        let config = Config::default();
        let mut age = Age::default();
        assert_eq!(age.limit(&config), config.age_ceiling);
        for _ in 0..100 {
            age.observe(Nanos(50_000));
        }
        assert_eq!(age.limit(&config), config.age_floor);
        for _ in 0..100 {
            age.observe(Nanos::from_millis(200));
        }
        let limit = age.limit(&config);
        assert!(limit > Nanos::from_millis(700) && limit < Nanos::from_millis(1200), "{limit:?}");
        for _ in 0..100 {
            age.observe(Nanos::from_millis(1_000_000));
        }
        assert_eq!(age.limit(&config), config.age_ceiling);
    }
}
