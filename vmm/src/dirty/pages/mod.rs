//! Which pages of a guest's RAM.
//!
//! ```text
//!   RAM      ├─ 0 … 3 GiB ───────────┤   hole   ├─ 4 GiB … ─────────┤
//!   words    │0110…│0000…│ … │1…│···     │0001…│ … │···              one bit for each page of 4 KiB;
//!                             ▲ the last word of a region may have bits of no page: they are 0
//! ```
//!
//! The words of all regions are one array, and every region begins with a word of its own: sets are united,
//! subtracted and counted 64 pages at a time, and KVM's log, which looks the same, is taken as it is.
//! Nothing is allocated after a set is made.

mod ranges;
mod runs;
#[cfg(test)]
mod tests;

pub use ranges::{RANGE_BYTES, RangesError};
pub use runs::{Run, Runs};

use crate::memory::GuestRam;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Pages in a word.
const BITS: u64 = u64::BITS as u64;

/// Where a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    /// Its first page, by the guest's numbers.
    first: u64,
    /// How many it has.
    pages: u64,
    /// Its words, of all.
    words: Range<usize>,
}

/// Pages of one guest's RAM.
#[derive(Clone, PartialEq, Eq)]
pub struct PageSet {
    spans: Arc<[Span]>,
    words: Vec<u64>,
}

impl PageSet {
    /// No page of `ram`.
    pub fn new(ram: &GuestRam) -> Self {
        let mut end = 0;
        let spans: Arc<[_]> = ram
            .iter()
            .map(|region| {
                let pages = region.len().div_ceil(PAGE);
                let words = end..end + pages.div_ceil(BITS) as usize;
                end = words.end;
                Span { first: region.start_addr().0 / PAGE, pages, words }
            })
            .collect();
        Self { spans, words: vec![0; end] }
    }

    /// Another one of the same RAM, with no page.
    #[must_use]
    pub fn none(&self) -> Self {
        Self { spans: self.spans.clone(), words: vec![0; self.words.len()] }
    }

    /// How many pages the RAM has.
    pub fn capacity(&self) -> u64 {
        self.spans.iter().map(|span| span.pages).sum()
    }

    /// How many there are in it.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts every page of the RAM in.
    pub fn fill(&mut self) {
        for span in self.spans.iter() {
            set(&mut self.words[span.words.clone()], 0, span.pages);
        }
    }

    /// Puts all of `other` in, which is of the same RAM.
    pub fn union(&mut self, other: &Self) {
        self.zip(other, |word, theirs| word | theirs);
    }

    /// Takes all of `other` out, which is of the same RAM.
    pub fn subtract(&mut self, other: &Self) {
        self.zip(other, |word, theirs| word & !theirs);
    }

    /// Takes all out that are not in `other`, which is of the same RAM.
    pub fn intersect(&mut self, other: &Self) {
        self.zip(other, |word, theirs| word & theirs);
    }

    /// Becomes what `other` is, which is of the same RAM.
    pub fn copy_from(&mut self, other: &Self) {
        self.zip(other, |_, theirs| theirs);
    }

    fn zip(&mut self, other: &Self, merge: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.spans, other.spans, "sets of two guests");
        for (word, theirs) in self.words.iter_mut().zip(&other.words) {
            *word = merge(*word, *theirs);
        }
    }

    /// Whether a page is in it, by the guest's number (its address, in pages).
    pub fn contains(&self, page: u64) -> bool {
        self.place(page, 1).is_some_and(|(span, at)| {
            self.words[span.words.start + (at / BITS) as usize] & 1 << (at % BITS) != 0
        })
    }

    /// Puts a page in, by the guest's number. False if it is not RAM.
    pub fn insert(&mut self, page: u64) -> bool {
        self.insert_run(page, 1)
    }

    /// Puts pages in that follow each other. False if not all are RAM of one region; then none is.
    pub fn insert_run(&mut self, first: u64, pages: u64) -> bool {
        let Some((span, at)) = self.place(first, pages) else { return false };
        let words = span.words.clone();
        set(&mut self.words[words], at, pages);
        true
    }

    /// Puts a page in, by its region and its number there, as KVM's ring has them. False if it is not RAM.
    pub fn insert_in(&mut self, region: usize, page: u64) -> bool {
        let Some(span) = self.spans.get(region).filter(|span| page < span.pages) else { return false };
        self.words[span.words.start + (page / BITS) as usize] |= 1 << (page % BITS);
        true
    }

    /// Puts in what a bitmap of a region says, which begins with its first page. What it says of pages that
    /// the region has not is ignored.
    pub fn absorb(&mut self, region: usize, bitmap: &[u64]) {
        let Some(words) = self.region_mut(region) else { return };
        for (word, theirs) in words.iter_mut().zip(bitmap) {
            *word |= theirs;
        }
        self.trim(region);
    }

    /// The runs of pages that follow each other, from the lowest.
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self)
    }

    /// How many regions the RAM has.
    pub(super) fn regions(&self) -> usize {
        self.spans.len()
    }

    /// A region's words.
    pub(super) fn region(&self, region: usize) -> Option<&[u64]> {
        self.spans.get(region).map(|span| &self.words[span.words.clone()])
    }

    /// A region's words. Who writes there calls [`trim`](Self::trim) if there may be bits of no page.
    pub(super) fn region_mut(&mut self, region: usize) -> Option<&mut [u64]> {
        self.spans.get(region).map(|span| &mut self.words[span.words.clone()])
    }

    /// Takes bits out that stand for no page.
    pub(super) fn trim(&mut self, region: usize) {
        if let Some(span) = self.spans.get(region)
            && !span.pages.is_multiple_of(BITS)
            && let Some(last) = self.words[span.words.clone()].last_mut()
        {
            *last &= (1 << (span.pages % BITS)) - 1;
        }
    }

    /// Which region pages are in, and where there the first is. At least one, and all in one region.
    fn place(&self, first: u64, pages: u64) -> Option<(&Span, u64)> {
        let next = self.spans.partition_point(|span| span.first <= first);
        let span = self.spans.get(next.checked_sub(1)?)?;
        let at = first - span.first;
        let fits = pages >= 1 && at < span.pages && pages <= span.pages - at;
        fits.then_some((span, at))
    }
}

/// Sets `count` bits from `first` on; there are so many.
fn set(words: &mut [u64], first: u64, count: u64) {
    let end = first + count;
    let mut at = first;
    while at < end {
        let in_word = (BITS - at % BITS).min(end - at);
        words[(at / BITS) as usize] |= (u64::MAX >> (BITS - in_word)) << (at % BITS);
        at += in_word;
    }
}

impl fmt::Debug for PageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs().map(|run| run.first..run.first + run.pages)).finish()
    }
}
