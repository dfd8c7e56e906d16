//! Pages that have come, and wait for the rest of their epoch.
//!
//! ```text
//!   room(len) ─► a piece is read into it ─► accept: every record is checked and decompressed
//!                                              │  … more pieces …
//!   epoch complete ─► apply: copies only, cannot fail            discard: as if nothing had come
//! ```

use super::pack::xor;
use super::records::{Content, Record, RecordError, Records};
use super::sys::Arena;
use super::{Blocks, PAGE, records};
use crate::memory::GuestRam;
use lz4_flex::block::decompress_into;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// What is kept in memory between epochs.
const KEPT: usize = 16 << 20;

/// Pieces that cannot be staged.
#[derive(Debug, Error)]
pub enum StageError {
    /// More than a guest can have changed.
    #[error("the peer sends {wanted} bytes of pages, and {room} is all that one epoch of this guest can be")]
    Full {
        /// What the piece would take.
        wanted: u64,
        /// What there is.
        room: usize,
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
    /// It becomes what is there in the arena.
    Copy(usize),
    /// It is changed by what is there.
    Xor(usize),
}

/// The pages of the epoch that is being received.
#[derive(Debug)]
pub struct Staged {
    blocks: Arc<Blocks>,
    arena: Arena,
    used: usize,
    changes: Vec<(u64, Change)>,
    most: usize,
}

impl Staged {
    /// Nothing yet, and room for what a guest with these blocks can change.
    pub fn new(blocks: Arc<Blocks>) -> io::Result<Self> {
        let pages = blocks.bytes() as usize / PAGE;
        // A page may be sent ahead and once more with its epoch.
        let arena = Arena::new(2 * pages * records::RECORD + (1 << 20))?;
        Ok(Self { blocks, arena, used: 0, changes: Vec::new(), most: 2 * pages })
    }

    /// How many pages wait.
    pub fn pages(&self) -> usize {
        self.changes.len()
    }

    /// How many bytes they take here.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Where a piece of `len` bytes is to be read to.
    pub fn room(&mut self, len: u64) -> Result<&mut [u8], StageError> {
        let used = self.used;
        let bytes = self.arena.bytes_mut();
        let full = StageError::Full { wanted: len, room: bytes.len() - used };
        let end = usize::try_from(len).ok().and_then(|len| used.checked_add(len));
        end.and_then(|end| bytes.get_mut(used..end)).ok_or(full)
    }

    /// Takes the piece that was read into [`room`](Self::room): all of it is looked at here.
    pub fn accept(&mut self, len: usize) -> Result<usize, StageError> {
        let (from, piece) = (self.used, self.used..self.used + len);
        // What compressed pages become goes behind the piece.
        let mut end = piece.end;
        let before = self.changes.len();
        let (bytes, rest) = self.arena.bytes_mut().split_at_mut(piece.end);
        let bytes = &bytes[from..];
        let base = bytes.as_ptr().addr();
        let place = |slice: &[u8]| from + (slice.as_ptr().addr() - base);
        for record in Records::new(&self.blocks, bytes) {
            let Record { block, offset, content } = record?;
            let start = self.blocks.get(block).map_or(0, |block| block.start);
            let mut unpack = |compressed: &[u8]| -> Result<usize, StageError> {
                let at = end - piece.end;
                let room = rest.get_mut(at..at + PAGE);
                let room = room.ok_or(StageError::Full { wanted: PAGE as u64, room: 0 })?;
                let wrong = |why| RecordError::Compressed { block, offset, why };
                match decompress_into(compressed, room) {
                    Ok(PAGE) => {}
                    Ok(other) => return Err(wrong(format!("it becomes {other} bytes")).into()),
                    Err(error) => return Err(wrong(error.to_string()).into()),
                }
                end += PAGE;
                Ok(piece.end + at)
            };
            let change = match content {
                Content::Zero => Change::Zero,
                Content::Plain(page) => Change::Copy(place(page)),
                Content::Lz4(compressed) => Change::Copy(unpack(compressed)?),
                Content::Delta(compressed) => Change::Xor(unpack(compressed)?),
            };
            if self.changes.len() >= self.most {
                return Err(StageError::Many(self.most));
            }
            self.changes.push((start + offset, change));
        }
        self.used = end;
        Ok(self.changes.len() - before)
    }

    /// The guest's addresses of the pages that wait, as they came.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        self.changes.iter().map(|(address, _)| *address)
    }

    /// Puts them into the guest's memory, and has none any more. The addresses were checked against the
    /// blocks of this guest, so an error is a bug.
    pub fn apply(&mut self, ram: &GuestRam) -> Result<(), GuestMemoryError> {
        let bytes = self.arena.bytes();
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
                Change::Copy(at) => ram.write_slice(&bytes[page(at)], address)?,
                Change::Xor(at) => {
                    let (mut now, mut difference) = ([0; PAGE], [0; PAGE]);
                    ram.read_slice(&mut now, address)?;
                    difference.copy_from_slice(&bytes[page(at)]);
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
        if self.used > KEPT {
            self.arena.give_back(KEPT);
            self.changes.shrink_to(KEPT / PAGE);
        }
        self.used = 0;
    }
}

fn page(at: usize) -> Range<usize> {
    at..at + PAGE
}
