//! How long to wait before the next round: longer each time, and never two hosts in step.
//!
//! ```text
//!   round     1        2          3    …
//!   from     first/2  first     2·first     up to longest/2
//!   to       first    2·first   4·first     up to longest
//! ```

use std::time::Duration;

/// Between which times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first round, at most.
    pub first: Duration,
    /// After any round, at most.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(250), longest: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// After this round (from 1), with this random number.
    pub fn delay(self, round: u32, random: u64) -> Duration {
        let doublings = round.saturating_sub(1).min(31);
        let most = self.first.saturating_mul(1 << doublings).min(self.longest);
        let half = most / 2;
        // 24 bits are as fine as anybody can tell; a multiplication by a fraction does not overflow.
        let part = (random >> 40) as f64 / f64::from(1 << 24);
        half + most.saturating_sub(half).mul_f64(part)
    }
}

/// Random numbers that nobody's safety depends on (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// They follow from the seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_doubles_up_to_the_longest_and_at_least_half_of_it_is_kept(
            round: u32, random: u64, first in 1u64..10_000, longest in 1u64..100_000,
        ) {
            let backoff = Backoff { first: Duration::from_millis(first), longest: Duration::from_millis(longest) };
            let delay = backoff.delay(round, random).as_secs_f64();
            let grown = first as f64 / 1e3 * 2f64.powi(i32::try_from(round.clamp(1, 32)).unwrap() - 1);
            let most = grown.min(longest as f64 / 1e3);
            prop_assert!(delay <= most + 1e-6 && delay >= most / 2.0 - 1e-6, "{delay} of {most}");
        }
    }
}
