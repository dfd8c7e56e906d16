//! What both faces and the settler share: the base, the layers' lock, and reading through them.
//!
//! The lock is held while bytes are copied, 512 KiB at most at a time, and while the spill file is read or
//! written; never while the base is.

use super::buffers::Buffers;
use super::layer::Found;
use super::region::{PER_REGION, PER_SLOT, SECTOR, SLOTS, parts, runs};
use super::state::{State, View};
use super::status::{Limits, Phase, Refused, Status};
use crate::block::{Image, write_at};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many sectors become zeros under one lock: 64 MiB.
pub(super) const ZEROS: u64 = 256 * PER_REGION;

/// What is shared.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) base: Arc<dyn Image>,
    pub(super) size: u64,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// For the settler: there is something to do.
    pub(super) work: Condvar,
    /// For everyone else: something was done.
    pub(super) room: Condvar,
    plain: AtomicBool,
    /// Who writes a part of a sector holds it from when the sector is read.
    pub(super) edges: Mutex<()>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) fn new(base: Arc<dyn Image>, limits: Limits, state: State) -> Self {
        Self {
            size: base.size(),
            base,
            limits,
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Condvar::new(),
            plain: AtomicBool::new(false),
            edges: Mutex::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether there are no layers any more, and never will be.
    pub(super) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Acquire)
    }

    /// All that was promoted is in the base.
    pub(super) fn set_plain(&self, state: &mut State) {
        state.phase = Phase::Plain;
        self.plain.store(true, Ordering::Release);
    }

    /// Waits until something was done, or for `until`. `None`: it is past that.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        self.work.notify_one();
        Some(self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(super) fn range(&self, offset: u64, len: u64) -> Result<(), Refused> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Refused::Range { offset, len, size: self.size }),
        }
    }

    /// Reads what a view shows; zeros beyond the end.
    pub(super) fn read(&self, view: View, buffers: Buffers<'_, '_>, offset: u64) -> io::Result<()> {
        let len = buffers.len() as u64;
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let layered = offset.min(self.size)..end.min(self.size);
        let (mut at, last) = (layered.start / SECTOR, layered.end.div_ceil(SECTOR));
        if layered.is_empty() || self.is_plain() || !self.lock().touches(view, at, last - at) {
            // What is in no layer does not come into one that this view sees while it is being read.
            return self.base.read(buffers.slices(), offset);
        }
        let mut gaps = Vec::new();
        let mut cursor = buffers.cursor(0);
        while at < last {
            let region = at / PER_REGION;
            let next = last.min((region + 1) * PER_REGION);
            let mut need = [0; SLOTS];
            for part in parts(at % PER_REGION, next - at) {
                need[part.slot] = part.mask();
            }
            // A request may begin and end within a sector.
            self.lock().read(view, region, &mut need, |sector, found| {
                let start = (region * PER_REGION + sector) * SECTOR;
                let len = match found {
                    Found::Bytes(bytes) => bytes.len() as u64,
                    Found::Zeros(sectors) => sectors * SECTOR,
                };
                let (from, to) = (start.max(layered.start), (start + len).min(layered.end));
                cursor.seek((from - offset) as usize);
                match found {
                    Found::Bytes(bytes) => cursor.put(&bytes[(from - start) as usize..(to - start) as usize]),
                    Found::Zeros(_) => cursor.zero((to - from) as usize),
                }
            })?;
            for (slot, mask) in need.into_iter().enumerate() {
                for (first, count) in runs(mask) {
                    let start = region * PER_REGION + slot as u64 * PER_SLOT + first;
                    add(&mut gaps, start * SECTOR..(start + count) * SECTOR);
                }
            }
            at = next;
        }
        add(&mut gaps, layered.end..end);
        for gap in gaps {
            let (from, to) = (gap.start.max(offset), gap.end.min(end));
            if from < to {
                self.base.read(&buffers.part((from - offset) as usize, (to - from) as usize)?, from)?;
            }
        }
        Ok(())
    }

    /// Writes bytes into the base at once, wherever they begin.
    pub(super) fn write_below(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        write_at(&*self.base, bytes, offset)
    }

    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        let [memory, spilled] = state.arena.used();
        let (pending_epochs, pending) = state.pending();
        Status {
            phase: state.phase,
            checkpoint: state.checkpoint,
            in_base: state.in_base,
            stable: state.stable,
            memory,
            held: state.arena.held(),
            spilled,
            index: state.arena.index(),
            active: state.active.bytes().0,
            settled_layers: state.settled.len(),
            settled: state.backlog(),
            pending_epochs,
            pending,
            left: state.left(),
            written: state.written,
            full: state.arena.full,
            waits: state.waits,
            refused: state.refused,
            spill_errors: state.arena.spill_errors,
            base_errors: state.base_errors,
            trouble: state.trouble.clone().or_else(|| state.unstable.clone()),
        }
    }
}

/// Adds a range to ranges in order, as one with the last if it goes on there.
fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A range of bytes as whole sectors, and the parts of sectors at its ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sectors {
    /// Bytes of the sectors that are wholly in it.
    pub(super) whole: Range<u64>,
    /// Parts of sectors: empty if there are none.
    pub(super) parts: [Range<u64>; 2],
}

impl Sectors {
    pub(super) fn of(offset: u64, len: u64) -> Self {
        let end = offset + len;
        let (from, to) = (offset.next_multiple_of(SECTOR), end - end % SECTOR);
        if from > to {
            // Within one sector.
            return Self { whole: from..from, parts: [offset..end, end..end] };
        }
        Self { whole: from..to, parts: [offset..from, to..end] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_whole_sectors_and_its_ends() {
        let of = |offset, len| {
            let Sectors { whole, parts: [head, tail] } = Sectors::of(offset, len);
            assert_eq!(head.clone().chain(whole.clone()).chain(tail.clone()).count() as u64, len);
            (whole, head, tail)
        };
        assert_eq!(of(512, 1024), (512..1536, 512..512, 1536..1536));
        assert_eq!(of(100, 100), (512..512, 100..200, 200..200));
        assert_eq!(of(100, 412), (512..512, 100..512, 512..512));
        assert_eq!(of(500, 600), (512..1024, 500..512, 1024..1100));
        assert_eq!(of(500, 20), (512..512, 500..512, 512..520));
    }
}
