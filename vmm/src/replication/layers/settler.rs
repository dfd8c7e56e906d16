//! The thread that writes settled layers into the base.
//!
//! ```text
//!   ┌► gather (lock: the next runs of the oldest layer are copied) ─► write (no lock) ─► forget (lock) ┐
//!   ├── layer empty: the base is at its checkpoint; now and then synced: that checkpoint is stable       │
//!   └────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A settled layer changes only here. A block is visible in its layer until it is in the base, so a reader
//! sees the same before and after. What cannot be written stays where it is and is tried again, more and
//! more rarely, in pieces of 4 KiB, so that one bad block holds nothing else up.

use super::batch::{Batch, Run};
use super::core::Core;
use super::region::SECTOR;
use super::state::State;
use super::status::Phase;
use std::io;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the base is synced while there is no end of writes.
const SYNC: Duration = Duration::from_secs(1);
/// How long nothing happens before it is synced at once.
const IDLE: Duration = Duration::from_millis(100);
/// How long it waits after a failure; twice as long after another, up to the most.
const AGAIN: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(5);
/// Entries of layers that nobody needs, given back under one lock.
const ENTRIES: usize = 16;

/// How far the oldest layer is.
#[derive(Debug)]
struct Pass {
    serial: u64,
    /// The next sector; 0: at its beginning; `u64::MAX`: at its end.
    from: u64,
    small: bool,
    delay: Duration,
}

/// The settler at work.
pub(super) struct Settler<'a> {
    core: &'a Core,
    batch: Batch,
    pass: Pass,
    synced: Instant,
    /// The disk is being closed, and what failed is tried a last time.
    ended: bool,
}

impl<'a> Settler<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        let pass = Pass { serial: 0, from: 0, small: false, delay: AGAIN };
        Self { core, batch: Batch::new(), pass, synced: Instant::now(), ended: false }
    }

    /// Works until the disk is closed, and then until nothing is left or something fails.
    pub(super) fn run(mut self) {
        loop {
            let mut state = self.core.lock();
            if state.reclaim(ENTRIES) {
                self.core.room.notify_all();
                continue;
            }
            if state.settled.is_empty() {
                state.settle_active();
            }
            let due = state.in_base != state.stable && state.unstable.is_none();
            if due && self.synced.elapsed() >= SYNC {
                self.sync(state);
            } else if !state.settled.is_empty() {
                if !self.step(state) {
                    return;
                }
            } else if !self.rest(state, due) {
                return;
            }
        }
    }

    /// Nothing is left: waits. Says whether to go on.
    fn rest(&mut self, mut state: MutexGuard<'_, State>, due: bool) -> bool {
        if state.phase == Phase::Promoted && state.active.is_empty() {
            self.core.set_plain(&mut state);
            state.arena.trim();
            tracing::info!("the promoted disk is committed: its layers are gone");
        }
        self.core.room.notify_all();
        if state.ending {
            return false;
        }
        if !due {
            drop(self.core.work.wait(state).unwrap_or_else(PoisonError::into_inner));
            return true;
        }
        let (state, waited) =
            self.core.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && state.settled.is_empty() {
            self.sync(state);
        }
        true
    }

    /// Makes stable what is in the base.
    fn sync(&mut self, state: MutexGuard<'_, State>) {
        let (epoch, session) = (state.in_base, state.session);
        drop(state);
        let outcome = self.core.base.flush();
        self.synced = Instant::now();
        let mut state = self.core.lock();
        match outcome {
            // When a guest was given up meanwhile, the base is of no epoch any more.
            Ok(()) if state.session != session => {}
            Ok(()) => state.stable = epoch,
            Err(error) => {
                // The kernel may have dropped what it could not write: a later success says nothing of it.
                let what = format!(
                    "cannot sync the disk: {error}; what was written since the last sync may be lost"
                );
                tracing::error!("{what}; no epoch will be stable until the disk is synchronised anew");
                state.base_errors += 1;
                state.unstable = Some(what);
            }
        }
    }

    fn fails(&self, state: &mut State, what: String) {
        state.base_errors += 1;
        state.closing = false;
        if state.trouble.is_none() {
            tracing::error!("{what}; the secondary's disk stays behind until that ends");
        }
        state.trouble = Some(what);
        self.core.room.notify_all();
    }

    /// Writes a batch of the oldest layer. Says whether to go on.
    fn step(&mut self, mut state: MutexGuard<'_, State>) -> bool {
        let State { settled, arena, .. } = &mut *state;
        let Some(oldest) = settled.front() else { return true };
        if oldest.serial != self.pass.serial {
            self.pass = Pass { serial: oldest.serial, from: 0, small: false, ..self.pass };
        }
        self.batch.clear(self.pass.small);
        let next = oldest.layer.gather(arena, self.pass.from, &mut self.batch);
        let unreadable = self.batch.unreadable.take();
        if let Some((sector, error)) = &unreadable {
            state.arena.spill_errors += 1;
            let what = format!("cannot read sector {sector} back from the spill file: {error}");
            self.fails(&mut state, what);
        }
        drop(state);
        let outcome = self.write();
        let mut state = self.core.lock();
        let done = outcome.done;
        let State { settled, arena, written, .. } = &mut *state;
        if let Some(oldest) = settled.front_mut() {
            for run in &self.batch.runs[..done] {
                oldest.layer.forget(arena, run.start, run.count);
                *written += run.count * SECTOR;
            }
        }
        self.pass.from = next.unwrap_or(u64::MAX);
        if let Some((run, error)) = &outcome.failed {
            let (offset, len) = (run.start * SECTOR, run.count * SECTOR);
            let what = format!("cannot write {len} bytes at {offset} of the disk: {error}");
            // The same once more in small pieces, or what comes after it.
            self.pass.from = if self.pass.small { run.start + run.count } else { run.start };
            self.pass.small = true;
            self.fails(&mut state, what);
        } else if unreadable.is_none() && done > 0 {
            self.pass.delay = AGAIN;
        }
        let failed = outcome.failed.is_some() || unreadable.is_some();
        if !failed && self.pass.from == u64::MAX {
            self.finish(&mut state);
            if self.ended && self.pass.from == 0 {
                return false;
            }
        }
        self.core.room.notify_all();
        if failed { self.pause(state) } else { true }
    }

    /// Writes the batch into the base, up to the first failure.
    fn write(&mut self) -> Outcome {
        for number in 0..self.batch.runs.len() {
            let run = self.batch.runs[number];
            if let Err(error) = self.batch.write(run, &*self.core.base) {
                return Outcome { done: number, failed: Some((run, error)) };
            }
        }
        Outcome { done: self.batch.runs.len(), failed: None }
    }

    /// The end of the oldest layer was reached.
    fn finish(&mut self, state: &mut State) {
        let empty = state.settled.front().is_some_and(|oldest| oldest.layer.is_empty());
        if !empty {
            // What failed, again.
            self.pass.from = 0;
            return;
        }
        if let Some(oldest) = state.settled.pop_front()
            && oldest.completes.is_some()
        {
            state.in_base = oldest.completes;
        }
        (state.closing, state.trouble) = (false, None);
    }

    /// Waits after a failure, a little longer each time. Says whether to go on.
    fn pause(&mut self, mut state: MutexGuard<'_, State>) -> bool {
        let at_end = self.pass.from == u64::MAX;
        if at_end {
            self.pass.from = 0;
        }
        if self.ended {
            // What comes after it in the layer may be luckier.
            return !at_end;
        }
        let until = Instant::now() + self.pass.delay;
        self.pass.delay = (self.pass.delay * 2).min(MOST);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if state.ending {
                (self.ended, self.pass.from) = (true, 0);
                return true;
            }
            state = self.core.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// How a batch went.
struct Outcome {
    /// So many runs are in the base.
    done: usize,
    failed: Option<(Run, io::Error)>,
}
