//! Messages that whoever feeds us could cause without end: a few per second are shown.

use crate::engine::Nanos;

/// Lets a few messages per interval through and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// The end of the interval.
    until: Nanos,
    /// Messages in it so far.
    shown: u32,
    suppressed: u64,
}

const INTERVAL: Nanos = Nanos::from_millis(1000);

/// Messages of one kind in an interval.
const BURST: u32 = 5;

impl Quiet {
    /// Whether a message may be shown now, and how many of its kind were not since the last one.
    pub(crate) fn pass(&mut self, now: Nanos) -> Option<u64> {
        if now >= self.until {
            self.until = now.plus(INTERVAL);
            self.shown = 0;
        }
        if self.shown == BURST {
            self.suppressed += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Shows a message through a [`Quiet`]: `quietly!(quiet, now, warn, "text {}", argument)`.
macro_rules! quietly {
    ($quiet:expr, $now:expr, $level:ident, $($message:tt)+) => {
        match $quiet.pass($now) {
            None => {}
            Some(0) => tracing::$level!($($message)+),
            Some(more) => tracing::$level!("{} (and {more} more like it)", format_args!($($message)+)),
        }
    };
}
pub(crate) use quietly;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_per_interval_and_the_others_are_counted() {
        let mut quiet = Quiet::default();
        for _ in 0..BURST {
            assert_eq!(quiet.pass(Nanos(0)), Some(0));
        }
        assert_eq!(quiet.pass(Nanos(1)), None);
        assert_eq!(quiet.pass(Nanos(2)), None);
        assert_eq!(quiet.pass(INTERVAL), Some(2));
        assert_eq!(quiet.pass(INTERVAL), Some(0));
    }
}
