//! Buffers of a guest, for one system call without a copy.
//!
//! ```text
//!   Ring::pop ─ Segments ─► push ─►│ iovec │ iovec │ iovec │ … │ spill │ ◄─ readv / writev ─► tap, file
//!                                  └─ in guest RAM, addresses looked up once ─┘   └ ours
//! ```
//!
//! The spill takes what does not fit into the guest's buffers, so that a long frame is never cut unseen.
//! What `readv` writes is marked in the dirty bitmap by hand, as `vm_memory` cannot see it.

mod sys;

use crate::memory::GuestRam;
use crate::virtio::ring::Segment;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use sys::Piece;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Segments that were taken off the front and not yet forgotten.
const SLACK: usize = 1024;

/// A list of segments with their host addresses.
#[derive(Debug)]
pub struct Gather {
    /// Holds the mappings that the pieces point to; they never change.
    ram: Arc<GuestRam>,
    pieces: Vec<Piece>,
    segments: Vec<Segment>,
    /// How many are gone from the front.
    start: usize,
    spill: Box<[u8]>,
}

impl Gather {
    /// Nothing yet. `spill` bytes follow the segments of every read.
    pub fn new(ram: Arc<GuestRam>, spill: usize) -> Self {
        let spill = vec![0; spill].into_boxed_slice();
        Self { ram, pieces: Vec::new(), segments: Vec::new(), start: 0, spill }
    }

    /// Appends a segment; false if it is not RAM (a [`Ring`](crate::virtio::ring::Ring)'s are).
    pub fn push(&mut self, segment: Segment) -> bool {
        let Some(piece) = Piece::of_ram(&self.ram, segment.address, segment.len) else { return false };
        self.pieces.push(piece);
        self.segments.push(segment);
        true
    }

    /// Forgets all segments.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.segments.clear();
        self.start = 0;
    }

    /// Forgets the first `count`.
    pub fn drop_front(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.pieces.len() {
            self.clear();
        } else if self.start >= SLACK {
            self.pieces.drain(..self.start);
            self.segments.drain(..self.start);
            self.start = 0;
        }
    }

    /// The number of segments.
    pub fn len(&self) -> usize {
        self.pieces.len() - self.start
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads once, into the first `count` segments and then into the spill.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let end = (self.start + count).min(self.pieces.len());
        let spill = Piece::of_spill(&mut self.spill);
        // The spill takes the place of the piece after them for as long as the call lasts.
        let hidden = self.pieces.get(end).copied();
        match self.pieces.get_mut(end) {
            Some(place) => *place = spill,
            None => self.pieces.push(spill),
        }
        let result = sys::readv(fd, &self.pieces[self.start..=end]);
        match hidden {
            Some(piece) => self.pieces[end] = piece,
            None => {
                self.pieces.pop();
            }
        }
        if let Ok(read) = result {
            self.mark(end, read);
        }
        result
    }

    /// What the last read put into the spill, if it was `len` bytes.
    pub fn spill(&self, len: usize) -> &[u8] {
        &self.spill[..len.min(self.spill.len())]
    }

    /// Writes all segments at once.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        sys::writev(fd, &self.pieces[self.start..])
    }

    /// Writes bytes at an offset into the segments. Gives how many found room.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        self.each(offset, data.len(), |address, at| {
            self.ram.write_slice(&data[at.clone()], address).is_ok().then_some(at.len())
        })
    }

    /// Reads bytes from there. Gives how many there were.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let len = data.len();
        self.each(offset, len, |address, at| {
            self.ram.read_slice(&mut data[at.clone()], address).is_ok().then_some(at.len())
        })
    }

    /// Calls with each part of RAM that has bytes `offset..offset + len`, and where those are in `len`.
    fn each(
        &self,
        offset: usize,
        len: usize,
        mut call: impl FnMut(GuestAddress, std::ops::Range<usize>) -> Option<usize>,
    ) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for segment in &self.segments[self.start..] {
            let room = segment.len as usize;
            if done == len {
                break;
            }
            if skip >= room {
                skip -= room;
                continue;
            }
            let count = (room - skip).min(len - done);
            let address = GuestAddress(segment.address + skip as u64);
            let Some(moved) = call(address, done..done + count) else { break };
            done += moved;
            skip = 0;
        }
        done
    }

    fn mark(&self, end: usize, read: usize) {
        let mut left = read;
        for segment in &self.segments[self.start..end] {
            let len = left.min(segment.len as usize);
            if len == 0 {
                break;
            }
            if let Ok(slice) = self.ram.get_slice(GuestAddress(segment.address), len) {
                slice.bitmap().mark_dirty(0, len);
            }
            left -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::fake_driver::ram;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use vm_memory::GuestMemoryRegion;

    fn segment(address: u64, len: u32) -> Segment {
        Segment { address, len, writable: true }
    }

    #[test]
    fn a_read_fills_the_segments_then_the_spill_and_marks_pages() {
        let ram = ram(0x10_000);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abcdefghij").unwrap();
        file.rewind().unwrap();
        let mut gather = Gather::new(ram.clone(), 16);
        for part in [segment(0, 9), segment(0x3000, 2), segment(0x5ffe, 3), segment(0x9000, 100)] {
            assert!(gather.push(part));
        }
        assert!(!gather.push(segment(0xffff, 2)));
        gather.drop_front(1);
        assert_eq!(gather.read_from(file.as_fd(), 2).unwrap(), 10);
        assert_eq!(gather.spill(5), b"fghij");
        let mut got = [0; 5];
        assert_eq!(gather.read_at(0, &mut got), 5);
        assert_eq!(&got, b"abcde");
        let region = ram.find_region(GuestAddress(0)).unwrap();
        let dirty: Vec<_> = (0..16).filter(|page| region.bitmap().dirty_at(page << 12)).collect();
        assert_eq!(dirty, [3, 5, 6]);
        assert_eq!((gather.len(), gather.write_at(4, b"xyz")), (3, 3), "the last one is there again");
        assert_eq!(gather.read_at(1, &mut got), 5);
        assert_eq!(&got, b"bcdxy");
    }

    #[test]
    fn a_write_takes_all_segments_in_order() {
        let ram = ram(0x10_000);
        ram.write_slice(b"hello", GuestAddress(0x100)).unwrap();
        let mut gather = Gather::new(ram, 0);
        gather.push(segment(0x102, 3));
        gather.push(segment(0x100, 2));
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(gather.write_to(file.as_fd()).unwrap(), 5);
        file.rewind().unwrap();
        let mut got = String::new();
        file.read_to_string(&mut got).unwrap();
        assert_eq!(got, "llohe");
        gather.drop_front(2);
        assert!(gather.is_empty());
    }
}
