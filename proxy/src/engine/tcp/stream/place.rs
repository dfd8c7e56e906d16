//! Brings the secondary's sequence numbers into the primary's space.
//!
//! Two kernels choose their ISNs independently until a checkpoint made them one, and the secondary's
//! data path may or may not have translated what came after the SYN.

use super::Stream;
use crate::engine::held::Desk;
use crate::engine::tcp::piece::Piece;
use crate::engine::verdict::{Cause, Frame, Sink};
use crate::packet::Segment;

impl<F: Frame> Stream<F> {
    /// How far apart the two ISNs are: what brings the secondary's own space into the primary's.
    /// None while they are not both known and it matters.
    pub(super) fn apart(&self) -> Option<u32> {
        self.position?;
        match self.primary.isn {
            Some(ours) => Some(ours.wrapping_sub(self.secondary.isn?)),
            // A stream that was joined: both are taken to be in one space.
            None => Some(0),
        }
    }

    /// Settles in which space the secondary's sequence numbers are, if this one tells. Until a
    /// checkpoint two kernels choose their ISNs independently; what comes after the SYN may have
    /// been translated on its way (by the secondary's data path) or not (captures). The first
    /// thing after a SYN stands at ISN + 1, in the one space or in the other, and nothing can be
    /// released before it is there.
    pub(super) fn settle_offset(&mut self, segment: &Segment) {
        if self.secondary.offset.is_some() || segment.flags.syn() || segment.flags.rst() {
            return;
        }
        let Some(apart) = self.apart() else { return };
        let first = |isn: Option<u32>| isn.is_some_and(|isn| segment.seq == isn.wrapping_add(1));
        if apart == 0 || first(self.secondary.isn) {
            self.secondary.offset = Some(apart);
        } else if first(self.primary.isn) {
            self.secondary.offset = Some(0);
        }
    }

    /// Puts a secondary's segment in its place, or aside while that is not known.
    pub(super) fn place(&mut self, mut piece: Piece<F>) {
        let syn = piece.segment.flags.syn();
        match if syn { self.apart() } else { self.secondary.offset } {
            Some(offset) => {
                piece.segment.seq = piece.segment.seq.wrapping_add(offset);
                self.secondary.data.insert(piece);
            }
            None => self.secondary.unplaced.push_back(piece),
        }
    }

    /// Places what could not be placed before.
    #[cold]
    pub(super) fn place_secondary<S: Sink<F>>(&mut self, desk: &mut Desk<'_, F, S>) {
        let pieces = self.secondary.unplaced.take();
        pieces.iter().for_each(|piece| self.settle_offset(&piece.segment));
        pieces.into_iter().for_each(|piece| self.place(piece));
        let (isn, position) = (self.primary.isn, self.position);
        if let (None, Some(_), Some(front)) = (isn, position, self.secondary.data.front())
            && front.segment.flags.syn()
        {
            desk.diverge(Cause::Syn, 0, None, Some((&front.held, &[])));
        }
    }
}
