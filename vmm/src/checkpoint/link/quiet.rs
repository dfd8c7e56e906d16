//! What strangers can cause is said seldom.

use std::time::{Duration, Instant};

/// At most one line in a second: a stranger does not fill the disk.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    last: Option<Instant>,
    swallowed: u64,
}

impl Quiet {
    /// Whether to speak now, and how many were swallowed.
    pub(crate) fn speak(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.swallowed += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.swallowed))
    }
}
