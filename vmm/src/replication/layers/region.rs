//! 64 slots of a disk, 256 KiB, of which a layer has some sectors.
//!
//! ```text
//!   present  1 0 1 1 0 …       a bit for each slot that the layer has any sector of
//!   slots   [A,   C, D]        in that order: place of the bytes, sectors with data, sectors of zeros
//! ```

use super::arena::{Arena, Place};
use super::batch::Batch;

/// The size of a sector.
pub(super) const SECTOR: u64 = 512;
/// The sectors of a slot.
pub(super) const PER_SLOT: u64 = 8;
/// The slots of a region.
pub(super) const SLOTS: usize = 64;
/// The sectors of a region.
pub(super) const PER_REGION: u64 = PER_SLOT * SLOTS as u64;

/// What a layer has of a slot: at least one sector. A sector has data, or is zeros, or is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) place: Option<Place>,
    pub(super) data: u8,
    pub(super) zero: u8,
}

impl Slot {
    /// Copies into a batch what is from a sector on; this slot begins at `at`. Says where it was full.
    pub(super) fn gather(&self, arena: &Arena, at: u64, from: u64, batch: &mut Batch) -> Option<u64> {
        let past = u8::MAX.checked_shl(from.saturating_sub(at) as u32).unwrap_or(0);
        // In the order of the disk, data and zeros as they come.
        for (first, count) in runs((self.data | self.zero) & past) {
            let (mut next, end) = (first, first + count);
            while next < end {
                let is_data = self.data & 1 << next != 0;
                let same = if is_data { self.data } else { self.zero } >> next;
                let count = u64::from(same.trailing_ones()).min(end - next);
                let taken = match self.place {
                    Some(place) if is_data => {
                        batch.data(arena, at + next, count, place, (next * SECTOR) as usize)
                    }
                    _ => batch.zeros(at + next, count) == count,
                };
                if !taken {
                    return Some(at + next);
                }
                next += count;
            }
        }
        None
    }
}

/// What a layer has of a region: at least one slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Region {
    present: u64,
    slots: Vec<Slot>,
}

/// Some sectors of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The slot's number in its region.
    pub(super) slot: usize,
    /// The first sector, within the slot, and how many.
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Part {
    pub(super) fn mask(self) -> u8 {
        (((1_u16 << self.count) - 1) << self.first) as u8
    }
}

/// The slots that a run of sectors of one region touches.
pub(super) fn parts(first: u64, count: u64) -> impl Iterator<Item = Part> {
    let end = first + count;
    let mut at = first;
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let within = at % PER_SLOT;
        let count = left.min(PER_SLOT - within);
        let part = Part { slot: (at / PER_SLOT) as usize, first: within, count };
        at += count;
        Some(part)
    })
}

/// The runs of ones in a mask: the first and how many.
pub(super) fn runs(mut mask: u8) -> impl Iterator<Item = (u64, u64)> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let first = mask.trailing_zeros();
            let count = (mask >> first).trailing_ones();
            mask &= !((((1_u16 << count) - 1) << first) as u8);
            (u64::from(first), u64::from(count))
        })
    })
}

impl Region {
    /// All of it zeros.
    pub(super) fn zeros() -> Self {
        Self { present: u64::MAX, slots: vec![Slot { place: None, data: 0, zero: u8::MAX }; SLOTS] }
    }

    /// A bit for each slot that is there.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// About what it takes in memory, beside what its place in a table takes.
    pub(super) fn cost(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    fn rank(&self, slot: usize) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Slot> {
        if self.present & 1 << slot == 0 {
            return None;
        }
        self.slots.get(self.rank(slot))
    }

    /// A slot, made if it is not there: then something has to be put in it, or it is removed again.
    pub(super) fn entry(&mut self, slot: usize) -> &mut Slot {
        let rank = self.rank(slot);
        if self.present & 1 << slot == 0 {
            self.slots.insert(rank, Slot::default());
            self.present |= 1 << slot;
        }
        &mut self.slots[rank]
    }

    /// Its slots and their numbers, from one on.
    pub(super) fn from(&self, slot: usize) -> impl Iterator<Item = (usize, &Slot)> {
        (slot..SLOTS).filter_map(|slot| self.get(slot).map(|found| (slot, found)))
    }

    /// Makes a slot other sectors: those of `data` have data, those of `zero` are zeros. Bytes that nothing
    /// refers to any more are given back.
    pub(super) fn set(&mut self, arena: &mut Arena, slot: usize, data: u8, zero: u8) {
        let entry = self.entry(slot);
        (entry.data, entry.zero) = (data, zero);
        if data == 0
            && let Some(place) = entry.place.take()
        {
            arena.give(place);
        }
        if data | zero == 0 {
            let rank = self.rank(slot);
            self.slots.remove(rank);
            self.present &= !(1 << slot);
            if self.slots.len() * 4 < self.slots.capacity() {
                self.slots.shrink_to_fit();
            }
        }
    }

    /// Whether all of it is zeros.
    pub(super) fn is_zeros(&self) -> bool {
        self.present == u64::MAX && self.slots.iter().all(|slot| slot.zero == u8::MAX)
    }

    /// How many sectors of data, and of zeros.
    pub(super) fn count(&self) -> (u64, u64) {
        let ones = |mask: u8| u64::from(mask.count_ones());
        self.slots.iter().fold((0, 0), |(data, zero), slot| (data + ones(slot.data), zero + ones(slot.zero)))
    }

    /// Gives all of its bytes back.
    pub(super) fn give(self, arena: &mut Arena) {
        for place in self.slots.into_iter().filter_map(|slot| slot.place) {
            arena.give(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_parts_are_what_they_say() {
        assert_eq!(runs(0b1101_0110).collect::<Vec<_>>(), [(1, 2), (4, 1), (6, 2)]);
        assert_eq!(runs(0xff).collect::<Vec<_>>(), [(0, 8)]);
        assert_eq!(runs(0).count(), 0);
        let found: Vec<_> =
            parts(6, 12).map(|part| (part.slot, part.first, part.count, part.mask())).collect();
        assert_eq!(found, [(0, 6, 2, 0xc0), (1, 0, 8, 0xff), (2, 0, 2, 0x03)]);
    }
}
