//! What a stream waits for, for people: the reason for that which has waited longest.

use super::Stream;
use crate::engine::inspect::Why;
use crate::engine::verdict::{Frame, Side};

impl<F: Frame> Stream<F> {
    /// Why what has waited longest is still here; none if nothing is.
    pub(in super::super) fn why(&self) -> Option<Why> {
        let (ours, theirs) = (&self.primary, &self.secondary);
        let queues = [
            (ours.data.since(), Self::data as fn(&Self) -> Why),
            (ours.waiting.since(), Self::unacknowledged),
            (theirs.data.since(), Self::ahead),
            (theirs.unplaced.since(), Self::unplaced),
            (theirs.resets.since(), |_| Why::Reset(Side::Primary)),
        ];
        let oldest = queues.into_iter().filter_map(|(since, why)| Some((since?, why)));
        oldest.min_by_key(|(since, _)| *since).map(|(_, why)| why(self))
    }

    /// The primary's data.
    fn data(&self) -> Why {
        let (Some(position), Some(ours)) = (&self.position, self.primary.data.front()) else {
            return Why::Output(Side::Secondary);
        };
        if position.holds(ours) {
            return Why::Acknowledgement;
        }
        if !ours.covers(position.verified) {
            return Why::Earlier(Side::Primary);
        }
        match self.secondary.data.front() {
            Some(_) => Why::Earlier(Side::Secondary),
            None if self.secondary.unplaced.is_empty() => Why::Output(Side::Secondary),
            None => Why::Unplaced,
        }
    }

    /// The primary's pure acknowledgements and RSTs.
    fn unacknowledged(&self) -> Why {
        let oldest = self.primary.waiting.iter().min_by_key(|piece| piece.held.at);
        match oldest {
            Some(piece) if piece.segment.flags.rst() => Why::Reset(Side::Secondary),
            _ => Why::Acknowledgement,
        }
    }

    /// The secondary's data.
    fn ahead(&self) -> Why {
        let (Some(position), Some(theirs)) = (&self.position, self.secondary.data.front()) else {
            return Why::Output(Side::Primary);
        };
        match self.primary.data.front() {
            Some(ours) if ours.covers(position.verified) => Why::Earlier(Side::Secondary),
            Some(_) if theirs.covers(position.verified) => Why::Earlier(Side::Primary),
            _ => Why::Output(Side::Primary),
        }
    }

    /// The secondary's segments in a sequence space that is not known.
    fn unplaced(&self) -> Why {
        if self.position.is_none() { Why::Output(Side::Primary) } else { Why::Unplaced }
    }
}
