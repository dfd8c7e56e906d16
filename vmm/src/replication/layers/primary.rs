//! The disk as the primary sees it, through the export: its own unfinished epochs over what is settled.
//!
//! ```text
//!   epoch's tag   write, zero, trim
//!   0             straight into the base, as long as no guest is held and no epoch has begun
//!   n             into pending n; n is the newest epoch, or a new one
//! ```

use super::buffers::Buffers;
use super::core::{Core, Sectors, ZEROS, lock};
use super::epoch::Epoch;
use super::region::{PER_REGION, SECTOR};
use super::state::{State, View};
use super::status::{Full, NoRoom, Phase, Refused};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;
use vm_memory::VolatileSlice;

/// A session of the primary. When the session is failed, or the guest promoted, whatever is still asked for here is
/// refused, also what has begun.
#[derive(Clone, Debug)]
pub struct Primary {
    core: Arc<Core>,
    session: u64,
}

impl Primary {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let session = core.lock().session;
        Self { core, session }
    }

    /// The size of the disk.
    pub fn size(&self) -> u64 {
        self.core.size
    }

    /// Reads what the primary has written.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Refused> {
        self.core.range(offset, buffer.len() as u64)?;
        self.check(&self.core.lock())?;
        let slices = [VolatileSlice::from(buffer)];
        self.core.read(View::Primary, Buffers::new(&slices), offset).map_err(Refused::Base)
    }

    /// Writes. The buffer is lent mutably since a volatile slice could be written.
    pub fn write(&self, tag: u32, offset: u64, buffer: &mut [u8]) -> Result<(), Refused> {
        let done = self.try_write(tag, offset, buffer);
        self.count(done)
    }

    /// Makes a range zeros. `unmap` lets the space go, where that is the base's to decide.
    pub fn zero(&self, tag: u32, offset: u64, len: u64, unmap: bool) -> Result<(), Refused> {
        let done = self.try_zero(tag, offset, len, unmap);
        self.count(done)
    }

    /// The bytes of a range do not matter any more. In an epoch they become zeros.
    pub fn trim(&self, tag: u32, offset: u64, len: u64) -> Result<(), Refused> {
        let done = self.try_trim(tag, offset, len);
        self.count(done)
    }

    /// Makes stable what was written without an epoch. An epoch is told to be stable when it is
    /// ([`Status::stable`](super::Status::stable)).
    pub fn flush(&self) -> Result<(), Refused> {
        let state = self.core.lock();
        self.check(&state)?;
        if state.phase != Phase::Open {
            return Ok(());
        }
        drop(state);
        self.core.base.flush().map_err(Refused::Base)
    }

    fn count(&self, done: Result<(), Refused>) -> Result<(), Refused> {
        done.inspect_err(|_| self.core.lock().refused += 1)
    }

    fn check(&self, state: &State) -> Result<(), Refused> {
        match state.phase {
            _ if state.ending => Err(Refused::Ended("the disk is closed")),
            Phase::Promoted | Phase::Plain => Err(Refused::Ended("the guest goes on without a primary")),
            _ if state.session != self.session => Err(Refused::Ended("it was broken off")),
            _ => Ok(()),
        }
    }

    fn try_write(&self, tag: u32, offset: u64, buffer: &mut [u8]) -> Result<(), Refused> {
        self.core.range(offset, buffer.len() as u64)?;
        let Some(epoch) = Epoch::from_tag(tag) else {
            let _straight = self.straight()?;
            return self.core.write_below(buffer, offset).map_err(Refused::Base);
        };
        let Sectors { whole, parts } = Sectors::of(offset, buffer.len() as u64);
        for part in parts {
            let from = &buffer[(part.start - offset) as usize..(part.end - offset) as usize];
            self.write_part(epoch, part.start, from)?;
        }
        let slices = [VolatileSlice::from(buffer)];
        self.write_sectors(epoch, Buffers::new(&slices), offset, whole.start / SECTOR, whole.end / SECTOR)
    }

    fn try_zero(&self, tag: u32, offset: u64, len: u64, unmap: bool) -> Result<(), Refused> {
        self.core.range(offset, len)?;
        let Some(epoch) = Epoch::from_tag(tag) else {
            let _straight = self.straight()?;
            return self.core.base.write_zeroes(offset, len, unmap).map_err(Refused::Base);
        };
        let Sectors { whole, parts } = Sectors::of(offset, len);
        for part in parts {
            self.write_part(epoch, part.start, &[0; SECTOR as usize][..(part.end - part.start) as usize])?;
        }
        self.zero_sectors(epoch, whole.start / SECTOR, whole.end / SECTOR)
    }

    fn try_trim(&self, tag: u32, offset: u64, len: u64) -> Result<(), Refused> {
        self.core.range(offset, len)?;
        let Some(epoch) = Epoch::from_tag(tag) else {
            let _straight = self.straight()?;
            return self.core.base.discard(offset, len).map_err(Refused::Base);
        };
        let Sectors { whole, .. } = Sectors::of(offset, len);
        self.zero_sectors(epoch, whole.start / SECTOR, whole.end / SECTOR)
    }

    fn write_sectors(
        &self,
        epoch: Epoch,
        buffers: Buffers<'_, '_>,
        offset: u64,
        mut at: u64,
        end: u64,
    ) -> Result<(), Refused> {
        while at < end {
            let next = end.min((at / PER_REGION + 1) * PER_REGION);
            self.place(epoch, |state| {
                let mut from = buffers.cursor((at * SECTOR - offset) as usize);
                state.write_pending(at, next - at, &mut from)
            })?;
            at = next;
        }
        Ok(())
    }

    fn zero_sectors(&self, epoch: Epoch, mut at: u64, end: u64) -> Result<(), Refused> {
        while at < end {
            let next = end.min((at / ZEROS + 1) * ZEROS);
            self.place(epoch, |state| state.zero_pending(at, next - at))?;
            at = next;
        }
        Ok(())
    }

    /// Writes a part of a sector, whose rest stays what it is for the primary.
    fn write_part(&self, epoch: Epoch, offset: u64, from: &[u8]) -> Result<(), Refused> {
        if from.is_empty() {
            return Ok(());
        }
        let _alone = lock(&self.core.edges);
        let sector = offset - offset % SECTOR;
        let mut bytes = [0; SECTOR as usize];
        self.read(&mut bytes, sector)?;
        let within = (offset - sector) as usize;
        bytes[within..within + from.len()].copy_from_slice(from);
        let slices = [VolatileSlice::from(&mut bytes[..])];
        let at = sector / SECTOR;
        self.write_sectors(epoch, Buffers::new(&slices), sector, at, at + 1)
    }

    /// Puts something into an epoch, as soon as there is room.
    fn place(
        &self,
        epoch: Epoch,
        mut act: impl FnMut(&mut State) -> Result<(), NoRoom>,
    ) -> Result<(), Refused> {
        let core = &self.core;
        let began = Instant::now();
        let mut state = core.lock();
        let mut waited = false;
        loop {
            self.check(&state)?;
            state.admit(epoch, &core.limits)?;
            let mut refused = None;
            if !state.is_behind(&core.limits) && state.late == 0 {
                match act(&mut state) {
                    Ok(()) => return Ok(()),
                    Err(NoRoom::Spill(error)) => return Err(Refused::Spill(error)),
                    Err(NoRoom::Full(full)) => {
                        let what = match full {
                            Full::Slots => "memory and spill file for data",
                            Full::Index => "the tables of what was written",
                        };
                        if state.reclaim(16) {
                            continue;
                        }
                        if !state.can_wait() {
                            return Err(Refused::Full(what));
                        }
                        refused = Some(what);
                    }
                }
            }
            if !std::mem::replace(&mut waited, true) {
                state.waits += 1;
            }
            state = match core.wait(state, began + core.limits.patience) {
                Some(state) => state,
                None => return Err(refused.map_or_else(|| self.behind(began), Refused::Full)),
            };
        }
    }

    fn behind(&self, began: Instant) -> Refused {
        let state = self.core.lock();
        Refused::Backlog { bytes: state.backlog(), layers: state.settled.len(), waited: began.elapsed() }
    }

    /// Waits until the base is all there is, for a write into it, which lasts until what this gives is dropped.
    fn straight(&self) -> Result<Straight<'_>, Refused> {
        let began = Instant::now();
        let mut state: MutexGuard<'_, State> = self.core.lock();
        let mut waited = false;
        loop {
            self.check(&state)?;
            state.straight()?;
            if state.settled.is_empty() && state.late == 0 {
                state.straights += 1;
                return Ok(Straight(self));
            }
            if !std::mem::replace(&mut waited, true) {
                state.waits += 1;
            }
            // Epochs of a guest that is gone are still on their way, or writes of a session that is over: they are older.
            state = match self.core.wait(state, began + self.core.limits.patience) {
                Some(state) => state,
                None => return Err(self.behind(began)),
            };
        }
    }
}

/// A write into the base that is not over.
struct Straight<'a>(&'a Primary);

impl Drop for Straight<'_> {
    fn drop(&mut self) {
        let Primary { core, session } = self.0;
        let mut state = core.lock();
        if state.session == *session {
            state.straights -= 1;
        } else {
            state.late -= 1;
        }
        core.room.notify_all();
    }
}
