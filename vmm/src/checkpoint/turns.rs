//! A guest has a session, or is saved, but not both at a time.
//!
//! ```text
//!            ┌─ meets ─► Meeting ─ met ─► Session ─┐
//!   Free ────┤                                     ├─► Free
//!            └─ saves ─► Saving ───────────────────┘
//! ```
//!
//! A save stands the guest for as long as its reader takes. A secondary that waits for a checkpoint meanwhile would
//! take its primary for dead, and go on in its place; and then the primary goes on, too.

use crate::control::{ControlError, Save, Saved};
use crate::outlet::Outlet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a save waits for a primary that looks whether its secondary is there.
const MEETING: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Use {
    #[default]
    Free,
    /// It is looked whether the secondary is there.
    Meeting,
    Session,
    Saving,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Use>,
    free: Condvar,
}

/// A turn, until it is dropped.
#[derive(Debug)]
#[must_use = "it is over when it is dropped"]
pub struct Turn(Arc<Shared>);

impl Turns {
    /// A session's, if the guest is not being saved.
    pub(super) fn meet(&self) -> Option<Turn> {
        let mut state = self.0.lock();
        (*state == Use::Free).then(|| {
            *state = Use::Meeting;
            Turn(Arc::clone(&self.0))
        })
    }

    /// A save's, if there is no session.
    pub fn save(&self) -> Result<Turn, ControlError> {
        let (mut state, _) = self
            .0
            .free
            .wait_timeout_while(self.0.lock(), MEETING, |state| *state == Use::Meeting)
            .unwrap_or_else(PoisonError::into_inner);
        let reason = match *state {
            Use::Free => {
                *state = Use::Saving;
                return Ok(Turn(Arc::clone(&self.0)));
            }
            Use::Saving => "it is being saved already",
            Use::Meeting | Use::Session => {
                "it has a secondary, which would go on in its place while it stands for this; end the secondary, or \
                 give it up (colo-vm takeover --force), and then save"
            }
        };
        Err(ControlError { what: "save the guest", reason: reason.to_owned() })
    }
}

impl Turn {
    /// The secondary is there.
    pub(super) fn met(&self) {
        *self.0.lock() = Use::Session;
        self.0.free.notify_all();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.lock() = Use::Free;
        self.0.free.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Use> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saves a guest while it has no session.
#[derive(Debug)]
pub struct InTurn<S> {
    /// Who saves it.
    pub save: S,
    /// Whose turn it is.
    pub turns: Turns,
}

impl<S: Save> Save for InTurn<S> {
    fn save(&self, out: Outlet) -> Result<Saved, ControlError> {
        let _turn = self.turns.save()?;
        self.save.save(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_saved_between_sessions() {
        let turns = Turns::default();
        let session = turns.meet().unwrap();
        assert!(turns.meet().is_none());
        session.met();
        let refused = turns.save().unwrap_err();
        assert!(refused.reason.contains("takeover --force"), "{refused}");
        drop(session);
        let saving = turns.save().unwrap();
        assert!(turns.meet().is_none());
        assert!(turns.save().unwrap_err().reason.contains("already"));
        drop(saving);
        // One that looks for its secondary is waited for.
        let meeting = turns.meet().unwrap();
        let saves = {
            let turns = turns.clone();
            std::thread::spawn(move || turns.save().is_ok())
        };
        drop(meeting);
        assert!(saves.join().unwrap());
    }
}
