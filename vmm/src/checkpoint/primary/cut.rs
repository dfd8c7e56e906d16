//! What is done while the guest stands, and nothing else.
//!
//! ```text
//!   stands ─► the disks' epoch ends ─► state of vCPUs and devices ─► which pages are dirty ─► a copy of those ─► they are clean ─► goes on
//! ```

use super::session::SessionError;
use crate::checkpoint::disks::Source;
use crate::checkpoint::ram::capture::PIECE;
use crate::checkpoint::ram::pack::Packing;
use crate::checkpoint::ram::{Blocks, Capture, PAGE};
use crate::checkpoint::status::Stood;
use crate::dirty::{DirtyError, PageSet, Tracker};
use crate::machine::{After, Frozen, MachineState, StateError};
use crate::memory::GuestRam;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use vm_memory::GuestMemoryError;

/// A copy that cannot be made. The guest goes on all the same.
#[derive(Debug, Error)]
pub enum CutError {
    /// Nobody knows what is dirty.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Pages cannot be copied, which only a bug does.
    #[error("cannot copy the guest's pages: {0}")]
    Copy(#[from] GuestMemoryError),
}

/// The guest at one moment.
#[derive(Debug)]
pub struct Cut {
    /// Its vCPUs and devices.
    pub state: MachineState,
    /// How many pages its own guest had written.
    pub dirty: u64,
    /// How many pages are in the copy.
    pub pages: u64,
    /// How long that took.
    pub stood: Stood,
}

/// Makes copies of a guest's pages. It keeps its memory.
#[derive(Debug)]
pub struct Copier {
    tracker: Box<dyn Tracker>,
    dirty: PageSet,
    /// What the secondary's guest has written.
    pub(super) theirs: PageSet,
    send: PageSet,
    /// What was sent since the last checkpoint, before the next.
    pub(super) ahead: PageSet,
    /// What was made clean since the last checkpoint of which it is known that the secondary has it.
    since: PageSet,
    capture: Capture,
    /// The copy of the last checkpoint, which the secondary has loaded, if differences to it are sent.
    before: Option<Capture>,
}

impl Copier {
    /// Of this guest's memory. The copy of the last checkpoint is kept if differences to it are sent.
    pub fn new(
        tracker: Box<dyn Tracker>,
        ram: &GuestRam,
        blocks: &Arc<Blocks>,
        packing: Packing,
    ) -> io::Result<Self> {
        let set = || PageSet::new(ram);
        let capture = || Capture::new(blocks.clone());
        Ok(Self {
            tracker,
            dirty: set(),
            theirs: set(),
            send: set(),
            ahead: set(),
            since: set(),
            capture: capture()?,
            before: (packing == Packing::Delta).then(capture).transpose()?,
        })
    }

    /// Begins to note what is written: all pages are dirty.
    pub fn start(&mut self) -> Result<(), DirtyError> {
        self.forget();
        self.ahead.clear();
        self.since.clear();
        self.tracker.start()
    }

    /// What was sent since the last checkpoint that is known to be complete came to nothing: those pages are dirty
    /// again. Writes were noted all the time.
    pub fn resume(&mut self) {
        self.forget();
        self.ahead.clear();
        self.tracker.redirty(&self.since);
        self.since.clear();
    }

    /// All pages have been sent once; from here on the next checkpoint is what counts.
    pub fn synced(&mut self) {
        self.ahead.clear();
        self.since.clear();
    }

    /// The copy before is nothing to compare with.
    fn forget(&mut self) {
        if let Some(before) = &mut self.before {
            before.begin();
            before.end();
        }
    }

    /// Ends it.
    pub fn stop(&mut self) -> Result<(), DirtyError> {
        self.tracker.stop()
    }

    /// Looks which pages are dirty: how many.
    pub fn look(&mut self) -> Result<u64, DirtyError> {
        self.dirty.clear();
        self.tracker.collect(&mut self.dirty)?;
        Ok(self.dirty.count())
    }

    /// How many were found.
    pub fn found(&self) -> u64 {
        self.dirty.count()
    }

    /// Copies those that were found, while the guest runs, and gives them to `send` piece by piece, with the number
    /// of its pages.
    pub fn ahead<E: From<CutError>>(
        &mut self,
        ram: &GuestRam,
        mut send: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        self.since.union(&self.dirty);
        // Clean before they are copied: what is written meanwhile is dirty again.
        self.tracker.rearm(&self.dirty).map_err(CutError::from)?;
        self.ahead.union(&self.dirty);
        self.capture.begin();
        for run in self.dirty.runs() {
            let (mut address, mut left) = (run.address(), run.pages as usize);
            while left > 0 {
                let count = left.min(PIECE - self.capture.pages());
                self.capture.pages_at(ram, address, count).map_err(CutError::from)?;
                address += (count * PAGE) as u64;
                left -= count;
                if self.capture.pages() == PIECE {
                    give(&mut self.capture, &mut send)?;
                }
            }
        }
        give(&mut self.capture, &mut send)
    }

    /// Makes the copy of a checkpoint, of a guest that stands.
    pub fn cut(&mut self, frozen: &mut Frozen<'_>) -> Result<Cut, CutError> {
        let begun = Instant::now();
        let state = frozen.save()?;
        let saved = Instant::now();
        let dirty = self.look()?;
        self.send.copy_from(&self.dirty);
        self.send.union(&self.theirs);
        let known = Instant::now();
        self.capture.begin();
        for run in self.send.runs() {
            self.capture.pages_at(frozen.ram(), run.address(), run.pages as usize)?;
        }
        self.capture.end();
        let copied = Instant::now();
        // From here on the copy has to reach the secondary, or these are dirty again.
        self.since.union(&self.dirty);
        self.tracker.rearm(&self.dirty)?;
        let clean = Instant::now();
        Ok(Cut {
            state,
            dirty,
            pages: self.capture.pages() as u64,
            stood: Stood {
                state: saved - begun,
                log: (known - saved) + (clean - copied),
                copy: copied - known,
                ..Stood::default()
            },
        })
    }

    /// The copy, and the one before, if it is of use.
    pub fn copies(&self) -> (&Capture, Option<&Capture>) {
        (&self.capture, self.before.as_ref())
    }

    /// The secondary has it: what comes next is compared to this copy.
    pub fn loaded(&mut self) {
        let pages = self.capture.pages();
        if let Some(before) = &mut self.before {
            std::mem::swap(&mut self.capture, before);
        }
        self.ahead.clear();
        self.since.clear();
        self.theirs.clear();
        // What was copied now is likely to be what is copied the next time.
        self.capture.begin();
        self.capture.prepare(2 * pages);
    }
}

/// Gives the piece that is copied, if there is one, and begins another.
fn give<E>(capture: &mut Capture, send: &mut impl FnMut(&[u8], u64) -> Result<(), E>) -> Result<(), E> {
    let pages = capture.pages() as u64;
    capture.end();
    if pages > 0 {
        capture.pieces().try_for_each(|piece| send(piece, pages))?;
    }
    capture.begin();
    Ok(())
}

/// What a freeze gives back: the copier, and what came of it; none if the disks were not ready for it.
pub(super) type Frosted = (Box<Copier>, Result<Option<Cut>, SessionError>);

/// The work of a freeze.
pub(super) fn work(
    mut copier: Box<Copier>,
    disks: Arc<dyn Source>,
    epoch: u64,
    told: impl FnOnce() + Send + 'static,
) -> impl FnOnce(&mut Frozen<'_>) -> (Frosted, After) + Send + 'static {
    move |frozen| {
        let cut = || {
            // While it stands, what is left can only become less.
            if !disks.ready()? {
                return Ok(None);
            }
            disks.cut(epoch)?;
            let cut = copier.cut(frozen);
            told();
            Ok(Some(cut?))
        };
        let cut = cut();
        ((copier, cut), After::AsBefore)
    }
}
