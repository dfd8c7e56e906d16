//! Records of memory: what a page holds, as in a file so in a checkpoint.
//!
//! ```text
//!   be64 offset in its block | flags   [u8 length, block's name]   PAGE: 4096 bytes   ZERO: one 0
//!                                       unless CONTINUE: the block of the record before
//!   …
//!   be64 EOS
//! ```

use super::format::{NAME_LIMIT, PAGE_SIZE, Page};
use super::source::{Source, SourceError, array};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use thiserror::Error;

/// The page is full of zeros.
pub const FLAG_ZERO: u64 = 0x02;
/// The list of blocks: in place of the offset stands their size together.
pub const FLAG_MEM_SIZE: u64 = 0x04;
/// A page follows.
pub const FLAG_PAGE: u64 = 0x08;
/// The last record.
pub const FLAG_EOS: u64 = 0x10;
/// The same block as before.
pub const FLAG_CONTINUE: u64 = 0x20;
/// Where flags can be.
const FLAGS: u64 = PAGE_SIZE as u64 - 1;

/// The head of a record. An offset is a whole number of pages.
pub fn header(offset: u64, flags: u64) -> [u8; 8] {
    (offset & !FLAGS | flags & FLAGS).to_be_bytes()
}

/// Whether a page is full of zeros. Most that are not say so in their first words.
pub fn is_zero(page: &Page) -> bool {
    // Blocks of this size become a few vector instructions each.
    page.as_chunks::<128>().0.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

/// A block of the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// How many bytes it has, in whole pages.
    pub size: u64,
}

/// What was written or read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Pages with content.
    pub pages: u64,
    /// Pages full of zeros.
    pub zero_pages: u64,
}

/// Writes records.
#[derive(Debug)]
pub struct Records<'b> {
    blocks: &'b [Block],
    last: Option<usize>,
    count: Count,
}

impl<'b> Records<'b> {
    /// Of pages of these blocks.
    pub fn new(blocks: &'b [Block]) -> Self {
        Self { blocks, last: None, count: Count::default() }
    }

    /// Writes a page, or that it is full of zeros.
    pub fn page(&mut self, out: &mut impl Write, block: usize, offset: u64, page: &Page) -> io::Result<()> {
        let zero = is_zero(page);
        let kind = if zero { FLAG_ZERO } else { FLAG_PAGE };
        if self.last == Some(block) {
            out.write_all(&header(offset, kind | FLAG_CONTINUE))?;
        } else {
            let name = self.blocks.get(block).map(|block| block.name.as_bytes());
            let name = name.filter(|name| name.len() <= NAME_LIMIT);
            let name = name.ok_or_else(|| io::Error::other(format!("memory has no block {block}")))?;
            out.write_all(&header(offset, kind))?;
            out.write_all(&[name.len() as u8])?;
            out.write_all(name)?;
            self.last = Some(block);
        }
        if zero {
            self.count.zero_pages += 1;
            return out.write_all(&[0]);
        }
        self.count.pages += 1;
        out.write_all(page)
    }

    /// Writes that there are no more; how many there were.
    pub fn end(self, out: &mut impl Write) -> io::Result<Count> {
        out.write_all(&header(0, FLAG_EOS))?;
        Ok(self.count)
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A page's content.
    Page {
        /// The block's place in the list.
        block: usize,
        /// The page's place in the block.
        offset: u64,
        /// The content.
        page: &'a Page,
    },
    /// A page full of zeros.
    Zero {
        /// The block's place in the list.
        block: usize,
        /// The page's place in the block.
        offset: u64,
    },
    /// There are no more.
    End,
}

/// A record that makes no sense.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It ends inside.
    #[error("the records end: {wanted} bytes are wanted, {got} are there")]
    Short {
        /// How many should be there.
        wanted: usize,
        /// How many are.
        got: usize,
    },
    /// It cannot be read.
    #[error("the records cannot be read: {0}")]
    Io(io::Error),
    /// Flags that do not go together, or mean nothing.
    #[error("a record with the flags {0:#x}")]
    Flags(u64),
    /// "The same block" without one before.
    #[error("the first record does not name its block")]
    NoBlock,
    /// A block that the machine has not.
    #[error("a page of {0:?}, a block that the machine has not")]
    Block(String),
    /// A page that is not in its block.
    #[error("a page at {offset:#x} of {block}, which has {size:#x} bytes")]
    Outside {
        /// The block.
        block: String,
        /// Where the page would be.
        offset: u64,
        /// The block's size.
        size: u64,
    },
    /// A page full of something else.
    #[error("a page full of {0:#04x}: only zeros are written so")]
    Fill(u8),
}

impl From<SourceError> for RecordError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Short { wanted, got } => Self::Short { wanted, got },
            SourceError::Io(error) => Self::Io(error),
        }
    }
}

/// Reads records. What is given out was checked: a known block, a page in it.
#[derive(Debug, Default)]
pub struct Reading {
    last: Option<usize>,
}

impl Reading {
    /// The next record.
    pub fn next<'s>(
        &mut self,
        source: &'s mut impl Source,
        blocks: &[Block],
    ) -> Result<Record<'s>, RecordError> {
        Ok(match self.head(source, blocks)? {
            Head::Page { block, offset } => Record::Page { block, offset, page: content(source)? },
            Head::Zero { block, offset } => Record::Zero { block, offset },
            Head::End => Record::End,
        })
    }

    /// The next record up to its page's content, which [`content`] then gives.
    pub(super) fn head(&mut self, source: &mut impl Source, blocks: &[Block]) -> Result<Head, RecordError> {
        let word = u64::from_be_bytes(array(source)?);
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        if flags == FLAG_EOS && offset == 0 {
            return Ok(Head::End);
        }
        let kind = flags & !FLAG_CONTINUE;
        if kind != FLAG_PAGE && kind != FLAG_ZERO {
            return Err(RecordError::Flags(flags));
        }
        let block = if flags & FLAG_CONTINUE != 0 {
            self.last.ok_or(RecordError::NoBlock)?
        } else {
            let [len] = array(source)?;
            let name = source.take(usize::from(len))?;
            let known = blocks.iter().position(|block| block.name.as_bytes() == name);
            known.ok_or_else(|| RecordError::Block(String::from_utf8_lossy(name).into_owned()))?
        };
        let Some(Block { name, size }) = blocks.get(block) else { return Err(RecordError::NoBlock) };
        if size.checked_sub(PAGE_SIZE as u64).is_none_or(|last| offset > last) {
            return Err(RecordError::Outside { block: name.clone(), offset, size: *size });
        }
        self.last = Some(block);
        if kind == FLAG_ZERO {
            return match array(source)? {
                [0] => Ok(Head::Zero { block, offset }),
                [fill] => Err(RecordError::Fill(fill)),
            };
        }
        Ok(Head::Page { block, offset })
    }
}

/// A record without its page's content.
pub(super) enum Head {
    Page { block: usize, offset: u64 },
    Zero { block: usize, offset: u64 },
    End,
}

/// A page's content.
pub(super) fn content(source: &mut impl Source) -> Result<&Page, RecordError> {
    let taken = source.take(PAGE_SIZE)?;
    let got = taken.len();
    taken.try_into().map_err(|_| RecordError::Short { wanted: PAGE_SIZE, got })
}
