//! One segment in custody, and the queue that keeps segments in stream order.

use super::super::held::Held;
use super::super::verdict::{Frame, Nanos};
use super::sequence::{at_or_before, before};
use crate::packet::Segment;
use std::collections::VecDeque;

/// A segment in custody. Its sequence number is in the primary's space.
#[derive(Debug)]
pub(super) struct Piece<F> {
    pub(super) segment: Segment,
    pub(super) held: Held<F>,
    /// Bytes of new stream that were compared equal in it so far.
    pub(super) verified: u32,
}

/// What stands at one place of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit<'a> {
    Syn,
    Bytes(&'a [u8]),
    Fin,
}

impl<F: Frame> Piece<F> {
    pub(super) fn start(&self) -> u32 {
        self.segment.seq
    }

    pub(super) fn end(&self) -> u32 {
        self.segment.seq.wrapping_add(self.segment.sequence_len())
    }

    pub(super) fn covers(&self, place: u32) -> bool {
        at_or_before(self.start(), place) && before(place, self.end())
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.segment.payload.of(self.held.custody.data())
    }

    /// What stands at `place`, which must be covered.
    #[inline]
    pub(super) fn unit_at(&self, place: u32) -> Unit<'_> {
        let syn = u32::from(self.segment.flags.syn());
        let offset = place.wrapping_sub(self.start());
        if offset < syn {
            return Unit::Syn;
        }
        match self.payload().get((offset - syn) as usize..) {
            Some(bytes) if !bytes.is_empty() => Unit::Bytes(bytes),
            _ => Unit::Fin,
        }
    }

    /// Where payload byte 0 stands in the stream.
    pub(super) fn payload_start(&self) -> u32 {
        self.start().wrapping_add(u32::from(self.segment.flags.syn()))
    }

    /// Whether both say the same where they overlap: a guest that sends a place twice must send
    /// the same bytes twice (RFC 9293 §3.10.7.4 takes that for granted).
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let from = if before(self.payload_start(), other.payload_start()) { other } else { self };
        let start = from.payload_start();
        let tail = |piece: &'_ Self| start.wrapping_sub(piece.payload_start()) as usize;
        let mine = self.payload().get(tail(self)..).unwrap_or_default();
        let others = other.payload().get(tail(other)..).unwrap_or_default();
        let common = mine.len().min(others.len());
        mine[..common] == others[..common]
    }
}

/// Segments in stream order; those that start at one place in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue<F>(VecDeque<Piece<F>>);

impl<F> Default for Queue<F> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<F: Frame> Queue<F> {
    /// Adds a segment. Returns its index.
    #[inline]
    pub(super) fn insert(&mut self, piece: Piece<F>) -> usize {
        let mut at = self.0.len();
        while at > 0 && before(piece.start(), self.0[at - 1].start()) {
            at -= 1;
        }
        if at == self.0.len() {
            self.0.push_back(piece);
        } else {
            self.0.insert(at, piece);
        }
        at
    }

    /// A segment that overlaps the one at `index` and says something else there.
    pub(super) fn contradiction(&self, index: usize) -> Option<usize> {
        let new = &self.0[index];
        let overlaps = |other: &Piece<F>| {
            before(other.start(), new.end()) && before(new.start(), other.end()) && !new.agrees_with(other)
        };
        // Starts are sorted; ends are not, but what starts at or after our end cannot overlap.
        let after = self.0.iter().enumerate().skip(index + 1);
        let after = after.take_while(|(_, other)| before(other.start(), new.end()));
        let earlier = self.0.iter().enumerate().take(index).rev();
        after.chain(earlier).find(|(_, other)| overlaps(other)).map(|(at, _)| at)
    }

    pub(super) fn front(&self) -> Option<&Piece<F>> {
        self.0.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Piece<F>> {
        self.0.front_mut()
    }

    pub(super) fn get(&self, index: usize) -> &Piece<F> {
        &self.0[index]
    }

    pub(super) fn pop_front(&mut self) -> Option<Piece<F>> {
        self.0.pop_front()
    }

    /// Adds a segment whose place is not known yet: after all others.
    pub(super) fn push_back(&mut self, piece: Piece<F>) {
        self.0.push_back(piece);
    }

    /// Puts one back, or a part of it, that was taken from the front.
    pub(super) fn push_front(&mut self, piece: Piece<F>) {
        self.0.push_front(piece);
    }

    /// Takes the last one, if it is like that.
    pub(super) fn pop_back_if(&mut self, like: impl FnOnce(&Piece<F>) -> bool) -> Option<Piece<F>> {
        if self.0.back().is_some_and(like) { self.0.pop_back() } else { None }
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Piece<F>> {
        self.0.remove(index)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Piece<F>> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Piece<F>> {
        self.0.iter_mut()
    }

    pub(super) fn take(&mut self) -> VecDeque<Piece<F>> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the one that has waited longest came. That need not be the first: what a retransmission
    /// repeats can begin before it.
    pub(super) fn since(&self) -> Option<Nanos> {
        self.iter().map(|piece| piece.held.at).min()
    }
}
