//! A copy of pages as they are at one moment, laid out as it is sent.
//!
//! ```text
//!   begin ─► pages, pages, … (runs, by address) ─► end ─► pieces: records that can be sent as they are
//! ```
//!
//! The copy is what a guest waits for, so it is one pass, into memory that was touched before. It is made in
//! pieces that can each be read alone, so that nobody has to hold more than one that is not checked.

use super::records::{self, CONTINUE, PLAIN, RECORD, Record, Records};
use super::sys::Arena;
use super::{Blocks, PAGE};
use crate::memory::GuestRam;
use std::io;
use std::sync::Arc;
use vm_memory::bitmap::MS;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

/// The most pages of a piece: 4 MiB.
pub const PIECE: usize = 1024;
/// Pages of the guest, as they are copied from.
type Source<'a> = VolatileSlice<'a, MS<'a, GuestRam>>;

/// Room for a record that names its block, and for the end of a piece.
const SLACK: usize = 300;
/// What is kept in memory, however little is copied.
const KEPT: usize = 4 << 20;

/// The copy.
#[derive(Debug)]
pub struct Capture {
    blocks: Arc<Blocks>,
    arena: Arena,
    used: usize,
    /// How much of the arena has been touched.
    touched: usize,
    pages: usize,
    /// The block of the piece that is being made, once that has a page, and how many it has.
    block: Option<usize>,
    in_piece: usize,
    /// Where each piece ends.
    ends: Vec<usize>,
}

impl Capture {
    /// With room for every page of these blocks.
    pub fn new(blocks: Arc<Blocks>) -> io::Result<Self> {
        let pages = blocks.bytes() as usize / PAGE;
        Self::with_room(blocks, pages)
    }

    /// With room for so many pages.
    pub fn with_room(blocks: Arc<Blocks>, pages: usize) -> io::Result<Self> {
        let names = blocks.iter().count() * SLACK;
        // A byte more for each page is more than a name and an end for each piece.
        let arena = Arena::new(pages * (RECORD + 1) + names + 2 * SLACK)?;
        let ends = Vec::with_capacity(pages / PIECE + 1);
        Ok(Self { blocks, arena, used: 0, touched: 0, pages: 0, block: None, in_piece: 0, ends })
    }

    /// Begins anew.
    pub fn begin(&mut self) {
        self.used = 0;
        self.pages = 0;
        self.block = None;
        self.in_piece = 0;
        self.ends.clear();
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many more pages there is room for.
    pub fn room(&self) -> usize {
        (self.arena.bytes().len() - self.used).saturating_sub(2 * SLACK) / (RECORD + 1)
    }

    /// Copies `count` pages from `address` on. They are in one block, after those that were copied before.
    pub fn pages_at(&mut self, ram: &GuestRam, address: u64, count: usize) -> Result<(), GuestMemoryError> {
        let outside = || GuestMemoryError::InvalidGuestAddress(GuestAddress(address));
        let (block, offset) = self.blocks.place(address).ok_or_else(outside)?;
        if count > self.room() {
            return Err(GuestMemoryError::GuestAddressOverflow);
        }
        let source = ram.get_slice(GuestAddress(address), count * PAGE)?;
        let mut done = 0;
        while done < count {
            if self.in_piece == PIECE {
                self.end_piece();
            }
            let now = (count - done).min(PIECE - self.in_piece);
            self.records(block, offset + (done * PAGE) as u64, &source.subslice(done * PAGE, now * PAGE)?)?;
            self.in_piece += now;
            done += now;
        }
        self.pages += count;
        Ok(())
    }

    /// The records of these pages, for which the piece has room.
    fn records(&mut self, block: usize, offset: u64, source: &Source<'_>) -> Result<(), GuestMemoryError> {
        let bytes = self.arena.bytes_mut();
        let mut at = 0;
        if self.block != Some(block) {
            let name = self.blocks.get(block).map_or("", |block| block.name.as_str());
            let mut first = Vec::with_capacity(SLACK);
            records::begin(&mut first, offset, PLAIN, Some(name));
            bytes[self.used..self.used + first.len()].copy_from_slice(&first);
            self.used += first.len();
            source.subslice(0, PAGE)?.copy_to(&mut bytes[self.used..self.used + PAGE]);
            self.used += PAGE;
            self.block = Some(block);
            at = PAGE;
        }
        while at < source.len() {
            let record = &mut bytes[self.used..self.used + RECORD];
            let header = (offset + at as u64) | PLAIN | CONTINUE;
            record[..8].copy_from_slice(&header.to_be_bytes());
            source.subslice(at, PAGE)?.copy_to(&mut record[8..]);
            self.used += RECORD;
            at += PAGE;
        }
        Ok(())
    }

    fn end_piece(&mut self) {
        let end = records::EOS.to_be_bytes();
        self.arena.bytes_mut()[self.used..self.used + end.len()].copy_from_slice(&end);
        self.used += end.len();
        self.ends.push(self.used);
        self.block = None;
        self.in_piece = 0;
    }

    /// Ends it. There is one piece at least, be it one of no page.
    pub fn end(&mut self) {
        if self.in_piece > 0 || self.ends.is_empty() {
            self.end_piece();
        }
        self.touched = self.touched.max(self.used);
    }

    /// The pieces, in order, after [`end`](Self::end).
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| &self.arena.bytes()[*begin..*end])
    }

    /// What all pieces say.
    pub fn all(&self) -> impl Iterator<Item = Record<'_>> {
        self.pieces().flat_map(|piece| Records::new(&self.blocks, piece).flatten())
    }

    /// Touches memory for so many pages, so that the next copy does not have to; gives back what is much more.
    pub fn prepare(&mut self, pages: usize) {
        let wanted = (pages * (RECORD + 1) + 2 * SLACK).max(KEPT).min(self.arena.bytes().len());
        if self.touched > 4 * wanted && self.used <= wanted {
            self.arena.give_back(wanted);
            self.touched = wanted;
        }
        if self.touched < wanted {
            let from = self.touched.max(self.used);
            for byte in self.arena.bytes_mut()[..wanted].iter_mut().skip(from).step_by(PAGE) {
                // A write, which cannot be left out: zeros are what is there.
                *std::hint::black_box(byte) = 0;
            }
            self.touched = wanted;
        }
    }
}
