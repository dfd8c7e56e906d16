//! Pages that have come, and wait for the rest of their epoch.
//!
//! ```text
//!   buffer ─► a piece is received into it ─► accept: every record is checked and decompressed
//!                                               │  … more pieces …
//!   epoch complete ─► apply: copies only, cannot fail             discard: as if nothing had come
//! ```

use super::pack::xor;
use super::records::{Content, Record, RecordError, Records};
use super::sys::Arena;
use super::{Blocks, PAGE, records};
use crate::checkpoint::protocol::Buffer;
use crate::memory::GuestRam;
use lz4_flex::block::decompress_into;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// What is kept of each piece's memory between epochs.
const KEPT: usize = 4 << 20;
/// How many pieces' memory is kept.
const POOL: usize = 4;

/// Pieces that cannot be staged.
#[derive(Debug, Error)]
pub enum StageError {
    /// More than a guest can have changed.
    #[error(
        "the peer sends {bytes} bytes of pages in one epoch, and {most} is all that one of this guest can be"
    )]
    Full {
        /// What came.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// More records than pages.
    #[error("the peer sends more than {0} pages in one epoch, which is more than twice what the guest has")]
    Many(usize),
    /// A piece that is none.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What is to be done to a page.
#[derive(Clone, Copy, Debug)]
enum Change {
    Zero,
    /// It becomes what is there in a piece.
    Copy {
        piece: u32,
        at: u32,
    },
    /// It becomes what was decompressed to there.
    Unpacked(usize),
    /// It is changed by what was decompressed to there.
    Xor(usize),
}

/// The pages of the epoch that is being received.
#[derive(Debug)]
pub struct Staged {
    blocks: Arc<Blocks>,
    pieces: Vec<Buffer>,
    bytes: usize,
    unpacked: Arena,
    used: usize,
    changes: Vec<(u64, Change)>,
    pool: Vec<Buffer>,
    most_pages: usize,
}

impl Staged {
    /// Nothing yet. A page may be sent ahead, and once more with its epoch.
    pub fn new(blocks: Arc<Blocks>) -> io::Result<Self> {
        let most_pages = 2 * (blocks.bytes() as usize / PAGE);
        let unpacked = Arena::new(most_pages * PAGE)?;
        let (pieces, changes, pool) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { blocks, pieces, bytes: 0, unpacked, used: 0, changes, pool, most_pages })
    }

    /// How many pages wait.
    pub fn pages(&self) -> usize {
        self.changes.len()
    }

    /// A buffer to receive into: one that was used before, if there is one.
    pub fn buffer(&mut self) -> Buffer {
        self.pool.pop().unwrap_or_default()
    }

    /// Takes a piece: all of it is looked at here. Says how many pages it brings.
    pub fn accept(&mut self, piece: Buffer) -> Result<usize, StageError> {
        // Records of pages that are all zeros are small, so bytes alone bound nothing.
        let most = self.most_pages * records::RECORD + (1 << 20);
        self.bytes += piece.bytes().len();
        if self.bytes > most || u32::try_from(piece.bytes().len()).is_err() {
            return Err(StageError::Full { bytes: self.bytes, most });
        }
        let number = self.pieces.len() as u32;
        let before = self.changes.len();
        let base = piece.bytes().as_ptr().addr();
        for record in Records::new(&self.blocks, piece.bytes()) {
            if self.changes.len() >= self.most_pages {
                return Err(StageError::Many(self.most_pages));
            }
            let Record { block, offset, content } = record?;
            let start = self.blocks.get(block).map_or(0, |block| block.start);
            let place = (block, offset);
            let change = match content {
                Content::Zero => Change::Zero,
                Content::Plain(page) => {
                    Change::Copy { piece: number, at: (page.as_ptr().addr() - base) as u32 }
                }
                Content::Lz4(compressed) => {
                    Change::Unpacked(unpack(&mut self.unpacked, &mut self.used, place, compressed)?)
                }
                Content::Delta(compressed) => {
                    Change::Xor(unpack(&mut self.unpacked, &mut self.used, place, compressed)?)
                }
            };
            self.changes.push((start + offset, change));
        }
        self.pieces.push(piece);
        Ok(self.changes.len() - before)
    }

    /// The guest's addresses of the pages that wait, as they came.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        self.changes.iter().map(|(address, _)| *address)
    }

    /// Puts them into the guest's memory, and has none any more. The addresses were checked against the
    /// blocks of this guest, so an error is a bug.
    pub fn apply(&mut self, ram: &GuestRam) -> Result<(), GuestMemoryError> {
        for (address, change) in &self.changes {
            let address = GuestAddress(*address);
            match *change {
                Change::Zero => {
                    let mut page = [0; PAGE];
                    ram.read_slice(&mut page, address)?;
                    // Memory that was never touched need not be now.
                    if !records::is_zero(&page) {
                        ram.write_slice(&[0; PAGE], address)?;
                    }
                }
                Change::Copy { piece, at } => {
                    let piece = self.pieces.get(piece as usize).map_or(&[][..], Buffer::bytes);
                    ram.write_slice(&piece[page(at as usize)], address)?;
                }
                Change::Unpacked(at) => ram.write_slice(&self.unpacked.bytes()[page(at)], address)?,
                Change::Xor(at) => {
                    let (mut now, mut difference) = ([0; PAGE], [0; PAGE]);
                    ram.read_slice(&mut now, address)?;
                    difference.copy_from_slice(&self.unpacked.bytes()[page(at)]);
                    ram.write_slice(&xor(&now, &difference), address)?;
                }
            }
        }
        self.discard();
        Ok(())
    }

    /// Forgets what has come.
    pub fn discard(&mut self) {
        self.changes.clear();
        self.changes.shrink_to(KEPT / PAGE);
        for mut piece in self.pieces.drain(..) {
            if self.pool.len() < POOL {
                piece.shrink(KEPT);
                self.pool.push(piece);
            }
        }
        self.bytes = 0;
        if self.used > KEPT {
            self.unpacked.give_back(KEPT);
        }
        self.used = 0;
    }
}

fn unpack(
    arena: &mut Arena,
    used: &mut usize,
    (block, offset): (usize, u64),
    compressed: &[u8],
) -> Result<usize, StageError> {
    let most = arena.bytes().len();
    let at = *used;
    let room = arena.bytes_mut().get_mut(at..at + PAGE);
    let room = room.ok_or(StageError::Full { bytes: at + PAGE, most })?;
    let wrong = |why| RecordError::Compressed { block, offset, why };
    match decompress_into(compressed, room) {
        Ok(PAGE) => {}
        Ok(other) => return Err(wrong(format!("it becomes {other} bytes")).into()),
        Err(error) => return Err(wrong(error.to_string()).into()),
    }
    *used += PAGE;
    Ok(at)
}

fn page(at: usize) -> Range<usize> {
    at..at + PAGE
}
