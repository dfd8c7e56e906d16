//! Where the bytes of a disk's layers are.
//!
//! ```text
//!   chunk 0 (memory) ┌ slot 0 ┬ slot 1 ┬ … ┬ slot 255 ┐     a place: chunk number, slot number
//!   chunk 1 (memory) ├────────┼────────┼ … ┼──────────┤
//!   ─ memory's bound ┴────────┴────────┴ … ┴──────────┴─
//!   chunk 2 (file)   the same, at 1 MiB × n of a file without a name
//! ```
//!
//! A slot is 4 KiB. Slots are taken in memory as long as there are any, and in the file after that; when
//! that is at its bound too, or its disk is full, the write that needed the slot is refused, and counted.
//! A chunk that nothing is in goes back to the host, but for some that are kept for the next epoch.

use super::buffers::Cursor;
use super::status::Full;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The size of a slot.
pub(super) const SLOT: usize = 4096;
/// The slots of a chunk, 1 MiB.
const SLOTS: usize = 256;
/// The size of a chunk.
pub(super) const CHUNK: usize = SLOT * SLOTS;
/// Part of all slots, and of the tables, that the primary's writes leave to the guest's: a sixteenth.
const RESERVE: usize = 16;

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    fn new(chunk: usize, slot: usize) -> Self {
        Self((chunk * SLOTS + slot) as u32)
    }

    fn parts(self) -> (usize, usize) {
        (self.0 as usize / SLOTS, self.0 as usize % SLOTS)
    }
}

/// Who needs a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The guest that runs here: its write must not fail because of what the other one writes.
    Guest,
    /// The primary.
    Primary,
}

/// What a chunk is made of.
#[derive(Debug)]
enum Home {
    Nowhere,
    Memory(Box<[u8]>),
    /// The chunk of the file with this number.
    File(u32),
}

#[derive(Debug)]
struct Chunk {
    home: Home,
    /// A bit for each slot that is free.
    free: [u64; SLOTS / 64],
    used: usize,
}

/// Slots.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// Numbers of chunks that are nowhere.
    vacant: Vec<usize>,
    /// Chunks in memory, and in the file, that have a free slot.
    open: [Vec<usize>; 2],
    /// How many chunks there are, are empty, may be; how many slots are used: in memory, and in the file.
    count: [usize; 2],
    idle: [usize; 2],
    most: [usize; 2],
    used: [usize; 2],
    file: Option<File>,
    /// Chunks of the file that can be used again, and where it ends.
    holes: Vec<u32>,
    end: u32,
    /// What the layers' own tables take, about, and may take.
    index: usize,
    most_index: usize,
    /// How often there was no room, and how often the file failed.
    pub(super) full: u64,
    pub(super) spill_errors: u64,
}

const MEMORY: usize = 0;
const FILE: usize = 1;

impl Arena {
    pub(super) fn new(memory: usize, index: usize, file: Option<(File, u64)>) -> Self {
        // A place is a number of 32 bits: 16 TiB in all.
        let chunks = |bytes: u64| usize::try_from(bytes / CHUNK as u64).unwrap_or(usize::MAX).min(1 << 23);
        let spill = file.as_ref().map_or(0, |(_, bytes)| chunks(*bytes));
        Self {
            chunks: Vec::new(),
            vacant: Vec::new(),
            open: [Vec::new(), Vec::new()],
            count: [0; 2],
            idle: [0; 2],
            most: [chunks(memory as u64), spill],
            used: [0; 2],
            file: file.map(|(file, _)| file),
            holes: Vec::new(),
            end: 0,
            index: 0,
            most_index: index,
            full: 0,
            spill_errors: 0,
        }
    }

    /// Bytes in slots that are used: in memory, and in the file.
    pub(super) fn used(&self) -> [u64; 2] {
        self.used.map(|slots| (slots * SLOT) as u64)
    }

    /// Bytes that the chunks in memory take, used or not.
    pub(super) fn held(&self) -> u64 {
        (self.count[MEMORY] * CHUNK) as u64
    }

    /// Bytes that the layers' tables take.
    pub(super) fn index(&self) -> u64 {
        self.index as u64
    }

    /// Whether tables may grow.
    pub(super) fn index_room(&mut self, who: Who) -> Result<(), Full> {
        let reserve = if who == Who::Primary { self.most_index / RESERVE } else { 0 };
        if self.index < self.most_index - reserve {
            return Ok(());
        }
        self.full += 1;
        Err(Full::Index)
    }

    /// Tables have become larger, or smaller.
    pub(super) fn charge(&mut self, before: usize, after: usize) {
        self.index = (self.index + after).saturating_sub(before);
    }

    /// Takes a slot. What is in it is anything.
    pub(super) fn take(&mut self, who: Who) -> Result<Place, Full> {
        let used: usize = self.used.iter().sum();
        let all = (self.most[MEMORY] + self.most[FILE]) * SLOTS;
        if who == Who::Primary && used >= all - all / RESERVE {
            self.full += 1;
            return Err(Full::Slots);
        }
        for home in [MEMORY, FILE] {
            if let Some(&number) = self.open[home].last() {
                return Ok(self.first_free(home, number));
            }
            if self.count[home] < self.most[home] {
                let number = self.new_chunk(home);
                return Ok(self.first_free(home, number));
            }
        }
        self.full += 1;
        Err(Full::Slots)
    }

    fn new_chunk(&mut self, home: usize) -> usize {
        let what = if home == MEMORY {
            Home::Memory(vec![0; CHUNK].into_boxed_slice())
        } else {
            Home::File(self.holes.pop().unwrap_or_else(|| {
                self.end += 1;
                self.end - 1
            }))
        };
        let chunk = Chunk { home: what, free: [u64::MAX; SLOTS / 64], used: 0 };
        let number = if let Some(number) = self.vacant.pop() {
            self.chunks[number] = chunk;
            number
        } else {
            self.chunks.push(chunk);
            self.chunks.len() - 1
        };
        self.count[home] += 1;
        self.idle[home] += 1;
        self.open[home].push(number);
        number
    }

    /// Takes the first free slot of an open chunk.
    fn first_free(&mut self, home: usize, number: usize) -> Place {
        let chunk = &mut self.chunks[number];
        let word = chunk.free.iter().position(|word| *word != 0).unwrap_or_default();
        let bit = chunk.free[word].trailing_zeros() as usize % 64;
        chunk.free[word] &= !(1 << bit);
        if chunk.used == 0 {
            self.idle[home] -= 1;
        }
        chunk.used += 1;
        self.used[home] += 1;
        if chunk.used == SLOTS {
            self.open[home].pop();
        }
        Place::new(number, word * 64 + bit)
    }

    /// Gives a slot back.
    pub(super) fn give(&mut self, place: Place) {
        let (number, slot) = place.parts();
        let chunk = &mut self.chunks[number];
        let home = if matches!(chunk.home, Home::Memory(_)) { MEMORY } else { FILE };
        debug_assert!(chunk.free[slot / 64] & 1 << (slot % 64) == 0, "a slot is given back once");
        chunk.free[slot / 64] |= 1 << (slot % 64);
        if chunk.used == SLOTS {
            self.open[home].push(number);
        }
        chunk.used -= 1;
        self.used[home] -= 1;
        if chunk.used == 0 {
            self.idle[home] += 1;
            // A quarter of the memory may wait for the next epoch; a file's space is had again at once.
            if home == FILE || self.idle[home] > self.most[home] / 4 + 1 {
                self.release(home, number);
            }
        }
    }

    /// Gives an empty chunk back to the host.
    fn release(&mut self, home: usize, number: usize) {
        if let Home::File(at) = std::mem::replace(&mut self.chunks[number].home, Home::Nowhere) {
            if let Some(file) = &self.file {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Where there are no holes, its place is used again all the same.
                let _ = fallocate(file, hole, u64::from(at) * CHUNK as u64, CHUNK as u64);
            }
            self.holes.push(at);
        }
        self.open[home].retain(|open| *open != number);
        self.vacant.push(number);
        self.idle[home] -= 1;
        self.count[home] -= 1;
    }

    /// Gives back to the host what nothing is in.
    pub(super) fn trim(&mut self) {
        let empty = |number: &usize| self.chunks[*number].used == 0;
        for number in self.open[MEMORY].iter().copied().filter(empty).collect::<Vec<_>>() {
            self.release(MEMORY, number);
        }
    }

    /// Copies into a slot, from byte `at` on.
    pub(super) fn write(
        &mut self,
        place: Place,
        at: usize,
        len: usize,
        from: &mut Cursor<'_, '_>,
    ) -> io::Result<()> {
        let (number, slot) = place.parts();
        let start = slot * SLOT + at;
        match (&mut self.chunks[number].home, &self.file) {
            (Home::Memory(bytes), _) => {
                from.take(&mut bytes[start..start + len]);
                Ok(())
            }
            (Home::File(chunk), Some(file)) => {
                let mut bytes = [0; SLOT];
                from.take(&mut bytes[..len]);
                let written =
                    file.write_all_at(&bytes[..len], u64::from(*chunk) * CHUNK as u64 + start as u64);
                written.inspect_err(|_| self.spill_errors += 1)
            }
            _ => Err(nowhere()),
        }
    }

    /// Has `act` see bytes of a slot.
    pub(super) fn read(
        &self,
        place: Place,
        at: usize,
        len: usize,
        act: impl FnOnce(&[u8]),
    ) -> io::Result<()> {
        let (number, slot) = place.parts();
        let start = slot * SLOT + at;
        match (&self.chunks[number].home, &self.file) {
            (Home::Memory(bytes), _) => act(&bytes[start..start + len]),
            (Home::File(chunk), Some(file)) => {
                let mut bytes = [0; SLOT];
                file.read_exact_at(&mut bytes[..len], u64::from(*chunk) * CHUNK as u64 + start as u64)?;
                act(&bytes[..len]);
            }
            _ => return Err(nowhere()),
        }
        Ok(())
    }
}

fn nowhere() -> io::Error {
    io::Error::other("a layer points to a slot that is not there")
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Buffers;
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use vm_memory::VolatileSlice;

    fn write(arena: &mut Arena, place: Place, mut bytes: [u8; SLOT]) -> io::Result<()> {
        let slices = [VolatileSlice::from(&mut bytes[..])];
        arena.write(place, 0, SLOT, &mut Buffers::new(&slices).cursor(0))
    }

    #[test]
    fn slots_are_in_memory_then_in_the_file_then_refused_and_come_back() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut arena = Arena::new(2 * CHUNK, 1 << 20, Some((file.try_clone().unwrap(), CHUNK as u64)));
        let mut places = Vec::new();
        while let Ok(place) = arena.take(Who::Guest) {
            write(&mut arena, place, [places.len() as u8; SLOT]).unwrap();
            places.push(place);
        }
        assert_eq!(places.len(), 3 * SLOTS);
        assert_eq!((arena.used(), arena.full), ([2 * CHUNK as u64, CHUNK as u64], 1));
        for (n, place) in places.iter().enumerate() {
            arena.read(*place, 0, SLOT, |bytes| assert!(bytes.iter().all(|byte| *byte == n as u8))).unwrap();
        }
        for place in places {
            arena.give(place);
        }
        assert_eq!(arena.used(), [0, 0]);
        assert_eq!(arena.held(), CHUNK as u64, "one waits for the next epoch");
        arena.trim();
        assert_eq!(arena.held(), 0);
        assert_eq!(file.metadata().unwrap().blocks(), 0, "the disk has its space again");
        assert!(arena.take(Who::Guest).is_ok());
    }

    #[test]
    fn the_primary_leaves_some_slots_to_the_guest() {
        let mut arena = Arena::new(CHUNK, 1 << 20, None);
        while arena.take(Who::Primary).is_ok() {}
        assert_eq!(arena.used()[0] as usize / SLOT, SLOTS - SLOTS / RESERVE);
        for _ in 0..SLOTS / RESERVE {
            arena.take(Who::Guest).unwrap();
        }
        assert!(matches!(arena.take(Who::Guest), Err(Full::Slots)));
    }

    #[test]
    fn a_file_that_fails_is_an_error_and_counted() {
        let read_only = File::open("/proc/self/exe").unwrap();
        let mut arena = Arena::new(0, 1 << 20, Some((read_only, CHUNK as u64)));
        let place = arena.take(Who::Guest).unwrap();
        assert!(write(&mut arena, place, [1; SLOT]).is_err());
        assert_eq!(arena.spill_errors, 1);
    }
}
