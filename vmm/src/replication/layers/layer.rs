//! What was written on top of a disk, at sector granularity.
//!
//! ```text
//!   extents, in the order of the disk (a B-tree):
//!   region 7: Zeros × 4096 │ region 5000: sectors │ region 5001: sectors │ region 9000: Zeros × 1 │ …
//! ```
//!
//! A region that is all zeros, and its neighbours that are, are one entry: a trim of a gigabyte takes as
//! much as a trim of a sector. To move a layer is to move the tree's root.

use super::arena::{Arena, Who};
use super::batch::Batch;
use super::buffers::Cursor;
use super::region::{PER_REGION, PER_SLOT, Part, Region, SECTOR, SLOTS, parts, runs};
use super::status::NoRoom;
use std::collections::BTreeMap;
use std::io;

/// What an entry of the tree takes, about.
const ENTRY: usize = 96;

/// Regions that are next to each other.
#[derive(Debug)]
enum Extent {
    /// So many, all zeros.
    Zeros(u64),
    /// One.
    Sectors(Region),
}

impl Extent {
    fn regions(&self) -> u64 {
        match self {
            Self::Zeros(regions) => *regions,
            Self::Sectors(_) => 1,
        }
    }

    fn cost(&self) -> usize {
        ENTRY
            + match self {
                Self::Zeros(_) => 0,
                Self::Sectors(region) => region.cost(),
            }
    }

    fn present(&self) -> u64 {
        match self {
            Self::Zeros(_) => u64::MAX,
            Self::Sectors(region) => region.present(),
        }
    }

    fn count(&self) -> (u64, u64) {
        match self {
            Self::Zeros(regions) => (0, regions * PER_REGION),
            Self::Sectors(region) => region.count(),
        }
    }
}

/// A layer.
#[derive(Debug, Default)]
pub(super) struct Layer {
    extents: BTreeMap<u64, Extent>,
    /// How many sectors have data, and are zeros.
    data: u64,
    zeros: u64,
}

/// Something that a reader is told of a run of sectors: bytes, or so many sectors of zeros.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

/// The bits of the slots that a run of sectors of one region touches.
pub(super) fn slot_bits(first: u64, count: u64) -> u64 {
    let (from, to) = (first / PER_SLOT, (first + count).div_ceil(PER_SLOT));
    let below = |slot: u64| if slot >= SLOTS as u64 { u64::MAX } else { (1 << slot) - 1 };
    below(to) & !below(from)
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// How many bytes of data it has, and how many of zeros.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.data * SECTOR, self.zeros * SECTOR)
    }

    /// How many entries its table has.
    pub(super) fn extents(&self) -> usize {
        self.extents.len()
    }

    /// Where the extent that has a region begins.
    fn key(&self, region: u64) -> Option<u64> {
        let (start, extent) = self.extents.range(..=region).next_back()?;
        (*start + extent.regions() > region).then_some(*start)
    }

    /// A bit for each slot of a region that it has any sector of.
    pub(super) fn present(&self, region: u64) -> u64 {
        self.key(region).and_then(|key| self.extents.get(&key)).map_or(0, Extent::present)
    }

    /// Whether it has any sector of the slots that a run of sectors touches.
    pub(super) fn touches(&self, start: u64, count: u64) -> bool {
        let (first, end) = (start / PER_REGION, start + count);
        let from = self.key(first).unwrap_or(first);
        count > 0
            && self.extents.range(from..).take_while(|(at, _)| *at * PER_REGION < end).any(|(at, extent)| {
                let Extent::Sectors(region) = extent else { return true };
                let here = at * PER_REGION;
                let (low, high) = (start.max(here) - here, end.min(here + PER_REGION) - here);
                region.present() & slot_bits(low, high - low) != 0
            })
    }

    /// Does something to a region that may be there, and keeps the tables right.
    fn change<T>(
        &mut self,
        arena: &mut Arena,
        number: u64,
        act: impl FnOnce(&mut Region, &mut Arena) -> T,
    ) -> T {
        self.part_off(arena, number, 1);
        let (mut region, before) = match self.extents.remove(&number) {
            None => (Region::default(), 0),
            Some(extent) => {
                self.uncount(&extent);
                let cost = extent.cost();
                match extent {
                    Extent::Zeros(_) => (Region::zeros(), cost),
                    Extent::Sectors(region) => (region, cost),
                }
            }
        };
        let outcome = act(&mut region, arena);
        arena.charge(before, 0);
        if region.is_zeros() {
            self.insert_zeros(arena, number, 1);
        } else if region.present() != 0 {
            self.insert(arena, number, Extent::Sectors(region));
        }
        outcome
    }

    fn insert(&mut self, arena: &mut Arena, number: u64, extent: Extent) {
        let (data, zeros) = extent.count();
        (self.data, self.zeros) = (self.data + data, self.zeros + zeros);
        arena.charge(0, extent.cost());
        self.extents.insert(number, extent);
    }

    fn uncount(&mut self, extent: &Extent) {
        let (data, zeros) = extent.count();
        (self.data, self.zeros) = (self.data - data, self.zeros - zeros);
    }

    fn remove(&mut self, arena: &mut Arena, number: u64) -> Option<Extent> {
        let extent = self.extents.remove(&number)?;
        self.uncount(&extent);
        arena.charge(extent.cost(), 0);
        Some(extent)
    }

    /// Cuts runs of zeros so that one begins or ends where these regions do.
    fn part_off(&mut self, arena: &mut Arena, number: u64, regions: u64) {
        for cut in [number, number + regions] {
            if let Some(key) = self.key(cut).filter(|key| *key < cut)
                && let Some(Extent::Zeros(all)) = self.remove(arena, key)
            {
                self.insert(arena, key, Extent::Zeros(cut - key));
                self.insert(arena, cut, Extent::Zeros(key + all - cut));
            }
        }
    }

    /// Puts zeros where nothing is, as one with their neighbours.
    fn insert_zeros(&mut self, arena: &mut Arena, number: u64, regions: u64) {
        let (mut start, mut all) = (number, regions);
        if let Some((&before, Extent::Zeros(count))) = self.extents.range(..number).next_back()
            && before + count == number
        {
            (start, all) = (before, all + count);
            self.remove(arena, before);
        }
        if let Some(Extent::Zeros(count)) = self.extents.get(&(number + regions)) {
            all += count;
            self.remove(arena, number + regions);
        }
        self.insert(arena, start, Extent::Zeros(all));
    }

    /// Takes whole regions away.
    fn remove_regions(&mut self, arena: &mut Arena, number: u64, regions: u64) {
        self.part_off(arena, number, regions);
        while let Some((&key, _)) = self.extents.range(number..number + regions).next() {
            if let Some(Extent::Sectors(region)) = self.remove(arena, key) {
                region.give(arena);
            }
        }
    }

    /// Writes sectors of one region.
    pub(super) fn write(
        &mut self,
        arena: &mut Arena,
        who: Who,
        start: u64,
        count: u64,
        from: &mut Cursor<'_, '_>,
    ) -> Result<(), NoRoom> {
        if slot_bits(start % PER_REGION, count) & !self.present(start / PER_REGION) != 0 {
            arena.index_room(who)?;
        }
        self.change(arena, start / PER_REGION, |region, arena| {
            parts(start % PER_REGION, count).try_for_each(|part| put(region, arena, who, part, from))
        })
    }

    /// Makes sectors zeros.
    pub(super) fn zero(&mut self, arena: &mut Arena, who: Who, start: u64, count: u64) -> Result<(), NoRoom> {
        let (mut at, end) = (start, start + count);
        while at < end {
            let (number, first) = (at / PER_REGION, at % PER_REGION);
            let whole = (end - at) / PER_REGION;
            if first == 0 && whole > 0 {
                arena.index_room(who)?;
                self.remove_regions(arena, number, whole);
                self.insert_zeros(arena, number, whole);
                at += whole * PER_REGION;
                continue;
            }
            let len = (PER_REGION - first).min(end - at);
            at += len;
            if matches!(self.key(number).and_then(|key| self.extents.get(&key)), Some(Extent::Zeros(_))) {
                continue;
            }
            if slot_bits(first, len) & !self.present(number) != 0 {
                arena.index_room(who)?;
            }
            self.change(arena, number, |region, arena| {
                for part in parts(first, len) {
                    let (data, zero) = region.get(part.slot).map_or((0, 0), |slot| (slot.data, slot.zero));
                    region.set(arena, part.slot, data & !part.mask(), zero | part.mask());
                }
            });
        }
        Ok(())
    }

    /// Takes sectors away.
    pub(super) fn forget(&mut self, arena: &mut Arena, start: u64, count: u64) {
        let (mut at, end) = (start, start + count);
        while at < end {
            let (number, first) = (at / PER_REGION, at % PER_REGION);
            let whole = (end - at) / PER_REGION;
            if first == 0 && whole > 0 {
                self.remove_regions(arena, number, whole);
                at += whole * PER_REGION;
                continue;
            }
            let len = (PER_REGION - first).min(end - at);
            at += len;
            if self.present(number) & slot_bits(first, len) == 0 {
                continue;
            }
            self.change(arena, number, |region, arena| {
                for part in parts(first, len) {
                    if let Some(slot) = region.get(part.slot) {
                        let (data, zero) = (slot.data & !part.mask(), slot.zero & !part.mask());
                        region.set(arena, part.slot, data, zero);
                    }
                }
            });
        }
    }

    /// Tells of the sectors of a region that it has and `need` has a bit of, and takes those bits away.
    /// `told` hears the sector, within the region, and what is there.
    pub(super) fn read(
        &self,
        arena: &Arena,
        number: u64,
        need: &mut [u8; SLOTS],
        mut told: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        let Some(extent) = self.key(number).and_then(|key| self.extents.get(&key)) else { return Ok(()) };
        for (number, need) in need.iter_mut().enumerate().filter(|(_, need)| **need != 0) {
            let slot = match extent {
                Extent::Zeros(_) => super::region::Slot { place: None, data: 0, zero: u8::MAX },
                Extent::Sectors(region) => match region.get(number) {
                    Some(slot) => *slot,
                    None => continue,
                },
            };
            let at = number as u64 * PER_SLOT;
            if let Some(place) = slot.place {
                for (first, count) in runs(slot.data & *need) {
                    let (from, len) = ((first * SECTOR) as usize, (count * SECTOR) as usize);
                    arena.read(place, from, len, |bytes| told(at + first, Found::Bytes(bytes)))?;
                }
            }
            for (first, count) in runs(slot.zero & *need) {
                told(at + first, Found::Zeros(count));
            }
            *need &= !(slot.data | slot.zero);
        }
        Ok(())
    }

    /// Copies what comes from a sector on, until the batch is full. Says where it was full; `None`: at the
    /// end of the layer.
    pub(super) fn gather(&self, arena: &Arena, from: u64, batch: &mut Batch) -> Option<u64> {
        let first = from / PER_REGION;
        let key = self.key(first).unwrap_or(first);
        for (&number, extent) in self.extents.range(key..) {
            let start = number * PER_REGION;
            match extent {
                Extent::Zeros(regions) => {
                    let (mut at, end) = (start.max(from), start + regions * PER_REGION);
                    while at < end {
                        match batch.zeros(at, end - at) {
                            0 => return Some(at),
                            taken => at += taken,
                        }
                    }
                }
                Extent::Sectors(region) => {
                    for (slot, found) in region.from((from.saturating_sub(start) / PER_SLOT) as usize) {
                        let at = start + slot as u64 * PER_SLOT;
                        if let Some(full) = found.gather(arena, at, from, batch) {
                            return Some(full);
                        }
                    }
                }
            }
        }
        None
    }

    /// Gives back a few entries of a layer that nobody needs any more.
    pub(super) fn reclaim(&mut self, arena: &mut Arena, entries: usize) {
        for _ in 0..entries {
            let Some((&key, _)) = self.extents.first_key_value() else { return };
            if let Some(Extent::Sectors(region)) = self.remove(arena, key) {
                region.give(arena);
            }
        }
    }
}

/// Writes a part of a slot.
fn put(
    region: &mut Region,
    arena: &mut Arena,
    who: Who,
    part: Part,
    from: &mut Cursor<'_, '_>,
) -> Result<(), NoRoom> {
    let (place, data, zero) =
        region.get(part.slot).map_or((None, 0, 0), |slot| (slot.place, slot.data, slot.zero));
    let at = match place {
        Some(place) => place,
        None => arena.take(who)?,
    };
    let (start, len) = ((part.first * SECTOR) as usize, (part.count * SECTOR) as usize);
    if let Err(error) = arena.write(at, start, len, from) {
        if place.is_none() {
            arena.give(at);
        }
        return Err(NoRoom::Spill(error));
    }
    let slot = region.entry(part.slot);
    slot.place = Some(at);
    (slot.data, slot.zero) = (data | part.mask(), zero & !part.mask());
    Ok(())
}
