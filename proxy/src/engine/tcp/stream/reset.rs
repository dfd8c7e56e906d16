//! RSTs: both sides must reset at the same place, or refuse the same segment.

use super::Stream;
use crate::engine::held::Desk;
use crate::engine::tcp::commit::Fit;
use crate::engine::tcp::piece::{Piece, Unit};
use crate::engine::verdict::{Cause, Discard, Frame, Side, Sink};
use crate::packet::Segment;

impl<F: Frame> Stream<F> {
    /// Matches RSTs, and finds those that have no counterpart.
    pub(super) fn settle_resets<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        while let Some(index) = self.first_reset() {
            let ours = self.primary.waiting.get(index).segment;
            let Some((twin, exact)) = self.twin_of_reset(self.primary.waiting.get(index)) else {
                return self.judge_reset(index, desk);
            };
            // What was sent before it leaves before it.
            if !self.primary.data.is_empty() {
                return;
            }
            let fit = if exact { Fit::Whole } else { self.secondary.reach.fit(&ours, self.scale) };
            if fit == Fit::Wait {
                return;
            }
            let theirs = self.secondary.resets.remove(twin);
            if let (Some(ours), Some(theirs)) = (self.primary.waiting.remove(index), theirs) {
                desk.unhold(Side::Primary, &ours.held);
                desk.unhold(Side::Secondary, &theirs.held);
                desk.age.observe(desk.now.since(ours.held.at.min(theirs.held.at)));
                self.let_out(ours, fit, None, desk);
                desk.discard(Side::Secondary, theirs.held, Discard::Compared);
                self.end(desk);
            }
        }
        self.judge_secondary_reset(desk);
    }

    pub(super) fn first_reset(&self) -> Option<usize> {
        self.primary.waiting.iter().position(|piece| piece.segment.flags.rst())
    }

    /// The secondary's RST that is the same as this one, and whether it is so to the letter. Where
    /// there is no connection (a closed port), only the same numbers make the same RST. What it
    /// says for people (RFC 9293 §3.5.3) leaves with it and must be the same.
    pub(super) fn twin_of_reset(&self, piece: &Piece<F>) -> Option<(usize, bool)> {
        let ours = &piece.segment;
        let offset = self.position.and(self.secondary.offset).unwrap_or(0);
        let same = |theirs: &Segment| {
            theirs.seq.wrapping_add(offset) == ours.seq
                && theirs.flags.ack() == ours.flags.ack()
                && (!ours.flags.ack() || theirs.ack == ours.ack)
        };
        let find = |is: &dyn Fn(&Segment) -> bool| {
            let mut resets = self.secondary.resets.iter();
            resets.position(|theirs| is(&theirs.segment) && theirs.payload() == piece.payload())
        };
        if let Some(index) = find(&same) {
            return Some((index, true));
        }
        self.position?;
        let index = find(&|theirs| {
            theirs.flags.ack() == ours.flags.ack()
                && self.places_of_reset(theirs).any(|place| place == ours.seq)
        })?;
        Some((index, false))
    }

    /// Where a secondary's RST may stand: while its space is not settled, in either.
    pub(super) fn places_of_reset(&self, theirs: &Segment) -> impl Iterator<Item = u32> + use<F> {
        let offsets = match self.secondary.offset {
            Some(offset) => [Some(offset), None],
            None => [Some(0), self.apart()],
        };
        let seq = theirs.seq;
        offsets.into_iter().flatten().map(move |offset| seq.wrapping_add(offset))
    }

    /// A primary's RST without a twin: a divergence if the secondary has something else there.
    pub(super) fn judge_reset<S: Sink<F>>(&self, index: usize, desk: &mut Desk<'_, F, S>) {
        let ours = self.primary.waiting.get(index);
        let other = match self.position {
            Some(position) => self.secondary.resets.front().or_else(|| {
                self.secondary
                    .data
                    .front()
                    .filter(|data| data.covers(position.verified) && ours.segment.seq == position.verified)
            }),
            None => self.secondary.unplaced.front(),
        };
        if let Some(theirs) = other {
            let offset = self.position.map_or(0, |position| position.bytes);
            desk.diverge(Cause::Rst, offset, Some((&ours.held, &[])), Some((&theirs.held, theirs.payload())));
        }
    }

    /// A secondary's RST without a twin: a divergence if the primary goes on at that place.
    pub(super) fn judge_secondary_reset<S: Sink<F>>(&self, desk: &mut Desk<'_, F, S>) {
        let (Some(position), Some(theirs)) = (self.position, self.secondary.resets.front()) else { return };
        let Some(ours) = self.primary.data.front().filter(|ours| ours.covers(position.verified)) else {
            return;
        };
        let mut places = self.places_of_reset(&theirs.segment);
        let unopened = ours.unit_at(position.verified) == Unit::Syn && self.secondary.isn.is_none();
        if (places.any(|place| place == position.verified) && self.secondary.data.is_empty()) || unopened {
            desk.diverge(
                Cause::Rst,
                position.bytes,
                Some((&ours.held, ours.payload())),
                Some((&theirs.held, &[])),
            );
        }
    }

    /// The connection is reset on both sides: what comes now belongs to another, except further
    /// RSTs, which stand for themselves.
    pub(super) fn end<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let mut old = std::mem::take(self);
        for piece in old.primary.waiting.take() {
            if piece.segment.flags.rst() {
                self.primary.waiting.push_back(piece);
            } else {
                desk.unhold(Side::Primary, &piece.held);
                desk.discard(Side::Primary, piece.held, Discard::AckSuperseded);
            }
        }
        std::mem::swap(&mut self.secondary.resets, &mut old.secondary.resets);
        old.discard_all(Discard::Superseded, desk);
    }
}
