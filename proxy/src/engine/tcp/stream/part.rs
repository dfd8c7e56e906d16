//! Segments of which a part is verified.
//!
//! ```text
//!   primary    ├──────────── one segment of 64 KiB ──────────┤
//!   secondary  ├───────────┤├──────────┤├─────────┤  …and its congestion window is full
//!   client     has nothing, and so acknowledges nothing: the window stays full
//!
//!   a moment later: what is verified leaves ├──────────────────────────────┤├ rest ┤ is held
//! ```
//!
//! Two runs never agree on where segments end. That the end of one is missing is common, and mostly
//! over at once; where it is not, each side waits for the other until one sends something again.

use super::Stream;
use crate::engine::held::{Custody, Desk, Held};
use crate::engine::tcp::commit::Fit;
use crate::engine::tcp::piece::Piece;
use crate::engine::tcp::sequence::before;
use crate::engine::verdict::{Frame, Nanos, Side, Sink};
use crate::packet::{Region, can_be_cut, cut_flags, mend_cut};

/// How long a verified part waits for the rest: longer than frames that are under way take, and short
/// beside a round trip.
const PATIENCE: Nanos = Nanos::from_millis(1);

impl<F: Frame> Stream<F> {
    /// Notes whether the first segment is verified in part.
    #[inline]
    pub(super) fn note_part(&mut self, now: Nanos) {
        self.part = match (self.primary.data.front(), &self.position, self.part) {
            (Some(ours), Some(position), known) if before(ours.payload_start(), position.verified) => known
                .filter(|(_, verified)| *verified == position.verified)
                .or(Some((now, position.verified))),
            _ => None,
        };
    }

    /// When a verified part has waited long enough.
    #[inline]
    pub(in super::super) fn part_due(&self) -> Option<Nanos> {
        self.part.map(|(since, _)| since.plus(PATIENCE))
    }

    /// Lets the verified part out that has waited long enough. One that cannot be cut waits on.
    pub(in super::super) fn release_part<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        if self.part_due().is_none_or(|due| due > desk.now) {
            return;
        }
        self.part = None;
        let Some(fit) = self.fit_of_part() else { return };
        let Some(whole) = self.primary.data.pop_front() else { return };
        desk.unhold(Side::Primary, &whole.held);
        let (first, rest) = self.cut(whole);
        let Some(rest) = rest else {
            desk.hold(Side::Primary, &first.held);
            return self.primary.data.push_front(first);
        };
        desk.hold(Side::Primary, &rest.held);
        self.primary.data.push_front(rest);
        desk.ledger.stats.frames_cut += 1;
        self.let_out(first, fit, None, desk);
    }

    /// How the verified part of the first segment may leave.
    fn fit_of_part(&self) -> Option<Fit> {
        let ours = self.primary.data.front()?;
        let Custody::One(frame) = &ours.held.custody else { return None };
        let fit = self.secondary.reach.fit(&ours.segment, self.scale);
        (can_be_cut(frame.bytes(), &ours.segment) && fit != Fit::Wait).then_some(fit)
    }

    /// Cuts a segment at what is verified.
    fn cut(&self, mut whole: Piece<F>) -> (Piece<F>, Option<Piece<F>>) {
        let kept = self.position.map_or(0, |position| position.verified.wrapping_sub(whole.payload_start()));
        let payload = whole.segment.payload;
        let Custody::One(frame) = &mut whole.held.custody else { return (whole, None) };
        if kept == 0 || kept >= payload.len {
            return (whole, None);
        }
        let Some(mut rest) = frame.cut(payload.start as usize, (payload.start + kept) as usize) else {
            return (whole, None);
        };
        mend_cut(frame.bytes_mut(), rest.bytes_mut(), &whole.segment, kept, whole.held.partial);
        let mut segment = whole.segment;
        (whole.segment.flags, segment.flags) = cut_flags(segment.flags);
        whole.segment.payload.len = kept;
        segment.seq = segment.seq.wrapping_add(kept);
        segment.payload = Region { start: payload.start, len: payload.len - kept };
        let Held { at, nr, partial, .. } = whole.held;
        let rest = Piece { segment, held: Held::new(Custody::One(rest), at, nr, partial), verified: 0 };
        (whole, Some(rest))
    }
}
