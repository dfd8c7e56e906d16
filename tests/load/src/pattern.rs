//! `check`: a region in which every page says what it should be.
//!
//! ```text
//!   page:  number | generation | 509 words that follow from both and the seed | sum
//!   pass:  pages in a random order: each is checked to be of the last generation, and rewritten
//!   then:  all pages are checked to be of this generation
//! ```
//!
//! What is expected follows from how far the pass is, which is in other pages: memory of which a part is older
//! or newer than the rest, or a page half written, is found however the pieces fall.

use crate::control::Control;
use crate::random::{Random, mix};
use crate::{Report, say};

const WORDS: usize = 512;
const PAGES_PER_MIB: u64 = 256;
/// So many errors are told one by one.
const TOLD: u64 = 10;
/// Pages between two looks at the clock.
const TURN: usize = 64;

type Page = [u64];

/// A page's words follow from these.
#[derive(Clone, Copy, Debug)]
struct Content {
    seed: u64,
    number: u64,
    generation: u64,
}

impl Content {
    fn words(self) -> impl Iterator<Item = u64> {
        let base = mix(self.seed ^ mix(self.number) ^ mix(self.generation).rotate_left(32));
        (0..WORDS as u64 - 3).map(move |index| (base ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn write(self, page: &mut Page) {
        let mut sum = self.number.wrapping_add(self.generation);
        for (place, word) in page[2..].iter_mut().zip(self.words()) {
            *place = word;
            sum = sum.rotate_left(1) ^ word;
        }
        (page[0], page[1], page[WORDS - 1]) = (self.number, self.generation, sum);
    }

    /// What is wrong with a page.
    fn complain(self, page: &Page) -> Option<String> {
        let Self { number, generation, .. } = self;
        if (page[0], page[1]) != (number, generation) {
            let (holds, of) = (page[0], page[1]);
            return Some(format!(
                "page {number} of generation {generation} says page {holds} of generation {of}"
            ));
        }
        let mut sum = number.wrapping_add(generation);
        for (index, (found, word)) in page[2..].iter().zip(self.words()).enumerate() {
            if *found != word {
                let index = index + 2;
                return Some(format!(
                    "page {number} of generation {generation}: word {index} is {found:#x}, not {word:#x}"
                ));
            }
            sum = sum.rotate_left(1) ^ *found;
        }
        (page[WORDS - 1] != sum)
            .then(|| format!("page {number} of generation {generation}: its sum is wrong"))
    }
}

/// The region, and how far it is.
#[derive(Debug)]
struct Region {
    memory: Vec<u64>,
    seed: u64,
    generation: u64,
    errors: u64,
}

impl Region {
    fn new(mib: u64, seed: u64) -> Result<Self, String> {
        let pages = mib.checked_mul(PAGES_PER_MIB).and_then(|pages| usize::try_from(pages).ok());
        let words = pages.filter(|pages| *pages > 0).and_then(|pages| pages.checked_mul(WORDS));
        let words = words.ok_or_else(|| format!("a region of {mib} MiB cannot be"))?;
        let mut memory = Vec::new();
        memory.try_reserve_exact(words).map_err(|error| format!("no memory of {mib} MiB: {error}"))?;
        memory.resize(words, 0);
        let mut region = Self { memory, seed, generation: 0, errors: 0 };
        for number in 0..region.pages() {
            region.content(number, 0).write(region.page(number));
        }
        Ok(region)
    }

    fn pages(&self) -> usize {
        self.memory.len() / WORDS
    }

    fn page(&mut self, number: usize) -> &mut Page {
        &mut self.memory[number * WORDS..][..WORDS]
    }

    fn content(&self, number: usize, generation: u64) -> Content {
        Content { seed: self.seed, number: number as u64, generation }
    }

    fn verify(&mut self, number: usize, generation: u64) {
        let content = self.content(number, generation);
        if let Some(complaint) = content.complain(self.page(number)) {
            self.errors += 1;
            if self.errors <= TOLD {
                say(&format!("check: WRONG: {complaint}"));
            }
        }
    }

    fn report(&self) -> Report {
        let mib = self.pages() as u64 / PAGES_PER_MIB;
        let (done, errors) = (self.generation, self.errors);
        Report { line: format!("check: checked {done} generations of {mib} MiB, {errors} errors"), errors }
    }

    /// One pass; whether it is over.
    fn pass(&mut self, order: &[usize], control: &mut Control) -> bool {
        let next = self.generation + 1;
        for turn in order.chunks(TURN) {
            for &number in turn {
                self.verify(number, self.generation);
                self.content(number, next).write(self.page(number));
            }
            // A pass in the middle is an end as good as any: each page was checked before it was rewritten.
            if control.is_over(|| self.report()) {
                return true;
            }
        }
        for first in (0..self.pages()).step_by(TURN) {
            (first..self.pages().min(first + TURN)).for_each(|number| self.verify(number, next));
            if control.is_over(|| self.report()) {
                return true;
            }
        }
        self.generation = next;
        false
    }
}

pub(crate) fn check(mib: u64, seed: u64, control: &mut Control) -> Result<Report, String> {
    let mut region = Region::new(mib, seed)?;
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..region.pages()).collect();
    loop {
        random.shuffle(&mut order);
        if region.pass(&order, control) {
            return Ok(region.report());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn passes_over_whole_memory_find_nothing() {
        let mut region = Region::new(1, 7).unwrap();
        let mut control = Control::new(Duration::from_hours(1), None);
        let order: Vec<usize> = (0..region.pages()).rev().collect();
        for _ in 0..3 {
            assert!(!region.pass(&order, &mut control));
        }
        let line = "check: checked 3 generations of 1 MiB, 0 errors".to_owned();
        assert_eq!(region.report(), Report { line, errors: 0 });
    }

    /// Every way in which a copy of memory goes wrong: a lost bit in any word, a page of another generation,
    /// another page, one half of another generation.
    #[test]
    fn memory_that_is_torn_is_found() {
        let mut region = Region::new(1, 7).unwrap();
        let (mut old, mut other, mut new) = (vec![0; WORDS], vec![0; WORDS], vec![0; WORDS]);
        region.content(3, 8).write(&mut old);
        region.content(4, 9).write(&mut other);
        region.content(3, 9).write(&mut new);
        let mut expect = |page: &[u64], errors| {
            let before = region.errors;
            region.page(3).copy_from_slice(page);
            region.verify(3, 9);
            assert_eq!(region.errors - before, errors);
        };
        expect(&new, 0);
        expect(&old, 1);
        expect(&other, 1);
        expect(&[&new[..WORDS / 2], &old[WORDS / 2..]].concat(), 1);
        expect(&[&new[..WORDS - 1], &[old[WORDS - 1]]].concat(), 1);
        for word in 0..WORDS {
            let mut flipped = new.clone();
            flipped[word] ^= 1 << (word % 64);
            expect(&flipped, 1);
        }
    }

    #[test]
    fn a_region_of_nothing_or_of_everything_cannot_be() {
        assert!(Region::new(0, 1).is_err());
        assert!(Region::new(u64::MAX, 1).is_err());
    }
}
