//! What a stream holds, as a whole: ages, exclusion, and the levelling by a checkpoint.

use super::{Position, Stream};
use crate::engine::held::{Desk, Held};
use crate::engine::tcp::piece::{Piece, Queue, Unit};
use crate::engine::tcp::sequence::{at_or_before, before};
use crate::engine::verdict::{Cause, Discard, Frame, Nanos, Side, Sink};
use crate::packet::{Region, Segment, TcpFlags};

impl<F: Frame> Stream<F> {
    /// What the primary sent and the secondary has not: the first of it.
    pub(in super::super) fn unmatched(&self) -> Option<&Held<F>> {
        let reset = self.primary.waiting.iter().find(|piece| piece.segment.flags.rst());
        self.primary.data.front().or(reset).map(|piece| &piece.held)
    }

    /// Since when something has waited for its twin.
    pub(in super::super) fn since(&self) -> Option<Nanos> {
        let primary = [self.primary.data.since(), self.primary.waiting.since()];
        let secondary = &self.secondary;
        let secondary = [secondary.data.since(), secondary.unplaced.since(), secondary.resets.since()];
        primary.into_iter().chain(secondary).flatten().min()
    }

    pub(in super::super) fn compact(&mut self, before: Nanos, each: &mut impl FnMut(&mut F)) {
        let primary = self.primary.data.iter_mut().chain(self.primary.waiting.iter_mut());
        let secondary = self.secondary.queues().into_iter().flat_map(Queue::iter_mut);
        primary.chain(secondary).for_each(|piece| piece.held.compact(before, each));
    }

    /// Drops everything, both sides.
    pub(in super::super) fn discard_all<S: Sink<F>>(&mut self, cause: Discard, desk: &mut Desk<'_, F, S>) {
        for queue in [&mut self.primary.data, &mut self.primary.waiting] {
            for piece in queue.take() {
                let cause = if cause == Discard::Superseded { Discard::AckSuperseded } else { cause };
                desk.unhold(Side::Primary, &piece.held);
                desk.discard(Side::Primary, piece.held, cause);
            }
        }
        self.discard_secondary(cause, desk);
    }

    /// Drops what is held of the secondary.
    pub(in super::super) fn discard_secondary<S: Sink<F>>(
        &mut self,
        cause: Discard,
        desk: &mut Desk<'_, F, S>,
    ) {
        for queue in self.secondary.queues() {
            for piece in queue.take() {
                desk.unhold(Side::Secondary, &piece.held);
                desk.discard(Side::Secondary, piece.held, cause);
            }
        }
    }

    /// Hands out everything with the side it came from.
    pub(in super::super) fn take_all(&mut self, each: &mut impl FnMut(Side, Held<F>)) {
        for queue in [&mut self.primary.data, &mut self.primary.waiting] {
            queue.take().into_iter().for_each(|piece| each(Side::Primary, piece.held));
        }
        for queue in self.secondary.queues() {
            queue.take().into_iter().for_each(|piece| each(Side::Secondary, piece.held));
        }
    }

    /// Keeps a primary's datagram of an earlier stream until a checkpoint covers it. It is in the
    /// books already.
    pub(in super::super) fn keep(&mut self, held: Held<F>) {
        let segment =
            Segment { seq: 0, ack: 0, window: 0, flags: TcpFlags(0), header: 0, payload: Region::default() };
        self.primary.waiting.push_back(Piece { segment, held, verified: 0 });
    }

    /// Keeps a primary's segment until a checkpoint covers it.
    pub(in super::super) fn park<S: Sink<F>>(
        &mut self,
        segment: Segment,
        held: Held<F>,
        desk: &mut Desk<'_, F, S>,
    ) {
        if segment.flags.syn() {
            self.learn_scale(&segment, held.custody.data());
        }
        self.touch(&segment);
        self.note_primary(&segment);
        desk.hold(Side::Primary, &held);
        self.primary.waiting.push_back(Piece { segment, held, verified: 0 });
    }

    /// A primary's segment left because a checkpoint covers it: the secondary is now as far.
    pub(in super::super) fn absorb(&mut self, segment: &Segment, data: &[u8]) {
        if segment.flags.syn() {
            self.learn_scale(segment, data);
        }
        self.note_primary(segment);
        self.level();
    }

    /// Whether frames of the current epoch have come: what they said, no checkpoint covers.
    pub(in super::super) fn touched(&self) -> bool {
        self.touched
    }

    /// The same where frames of the current epoch have come: what the segment itself covers is
    /// agreed, what they said is not. A stream that was opened in this epoch is another one than
    /// the segment's.
    pub(in super::super) fn cover(&mut self, segment: &Segment) {
        if self.opened || segment.flags.syn() {
            return;
        }
        let end = segment.seq.wrapping_add(segment.sequence_len());
        if let Some(position) = &mut self.position
            && at_or_before(segment.seq, position.verified)
            && before(position.verified, end)
        {
            let fresh = end.wrapping_sub(position.verified);
            position.advance(fresh, fresh);
        }
        self.secondary.reach.observe(segment, self.scale);
    }

    /// The secondary has become equal to the primary. Nothing may be held any more. Returns the
    /// acknowledgement that was owed, if any.
    pub(in super::super) fn level(&mut self) -> Option<Box<[u8]>> {
        if !self.primary.seen {
            // Nothing is known that both sides could share: the next connection brings its own ISNs.
            *self = Self::default();
            return None;
        }
        let next = self.primary.next;
        (self.touched, self.opened) = (false, false);
        self.secondary.seen = true;
        self.secondary.isn = self.primary.isn;
        self.secondary.offset = Some(0);
        self.secondary.reach = self.primary.reach;
        self.told = self.primary.reach;
        let position = self.position.get_or_insert(Position::at(next));
        position.fin = self.primary.fin;
        if before(position.verified, next) {
            let fresh = next.wrapping_sub(position.verified);
            position.advance(fresh, fresh);
        }
        self.owed.take().map(|owed| owed.frame)
    }

    /// Whether a RST of the primary is among what is held.
    pub(in super::super) fn resets(&self) -> bool {
        self.first_reset().is_some()
    }

    /// Something has waited too long.
    pub(in super::super) fn expire<S: Sink<F>>(&self, desk: &mut Desk<'_, F, S>) {
        let offset = self.position.map_or(0, |position| position.bytes);
        let verified = self.position.map(|position| position.verified);
        let show = |piece: &Piece<F>| match verified.filter(|&place| piece.covers(place)) {
            Some(place) => match piece.unit_at(place) {
                Unit::Bytes(bytes) => piece.payload().len() - bytes.len(),
                _ => piece.payload().len(),
            },
            None => 0,
        };
        let ours = self.primary.data.front().or_else(|| self.primary.waiting.front());
        let theirs = self.secondary.queues_front();
        desk.diverge(
            Cause::Age,
            offset,
            ours.map(|piece| (&piece.held, &piece.payload()[show(piece)..])),
            theirs.map(|piece| (&piece.held, &piece.payload()[show(piece)..])),
        );
    }
}
