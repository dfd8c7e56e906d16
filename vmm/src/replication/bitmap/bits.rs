//! A bit for each region, set from any thread without a lock.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The bits.
#[derive(Debug)]
pub struct Bits {
    words: Box<[AtomicU64]>,
    regions: u64,
    /// How many are set, or will be in a moment: nobody has to look through all words to find that none is.
    count: AtomicI64,
}

/// The bits of one word that a run of regions has, word by word.
fn masks(run: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = run.start / 64..run.end.div_ceil(64);
    let words = if run.is_empty() { 0..0 } else { words };
    words.map(move |word| {
        let from = run.start.max(word * 64) - word * 64;
        let to = run.end.min(word * 64 + 64) - word * 64;
        (word as usize, (u64::MAX >> (64 - (to - from))) << from)
    })
}

impl Bits {
    /// For so many regions, none of them set.
    pub fn new(regions: u64) -> Self {
        let words = (0..regions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, regions, count: AtomicI64::new(0) }
    }

    /// How many regions there are.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    fn each(&self, run: Range<u64>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let run = run.start.min(self.regions)..run.end.min(self.regions);
        masks(run).filter_map(|(word, mask)| Some((self.words.get(word)?, mask)))
    }

    /// Sets a run; what is beyond the end is not there.
    pub fn set(&self, run: Range<u64>) {
        // Sequentially consistent: `Dirty` needs an order with its turns. Whoever clears the bit later sees all that
        // was done before it was set.
        for (word, mask) in self.each(run) {
            self.or(word, mask);
        }
    }

    /// Clears a run. What is done after that is not done before it.
    pub fn clear(&self, run: Range<u64>) {
        for (word, mask) in self.each(run) {
            self.and_not(word, mask);
        }
    }

    fn or(&self, word: &AtomicU64, bits: u64) {
        let before = word.fetch_or(bits, Ordering::SeqCst);
        // The bits that count are those that it set itself, so each is counted once.
        self.counted(i64::from((bits & !before).count_ones()));
    }

    fn and_not(&self, word: &AtomicU64, bits: u64) {
        let before = word.fetch_and(!bits, Ordering::SeqCst);
        self.counted(-i64::from((bits & before).count_ones()));
    }

    fn counted(&self, change: i64) {
        // Most writes are to regions that are set already.
        if change != 0 {
            self.count.fetch_add(change, Ordering::SeqCst);
        }
    }

    /// Whether a region is set.
    pub fn is_set(&self, region: u64) -> bool {
        self.each(region..region.saturating_add(1))
            .any(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// The first run at or behind a region, at most so long.
    pub fn next_run(&self, from: u64, most: u64) -> Option<Range<u64>> {
        let start = self.find(from, true)?;
        let end = self.find(start, false).unwrap_or(self.regions);
        Some(start..end.min(start.saturating_add(most.max(1))))
    }

    /// The first region at or behind this one that is set, or is not.
    fn find(&self, from: u64, set: bool) -> Option<u64> {
        if from >= self.regions {
            return None;
        }
        let first = from / 64;
        for (at, word) in self.words.iter().enumerate().skip(first as usize) {
            let at = at as u64;
            let word = word.load(Ordering::SeqCst);
            let wanted = if set { word } else { !word };
            let wanted = if at == first { wanted & u64::MAX << (from % 64) } else { wanted };
            if wanted != 0 {
                let found = at * 64 + u64::from(wanted.trailing_zeros());
                return (found < self.regions).then_some(found);
            }
        }
        None
    }

    /// How many are set.
    pub fn count(&self) -> u64 {
        // Who has cleared a bit may be counted before who set it.
        self.count.load(Ordering::SeqCst).max(0) as u64
    }

    /// Adds all of another one's, and then takes them from it: a region is in one of them at any time.
    pub fn take_from(&self, other: &Self) {
        for (to, from) in self.words.iter().zip(&other.words) {
            let taken = from.load(Ordering::SeqCst);
            if taken != 0 {
                self.or(to, taken);
                other.and_not(from, taken);
            }
        }
    }

    /// Clears all.
    pub fn clear_all(&self) {
        self.words.iter().for_each(|word| self.and_not(word, u64::MAX));
    }

    /// The words, for a file.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        self.words.iter().map(|word| word.load(Ordering::SeqCst))
    }

    /// Adds the bits of a word, as far as there are regions for them.
    pub(super) fn set_word(&self, at: usize, bits: u64) {
        let before = at as u64 * 64;
        let (_, mask) = masks(0..self.regions.saturating_sub(before).min(64)).next().unwrap_or((0, 0));
        if let Some(word) = self.words.get(at) {
            self.or(word, bits & mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_a_set_of_numbers(
            regions in 1u64..400,
            steps in prop::collection::vec((any::<bool>(), 0u64..450, 0u64..200), 0..20),
            from in 0u64..450, most in 1u64..100,
        ) {
            let bits = Bits::new(regions);
            let mut model = std::collections::BTreeSet::new();
            for (set, start, length) in steps {
                let run = start..start + length;
                let inside = run.clone().filter(|region| *region < regions);
                if set {
                    bits.set(run);
                    model.extend(inside);
                } else {
                    bits.clear(run);
                    inside.for_each(|region| {
                        model.remove(&region);
                    });
                }
            }
            prop_assert_eq!(bits.count(), model.len() as u64);
            for region in 0..450 {
                prop_assert_eq!(bits.is_set(region), model.contains(&region));
            }
            let start = model.range(from..).next().copied();
            let run = start.map(|start| {
                let length = (start..regions).take_while(|region| model.contains(region)).count() as u64;
                start..start + length.min(most)
            });
            prop_assert_eq!(bits.next_run(from, most), run);
            let copy = Bits::new(regions);
            bits.words().enumerate().for_each(|(at, word)| copy.set_word(at, word));
            prop_assert!(bits.words().eq(copy.words()));
            // No bit is behind the end.
            copy.set_word(regions as usize / 64, u64::MAX);
            prop_assert!(copy.count() <= regions);
            let other = Bits::new(regions);
            other.set(0..regions / 2);
            other.take_from(&bits);
            prop_assert_eq!(bits.count(), 0);
            prop_assert!((0..regions).all(|region| other.is_set(region) == (region < regions / 2 || model.contains(&region))));
        }
    }
}
