//! What is written into the base at once.
//!
//! ```text
//!   sectors of a layer, in the order of the disk ─► runs: neighbours are one run, data up to 512 KiB in all
//! ```

use super::arena::{Arena, Place, SLOT};
use super::region::{PER_SLOT, SECTOR};
use crate::block::{Image, write_at};
use std::io;

/// The most data in a batch.
const DATA: usize = 512 << 10;
/// The most runs.
const RUNS: usize = 256;
/// The most zeros in a run, in sectors: 64 MiB.
const ZEROS: u64 = (64 << 20) / SECTOR;

/// Neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) count: u64,
    /// Where its bytes are in the batch; zeros have none.
    data: Option<usize>,
}

/// Runs, and their bytes.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) runs: Vec<Run>,
    /// Bytes that could not be read back: the first sector, and why.
    pub(super) unreadable: Option<(u64, io::Error)>,
    room: Vec<u8>,
    /// Where in the room the first page begins, and how much is used from there.
    first: usize,
    used: usize,
    /// Neighbours are one run only within a slot: so that one bad block is found.
    small: bool,
}

impl Batch {
    pub(super) fn new() -> Self {
        // Each run begins at a page: an image that does direct I/O then need not copy it.
        let room = vec![0; DATA + 2 * SLOT];
        let first = room.as_ptr().align_offset(SLOT);
        let first = if first < SLOT { first } else { 0 };
        Self { runs: Vec::with_capacity(RUNS), unreadable: None, room, first, used: 0, small: false }
    }

    pub(super) fn clear(&mut self, small: bool) {
        self.runs.clear();
        self.unreadable = None;
        (self.used, self.small) = (0, small);
    }

    /// Whether sectors go on where the last run ends.
    fn joins(&self, start: u64, data: bool) -> bool {
        self.runs.last().is_some_and(|run| run.data.is_some() == data && run.start + run.count == start)
            && !(self.small && start.is_multiple_of(PER_SLOT))
    }

    /// Adds zeros. Says how many sectors it took; none: it is full.
    pub(super) fn zeros(&mut self, start: u64, count: u64) -> u64 {
        let count = if self.small { count.min(PER_SLOT - start % PER_SLOT) } else { count };
        let joins = self.joins(start, false);
        if let Some(run) = self.runs.last_mut().filter(|run| joins && run.count < ZEROS) {
            let count = count.min(ZEROS - run.count);
            run.count += count;
            return count;
        }
        if self.runs.len() == RUNS {
            return 0;
        }
        let count = count.min(ZEROS);
        self.runs.push(Run { start, count, data: None });
        count
    }

    /// Adds sectors of a slot, from its byte `from` on. What cannot be read is left out, and remembered.
    /// Says whether there was room.
    pub(super) fn data(&mut self, arena: &Arena, start: u64, count: u64, place: Place, from: usize) -> bool {
        let len = (count * SECTOR) as usize;
        let joins = self.joins(start, true);
        let at = if joins { self.used } else { self.used.next_multiple_of(SLOT) };
        if at + len > DATA || !joins && self.runs.len() == RUNS {
            return false;
        }
        let into = &mut self.room[self.first + at..self.first + at + len];
        if let Err(error) = arena.read(place, from, len, |bytes| into.copy_from_slice(bytes)) {
            self.unreadable.get_or_insert((start, error));
            return true;
        }
        self.used = at + len;
        match self.runs.last_mut().filter(|_| joins) {
            Some(run) => run.count += count,
            None => self.runs.push(Run { start, count, data: Some(at) }),
        }
        true
    }

    /// Writes a run into an image.
    pub(super) fn write(&mut self, run: Run, base: &dyn Image) -> io::Result<()> {
        let (offset, len) = (run.start * SECTOR, run.count * SECTOR);
        match run.data {
            None => base.write_zeroes(offset, len, true),
            Some(at) => {
                let from = self.first + at;
                write_at(base, &mut self.room[from..from + len as usize], offset)
            }
        }
    }
}
