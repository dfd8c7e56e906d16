//! Which pages of a region this program wrote.
//!
//! ```text
//!   a device:   writes the page, then marks it      │1│0│0│1│ …      one bit for each page
//!   a tracker:  takes the marks, then copies the page
//! ```
//!
//! In this order nothing is lost while both run: a write that the copy missed is marked after the marks were
//! taken, and is copied the next time. Each mark is an atomic read-modify-write even where the bit is set
//! already: the mark must not be *seen* as made before the bytes are in memory.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("a page has bytes");
const BITS: usize = u64::BITS as usize;

/// A mark for each page of a region.
#[derive(Debug, Default)]
pub struct Written {
    words: Vec<AtomicU64>,
    pages: usize,
}

impl Written {
    /// Takes all marks, and puts them into `words`, which begin with the region's first page. Marks that find
    /// no place there stay.
    pub fn take(&self, words: &mut [u64]) {
        for (mark, word) in self.words.iter().zip(words) {
            // Most words have none, and reading them does not take the cache line from who writes.
            if mark.load(Ordering::Relaxed) != 0 {
                *word |= mark.swap(0, Ordering::AcqRel);
            }
        }
    }
}

impl NewBitmap for Written {
    fn with_len(len: usize) -> Self {
        let pages = len.div_ceil(PAGE.get());
        Self { words: (0..pages.div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect(), pages }
    }
}

impl<'a> WithBitmapSlice<'a> for Written {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Written {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1) else { return };
        let mut page = offset / PAGE;
        let end = (offset.saturating_add(last) / PAGE).saturating_add(1).min(self.pages);
        while page < end {
            let (index, bit) = (page / BITS, page % BITS);
            let count = (BITS - bit).min(end - page);
            self.words[index].fetch_or((u64::MAX >> (BITS - count)) << bit, Ordering::AcqRel);
            page += count;
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        self.words.get(page / BITS).is_some_and(|word| word.load(Ordering::Acquire) & 1 << (page % BITS) != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    const PAGES: usize = 150;

    proptest! {
        #[test]
        fn what_was_marked_is_taken_once(
            writes in prop::collection::vec((0..160 * 4096_usize, 0..40_000_usize), 0..6),
        ) {
            let written = Written::with_len(PAGES * 4096 - 5);
            let mut expected = BTreeSet::new();
            for (offset, len) in &writes {
                written.mark_dirty(*offset, *len);
                expected.extend((*offset..offset + len).map(|byte| byte / 4096).filter(|page| *page < PAGES));
            }
            for page in 0..PAGES + 50 {
                prop_assert_eq!(written.dirty_at(page * 4096 + 7), expected.contains(&page), "{}", page);
            }
            let mut words = [0; 4];
            written.take(&mut words);
            let taken: BTreeSet<_> = (0..256).filter(|page| words[page / 64] >> (page % 64) & 1 == 1).collect();
            prop_assert_eq!(taken, expected);
            words = [0; 4];
            written.take(&mut words);
            prop_assert_eq!(words, [0; 4]);
        }
    }

    #[test]
    fn offsets_that_are_none_are_ignored() {
        let written = Written::with_len(4096);
        written.mark_dirty(usize::MAX, 5);
        written.mark_dirty(5, usize::MAX);
        written.mark_dirty(0, 0);
        let mut words = [8];
        written.take(&mut words);
        assert_eq!(words, [9]);
        assert!(!written.dirty_at(usize::MAX));
    }

    #[test]
    fn every_mark_is_taken_by_somebody_while_both_run() {
        let written = Written::with_len(64 * 4096);
        let (start, rounds) = (Barrier::new(2), 20_000_u64);
        let mut sum = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for round in 0..rounds {
                    // Its turn comes when the last mark has been taken, so that each is one.
                    while written.dirty_at((round % 64) as usize * 4096) {
                        std::hint::spin_loop();
                        std::thread::yield_now();
                    }
                    written.mark_dirty((round % 64) as usize * 4096, 1);
                }
            });
            start.wait();
            while sum < rounds {
                let mut words = [0];
                written.take(&mut words);
                sum += u64::from(words[0].count_ones());
            }
        });
        assert_eq!(sum, rounds);
    }
}
