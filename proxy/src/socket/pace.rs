//! Which side is read while the other lags.
//!
//! ```text
//!   held of a side   0 ───────── NEAR ── FAR ───────────────── limit of one flow
//!                    reads on ... ◄──┘     └─► waits, PATIENCE long at most and once,
//!                                              until the other has caught up some of it
//! ```
//!
//! Sockets are not read in the order in which they were written: without this, a burst on one of
//! them would look like a secondary that lags, and ask for a checkpoint.

use crate::engine::{Limit, Nanos, Side, Usage};

/// How long a side that is far ahead waits for the other.
pub(super) const PATIENCE: Nanos = Nanos::from_millis(20);

/// What is far ahead, in 64ths of what one flow may hold.
const FAR: usize = 32;

/// What is not far ahead any more.
const NEAR: usize = 28;

/// Keeps the sides from running away from each other.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Limit,
    /// Since when a side has been far ahead.
    since: [Option<Nanos>; 2],
}

impl Pace {
    /// `limit`: what one flow may hold.
    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, since: [None; 2] }
    }

    /// How much is held, in 64ths of what one flow may hold.
    fn lead(&self, held: Usage) -> usize {
        let part = |held: usize, limit: usize| held.saturating_mul(64) / limit.max(1);
        part(held.frames, self.limit.frames).max(part(held.bytes, self.limit.bytes))
    }

    /// Whether a side is so far ahead that the other is to be heard first.
    pub(super) fn waits(&self, held: [Usage; 2], side: Side, now: Nanos) -> bool {
        let (side, other) = (side as usize, 1 - side as usize);
        let lead = self.lead(held[side]);
        lead >= FAR
            && now.since(self.since[side].unwrap_or(now)) < PATIENCE
            // Of two that hold much, the one that holds less goes on; of equals, the secondary.
            && (lead, other) > (self.lead(held[other]), side)
    }

    /// Takes note of how far ahead the sides are now.
    pub(super) fn judge(&mut self, held: [Usage; 2], now: Nanos) {
        for (held, side) in held.into_iter().zip(0..) {
            match self.lead(held) {
                FAR.. => _ = self.since[side].get_or_insert(now),
                0..NEAR => self.since[side] = None,
                _ => {}
            }
        }
    }

    /// When a side that waits has waited long enough.
    pub(super) fn deadline(&self, held: [Usage; 2], now: Nanos) -> Option<Nanos> {
        let waiting =
            [Side::Primary, Side::Secondary].into_iter().filter(|side| self.waits(held, *side, now));
        waiting.map(|side| self.since[side as usize].unwrap_or(now).plus(PATIENCE)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(5);

    fn held(primary: usize, secondary: usize) -> [Usage; 2] {
        [primary, secondary].map(|frames| Usage { frames, bytes: 10 * frames })
    }

    fn waits(pace: &Pace, held: [Usage; 2], now: Nanos) -> [bool; 2] {
        [Side::Primary, Side::Secondary].map(|side| pace.waits(held, side, now))
    }

    #[test]
    fn the_one_that_is_far_ahead_waits_once() {
        let mut pace = Pace::new(Limit { frames: 64, bytes: 1 << 20 });
        assert_eq!(waits(&pace, held(31, 0), NOW), [false, false]);
        assert_eq!(waits(&pace, held(32, 0), NOW), [true, false]);
        assert_eq!(waits(&pace, held(0, 32), NOW), [false, true]);
        pace.judge(held(32, 0), NOW);
        let over = NOW.plus(PATIENCE);
        assert_eq!(pace.deadline(held(32, 0), NOW), Some(over));
        assert_eq!(waits(&pace, held(32, 0), over), [false, false]);
        pace.judge(held(30, 0), over);
        assert_eq!(waits(&pace, held(40, 0), over), [false, false], "the other has hardly caught up");
        pace.judge(held(20, 0), over);
        assert_eq!(waits(&pace, held(40, 0), over), [true, false]);
        assert_eq!(pace.deadline(held(20, 0), over), None);
    }

    #[test]
    fn bytes_count_as_well_as_frames() {
        let pace = Pace::new(Limit { frames: 64, bytes: 100 });
        assert_eq!(waits(&pace, held(4, 0), NOW), [false, false]);
        assert_eq!(waits(&pace, held(5, 0), NOW), [true, false]);
    }

    #[test]
    fn two_that_hold_much_do_not_wait_for_each_other() {
        let pace = Pace::new(Limit { frames: 64, bytes: 1 << 20 });
        for (primary, secondary) in [(50, 50), (50, 51), (51, 50), (500, 500)] {
            let [primary, secondary] = waits(&pace, held(primary, secondary), NOW);
            assert!(primary != secondary);
        }
    }
}
