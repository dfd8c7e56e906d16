//! What the secondary may not have: the primary's record of the regions that were written to.
//!
//! ```text
//!                      fed in epoch e                 rotate: they change places
//!   a write is done ───────────────────► young ──────────────────────────────► old (label: newest epoch in it)
//!        │ not fed                          │                                    │ stable epoch ≥ label
//!        ▼              lose                │                lose                ▼
//!     unsent ◄──────────────────────────────┴─────────────────────────────── forgotten
//!        │ take(e): it is put down as young, cleared here, and then read and sent
//!        └──► young
//! ```
//!
//! The rules, for regions of 64 KiB:
//!
//! 1. A write is marked when the local disk has done it (or has failed to), before the guest hears of that.
//!    A copier that clears the mark and then reads so finds what was written, or the mark again.
//! 2. It is marked with epoch e if it is then given to the feed in e, which sends it in e or not at all; without
//!    one otherwise. A feed that refuses it has it marked again, without one.
//! 3. What is taken to be copied is marked with an epoch whose stability says that the copy is in the peer's
//!    base: the next that begins behind it.
//! 4. A mark is forgotten when the *stable epoch* of this session (the newest that is wholly in the secondary's base, and
//!    flushed there) is at least the label of its generation: the newest epoch that anything in it was marked
//!    with. A generation that is labelled is not added to, so its time comes.
//! 5. When the session ends, nothing that is young or old is forgotten any more: it becomes unsent. The epochs of the
//!    next one are newer than all before.
//!
//! * [`bits`]: the bits. [`record`]: what of this is kept. [`mod@file`]: where. [`generation`]: whose data is newer.

pub mod bits;
pub mod file;
pub mod generation;
pub mod record;

pub use bits::Bits;
pub use file::{FileError, RecordFile};
pub use generation::{Generation, Refusal, Side, Sync, sync};
pub use record::{Record, RecordError};

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that a bit stands for.
pub const REGION: u64 = 64 << 10;

/// How many regions a disk has.
pub const fn regions(disk: u64) -> u64 {
    disk.div_ceil(REGION)
}

/// The regions that some bytes of a disk are in.
pub fn touched(offset: u64, length: u64) -> Range<u64> {
    if length == 0 {
        return 0..0;
    }
    offset / REGION..offset.saturating_add(length).div_ceil(REGION)
}

/// What the secondary may not have of a disk.
#[derive(Debug)]
pub struct Dirty {
    unsent: Bits,
    generations: [Bits; 2],
    /// Which of them is young.
    young: AtomicUsize,
    /// The newest epoch that anything was marked with.
    newest: AtomicU64,
    /// Of the old one, if there is anything in it. Whoever moves marks holds this; who sets them does not.
    label: Mutex<Option<u64>>,
}

impl Dirty {
    /// Of a disk of so many bytes, of which the secondary has everything.
    pub fn new(disk: u64) -> Self {
        let bits = || Bits::new(regions(disk));
        Self {
            unsent: bits(),
            generations: [bits(), bits()],
            young: AtomicUsize::new(0),
            newest: AtomicU64::new(0),
            label: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        // No code that holds it can panic half-way, so a poisoned lock is whole.
        self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pair(&self) -> (&Bits, &Bits) {
        let [one, other] = &self.generations;
        if self.young.load(Ordering::SeqCst) == 0 { (one, other) } else { (other, one) }
    }

    /// A write is done (rules 1, 2): these bytes were given to the feed in this epoch, or to nobody. From any thread,
    /// without a lock.
    pub fn mark(&self, offset: u64, length: u64, epoch: Option<u64>) {
        self.mark_regions(touched(offset, length), epoch);
    }

    fn mark_regions(&self, run: Range<u64>, epoch: Option<u64>) {
        match epoch {
            Some(epoch) => self.young_in(epoch).set(run),
            None => self.unsent.set(run),
        }
    }

    /// Where a mark of this epoch goes. It may have turned old when the mark is set: its label is no older.
    fn young_in(&self, epoch: u64) -> &Bits {
        // In this order: who turns the generations and then reads the newest epoch sees that of whoever was told
        // what was young before.
        self.newest.fetch_max(epoch, Ordering::SeqCst);
        self.pair().0
    }

    /// The secondary says which epoch is stable; an epoch has ended. Forgets what it may (rule 4), and has the
    /// next generation wait for its time.
    pub fn rotate(&self, stable: u64) {
        let mut label = self.lock();
        let (_, old) = self.pair();
        match *label {
            Some(waits) if stable < waits => return,
            Some(_) => old.clear_all(),
            None => {}
        }
        self.young.fetch_xor(1, Ordering::SeqCst);
        let newest = self.newest.load(Ordering::SeqCst);
        *label = Some(newest);
    }

    /// The session has ended, or another begins (rule 5).
    pub fn lose(&self) {
        let mut label = self.lock();
        self.generations.iter().for_each(|generation| self.unsent.take_from(generation));
        *label = None;
    }

    /// The next run of unsent regions at or behind one, at most so many: to be read and sent (rule 3). They are
    /// unsent no longer when this returns, and not before they are young.
    pub fn take(&self, from: u64, most: u64, epoch: u64) -> Option<Range<u64>> {
        // What is set later is found by whoever is told of it.
        if self.unsent.count() == 0 {
            return None;
        }
        let _moving = self.lock();
        let run = self.unsent.next_run(from, most)?;
        self.mark_regions(run.clone(), Some(epoch));
        self.unsent.clear(run.clone());
        Some(run)
    }

    /// How many regions are to be copied yet.
    pub fn unsent(&self) -> u64 {
        self.unsent.count()
    }

    /// All that the secondary may not have.
    pub fn missing(&self) -> Bits {
        let _moving = self.lock();
        let missing = Bits::new(self.unsent.regions());
        // From young to unsent, the way that marks go: `lose` is kept out by the lock.
        for bits in self.generations.iter().chain([&self.unsent]) {
            bits.words().enumerate().for_each(|(at, word)| missing.set_word(at, word));
        }
        missing
    }

    /// What was kept is missing.
    pub fn restore(&self, missing: &Bits) {
        missing.words().enumerate().for_each(|(at, word)| self.unsent.set_word(at, word));
    }

    /// All of it is to be copied: a first sync, or a record that is not to be believed.
    pub fn all(&self) {
        self.unsent.set(0..self.unsent.regions());
    }
}

#[cfg(test)]
mod tests;
