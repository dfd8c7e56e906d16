//! The secondary's disk.
//!
//! ```text
//!   guest here (Image)                              primary, through the export (Primary)
//!     reads  active, settled, base                    reads  pending, settled, base
//!     writes active                                   writes pending n (the epoch's tag)
//!                    ┌── active    the guest's own writes since the checkpoint
//!   checkpoint(n):   │   dropped
//!                    ├── settled   whole epochs, oldest first on their way into base (the settler)
//!   pending ≤ n      │      ▲
//!   join them        ├── pending ┘ the primary's unfinished epochs: seen by nobody but the primary
//!                    └── base      the image
//! ```
//!
//! The primary's unfinished epoch is not written into the image, with what it overwrites kept beside (undo), but
//! kept beside itself (redo). Then a write costs a copy, not a read and two writes; a checkpoint, a failure and a promotion
//! move or drop whole layers, in no time and without any way to fail; and what the guest reads from the image
//! cannot race with what the primary writes.
//!
//! After a promotion, settled layers and the active one are written into the image while the guest goes on. Its
//! writes to what is in a layer go to the active layer, all others to the image, so layers only shrink, and in
//! the end there are none and the disk is the image.

mod arena;
mod batch;
mod buffers;
mod core;
mod epoch;
mod image;
mod layer;
mod primary;
mod region;
mod settler;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use epoch::Epoch;
pub use primary::Primary;
pub use status::{Limits, Phase, Refused, SecondaryError, Status};

use self::core::Core;
use crate::block::Image;
use crate::sandbox::{self, Kind};
use settler::Settler;
use state::State;
use std::fs::File;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// A disk that follows the primary's. As an [`Image`], it is what the guest here sees.
///
/// To drop it writes into the base what is settled, and after a promotion everything.
#[derive(Debug)]
pub struct SecondaryDisk {
    core: Arc<Core>,
    settler: OnceLock<JoinHandle<()>>,
}

/// Tells everyone when the settler ends, however it does.
struct Last(Arc<Core>);

impl Drop for Last {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closing = false;
        state
            .trouble
            .get_or_insert_with(|| "the thread that writes epochs into the disk has ended".to_owned());
        self.0.room.notify_all();
    }
}

impl SecondaryDisk {
    /// Layers over an image that settle at once.
    pub fn new(base: Arc<dyn Image>, limits: Limits, spill: Option<File>) -> Result<Self, SecondaryError> {
        let disk = Self::open(base, limits, spill)?;
        disk.start()?;
        Ok(disk)
    }

    /// Layers over an image, with a file (see [`crate::spill`]) for what has no room in memory. Nothing settles
    /// before it is started.
    pub fn open(base: Arc<dyn Image>, limits: Limits, spill: Option<File>) -> Result<Self, SecondaryError> {
        if base.read_only() {
            return Err(SecondaryError::ReadOnly);
        }
        if !base.size().is_multiple_of(region::SECTOR) {
            return Err(SecondaryError::Size(base.size()));
        }
        let spill = spill.map(|file| (file, limits.spill));
        let arena = arena::Arena::new(limits.memory, limits.index, spill);
        let core = Arc::new(Core::new(base, limits, State::new(arena)));
        Ok(Self { core, settler: OnceLock::new() })
    }

    /// Starts the thread that settles, in the sandbox of the one that calls. It is called once.
    pub fn start(&self) -> Result<(), SecondaryError> {
        let last = Last(self.core.clone());
        let run = move || Settler::new(&last.0).run();
        let settler = sandbox::spawn("disk settler", Kind::Worker, run).map_err(SecondaryError::Thread)?;
        let _ = self.settler.set(settler);
        Ok(())
    }

    /// A session of the primary, until it fails or the guest is promoted.
    pub fn primary(&self) -> Primary {
        Primary::new(self.core.clone())
    }

    /// The guest here is level with the primary at the end of an epoch: what it wrote itself is forgotten, and it sees
    /// what the primary wrote up to then. The guest stands still, with nothing in flight; of the epoch, all is
    /// acknowledged. From the first checkpoint on, a guest is held.
    pub fn checkpoint(&self, epoch: u64) {
        let mut state = self.core.lock();
        if matches!(state.phase, Phase::Open | Phase::Held) {
            state.checkpoint(epoch);
        } else {
            tracing::error!(epoch, "a checkpoint came after the promotion, and does nothing to the disk");
        }
        self.core.work.notify_one();
    }

    /// The session with the primary has failed: what it did not finish was never there. A guest that is held stays
    /// as it is.
    pub fn fail(&self) {
        self.core.lock().fail();
        self.wake();
    }

    /// The guest that was held is gone, and nobody needs what it wrote; whole epochs stay. The disk can be
    /// written to without epochs again, for another first sync.
    pub fn release(&self) {
        self.core.lock().release();
        self.wake();
    }

    /// The guest goes on without the primary, on exactly what it sees. What is in layers is written into the base
    /// in the background: [`Status::left`] goes down to 0, and [`Status::phase`] is then [`Phase::Plain`].
    pub fn promote(&self) {
        self.core.lock().promote();
        self.wake();
    }

    /// What can be seen of it.
    pub fn status(&self) -> Status {
        self.core.status()
    }

    fn wake(&self) {
        self.core.work.notify_one();
        self.core.room.notify_all();
    }
}

impl Drop for SecondaryDisk {
    fn drop(&mut self) {
        self.core.lock().ending = true;
        self.wake();
        if let Some(settler) = self.settler.take() {
            let _ = settler.join();
        }
        let state = self.core.lock();
        let (left, why) = (state.left(), state.trouble.clone().unwrap_or_default());
        if left > 0 && state.phase == Phase::Promoted {
            tracing::error!(left, "the disk ends without all that its guest wrote: {why}");
        } else if left > 0 {
            tracing::warn!(left, "the secondary's disk ends before its last checkpoint: {why}");
        }
    }
}
