//! Room for the copies of what is written: taken in turn, given back in any order.
//!
//! ```text
//!        oldest                 newest
//!   │    ├─ in use ┼ given back ┼ in use ─┤      │      what is given back in between is free once it is the oldest
//! ```

use std::collections::VecDeque;

/// What places begin at a multiple of: some images take no less.
const ALIGN: usize = 4096;

/// Who has which part of a memory.
#[derive(Debug)]
pub(super) struct Ring {
    size: usize,
    /// Begin, end, and whether it is in use, oldest first.
    taken: VecDeque<(usize, usize, bool)>,
    used: usize,
}

impl Ring {
    pub(super) fn new(size: usize) -> Self {
        Self { size: size / ALIGN * ALIGN, taken: VecDeque::new(), used: 0 }
    }

    /// Room for so many bytes in one piece, if there is.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let len = len.max(1).checked_next_multiple_of(ALIGN)?;
        let at = self.place(len)?;
        self.taken.push_back((at, at + len, true));
        self.used += len;
        Some(at)
    }

    fn place(&self, len: usize) -> Option<usize> {
        let (Some((oldest, ..)), Some((_, newest, _))) = (self.taken.front(), self.taken.back()) else {
            return (len <= self.size).then_some(0);
        };
        if newest <= oldest {
            // It has gone round.
            return (newest + len <= *oldest).then_some(*newest);
        }
        if newest + len <= self.size {
            return Some(*newest);
        }
        // What is left at the end is lost for this round.
        (len <= *oldest).then_some(0)
    }

    /// Gives back what begins there.
    pub(super) fn give(&mut self, at: usize) {
        if let Some(place) = self.taken.iter_mut().find(|place| place.0 == at && place.2) {
            place.2 = false;
            self.used -= place.1 - place.0;
        }
        while self.taken.front().is_some_and(|place| !place.2) {
            self.taken.pop_front();
        }
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_byte_is_given_twice_and_all_come_back(
            steps in prop::collection::vec((0..40_000_usize, 0..8_usize, any::<bool>()), 1..200),
        ) {
            let mut ring = Ring::new(100_000);
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (len, which, take) in steps {
                if take || held.is_empty() {
                    if let Some(at) = ring.take(len) {
                        let end = at + len;
                        prop_assert!(end <= 98_304 && at.is_multiple_of(ALIGN));
                        prop_assert!(held.iter().all(|(begin, until)| end <= *begin || *until <= at));
                        held.push((at, end.max(at + 1)));
                    } else {
                        prop_assert!(!held.is_empty(), "{} of an empty ring", len);
                    }
                } else {
                    let (at, _) = held.swap_remove(which % held.len());
                    ring.give(at);
                }
            }
            for (at, _) in held {
                ring.give(at);
            }
            prop_assert_eq!(ring.used(), 0);
            prop_assert_eq!(ring.take(98_304), Some(0));
            prop_assert_eq!(ring.take(1), None);
            prop_assert_eq!(ring.take(usize::MAX), None);
        }
    }
}
