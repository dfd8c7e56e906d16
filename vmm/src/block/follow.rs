//! Who hears of every change of a disk, and can take its bytes.
//!
//! ```text
//!   a worker                      a follower
//!   begin a change ── bytes ────► write, zeroes
//!   ◄───────────────── Followed ──┘ with a copy of the bytes, if there was room for one:
//!   image: from the copy            then the image gets what the follower has, whatever a driver does to its
//!   its end ── done ────────────►   buffer meanwhile
//! ```

use super::engine::Span;
use crate::memory::GuestRam;
use std::fmt;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// A change that was begun. It is given back to [`Follower::done`], once, however it ended.
#[derive(Debug)]
#[must_use = "a follower waits for its end"]
pub struct Followed {
    /// What the follower knows it by.
    pub ticket: u64,
    /// A copy of what is written, which stays until the change is done.
    pub copy: Option<Copy>,
}

/// Bytes in memory that a driver cannot change.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Whose memory.
    pub ram: Arc<GuestRam>,
    /// Where in it, in one piece.
    pub span: Span,
}

/// Who hears of changes. Calls come from any thread; each returns at once.
pub trait Follower: Send + Sync + fmt::Debug {
    /// These bytes are about to be written.
    fn write(&self, offset: u64, bytes: &[VolatileSlice<'_>]) -> Followed;
    /// A range is about to become zeros; `unmap` lets its space go.
    fn zeroes(&self, offset: u64, len: u64, unmap: bool) -> Followed;
    /// A change is over, and no other thread has been told so. If it is not `whole`, nobody knows what is there now.
    fn done(&self, followed: Followed, whole: bool);
}
