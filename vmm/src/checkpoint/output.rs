//! The guest's held output, as a checkpoint sees it.
//!
//! ```text
//!   guest sends ─► held ─┬─ cut(n): what was sent so far belongs to epoch n
//!                        ├─ received(n): the secondary has all of n, and will be n whatever happens ─► may go
//!                        ├─ loaded(n): it is n
//!                        └─ alone: nobody follows any more ─► all may go, now and later
//! ```

use std::fmt;

/// Who holds the output. Calls come in this order, from one thread, and return at once.
pub trait Output: Send + Sync + fmt::Debug {
    /// The guest stands for the checkpoint that ends this epoch. Called while it stands.
    fn cut(&self, epoch: u64);
    /// The secondary can become what the guest was at the cut, and nothing can prevent it any more.
    fn received(&self, epoch: u64);
    /// It has become that.
    fn loaded(&self, epoch: u64);
    /// The checkpoint came to nothing, and its session with it.
    fn failed(&self, epoch: u64);
    /// The guest serves without a secondary from now on.
    fn alone(&self);
}

/// Nothing is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unheld;

impl Output for Unheld {
    fn cut(&self, _: u64) {}
    fn received(&self, _: u64) {}
    fn loaded(&self, _: u64) {}
    fn failed(&self, _: u64) {}
    fn alone(&self) {}
}
