//! `dirty`: pages rewritten at a steady rate.
//!
//! Whole pages, one after the other, round and round the region; what is written neither repeats within a page
//! nor is what was there before, so that nobody can send less than was asked for.

use crate::Report;
use crate::control::Control;
use crate::random::mix;
use std::time::{Duration, Instant};

const WORDS: usize = 512;
const PAGE: u64 = 4096;
/// How long it sleeps when it is ahead.
const TICK: Duration = Duration::from_millis(10);
/// What it is behind by more than this is forgotten: a guest that stood is not to run after what it missed.
const BEHIND: Duration = Duration::from_millis(100);

/// How many pages are to be written, as time goes by.
#[derive(Debug)]
struct Pace {
    pages_per_second: f64,
    from: Duration,
    written: u64,
}

impl Pace {
    /// Pages that are due now, `time` after the beginning.
    fn due(&mut self, time: Duration) -> u64 {
        let wanted = |pace: &Self| {
            let pages = time.saturating_sub(pace.from).as_secs_f64() * pace.pages_per_second;
            (pages as u64).saturating_sub(pace.written)
        };
        if wanted(self) as f64 > BEHIND.as_secs_f64() * self.pages_per_second + 1.0 {
            (self.from, self.written) = (time.saturating_sub(BEHIND), 0);
        }
        let due = wanted(self);
        self.written += due;
        due
    }
}

pub(crate) fn dirty(rate_mb: u64, region_mb: u64, control: &mut Control) -> Result<Report, String> {
    let pages = usize::try_from(region_mb.saturating_mul(1_000_000) / PAGE).unwrap_or(0).max(1);
    let mut memory = Vec::new();
    let words = pages.checked_mul(WORDS).ok_or("a region of so many MB cannot be")?;
    memory.try_reserve_exact(words).map_err(|error| format!("no memory of {region_mb} MB: {error}"))?;
    memory.resize(words, 1_u64);

    let begin = Instant::now();
    let mut pace =
        Pace { pages_per_second: rate_mb as f64 * 1e6 / PAGE as f64, from: Duration::ZERO, written: 0 };
    let (mut total, mut next) = (0_u64, 0);
    loop {
        for _ in 0..pace.due(begin.elapsed()) {
            let value = mix(total);
            for (index, word) in memory[next * WORDS..][..WORDS].iter_mut().enumerate() {
                *word = value.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            }
            next = (next + 1) % pages;
            total += 1;
        }
        std::hint::black_box(&mut memory);
        let report = || {
            let (seconds, mb) = (begin.elapsed().as_secs_f64(), (total * PAGE) as f64 / 1e6);
            let line = format!("dirty: wrote {mb:.0} MB in {seconds:.1} s, {:.1} MB/s", mb / seconds);
            Report { line, errors: 0 }
        };
        if control.is_over(report) {
            return Ok(report());
        }
        std::thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_a_pause_is_not_made_up_for() {
        let mut pace = Pace { pages_per_second: 1000.0, from: Duration::ZERO, written: 0 };
        let mut at = |ms| pace.due(Duration::from_millis(ms));
        assert_eq!((1..=50).map(|tick| at(tick * 10)).sum::<u64>(), 500);
        assert_eq!(at(10_500), 100, "of ten seconds, a tenth of one");
        assert_eq!(at(10_510), 10);
    }
}
