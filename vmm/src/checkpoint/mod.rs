//! Checkpoints: a guest on another host is made equal to this one, many times a second.
//!
//! ```text
//!   primary                                                            secondary
//!   tracker ── dirty pages ─► capture (a copy, in wire format)
//!   frozen machine ── state ─► package            link
//!        │ goes on                 └────────────────────────────► staged … complete ─► loaded, copied
//!        ▼                                                                │
//!   held output ◄──────────────────── vmstate-received, vmstate-loaded ───┘
//! ```
//!
//! The guest stands only for the copy; sending, receiving and loading happen while it runs.
//!
//! * [`protocol`]: the messages, and for each side a type per phase. [`link`]: how they get there.
//! * [`ram`]: pages on their way. [`package`]: everything else of a guest, as bytes.
//! * [`primary`], [`secondary`]: what each side does. [`orders`]: what it is told. [`output`]: who waits for it.
//! * [`disks`]: those, as a checkpoint sees them.
//! * [`turns`]: a session, or a save. [`status`]: what can be seen of all that.

pub mod disks;
pub mod link;
pub mod orders;
pub mod output;
pub mod package;
pub mod primary;
pub mod protocol;
pub mod ram;
pub mod secondary;
pub mod status;
pub mod turns;

use crate::control::{ControlError, Event};
use disks::Disks;
use orders::{Order, Post};
use protocol::hello::Held;
use rustix::rand::{GetRandomFlags, getrandom};
use status::{Board, Cause, Reason, Role, Status};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who hears of what happens to a session.
#[derive(Clone)]
pub struct Told {
    role: Role,
    tell: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Told {
    /// One side's.
    pub fn new(role: Role, tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { role, tell: Arc::new(tell) }
    }

    fn exit(&self, reason: Reason) {
        (self.tell)(Event::ColoExit { role: self.role, reason });
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("role", &self.role).finish_non_exhaustive()
    }
}

/// The epoch whose frames the guest is sending: it changes while the guest stands.
#[derive(Clone, Debug, Default)]
pub struct Now(Arc<AtomicU64>);

impl Now {
    /// It.
    pub fn epoch(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, epoch: u64) {
        self.0.store(epoch, Ordering::Release);
    }
}

/// A session, for those who ask and command.
#[derive(Clone, Debug)]
pub struct Handle {
    board: Arc<Board>,
    post: Post,
    now: Now,
    disks: Arc<dyn Disks>,
}

impl Handle {
    /// Of the side that has these.
    pub fn new(board: Arc<Board>, post: Post, now: Now, disks: Arc<dyn Disks>) -> Self {
        Self { board, post, now, disks }
    }

    /// Asks for a checkpoint because of what was seen just now. This is what a comparator calls.
    pub fn trigger(&self, cause: Cause) -> bool {
        self.post.send(Order::Checkpoint { cause, epoch: self.now.epoch() })
    }

    /// The guest has ended. A primary says so to its secondary, between two checkpoints.
    pub fn ended(&self) {
        match self.board.read().role {
            Role::Primary => self.post.send(Order::Ended),
            Role::Secondary => self.post.send_urgently(Order::Ended),
        };
    }

    fn primary_only(&self, what: &'static str) -> Result<(), ControlError> {
        match self.board.read().role {
            Role::Primary => Ok(()),
            Role::Secondary => {
                Err(ControlError { what, reason: "this is the secondary; ask the primary".to_owned() })
            }
        }
    }
}

/// What a secondary holds, should its primary come back: its session says so, its door tells who comes.
#[derive(Clone, Debug, Default)]
pub struct Holding(Arc<Mutex<Kept>>);

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    held: Held,
    /// Whose guest is whole here: a primary of another run would replace it.
    of: Option<u64>,
}

impl Holding {
    /// It.
    pub fn get(&self) -> Held {
        self.lock().held
    }

    /// The run of the primary whose guest it could take over.
    pub fn of(&self) -> Option<u64> {
        self.lock().of
    }

    fn set(&self, held: Held) {
        self.lock().held = held;
    }

    fn keep(&self, of: Option<u64>) {
        self.lock().of = of;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const OVER: &str = "this guest has no peer any more";

impl crate::control::Colo for Handle {
    fn status(&self) -> Status {
        Status { disks: self.disks.status(), ..self.board.read() }
    }

    fn set_delay(&self, delay: Duration) -> Result<(), ControlError> {
        let what = "set the time between checkpoints";
        self.primary_only(what)?;
        let sent = self.post.send(Order::Delay(delay));
        sent.then_some(()).ok_or_else(|| ControlError { what, reason: OVER.to_owned() })
    }

    fn checkpoint(&self) -> Result<(), ControlError> {
        let what = "make a checkpoint";
        self.primary_only(what)?;
        let status = self.board.read();
        if !matches!(status.phase, status::Phase::Level | status::Phase::Checkpoint) {
            let reason = "there is no secondary that has all of the guest's memory yet".to_owned();
            return Err(ControlError { what, reason });
        }
        let sent = self.trigger(Cause::Operator);
        sent.then_some(()).ok_or_else(|| ControlError { what, reason: OVER.to_owned() })
    }

    fn lost_heartbeat(&self) -> Result<(), ControlError> {
        let what = "give the peer up";
        let refused = |reason: &str| ControlError { what, reason: reason.to_owned() };
        let (answer, done) = sync_channel(1);
        if !self.post.send_urgently(Order::NoPeer(answer)) {
            return Err(refused(OVER));
        }
        // What cannot take over drops the answer, and says why on the board.
        done.recv().map_err(|_| {
            let error = self.board.read().error;
            refused(error.as_deref().unwrap_or(OVER))
        })
    }
}

/// A number that nobody else has.
pub(crate) fn unique() -> u64 {
    let mut bytes = [0; 8];
    // Once the kernel is seeded, which it is before a VMM runs, this gives what is asked for.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests;
