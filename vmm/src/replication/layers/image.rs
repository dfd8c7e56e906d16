//! The disk as the guest here sees it.
//!
//! ```text
//!                         before a promotion      after
//!   read   in a layer     from it                 from it
//!          in none        base (its place)        base (its place)
//!   write  in a layer     active                  active; it follows into the base
//!          in none        active                  base (its place)
//! ```
//!
//! After a promotion a slot of 4 KiB is in a layer or is not, whichever sectors of it are, and which slots are
//! in layers only becomes less. So a place that was found in the base stays right, and nobody writes
//! there meanwhile but the guest, also where the base's blocks are larger than sectors.

use super::SecondaryDisk;
use super::arena::Who;
use super::buffers::Buffers;
use super::core::{Core, Sectors, ZEROS, lock};
use super::region::{PER_REGION, PER_SLOT, SECTOR};
use super::state::{State, View};
use super::status::NoRoom;
use crate::block::{Access, Format, Image, Place};
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use vm_memory::VolatileSlice;

/// What is done to sectors.
#[derive(Clone, Copy)]
enum Act<'a, 'b> {
    /// The buffers' first byte is at this byte of the disk.
    Write(Buffers<'a, 'b>, u64),
    Zero(bool),
    Discard,
}

impl Act<'_, '_> {
    fn most(&self) -> u64 {
        if matches!(self, Self::Write(..)) { PER_REGION } else { ZEROS }
    }
}

impl Core {
    /// Does something to whole sectors.
    fn act(&self, mut at: u64, end: u64, act: Act<'_, '_>) -> io::Result<()> {
        let until = Instant::now() + self.limits.patience;
        while at < end {
            if self.is_plain() {
                return self.act_below(at, end, act);
            }
            let mut state = self.lock();
            let (next, layered) = stretch(&state, at, end, act);
            if !layered {
                drop(state);
                self.act_below(at, next, act)?;
                at = next;
                continue;
            }
            let promoted = state.is_promoted();
            let mut waited = state.closing;
            if !waited {
                let State { active, arena, .. } = &mut *state;
                let done = match act {
                    Act::Write(buffers, start) => {
                        let mut from = buffers.cursor((at * SECTOR - start) as usize);
                        active.write(arena, Who::Guest, at, next - at, &mut from)
                    }
                    Act::Zero(_) | Act::Discard => active.zero(arena, Who::Guest, at, next - at),
                };
                match done {
                    Ok(()) => {
                        at = next;
                        if promoted {
                            self.work.notify_one();
                        }
                        continue;
                    }
                    Err(NoRoom::Spill(error)) => return Err(error),
                    Err(NoRoom::Full(_)) if state.reclaim(16) => continue,
                    Err(NoRoom::Full(_)) if state.can_wait() => waited = true,
                    Err(NoRoom::Full(_)) => return Err(io::ErrorKind::StorageFull.into()),
                }
            }
            state.waits += u64::from(waited);
            if self.wait(state, until).is_none() {
                let mut state = self.lock();
                if !std::mem::take(&mut state.closing) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        Ok(())
    }

    /// Does it to the base.
    fn act_below(&self, at: u64, end: u64, act: Act<'_, '_>) -> io::Result<()> {
        let (offset, len) = (at * SECTOR, (end - at) * SECTOR);
        match act {
            Act::Write(buffers, start) => {
                if offset == start && len == buffers.len() as u64 {
                    return self.base.write(buffers.slices(), offset);
                }
                self.base.write(&buffers.part((offset - start) as usize, len as usize)?, offset)
            }
            Act::Zero(unmap) => self.base.write_zeroes(offset, len, unmap),
            Act::Discard => self.base.discard(offset, len),
        }
    }

    /// Writes parts of a sector: what no guest does, and what an image allows.
    fn write_part(
        &self,
        buffers: Option<Buffers<'_, '_>>,
        start: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let _alone = lock(&self.edges);
        let sector = offset - offset % SECTOR;
        let mut bytes = [0; SECTOR as usize];
        self.read(View::Guest, Buffers::new(&[VolatileSlice::from(&mut bytes[..])]), sector)?;
        let part = &mut bytes[(offset - sector) as usize..(offset - sector + len) as usize];
        match buffers {
            Some(buffers) => buffers.cursor((offset - start) as usize).take(part),
            None => part.fill(0),
        }
        let slices = [VolatileSlice::from(&mut bytes[..])];
        let at = sector / SECTOR;
        self.act(at, at + 1, Act::Write(Buffers::new(&slices), sector))
    }
}

/// How far the same has to be done from a sector on, and whether it is done in a layer.
fn stretch(state: &State, at: u64, end: u64, act: Act<'_, '_>) -> (u64, bool) {
    let most = act.most();
    let border = end.min((at / most + 1) * most);
    if !state.is_promoted() {
        return (border, true);
    }
    if !state.touches(View::Guest, at, end - at) {
        return (end, false);
    }
    let border = end.min((at / PER_REGION + 1) * PER_REGION);
    let bits = state.present(at / PER_REGION) >> (at % PER_REGION / PER_SLOT);
    let layered = bits & 1 != 0;
    let slots = u64::from(if layered { bits.trailing_ones() } else { bits.trailing_zeros() });
    (border.min((at / PER_SLOT + slots) * PER_SLOT), layered)
}

impl Image for SecondaryDisk {
    fn size(&self) -> u64 {
        self.core.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn format(&self) -> Format {
        self.core.base.format()
    }

    fn alignment(&self) -> u32 {
        self.core.base.alignment()
    }

    fn find(&self, offset: u64, len: u64, access: Access) -> io::Result<(Place, u64)> {
        let core = &self.core;
        core.range(offset, len)?;
        if core.is_plain() {
            return core.base.find(offset, len, access);
        }
        // What moves in the base may do so for the settler's sake: then nobody may be there.
        if !core.base.moves() {
            let state = core.lock();
            let (first, end) = (offset / SECTOR, (offset + len).div_ceil(SECTOR));
            if (access == Access::Read || state.is_promoted())
                && !state.touches(View::Guest, first, end - first)
            {
                drop(state);
                return core.base.find(offset, len, access);
            }
        }
        Ok((Place::Elsewhere, len))
    }

    fn moves(&self) -> bool {
        self.core.base.moves()
    }

    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.core.read(View::Guest, Buffers::new(buffers), offset)
    }

    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (core, buffers) = (&self.core, Buffers::new(buffers));
        core.range(offset, buffers.len() as u64)?;
        if core.is_plain() {
            return core.base.write(buffers.slices(), offset);
        }
        let Sectors { whole, parts } = Sectors::of(offset, buffers.len() as u64);
        core.act(whole.start / SECTOR, whole.end / SECTOR, Act::Write(buffers, offset))?;
        parts
            .into_iter()
            .try_for_each(|part| core.write_part(Some(buffers), offset, part.start, part.end - part.start))
    }

    /// Before a promotion there is nothing to make stable: what the guest has here is worth as much as this
    /// process. After it, all that was written has to be in the base first.
    fn settle(&self) -> io::Result<Option<Arc<File>>> {
        let core = &self.core;
        if !core.is_plain() {
            let mut state = core.lock();
            if !state.is_promoted() {
                return Ok(None);
            }
            let mut last = None;
            loop {
                // While the base fails, one more layer for each flush would be as many as the guest likes.
                if let Some(what) = &state.trouble {
                    return Err(io::Error::other(what.clone()));
                }
                let last = *last.get_or_insert_with(|| state.settle_active());
                core.work.notify_one();
                if state.settled.front().is_none_or(|oldest| oldest.serial > last) {
                    break;
                }
                state = core.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        core.base.settle()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let core = &self.core;
        core.range(offset, len)?;
        if core.is_plain() {
            return core.base.discard(offset, len);
        }
        let Sectors { whole, .. } = Sectors::of(offset, len);
        core.act(whole.start / SECTOR, whole.end / SECTOR, Act::Discard)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let core = &self.core;
        core.range(offset, len)?;
        if core.is_plain() {
            return core.base.write_zeroes(offset, len, unmap);
        }
        let Sectors { whole, parts } = Sectors::of(offset, len);
        core.act(whole.start / SECTOR, whole.end / SECTOR, Act::Zero(unmap))?;
        parts
            .into_iter()
            .try_for_each(|part| core.write_part(None, offset, part.start, part.end - part.start))
    }
}
