//! What only the secondary misses: the client is told, and sends it again at once.
//!
//! ```text
//!   client ── 1 2 3 4 5 ──► primary: has all                      secondary: 3 was lost on the forward link
//!                           ack 6, waits: the secondary is at 3   ack 3, SACK 4–5
//!          ◄── ack 3, SACK 4–5 ── a frame of our own
//!   client ── 3 ──────────► ack 6                                 ack 6
//!          ◄── ack 6 ──
//! ```
//!
//! Without that the client would wait for its retransmission timer, with one segment in flight from
//! then on, for each frame that the forward link loses. Blocks (RFC 2018) are cut to what the primary
//! has acknowledged: the client hears only of what both guests have.

use super::Stream;
use crate::engine::held::Desk;
use crate::engine::tcp::commit::Fit;
use crate::engine::tcp::sequence::before;
use crate::engine::verdict::{Frame, Sink};
use crate::packet::{SackBlocks, Segment, Stamps};

/// What was said of a gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap {
    ack: u32,
    sack: SackBlocks,
    /// How often.
    said: u32,
}

impl Gap {
    /// Three duplicates make a client without SACK send again (RFC 5681 §3.2). More say nothing.
    const ENOUGH: u32 = 3;
}

impl<F: Frame> Stream<F> {
    /// A segment of the secondary that brought nothing new: tells the client of the gap that it
    /// stands before, if only the secondary has one.
    #[inline]
    pub(super) fn judge_gap<S: Sink<F>>(
        &mut self,
        segment: &Segment,
        data: &[u8],
        desk: &mut Desk<'_, F, S>,
    ) {
        let flags = segment.flags;
        if self.told.is_at(segment.ack)
            && self.primary.reach.is_beyond(segment.ack)
            && flags.ack()
            && !flags.syn()
            && !flags.rst()
        {
            self.tell_gap(segment, data, desk);
        }
    }

    #[cold]
    fn tell_gap<S: Sink<F>>(&mut self, segment: &Segment, data: &[u8], desk: &mut Desk<'_, F, S>) {
        let Some(reached) = self.primary.reach.ack() else { return };
        let sack = shared(&SackBlocks::read(data, segment.header), segment.ack, reached);
        if sack.is_empty() && segment.sequence_len() > 0 {
            // Data that repeats a number is no duplicate acknowledgement (RFC 5681 §2).
            return;
        }
        let said = match &self.gap {
            Some(gap) if gap.ack == segment.ack && gap.sack == sack => gap.said,
            _ => 0,
        };
        let Some((_, high)) = self.unsaid().filter(|_| said < Gap::ENOUGH) else { return };
        let Fit::Lower { ack, window } = self.secondary.reach.fit(&high, self.scale) else { return };
        self.gap = Some(Box::new(Gap { ack, sack, said: said + 1 }));
        let echo = Stamps::read(data, segment.header).map(|stamps| stamps.echo);
        desk.ledger.stats.gaps_told += 1;
        self.say(ack, window, echo, sack, desk);
    }
}

/// The blocks behind `ack`, as far as `reached`.
fn shared(blocks: &SackBlocks, ack: u32, reached: u32) -> SackBlocks {
    let mut out = SackBlocks::default();
    for (left, right) in blocks.iter() {
        let right = if before(reached, right) { reached } else { right };
        if before(ack, left) && before(left, right) {
            out.push(left, right);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(edges: &[(u32, u32)]) -> SackBlocks {
        let mut out = SackBlocks::default();
        edges.iter().for_each(|&(left, right)| out.push(left, right));
        out
    }

    #[test]
    fn only_what_both_have_is_said() {
        let all = blocks(&[(100, 200), (300, 400), (50, 60), (390, 380)]);
        assert_eq!(shared(&all, 70, 1000), blocks(&[(100, 200), (300, 400)]));
        assert_eq!(shared(&all, 70, 350), blocks(&[(100, 200), (300, 350)]));
        assert_eq!(shared(&all, 70, 100), blocks(&[]));
        let wrapped = blocks(&[(u32::MAX - 5, 10), (20, 30)]);
        assert_eq!(shared(&wrapped, u32::MAX - 10, 25), blocks(&[(u32::MAX - 5, 10), (20, 25)]));
    }
}
