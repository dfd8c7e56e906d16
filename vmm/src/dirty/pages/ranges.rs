//! A set on the wire: its runs, each as two big-endian words.
//!
//! ```text
//!   first page (8 bytes)   how many (8 bytes)      from the lowest, none twice, each inside one region of RAM
//! ```

use super::PageSet;
use thiserror::Error;

/// Bytes of one range.
pub const RANGE_BYTES: usize = 16;

/// Ranges that are no set of pages of this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangesError {
    /// Not whole ranges.
    #[error("a list of page ranges has {0} bytes, which is no multiple of {RANGE_BYTES}")]
    Length(usize),
    /// More than any set has.
    #[error("a list of page ranges has {len} bytes, and this guest's RAM makes {most} at most")]
    TooLong {
        /// How many.
        len: usize,
        /// The most.
        most: usize,
    },
    /// Nothing, or not RAM, or of two regions.
    #[error("range {index} of a list, {pages} pages from page {first:#x}, is not inside this guest's RAM")]
    Outside {
        /// Which range.
        index: usize,
        /// Its first page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// Before the one before it, or over it.
    #[error(
        "range {index} of a list begins at page {first:#x}, before the end of the range before it, {end:#x}"
    )]
    Order {
        /// Which range.
        index: usize,
        /// Its first page.
        first: u64,
        /// The end of the one before.
        end: u64,
    },
}

impl PageSet {
    /// The set as ranges for the wire, after what `into` has.
    pub fn write_ranges(&self, into: &mut Vec<u8>) {
        for run in self.runs() {
            into.extend_from_slice(&run.first.to_be_bytes());
            into.extend_from_slice(&run.pages.to_be_bytes());
        }
    }

    /// The set as ranges for the wire.
    pub fn ranges(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_ranges(&mut bytes);
        bytes
    }

    /// The most bytes that a set of this RAM has as ranges: every other page of each region.
    pub fn most_range_bytes(&self) -> usize {
        let most: u64 = self.spans.iter().map(|span| span.pages.div_ceil(2)).sum();
        most as usize * RANGE_BYTES
    }

    /// Puts in what a peer's ranges say; nothing if one of them is wrong.
    pub fn insert_ranges(&mut self, bytes: &[u8]) -> Result<(), RangesError> {
        self.check_ranges(bytes)?;
        for (first, pages) in ranges_of(bytes) {
            self.insert_run(first, pages);
        }
        Ok(())
    }

    /// The pages that a peer's ranges say, of the RAM of this set.
    pub fn from_ranges(&self, bytes: &[u8]) -> Result<Self, RangesError> {
        self.check_ranges(bytes)?;
        let mut set = self.none();
        set.insert_ranges(bytes)?;
        Ok(set)
    }

    fn check_ranges(&self, bytes: &[u8]) -> Result<(), RangesError> {
        let len = bytes.len();
        if !len.is_multiple_of(RANGE_BYTES) {
            return Err(RangesError::Length(len));
        }
        let most = self.most_range_bytes();
        if len > most {
            return Err(RangesError::TooLong { len, most });
        }
        let mut end = 0;
        for (index, (first, pages)) in ranges_of(bytes).enumerate() {
            if self.place(first, pages).is_none() {
                return Err(RangesError::Outside { index, first, pages });
            }
            if first < end {
                return Err(RangesError::Order { index, first, end });
            }
            // Inside RAM, so it does not overflow.
            end = first + pages;
        }
        Ok(())
    }
}

fn ranges_of(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    bytes
        .as_chunks::<8>()
        .0
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[first, pages]| (u64::from_be_bytes(*first), u64::from_be_bytes(*pages)))
}
