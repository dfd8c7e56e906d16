//! The layers of one disk, and how they become one another. Nothing here waits, or touches the base.
//!
//! ```text
//!   checkpoint(n)   active ─► dead (its memory is given back later)     pending ≤ n ─► settled
//!   fail            pending ─► dead
//!   promote         pending ─► dead; from now on active is settled too, whenever the queue is empty
//! ```

use super::arena::{Arena, Who};
use super::buffers::Cursor;
use super::epoch::Epoch;
use super::layer::{Found, Layer};
use super::region::SLOTS;
use super::status::{Limits, NoRoom, Phase, Refused};
use std::collections::VecDeque;
use std::io;

/// What is made small enough to be written at one go, with the guest's writes there waiting.
const LAST: u64 = 1 << 20;

/// A layer on its way into the base.
#[derive(Debug)]
pub(super) struct Settled {
    /// Counts up.
    pub(super) serial: u64,
    /// With it, the base is at this checkpoint.
    pub(super) completes: Option<u64>,
    pub(super) layer: Layer,
}

/// Whose eyes a disk is seen with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// The guest's here: active over settled over base.
    Guest,
    /// The primary's: pending over settled over base.
    Primary,
}

/// The layers.
#[derive(Debug)]
pub(super) struct State {
    pub(super) arena: Arena,
    pub(super) phase: Phase,
    pub(super) active: Layer,
    /// Oldest first.
    pub(super) settled: VecDeque<Settled>,
    /// Oldest first.
    pending: VecDeque<(Epoch, Layer)>,
    dead: Vec<Layer>,
    serial: u64,
    pub(super) checkpoint: Option<u64>,
    pub(super) in_base: Option<u64>,
    pub(super) stable: Option<u64>,
    /// A sync has failed: what it was for may be lost, so nothing is stable from then on.
    pub(super) unstable: Option<String>,
    /// Sessions of the primary: what belongs to an older one is refused.
    pub(super) session: u64,
    /// Writes of this session that are being done to the base itself.
    pub(super) straights: usize,
    /// Those of sessions that are over. Whatever is newer waits, so that it is not overwritten by them.
    pub(super) late: usize,
    /// What is left is being written at one go: the guest's writes to it wait.
    pub(super) closing: bool,
    /// Whoever uses the disk has gone: what there is to be written is written, and that is all.
    pub(super) ending: bool,
    pub(super) trouble: Option<String>,
    pub(super) written: u64,
    pub(super) waits: u64,
    pub(super) refused: u64,
    pub(super) base_errors: u64,
}

impl State {
    pub(super) fn new(arena: Arena) -> Self {
        Self {
            arena,
            phase: Phase::Open,
            active: Layer::default(),
            settled: VecDeque::new(),
            pending: VecDeque::new(),
            dead: Vec::new(),
            serial: 0,
            checkpoint: None,
            in_base: None,
            stable: None,
            unstable: None,
            session: 0,
            straights: 0,
            late: 0,
            closing: false,
            ending: false,
            trouble: None,
            written: 0,
            waits: 0,
            refused: 0,
            base_errors: 0,
        }
    }

    /// Whether the guest goes on without a primary. What is in no layer is then written into the base.
    pub(super) fn is_promoted(&self) -> bool {
        matches!(self.phase, Phase::Promoted | Phase::Plain)
    }

    /// Ends an epoch, with nothing of the guest's in flight.
    pub(super) fn checkpoint(&mut self, number: u64) {
        let epoch = Epoch::new(number);
        self.drop_active();
        while self.pending.front().is_some_and(|(at, _)| !at.after(epoch)) {
            if let Some((_, layer)) = self.pending.pop_front().filter(|(_, layer)| !layer.is_empty()) {
                self.settle(None, layer);
            }
        }
        // An epoch without writes is there as soon as the one before is.
        match self.settled.back_mut() {
            Some(last) => last.completes = Some(number),
            None => self.in_base = Some(number),
        }
        (self.checkpoint, self.phase) = (Some(number), Phase::Held);
    }

    /// Ends the session of the primary: what it has not finished was never there.
    pub(super) fn fail(&mut self) {
        self.session += 1;
        self.late += std::mem::take(&mut self.straights);
        self.dead.extend(self.pending.drain(..).map(|(_, layer)| layer));
    }

    /// The guest that ran here is gone, and nobody needs what it wrote.
    pub(super) fn release(&mut self) {
        self.fail();
        if self.phase == Phase::Held {
            self.drop_active();
            self.phase = Phase::Open;
            // What is written from now on is of no epoch.
            (self.checkpoint, self.in_base, self.stable, self.unstable) = (None, None, None, None);
            self.settled.iter_mut().for_each(|settled| settled.completes = None);
        }
    }

    /// The guest goes on without a primary.
    pub(super) fn promote(&mut self) {
        self.fail();
        if self.phase != Phase::Plain {
            self.phase = Phase::Promoted;
        }
    }

    fn drop_active(&mut self) {
        let active = std::mem::take(&mut self.active);
        if !active.is_empty() {
            self.dead.push(active);
        }
    }

    fn settle(&mut self, completes: Option<u64>, layer: Layer) {
        self.serial += 1;
        self.settled.push_back(Settled { serial: self.serial, completes, layer });
    }

    /// After a promotion: has the guest's own writes go into the base, after all others. Says the number
    /// after which everything is there.
    pub(super) fn settle_active(&mut self) -> u64 {
        if self.phase == Phase::Promoted && !self.active.is_empty() {
            let active = std::mem::take(&mut self.active);
            // A guest that goes on writing to what is left would never be done.
            let (data, zeros) = active.bytes();
            self.closing = self.settled.is_empty()
                && self.trouble.is_none()
                && data <= LAST
                && zeros <= 64 * LAST
                && active.extents() <= SLOTS;
            self.settle(None, active);
        }
        self.serial
    }

    /// Gives back some of what nobody needs any more. Says whether there was anything.
    pub(super) fn reclaim(&mut self, entries: usize) -> bool {
        let Some(layer) = self.dead.last_mut() else { return false };
        layer.reclaim(&mut self.arena, entries);
        if layer.is_empty() {
            self.dead.pop();
        }
        true
    }

    /// Whether memory is on its way back.
    pub(super) fn can_wait(&self) -> bool {
        !self.settled.is_empty() && self.trouble.is_none() || !self.dead.is_empty()
    }

    /// Data in settled layers.
    pub(super) fn backlog(&self) -> u64 {
        self.settled.iter().map(|settled| settled.layer.bytes().0).sum()
    }

    pub(super) fn is_behind(&self, limits: &Limits) -> bool {
        self.settled.len() >= limits.layers || self.backlog() >= limits.backlog
    }

    /// How many epochs are open, and their data.
    pub(super) fn pending(&self) -> (usize, u64) {
        (self.pending.len(), self.pending.iter().map(|(_, layer)| layer.bytes().0).sum())
    }

    /// What there is to be written into the base.
    pub(super) fn left(&self) -> u64 {
        let both = |layer: &Layer| layer.bytes().0 + layer.bytes().1;
        let active = if self.phase == Phase::Promoted { both(&self.active) } else { 0 };
        active + self.settled.iter().map(|settled| both(&settled.layer)).sum::<u64>()
    }

    /// Makes an epoch of the primary the one that is written to, if that may be.
    pub(super) fn admit(&mut self, epoch: Epoch, limits: &Limits) -> Result<(), Refused> {
        let newest = self.pending.back().map(|(newest, _)| *newest);
        if newest == Some(epoch) {
            return Ok(());
        }
        let ended = self.checkpoint.map(Epoch::new);
        if let Some(newest) = newest.or(ended).filter(|newest| !epoch.after(*newest)) {
            return Err(Refused::Back { tag: epoch.tag(), newest: newest.tag() });
        }
        if self.pending.len() >= limits.epochs {
            return Err(Refused::Ahead { tag: epoch.tag(), open: self.pending.len() });
        }
        self.pending.push_back((epoch, Layer::default()));
        Ok(())
    }

    /// Whether a write may go straight into the base.
    pub(super) fn straight(&self) -> Result<(), Refused> {
        match self.phase {
            Phase::Open if self.pending.is_empty() => Ok(()),
            Phase::Open => Err(Refused::Begun),
            _ => Err(Refused::Held),
        }
    }

    /// Writes into the newest epoch of the primary, whose layer is there.
    pub(super) fn write_pending(
        &mut self,
        start: u64,
        count: u64,
        from: &mut Cursor<'_, '_>,
    ) -> Result<(), NoRoom> {
        match self.pending.back_mut() {
            Some((_, layer)) => layer.write(&mut self.arena, Who::Primary, start, count, from),
            None => Ok(()),
        }
    }

    /// Makes sectors of the newest epoch of the primary zeros.
    pub(super) fn zero_pending(&mut self, start: u64, count: u64) -> Result<(), NoRoom> {
        match self.pending.back_mut() {
            Some((_, layer)) => layer.zero(&mut self.arena, Who::Primary, start, count),
            None => Ok(()),
        }
    }

    /// The layers that a view has over the base, newest first.
    fn layers(&self, view: View) -> impl Iterator<Item = &Layer> {
        let guest = (view == View::Guest).then_some(&self.active);
        let primary = if view == View::Primary { self.pending.len() } else { 0 };
        let primary = self.pending.iter().rev().take(primary).map(|(_, layer)| layer);
        let settled = self.settled.iter().rev().map(|settled| &settled.layer);
        guest.into_iter().chain(primary).chain(settled).filter(|layer| !layer.is_empty())
    }

    /// Whether a view has, in any layer, any sector of the slots that a run of sectors touches.
    pub(super) fn touches(&self, view: View, start: u64, count: u64) -> bool {
        self.layers(view).any(|layer| layer.touches(start, count))
    }

    /// A bit for each slot of a region that the guest's view has any sector of.
    pub(super) fn present(&self, region: u64) -> u64 {
        self.layers(View::Guest).fold(0, |bits, layer| bits | layer.present(region))
    }

    /// Tells of all sectors of a region that are in layers, and leaves those in `need` that are not.
    pub(super) fn read(
        &mut self,
        view: View,
        region: u64,
        need: &mut [u8; SLOTS],
        mut told: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        let read = self.layers(view).try_for_each(|layer| layer.read(&self.arena, region, need, &mut told));
        read.inspect_err(|_| self.arena.spill_errors += 1)
    }
}
