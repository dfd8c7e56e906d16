//! Time as the engine wants it.

use crate::engine::Nanos;
use rustix::event::Timespec;
use std::time::Instant;

/// A clock that begins when it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    #[inline]
    pub(super) fn now(self) -> Nanos {
        Nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// How long it is until `deadline`, as `poll` takes it.
pub(super) fn until(deadline: Nanos, now: Nanos) -> Timespec {
    let wait = deadline.since(now).0;
    Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 }
}
