//! Waiting for something to come true. No test asserts how long it takes; the deadline is there so
//! that what never comes true ends with words.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine. TCP waits twice as long each time: a connection whose sixth SYN
/// was lost tries again after a minute.
pub const PATIENCE: Duration = Duration::from_mins(3);

const STEP: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer. `what` is what did not come true otherwise.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("still not true after {} s: {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(STEP);
    }
}

/// Looks again and again until it is so.
pub fn until_true(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, || Ok(look()?.then_some(())))
}
