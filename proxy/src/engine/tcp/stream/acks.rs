//! Acknowledgements: lowered in data that leaves, held where they stand alone, let out later.
//!
//! ```text
//!   data, ack too high ──► leaves with the secondary's ack; the rest is owed
//!   pure ack too high  ──► waits
//!   secondary's ack rises ──► what waited leaves, in order; then what is still owed, as a frame of our own;
//!                             else how far the secondary is, as a frame of our own
//! ```
//!
//! The last line matters when frames for the secondary are lost. The client sends again what the
//! secondary misses, one segment after the other, and needs to hear of each that it arrived: the
//! primary, which misses nothing, has long acknowledged them all.

use super::Stream;
use crate::engine::held::{Custody, Desk};
use crate::engine::tcp::commit::{Fit, edge};
use crate::engine::tcp::piece::Piece;
use crate::engine::tcp::sequence::{at_or_before, before};
use crate::engine::verdict::{Frame, Side, Sink};
use crate::packet::{Segment, lower_ack, pure_ack};

/// The acknowledgement that was lowered out of a released segment.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) segment: Segment,
    pub(super) frame: Box<[u8]>,
}

impl<F: Frame> Stream<F> {
    /// Lets a segment out that is in no queue.
    #[inline]
    pub(super) fn let_out<S: Sink<F>>(&mut self, mut piece: Piece<F>, fit: Fit, desk: &mut Desk<'_, F, S>) {
        let mut said = piece.segment;
        if let Fit::Lower { ack, window } = fit {
            self.owe(&piece);
            piece.held.lower(said.header, ack, window);
            desk.ledger.stats.acks_lowered += 1;
            (said.ack, said.window) = (ack, window);
        } else if self.owed.as_ref().is_some_and(|owed| at_or_before(owed.segment.ack, said.ack)) {
            self.owed = None;
        }
        self.told.observe(&said, self.scale);
        desk.release(piece.held, piece.verified);
    }

    /// Remembers what a segment would have said.
    #[cold]
    pub(super) fn owe(&mut self, piece: &Piece<F>) {
        let segment = piece.segment;
        let (Custody::One(frame), Some(position)) = (&piece.held.custody, self.position) else { return };
        if segment.flags.syn() || segment.flags.rst() || !segment.flags.ack() {
            return;
        }
        if self.owed.as_ref().is_some_and(|owed| before(segment.ack, owed.segment.ack)) {
            return;
        }
        let ack = pure_ack(frame.bytes(), &segment, position.verified, segment.ack, segment.window);
        self.owed = ack.map(|frame| Box::new(Owed { segment, frame }));
    }

    /// How a pure acknowledgement may leave now, if it may.
    pub(super) fn ready(&self, segment: &Segment) -> Option<Fit> {
        match self.secondary.reach.fit(segment, self.scale) {
            Fit::Whole => Some(Fit::Whole),
            Fit::Wait => None,
            // Lowering the number would only make a duplicate of an earlier acknowledgement; so
            // would a window that says nothing new.
            Fit::Lower { ack, window } => {
                let news = self.told.advances(ack, edge(ack, window, self.scale.unwrap_or(0)));
                (ack == segment.ack && news).then_some(Fit::Lower { ack, window })
            }
        }
    }

    /// A pure acknowledgement of the primary: out at once, or it waits.
    #[inline]
    pub(super) fn offer<S: Sink<F>>(&mut self, piece: Piece<F>, desk: &mut Desk<'_, F, S>) {
        if let Some(fit) = self.ready(&piece.segment) {
            return self.let_out(piece, fit, desk);
        }
        desk.hold(Side::Primary, &piece.held);
        self.primary.waiting.push_back(piece);
    }

    /// The secondary has acknowledged more: lets out what waited for that.
    pub(super) fn acknowledge<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let mut index = 0;
        while index < self.primary.waiting.len() {
            let segment = self.primary.waiting.get(index).segment;
            let fit = if segment.flags.rst() { None } else { self.ready(&segment) };
            match fit.and_then(|fit| Some((fit, self.primary.waiting.remove(index)?))) {
                Some((fit, piece)) => {
                    desk.unhold(Side::Primary, &piece.held);
                    self.let_out(piece, fit, desk);
                }
                None => index += 1,
            }
        }
        // Data that is verified but waited for the secondary's first acknowledgement.
        if !self.primary.data.is_empty() {
            self.advance(desk);
        }
        self.pay(desk);
        self.pay_part(desk);
    }

    /// Says how far the secondary is, if the client does not know and the primary's own words for
    /// it are all too high.
    fn pay_part<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let Some(position) = self.position else { return };
        let waiting = self.primary.waiting.iter().find(|piece| !piece.segment.flags.rst());
        let frame = match (waiting.map(|piece| (&piece.held.custody, piece.segment)), &self.owed) {
            (Some((Custody::One(frame), segment)), _) => self.part(&segment).and_then(|(ack, window)| {
                pure_ack(frame.bytes(), &segment, position.verified, ack, window)
                    .map(|frame| (frame, Segment { ack, window, ..segment }))
            }),
            (None, Some(owed)) => self.part(&owed.segment).map(|(ack, window)| {
                let mut frame = owed.frame.clone();
                lower_ack(&mut frame, owed.segment.header, ack, window, false);
                (frame, Segment { ack, window, ..owed.segment })
            }),
            _ => None,
        };
        if let Some((frame, said)) = frame {
            self.told.observe(&said, self.scale);
            desk.inject(frame);
        }
    }

    /// The part of an acknowledgement that the secondary has reached, if that is news.
    fn part(&self, segment: &Segment) -> Option<(u32, u16)> {
        match self.secondary.reach.fit(segment, self.scale) {
            Fit::Lower { ack, window } if self.told.is_before(ack) => Some((ack, window)),
            _ => None,
        }
    }

    /// Lets out what is owed as far as the secondary is: the number is what the client waits for,
    /// and a window that the secondary does not offer yet is lowered as in any other segment.
    fn pay<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let Some(owed) = &self.owed else { return };
        let mut said = owed.segment;
        match self.ready(&said) {
            None => {}
            Some(Fit::Lower { window, .. }) => {
                said.window = window;
                let mut frame = owed.frame.clone();
                lower_ack(&mut frame, said.header, said.ack, window, false);
                self.told.observe(&said, self.scale);
                desk.inject(frame);
            }
            Some(_) => {
                self.told.observe(&said, self.scale);
                desk.inject(self.owed.take().map(|owed| owed.frame).unwrap_or_default());
            }
        }
    }
}
