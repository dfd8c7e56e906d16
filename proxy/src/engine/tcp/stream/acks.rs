//! Acknowledgements: lowered in data that leaves, held where they stand alone, let out later.
//!
//! ```text
//!   data, ack too high ──► leaves with the secondary's ack; the rest is owed
//!   pure ack too high  ──► waits
//!   secondary's ack rises ──► what waited leaves, in order; then what is still owed, as a frame of our own;
//!                             else how far the secondary is, as a frame of our own
//!   secondary's ack stands, behind the primary's ──► it misses something: see `gap`
//! ```
//!
//! The third line matters when frames for the secondary are lost. The client sends again what the
//! secondary misses, one segment after the other, and needs to hear of each that it arrived: the
//! primary, which misses nothing, has long acknowledged them all.
//!
//! What leaves late must not look late. The client drops what carries an older timestamp than it has
//! seen (RFC 7323 §5.3), and it takes the time from what is echoed for the round trip (§4.1). So
//! timestamps that leave never go back, and an acknowledgement that waited for the secondary echoes
//! what the secondary echoed.

use super::Stream;
use crate::engine::held::{Custody, Desk};
use crate::engine::tcp::commit::{Fit, edge};
use crate::engine::tcp::piece::Piece;
use crate::engine::tcp::sequence::{at_or_before, before};
use crate::engine::verdict::{Discard, Frame, Side, Sink};
use crate::packet::{PureAck, SackBlocks, Segment, Stamps, pure_ack};

/// A clock that is farther back than this many ticks is another clock, or was idle for days: nothing
/// that waited is that old.
const TICKS_BACK: u32 = 1 << 24;

/// The acknowledgement that was lowered out of a released segment.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) segment: Segment,
    pub(super) frame: Box<[u8]>,
}

impl<F: Frame> Stream<F> {
    /// Lets a segment out that is in no queue. `echo` is the timestamp to echo, where it is not the
    /// segment's own.
    #[inline]
    pub(super) fn let_out<S: Sink<F>>(
        &mut self,
        mut piece: Piece<F>,
        fit: Fit,
        echo: Option<u32>,
        desk: &mut Desk<'_, F, S>,
    ) {
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
        self.restamp(&mut piece, echo);
        desk.release(piece.held, piece.verified);
    }

    /// Keeps a segment's timestamps from going back.
    #[inline]
    fn restamp(&mut self, piece: &mut Piece<F>, echo: Option<u32>) {
        let Custody::One(frame) = &piece.held.custody else { return };
        let Some(own) = Stamps::read(frame.bytes(), piece.segment.header) else { return };
        let stamps = self.stamp(own, echo);
        self.stamped = Some(stamps.value);
        if stamps != own {
            piece.held.restamp(piece.segment.header, stamps);
        }
    }

    /// What may leave in the place of these timestamps.
    #[inline]
    fn stamp(&self, mut stamps: Stamps, echo: Option<u32>) -> Stamps {
        if let Some(last) = self.stamped
            && before(stamps.value, last)
            && last.wrapping_sub(stamps.value) < TICKS_BACK
        {
            stamps.value = last;
        }
        stamps.echo = echo.unwrap_or(stamps.echo);
        stamps
    }

    /// Remembers what a segment would have said.
    #[cold]
    fn owe(&mut self, piece: &Piece<F>) {
        let segment = piece.segment;
        let (Custody::One(frame), Some(position)) = (&piece.held.custody, self.position) else { return };
        if segment.flags.syn() || segment.flags.rst() || !segment.flags.ack() {
            return;
        }
        if self.owed.as_ref().is_some_and(|owed| before(segment.ack, owed.segment.ack)) {
            return;
        }
        let says = PureAck {
            seq: position.verified,
            ack: segment.ack,
            window: segment.window,
            stamps: Stamps::read(frame.bytes(), segment.header),
            sack: SackBlocks::default(),
        };
        self.owed = pure_ack(frame.bytes(), &segment, &says).map(|frame| Box::new(Owed { segment, frame }));
    }

    /// How a pure acknowledgement may leave now, if it may.
    fn ready(&self, segment: &Segment) -> Option<Fit> {
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
    pub(super) fn offer<S: Sink<F>>(&mut self, mut piece: Piece<F>, desk: &mut Desk<'_, F, S>) {
        if let Some(fit) = self.ready(&piece.segment) {
            return self.let_out(piece, fit, None, desk);
        }
        if let Some(last) = self.primary.waiting.pop_back_if(|last| says_the_same(last, &piece)) {
            // The age of the place, not of the word: it is what a checkpoint would end.
            piece.held.at = last.held.at;
            desk.unhold(Side::Primary, &last.held);
            desk.discard(Side::Primary, last.held, Discard::AckSuperseded);
        }
        desk.hold(Side::Primary, &piece.held);
        self.primary.waiting.push_back(piece);
        // A secondary that got further than the client knows said so when there was no frame to say
        // it with.
        self.pay_part(None, desk);
    }

    /// The secondary has acknowledged more, echoing this: lets out what waited for that.
    pub(super) fn acknowledge<S: Sink<F>>(&mut self, echo: Option<u32>, desk: &mut Desk<'_, F, S>) {
        let mut index = 0;
        while index < self.primary.waiting.len() {
            let segment = self.primary.waiting.get(index).segment;
            let fit = if segment.flags.rst() { None } else { self.ready(&segment) };
            match fit.and_then(|fit| Some((fit, self.primary.waiting.remove(index)?))) {
                Some((fit, piece)) => {
                    desk.unhold(Side::Primary, &piece.held);
                    self.let_out(piece, fit, echo, desk);
                }
                None => index += 1,
            }
        }
        // Data that is verified but waited for the secondary's first acknowledgement.
        if !self.primary.data.is_empty() {
            self.advance(desk);
        }
        self.pay(echo, desk);
        self.pay_part(echo, desk);
    }

    /// Says how far the secondary is, if the client does not know and the primary's own words for
    /// it are all too high.
    fn pay_part<S: Sink<F>>(&mut self, echo: Option<u32>, desk: &mut Desk<'_, F, S>) {
        if self.primary.waiting.is_empty() && self.owed.is_none() {
            // Data that is held says it when it leaves.
            return;
        }
        let Some(high) = self.unsaid().map(|(_, segment)| segment) else { return };
        match self.secondary.reach.fit(&high, self.scale) {
            Fit::Lower { ack, window } if self.told.is_before(ack) => {
                self.say(ack, window, echo, SackBlocks::default(), desk);
            }
            _ => {}
        }
    }

    /// Lets out what is owed as far as the secondary is: the number is what the client waits for,
    /// and a window that the secondary does not offer yet is lowered as in any other segment.
    fn pay<S: Sink<F>>(&mut self, echo: Option<u32>, desk: &mut Desk<'_, F, S>) {
        let Some(segment) = self.owed.as_ref().map(|owed| owed.segment) else { return };
        match self.ready(&segment) {
            None => {}
            Some(Fit::Lower { window, .. }) => {
                self.say(segment.ack, window, echo, SackBlocks::default(), desk);
            }
            Some(_) => {
                self.say(segment.ack, segment.window, echo, SackBlocks::default(), desk);
                self.owed = None;
            }
        }
    }

    /// The last of the primary's segments whose acknowledgement the client has not heard, and a frame
    /// with its headers.
    pub(super) fn unsaid(&self) -> Option<(&[u8], Segment)> {
        let plain = |piece: &Piece<F>| {
            let flags = piece.segment.flags;
            flags.ack() && !flags.rst() && !flags.syn() && matches!(piece.held.custody, Custody::One(_))
        };
        let parts = |piece| {
            let Piece { held, segment, .. }: &Piece<F> = piece;
            (held.custody.data(), *segment)
        };
        let waiting = self.primary.waiting.iter().rev().find(|piece| plain(piece)).map(parts);
        let owed = || self.owed.as_ref().map(|owed| (&*owed.frame, owed.segment));
        let data = || self.primary.data.front().filter(|piece| plain(piece)).map(parts);
        waiting.or_else(owed).or_else(data)
    }

    /// Sends an acknowledgement of our own with the headers of the one that is not said.
    pub(super) fn say<S: Sink<F>>(
        &mut self,
        ack: u32,
        window: u16,
        echo: Option<u32>,
        sack: SackBlocks,
        desk: &mut Desk<'_, F, S>,
    ) {
        let (Some((frame, segment)), Some(position)) = (self.unsaid(), self.position) else { return };
        let stamps = Stamps::read(frame, segment.header).map(|own| self.stamp(own, echo));
        let says = PureAck { seq: position.verified, ack, window, stamps, sack };
        if let Some(made) = pure_ack(frame, &segment, &says) {
            self.stamped = stamps.map(|stamps| stamps.value).or(self.stamped);
            self.told.observe(&Segment { ack, window, ..segment }, self.scale);
            desk.inject(made);
        }
    }
}

/// Whether the later of two pure acknowledgements makes the other needless while both wait: the same
/// number again, from a client that sends again what only the secondary misses.
fn says_the_same<F: Frame>(earlier: &Piece<F>, later: &Piece<F>) -> bool {
    let (a, b) = (earlier.segment, later.segment);
    (a.seq, a.ack, a.window, a.flags) == (b.seq, b.ack, b.window, b.flags)
}
