//! Pages that follow each other, found a word at a time.

use super::{BITS, PAGE, PageSet};

/// Pages that follow each other, in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The region, in the order of the RAM's.
    pub region: usize,
    /// The first page's number in its region.
    pub offset: u64,
    /// The first page's number for the guest.
    pub first: u64,
    /// How many, at least one.
    pub pages: u64,
}

impl Run {
    /// Where it begins in the guest's memory.
    pub fn address(&self) -> u64 {
        self.first * PAGE
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE
    }
}

/// The runs of a set, from the lowest page.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    set: &'a PageSet,
    region: usize,
    /// The next page to look at, in the region.
    at: u64,
}

impl<'a> Runs<'a> {
    pub(super) fn new(set: &'a PageSet) -> Self {
        Self { set, region: 0, at: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            let span = self.set.spans.get(self.region)?;
            let words = &self.set.words[span.words.clone()];
            if let Some(offset) = find(words, self.at, 0) {
                // Bits beyond the last page are 0, so a run ends with the region at the latest.
                let end = find(words, offset, u64::MAX).unwrap_or(span.pages);
                self.at = end;
                return Some(Run {
                    region: self.region,
                    offset,
                    first: span.first + offset,
                    pages: end - offset,
                });
            }
            self.region += 1;
            self.at = 0;
        }
    }
}

/// The first bit from `from` on that is 1; with `flip` of all ones, the first that is 0.
fn find(words: &[u64], from: u64, flip: u64) -> Option<u64> {
    let start = (from / BITS) as usize;
    let mut mask = u64::MAX << (from % BITS);
    for (index, word) in words.iter().enumerate().skip(start) {
        let found = (word ^ flip) & mask;
        if found != 0 {
            return Some(index as u64 * BITS + u64::from(found.trailing_zeros()));
        }
        mask = u64::MAX;
    }
    None
}
