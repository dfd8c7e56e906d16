//! Loading a program while signals come.
//!
//! The verifier gives up with `EAGAIN` as soon as a signal waits for the thread that loads
//! (`signal_pending` in the kernel's `do_check`): a timer's, a child's end, a control group being
//! frozen. Nothing is wrong with the program then, and it is to be loaded once more.

use aya::programs::ProgramError;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::Duration;

/// How often it is tried: with the pauses, for about a second.
const TRIES: u32 = 100;
/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Loads a program, again and again while signals keep the kernel from it.
///
/// # Errors
///
/// What the last try ended with.
pub fn load(attempt: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    persist(attempt, |error| match error {
        ProgramError::LoadError { io_error, .. } => {
            matches!(io_error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        }
        _ => false,
    })
}

fn persist<E>(
    mut attempt: impl FnMut() -> Result<(), E>,
    is_interrupted: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for tried in 1..TRIES {
        match attempt() {
            Err(error) if is_interrupted(&error) => {
                tracing::debug!(tried, "a signal came while the kernel verified a program");
                sleep(Duration::from_millis(u64::from(tried - 1)).min(PAUSE_MAX));
            }
            ended => return ended,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries that fail so often, and then succeed; with how often it was tried.
    fn persisted(failures: u32, interrupted: bool) -> (Result<(), ()>, u32) {
        let mut tried = 0;
        let attempt = || {
            tried += 1;
            if tried <= failures { Err(()) } else { Ok(()) }
        };
        (persist(attempt, |()| interrupted), tried)
    }

    #[test]
    fn a_signal_is_no_reason_to_give_up() {
        assert_eq!(persisted(3, true), (Ok(()), 4));
    }

    #[test]
    fn signals_without_end_are_an_error() {
        assert_eq!(persisted(u32::MAX, true), (Err(()), TRIES));
    }

    #[test]
    fn what_the_kernel_refuses_is_not_tried_again() {
        assert_eq!(persisted(1, false), (Err(()), 1));
    }
}
