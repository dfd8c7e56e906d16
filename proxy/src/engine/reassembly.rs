//! Datagrams from fragments, so that how a guest cuts them does not count.
//!
//! Rules: overlap makes the whole datagram void, with all of its pieces and those still to come
//! (RFC 5722, here for IPv4 too); an exact repetition is no overlap (RFC 8200 §4.5); a first
//! fragment of TCP must hold the fixed header (RFC 3128); the datagram must end within 65 535
//! bytes. The number under way is bounded, and each waits no longer than a time-out.

use super::Usage;
use super::held::{Custody, Ledger, Reassembled};
use super::verdict::{Frame, Nanos, Side};
use crate::packet::{DatagramId, Fragment, Proto};

/// A datagram on its way.
#[derive(Debug)]
struct Partial<F> {
    id: DatagramId,
    fragments: Vec<F>,
    /// Stretches that are there, in order, none touching another's bytes: (start, end).
    stretches: Vec<(u32, u32)>,
    data: Vec<u8>,
    /// Its length, once the last fragment came.
    total: Option<u32>,
    first: Option<(usize, u32)>,
    /// An overlap made it void; it stays to catch what still comes.
    void: bool,
    since: Nanos,
    nr: u64,
    usage: Usage,
}

/// What became of a fragment.
#[derive(Debug)]
pub(super) enum Outcome<F> {
    /// Others are missing.
    Kept,
    /// The datagram is complete.
    Complete {
        /// The datagram.
        datagram: Custody<F>,
        /// When its first piece came, and as which input.
        since: Nanos,
        /// As which input its first piece came.
        nr: u64,
    },
    /// These fragments make no datagram.
    Void(Vec<F>),
    /// There is no room for another datagram.
    Full(F),
}

/// One side's datagrams under way.
#[derive(Debug)]
pub(super) struct Reassembler<F> {
    side: Side,
    partials: Vec<Partial<F>>,
}

impl<F: Frame> Reassembler<F> {
    pub(super) fn new(side: Side) -> Self {
        Self { side, partials: Vec::new() }
    }

    /// Takes a fragment.
    pub(super) fn fragment(
        &mut self,
        fragment: &Fragment,
        frame: F,
        (at, nr): (Nanos, u64),
        max: usize,
        ledger: &mut Ledger,
    ) -> Outcome<F> {
        let index = match self.partials.iter().position(|partial| partial.id == fragment.datagram) {
            Some(index) => index,
            None if self.partials.len() >= max => return Outcome::Full(frame),
            None => {
                self.partials.push(Partial::new(fragment.datagram, at, nr));
                self.partials.len() - 1
            }
        };
        let partial = &mut self.partials[index];
        if partial.void {
            return Outcome::Void(vec![frame]);
        }
        let usage = Usage { frames: 1, bytes: 2 * frame.bytes().len() };
        ledger.take(self.side, usage);
        partial.usage.add(usage);
        if !partial.add(fragment, frame) {
            partial.void = true;
            ledger.give(self.side, std::mem::take(&mut partial.usage));
            partial.data = Vec::new();
            return Outcome::Void(std::mem::take(&mut partial.fragments));
        }
        if !partial.complete() {
            return Outcome::Kept;
        }
        let partial = self.partials.swap_remove(index);
        ledger.give(self.side, partial.usage);
        let Partial { fragments, data, first, since, nr, stretches, .. } = partial;
        match first {
            Some(first) => {
                let first_len = stretches.first().map_or(0, |(_, end)| *end);
                ledger.stats.reassembled += 1;
                let datagram = Custody::Many(Box::new(Reassembled { fragments, data, first, first_len }));
                Outcome::Complete { datagram, since, nr }
            }
            None => Outcome::Void(fragments),
        }
    }

    /// When the oldest has waited too long.
    pub(super) fn deadline(&self, timeout: Nanos) -> Option<Nanos> {
        self.partials.iter().map(|partial| partial.since.plus(timeout)).min()
    }

    /// What is kept, and since when the oldest of it; none if nothing is.
    pub(super) fn kept(&self) -> Option<(Usage, Nanos)> {
        let partials = self.partials.iter().filter(|partial| partial.usage != Usage::default());
        partials.map(|partial| (partial.usage, partial.since)).reduce(|(mut usage, since), (more, other)| {
            usage.add(more);
            (usage, since.min(other))
        })
    }

    /// Takes out the fragments of what has waited too long, the oldest first, as (input, frame).
    pub(super) fn expire(&mut self, now: Nanos, timeout: Nanos, ledger: &mut Ledger) -> Vec<(u64, F)> {
        self.take(ledger, |partial| partial.since.plus(timeout) <= now)
    }

    /// Takes out everything, the oldest first, as (input, frame).
    pub(super) fn take_all(&mut self, ledger: &mut Ledger) -> Vec<(u64, F)> {
        self.take(ledger, |_| true)
    }

    fn take(&mut self, ledger: &mut Ledger, which: impl Fn(&Partial<F>) -> bool) -> Vec<(u64, F)> {
        let mut out = Vec::new();
        let side = self.side;
        self.partials.retain_mut(|partial| {
            let take = which(partial);
            if take {
                ledger.give(side, partial.usage);
                out.extend(partial.fragments.drain(..).map(|frame| (partial.nr, frame)));
            }
            !take
        });
        out.sort_by_key(|(nr, _)| *nr);
        out
    }

    /// Everything that is kept, for a rewrite of the handles.
    pub(super) fn for_each_mut(&mut self, before: Nanos, each: &mut impl FnMut(&mut F)) {
        let old = self.partials.iter_mut().filter(|partial| partial.since < before);
        old.flat_map(|partial| &mut partial.fragments).for_each(each);
    }
}

impl<F: Frame> Partial<F> {
    fn new(id: DatagramId, since: Nanos, nr: u64) -> Self {
        Self {
            id,
            fragments: Vec::new(),
            stretches: Vec::new(),
            data: Vec::new(),
            total: None,
            first: None,
            void: false,
            since,
            nr,
            usage: Usage::default(),
        }
    }

    /// Adds a fragment; false if it makes the datagram void. The fragment is kept either way.
    fn add(&mut self, fragment: &Fragment, frame: F) -> bool {
        let (start, len) = (fragment.offset, fragment.payload.len);
        let end = start + len;
        let place = self.stretches.partition_point(|&(_, other_end)| other_end <= start);
        let overlaps = self.stretches.get(place).is_some_and(|&(other, _)| other < end);
        let payload = fragment.payload.of(frame.bytes());
        let (range, first) = (start as usize..end as usize, (self.fragments.len(), fragment.payload.start));
        let sound = if overlaps {
            self.stretches[place] == (start, end) && self.data.get(range) == Some(payload)
        } else {
            if self.data.len() < range.end {
                self.data.resize(range.end, 0);
            }
            self.data[range].copy_from_slice(payload);
            self.stretches.insert(place, (start, end));
            if start == 0 {
                self.first = Some(first);
            }
            true
        };
        self.fragments.push(frame);
        let ends_well = match (self.total, fragment.more) {
            (Some(total), true) => end < total,
            (Some(total), false) => end == total,
            (None, true) => true,
            (None, false) => {
                self.total = Some(end);
                self.data.len() == end as usize
            }
        };
        let tiny = start == 0 && len < 20 && self.id.ends.proto() == Proto::Tcp;
        sound && ends_well && !tiny
    }

    fn complete(&self) -> bool {
        let Some(total) = self.total else { return false };
        let there: u32 = self.stretches.iter().map(|(start, end)| end - start).sum();
        there == total
    }
}
