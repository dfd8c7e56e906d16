//! TCP: byte streams compared at equal places, whatever the segmentation, order, overlap,
//! retransmission or wrap.
//!
//! ```text
//!   Tcp ── now:  Stream        one connection
//!      └── next: Stream?       the connection that re-uses its ports, while one side is still in the old one
//! ```
//!
//! What is not compared: options but for those of SYNs, timestamps, SACK blocks, urgent pointers,
//! PSH and ECN flags, IP id, TTL, checksums, segment borders. What was compared and released may be
//! retransmitted at once.

mod commit;
mod piece;
mod sequence;
mod stream;

use super::held::{Desk, Held};
use super::inspect::Why;
use super::verdict::{Cause, Discard, Frame, Nanos, Side, Sink};
use crate::packet::Segment;
use stream::Stream;

#[derive(Debug)]
pub(super) struct Tcp<F> {
    now: Stream<F>,
    next: Option<Box<Stream<F>>>,
}

impl<F> Default for Tcp<F> {
    fn default() -> Self {
        Self { now: Stream::default(), next: None }
    }
}

impl<F: Frame> Tcp<F> {
    /// One segment.
    #[inline]
    pub(super) fn segment<S: Sink<F>>(
        &mut self,
        side: Side,
        segment: Segment,
        held: Held<F>,
        desk: &mut Desk<'_, F, S>,
    ) {
        let stream = self.route(side, &segment, &held, desk);
        match side {
            Side::Primary => stream.primary(segment, held, desk),
            Side::Secondary => stream.secondary(segment, held, desk),
        }
        if self.next.is_some() {
            self.turn(desk);
        }
    }

    /// The stream that a segment belongs to.
    #[inline]
    fn route<S: Sink<F>>(
        &mut self,
        side: Side,
        segment: &Segment,
        held: &Held<F>,
        desk: &mut Desk<'_, F, S>,
    ) -> &mut Stream<F> {
        if !self.next.as_ref().is_some_and(|next| next.seen(side)) {
            if !self.now.reopened_by(side, segment) {
                return &mut self.now;
            }
            return self.next.get_or_insert_default();
        }
        if self.latest().reopened_by(side, segment) {
            // A third stream while the first is not over: more than the sides can be apart.
            let (ours, theirs) = match side {
                Side::Primary => (Some((held, &[][..])), None),
                Side::Secondary => (None, Some((held, &[][..]))),
            };
            desk.diverge(Cause::Syn, 0, ours, theirs);
        }
        self.latest()
    }

    /// Once both sides are in the next stream the old one is over.
    #[cold]
    fn turn<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        if desk.diverged.is_some() {
            return;
        }
        let both = |next: &mut Box<Stream<F>>| next.seen(Side::Primary) && next.seen(Side::Secondary);
        let Some(next) = self.next.take_if(both) else { return };
        if let Some(held) = self.now.unmatched() {
            desk.diverge(Cause::Length, 0, Some((held, &[])), None);
            self.next = Some(next);
            return;
        }
        self.now.discard_all(Discard::Superseded, desk);
        self.now = *next;
        desk.ledger.stats.streams_restarted += 1;
    }

    fn latest(&mut self) -> &mut Stream<F> {
        self.next.as_deref_mut().unwrap_or(&mut self.now)
    }

    fn streams(&mut self) -> impl Iterator<Item = &mut Stream<F>> {
        std::iter::once(&mut self.now).chain(self.next.as_deref_mut())
    }

    /// Since when something has waited for its twin.
    #[inline]
    pub(super) fn since(&self) -> Option<Nanos> {
        let next = self.next.as_ref().and_then(|next| next.since());
        self.now.since().into_iter().chain(next).min()
    }

    /// When a part of a segment that is verified has waited long enough for the rest.
    #[inline]
    pub(super) fn part_due(&self) -> Option<Nanos> {
        self.now.part_due()
    }

    /// Lets such a part out.
    pub(super) fn release_part<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        self.now.release_part(desk);
    }

    /// Why what has waited longest is still here; none if nothing is.
    pub(super) fn why(&self) -> Option<Why> {
        let streams = std::iter::once(&self.now).chain(self.next.as_deref());
        streams.filter(|stream| stream.since().is_some()).min_by_key(|stream| stream.since())?.why()
    }

    /// Something has waited too long.
    pub(super) fn expire<S: Sink<F>>(&self, desk: &mut Desk<'_, F, S>) {
        match &self.next {
            Some(next) if self.now.since().is_none() => next.expire(desk),
            _ => self.now.expire(desk),
        }
    }

    /// Keeps a primary's segment until a checkpoint covers it.
    pub(super) fn park<S: Sink<F>>(&mut self, segment: Segment, held: Held<F>, desk: &mut Desk<'_, F, S>) {
        if self.latest().reopened_by(Side::Primary, &segment) {
            // What the old streams hold stays where it is until the checkpoint; only the numbers
            // of the newest count after it.
            let mut old = std::mem::take(self.latest());
            let latest = self.latest();
            old.take_all(&mut |side, held| match side {
                Side::Primary => latest.keep(held),
                Side::Secondary => {
                    desk.unhold(side, &held);
                    desk.discard(side, held, Discard::Diverged);
                }
            });
        }
        self.latest().park(segment, held, desk);
    }

    /// A primary's segment left because a checkpoint covers it.
    pub(super) fn absorb(&mut self, segment: &Segment, data: &[u8]) {
        if self.next.is_some() || self.now.touched() {
            // It was overtaken by frames of the current epoch, which no checkpoint covers.
            return self.latest().cover(segment);
        }
        if self.now.reopened_by(Side::Primary, segment) {
            self.now = Stream::default();
        }
        self.now.absorb(segment, data);
    }

    /// A checkpoint made both sides equal: hands out all that is held, and goes on from there.
    /// Returns the acknowledgement that was owed, if any.
    pub(super) fn level(&mut self, each: &mut impl FnMut(Side, Held<F>)) -> Option<Box<[u8]>> {
        let reset = self.latest().resets();
        self.now.take_all(each);
        if let Some(mut next) = self.next.take() {
            next.take_all(each);
            self.now = *next;
        }
        if reset {
            self.now = Stream::default();
            return None;
        }
        self.now.level()
    }

    /// Hands out all that is held.
    pub(super) fn take_all(&mut self, each: &mut impl FnMut(Side, Held<F>)) {
        self.streams().for_each(|stream| stream.take_all(each));
    }

    /// Drops what is held of the secondary.
    pub(super) fn discard_secondary<S: Sink<F>>(&mut self, cause: Discard, desk: &mut Desk<'_, F, S>) {
        self.streams().for_each(|stream| stream.discard_secondary(cause, desk));
    }

    /// Drops all that is held.
    pub(super) fn discard_all<S: Sink<F>>(&mut self, cause: Discard, desk: &mut Desk<'_, F, S>) {
        self.streams().for_each(|stream| stream.discard_all(cause, desk));
    }

    /// See [`Engine::compact`](super::Engine::compact).
    pub(super) fn compact(&mut self, before: Nanos, each: &mut impl FnMut(&mut F)) {
        self.streams().for_each(|stream| stream.compact(before, each));
    }
}
