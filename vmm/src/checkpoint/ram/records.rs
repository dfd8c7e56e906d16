//! RAM records (QEMU's migration stream, version 3, section "ram").
//!
//! ```text
//!   be64 offset in the block | flags      flags are in the 12 bits that a page's offset leaves
//!   u8 length, name of the block          not with CONTINUE: then the block is the one before
//!   ZERO  u8 0      PAGE  4096 bytes      LZ4, DELTA  be16 length, that many bytes      EOS  nothing
//! ```
//!
//! LZ4 and DELTA are this project's: both ends agree on them when they meet, and files never have them. A
//! piece is a run of records that begins with a block's name and ends with EOS, so that it can be read alone.

pub use crate::stream::ram::{
    FLAG_CONTINUE as CONTINUE, FLAG_EOS as EOS, FLAG_PAGE as PLAIN, FLAG_ZERO as ZERO, is_zero,
};

use super::{Blocks, PAGE};
use thiserror::Error;

/// The page's difference (XOR) to what the secondary has, as an LZ4 block.
pub const DELTA: u64 = 0x40;
/// The page as an LZ4 block.
pub const LZ4: u64 = 0x100;
const FLAGS: u64 = PAGE as u64 - 1;

/// The bytes of a record that goes on in its block and brings a page.
pub const RECORD: usize = 8 + PAGE;

/// What a record says of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// It is all zeros.
    Zero,
    /// It is this.
    Plain(&'a [u8; PAGE]),
    /// It is this, compressed.
    Lz4(&'a [u8]),
    /// It differs from what the last checkpoint left by this, compressed.
    Delta(&'a [u8]),
}

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The number of its block.
    pub block: usize,
    /// Where it is in that, a multiple of the page's size.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// A piece that is none. `at` counts bytes from its begin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It ends in the middle.
    #[error("the RAM records end in the middle of one, at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// A block that is not there.
    #[error("the RAM record at byte {at} is of a block {name:?}, which this guest does not have")]
    Block {
        /// Where.
        at: usize,
        /// Its name.
        name: String,
    },
    /// No block yet.
    #[error("the RAM record at byte {at} goes on in a block, and none was named")]
    Nameless {
        /// Where.
        at: usize,
    },
    /// A page beyond its block.
    #[error("the RAM record at byte {at} is of the page at {offset:#x}, outside its block")]
    Outside {
        /// Where.
        at: usize,
        /// The page.
        offset: u64,
    },
    /// Flags that no record has.
    #[error("the RAM record at byte {at} has flags {flags:#x}, which mean nothing")]
    Flags {
        /// Where.
        at: usize,
        /// What it has.
        flags: u64,
    },
    /// A compressed page that is none.
    #[error("the RAM record at byte {at} is a compressed page of {len} bytes, which is none")]
    Length {
        /// Where.
        at: usize,
        /// What it says.
        len: usize,
    },
    /// A page that does not decompress to a page.
    #[error("the page at {offset:#x} of block {block} does not decompress: {why}")]
    Compressed {
        /// The block's number.
        block: usize,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Bytes after the end.
    #[error("{0} bytes follow the end of the RAM records")]
    Trailing(usize),
}

/// Reads a piece, record after record. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    blocks: &'a Blocks,
    bytes: &'a [u8],
    at: usize,
    block: Option<usize>,
    ended: bool,
}

impl<'a> Records<'a> {
    /// Of these bytes, for a guest with these blocks.
    pub fn new(blocks: &'a Blocks, bytes: &'a [u8]) -> Self {
        Self { blocks, bytes, at: 0, block: None, ended: false }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(RecordError::Short { at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], RecordError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| RecordError::Short { at })
    }

    fn named(&mut self, at: usize) -> Result<usize, RecordError> {
        let [len] = *self.array::<1>()?;
        let name = self.take(usize::from(len))?;
        let unknown = || RecordError::Block { at, name: String::from_utf8_lossy(name).into_owned() };
        self.blocks.find(name).ok_or_else(unknown)
    }

    fn compressed(&mut self, at: usize) -> Result<&'a [u8], RecordError> {
        let len = usize::from(u16::from_be_bytes(*self.array()?));
        if len == 0 || len >= PAGE {
            return Err(RecordError::Length { at, len });
        }
        self.take(len)
    }

    fn record(&mut self) -> Result<Option<Record<'a>>, RecordError> {
        let at = self.at;
        let word = u64::from_be_bytes(*self.array()?);
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        if flags == EOS && offset == 0 {
            let left = self.bytes.len() - self.at;
            return if left == 0 { Ok(None) } else { Err(RecordError::Trailing(left)) };
        }
        let block = match flags & CONTINUE {
            0 => self.named(at)?,
            _ => self.block.ok_or(RecordError::Nameless { at })?,
        };
        self.block = Some(block);
        let len = self.blocks.get(block).map_or(0, |block| block.len);
        if offset.checked_add(PAGE as u64).is_none_or(|end| end > len) {
            return Err(RecordError::Outside { at, offset });
        }
        let content = match flags & !CONTINUE {
            ZERO if *self.array()? == [0] => Content::Zero,
            PLAIN => Content::Plain(self.array()?),
            LZ4 => Content::Lz4(self.compressed(at)?),
            DELTA => Content::Delta(self.compressed(at)?),
            _ => return Err(RecordError::Flags { at, flags }),
        };
        Ok(Some(Record { block, offset, content }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.record().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

/// Writes the beginning of a record. `named` is the block's name, if it is not the one before.
pub fn begin(out: &mut Vec<u8>, offset: u64, flags: u64, named: Option<&str>) {
    match named {
        None => out.extend((offset | flags | CONTINUE).to_be_bytes()),
        Some(name) => {
            out.extend((offset | flags).to_be_bytes());
            // Our names are short.
            out.push(name.len() as u8);
            out.extend(name.as_bytes());
        }
    }
}

/// Ends a piece.
pub fn end(out: &mut Vec<u8>) {
    out.extend(EOS.to_be_bytes());
}
