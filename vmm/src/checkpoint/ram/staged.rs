//! Pages that have come, and wait for the rest of their epoch.
//!
//! ```text
//!   buffer ─► a piece is received into it ─► accept: every record is checked, all is kept as it came
//!                                               │  … more pieces …: in memory up to a bound, then in a file
//!   epoch complete ─► apply: unpacks and copies                   discard: as if nothing had come
//! ```
//!
//! What came packed waits packed: it is unpacked once to see that it can be, and once more when it is applied.

use super::pack::{unpack, xor};
use super::records::{Content, Record, RecordError, Records};
use super::spill::Spill;
use super::sys::Arena;
use super::{Blocks, PAGE, records};
use crate::checkpoint::protocol::Buffer;
use crate::memory::GuestRam;
use crate::virtio::throttle::Gate;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// The part of the guest's memory that may wait in memory, if there is a file for the rest: an eighth.
const SHARE: usize = 8;
/// That at least.
const LEAST: usize = 4 << 20;

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
    /// What came before it may not come back.
    #[error("pages of this epoch wait in a file that does not answer: {0}")]
    Spill(io::Error),
}

/// Pages that cannot be put into the guest's memory.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// No such memory, which only a bug asks for.
    #[error("cannot put pages into the guest's memory: {0}")]
    Copy(#[from] GuestMemoryError),
    /// The disk has lost them.
    #[error(
        "cannot read pages back from the file that they waited in: {0}; look after the disk of --spill, or leave that out"
    )]
    Spill(io::Error),
    /// They are not what was put there.
    #[error(
        "pages are not what they were when they came: {0}; look after the disk of --spill, and the host's memory"
    )]
    Changed(StageError),
}

/// Where a piece waits.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the arena, from there on.
    Memory(usize),
    /// In the file.
    Spilled(u64),
}

/// The pages of the epoch that is being received.
#[derive(Debug)]
pub struct Staged {
    blocks: Arc<Blocks>,
    /// In the order in which they came; each with its length.
    pieces: Vec<(Place, usize)>,
    arena: Arena,
    used: usize,
    /// How much of the arena has memory.
    touched: usize,
    /// How much of it is used if there is a file for the rest, and kept in any case.
    bound: usize,
    spill: Option<Spill>,
    /// Whether the file has pieces of this epoch.
    spilled: bool,
    bytes: usize,
    pages: usize,
    most_pages: usize,
    /// What is received into.
    buffer: Option<Buffer>,
}

impl Staged {
    /// Nothing yet. A page may be sent ahead, and once more with its epoch.
    pub fn new(blocks: Arc<Blocks>, spill: Option<Spill>) -> io::Result<Self> {
        let bound = (blocks.bytes() as usize / SHARE).max(LEAST);
        Self::with_bound(blocks, spill, bound)
    }

    /// With another bound of what waits in memory.
    pub fn with_bound(blocks: Arc<Blocks>, spill: Option<Spill>, bound: usize) -> io::Result<Self> {
        let most_pages = 2 * (blocks.bytes() as usize / PAGE);
        let arena = Arena::new(most_bytes(most_pages))?;
        Ok(Self {
            blocks,
            pieces: Vec::new(),
            arena,
            used: 0,
            touched: 0,
            bound,
            spill,
            spilled: false,
            bytes: 0,
            pages: 0,
            most_pages,
            buffer: None,
        })
    }

    /// How many pages may wait without the bound being passed, whatever they hold.
    pub fn room(&self) -> usize {
        if self.spill.is_some() { self.most_pages / 2 } else { self.bound / records::RECORD }
    }

    /// How many pages wait.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// A buffer to receive into: the one that was used before, if it came back.
    pub fn buffer(&mut self) -> Buffer {
        self.buffer.take().unwrap_or_default()
    }

    /// Takes a piece: all of it is looked at here. Says how many pages it brings.
    pub fn accept(&mut self, piece: Buffer) -> Result<usize, StageError> {
        let before = self.pages;
        let (kept, len) = (self.keep(piece.bytes()), piece.bytes().len());
        self.buffer = Some(piece);
        let (kept, pages) = (kept?, self.pages - before);
        // One without pages says nothing, and any number of them could come.
        if pages > 0 {
            self.pieces.push((kept, len));
        }
        Ok(pages)
    }

    fn keep(&mut self, piece: &[u8]) -> Result<Place, StageError> {
        // Records of pages that are all zeros are small, so bytes alone bound nothing.
        let most = most_bytes(self.most_pages);
        self.bytes += piece.len();
        if self.bytes > most {
            return Err(StageError::Full { bytes: self.bytes, most });
        }
        let mut page = [0; PAGE];
        for record in Records::new(&self.blocks, piece) {
            if self.pages >= self.most_pages {
                return Err(StageError::Many(self.most_pages));
            }
            let Record { block, offset, content } = record?;
            if let Content::Lz4(compressed) | Content::Delta(compressed) = content {
                unpack(compressed, &mut page).map_err(|why| RecordError::Compressed {
                    block,
                    offset,
                    why,
                })?;
            }
            self.pages += 1;
        }
        let end = self.used + piece.len();
        if end > self.bound
            && let Some(spill) = &mut self.spill
        {
            match spill.put(piece) {
                Ok(at) => {
                    self.spilled = true;
                    return Ok(Place::Spilled(at));
                }
                // What waits in the file may not come back: better now than when the guest is half another one.
                Err(source) if self.spilled && source.kind() == io::ErrorKind::TimedOut => {
                    return Err(StageError::Spill(source));
                }
                // A full disk is no reason to lose an epoch.
                Err(error) => complain(&error),
            }
        }
        let at = self.used;
        let full = StageError::Full { bytes: self.bytes, most };
        self.arena.bytes_mut().get_mut(at..end).ok_or(full)?.copy_from_slice(piece);
        self.used = end;
        self.touched = self.touched.max(end);
        Ok(Place::Memory(at))
    }

    /// Puts them into the guest's memory, and has none any more. All was checked when it came, so an error is a bug,
    /// or a file that has lost what is in it.
    pub fn apply(&mut self, ram: &GuestRam) -> Result<(), ApplyError> {
        for (place, len) in &self.pieces {
            let piece = match (*place, &mut self.spill) {
                (Place::Memory(at), _) => &self.arena.bytes()[at..at + len],
                (Place::Spilled(at), Some(spill)) => spill.get(at, *len).map_err(ApplyError::Spill)?,
                (Place::Spilled(_), None) => &[],
            };
            put(&self.blocks, piece, ram)?;
        }
        self.discard();
        Ok(())
    }

    /// Forgets what has come.
    pub fn discard(&mut self) {
        self.pieces.clear();
        self.pages = 0;
        self.bytes = 0;
        // As much as the last epoch took is kept, so that the next one does not have to touch it again.
        let keep = (2 * self.used).clamp(LEAST, self.bound.max(LEAST));
        if self.touched > self.bound || self.touched > 4 * keep {
            self.arena.give_back(keep);
            self.touched = keep.min(self.touched);
        }
        self.used = 0;
        self.spilled = false;
        if let Some(spill) = &mut self.spill {
            spill.clear();
        }
    }
}

/// Pages wait in memory after all: a line in a second says so.
fn complain(error: &io::Error) {
    static GATE: Gate = Gate::new();
    if let Some(silenced) = GATE.admit() {
        tracing::warn!(silenced, "pages wait in memory, as their file takes no more: {error}");
    }
}

/// More than so many pages never take, whatever they hold.
fn most_bytes(pages: usize) -> usize {
    pages * records::RECORD + (1 << 20)
}

/// Puts a piece into the guest's memory.
fn put(blocks: &Blocks, piece: &[u8], ram: &GuestRam) -> Result<(), ApplyError> {
    let changed = |error: RecordError| ApplyError::Changed(error.into());
    let (mut now, mut page) = ([0; PAGE], [0; PAGE]);
    for record in Records::new(blocks, piece) {
        let Record { block, offset, content } = record.map_err(changed)?;
        let start = blocks.get(block).map_or(0, |block| block.start);
        let address = GuestAddress(start + offset);
        if let Content::Lz4(compressed) | Content::Delta(compressed) = content {
            let wrong = |why| changed(RecordError::Compressed { block, offset, why });
            unpack(compressed, &mut page).map_err(wrong)?;
        }
        match content {
            Content::Zero => {
                ram.read_slice(&mut now, address)?;
                // Memory that was never touched need not be now.
                if !records::is_zero(&now) {
                    ram.write_slice(&[0; PAGE], address)?;
                }
            }
            Content::Plain(page) => ram.write_slice(page, address)?,
            Content::Lz4(_) => ram.write_slice(&page, address)?,
            Content::Delta(_) => {
                ram.read_slice(&mut now, address)?;
                ram.write_slice(&xor(&now, &page), address)?;
            }
        }
    }
    Ok(())
}
