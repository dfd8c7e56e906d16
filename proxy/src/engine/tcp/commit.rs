//! Ack commit (promise 2): no acknowledgement and no window leaves that the secondary has not
//! reached itself.
//!
//! An acknowledgement lets the client forget data; a window lets it send data. Both are promises
//! about the receiver, and after a take-over the receiver is the secondary. So a released segment
//! says at most what the secondary has said: a lower number costs the client nothing but time.
//!
//! With a known window scale, windows are compared by their right edge (acknowledgement + window),
//! the thing a client may send up to. Where the scale is unknown (a stream that was joined, or one
//! whose peer's offer was not seen) the raw window is bounded by the secondary's at an
//! acknowledgement that is no lower, which keeps the edge below the secondary's for any scale.

use super::sequence::{before, later};
use crate::packet::Segment;

/// The farthest acknowledgement and window of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Acknowledgement and right edge of the window, once one was seen.
    point: Option<(u32, u32)>,
    /// The unscaled window at that acknowledgement, outside SYNs.
    window: Option<u16>,
    /// The window of a SYN without an acknowledgement.
    syn_window: Option<u16>,
}

/// What of a segment's acknowledgement and window may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// All of it.
    Whole,
    /// Only this much.
    Lower {
        /// The acknowledgement number to write.
        ack: u32,
        /// The window field to write.
        window: u16,
    },
    /// Nothing: the secondary has not said anything comparable.
    Wait,
}

/// The right edge that a segment offers.
pub(super) const fn edge(ack: u32, window: u16, shift: u8) -> u32 {
    ack.wrapping_add((window as u32) << shift)
}

impl Reach {
    /// Takes note of a segment. `shift` is the stream's window scale where it is known. Returns
    /// whether that moved anything.
    #[inline]
    pub(super) fn observe(&mut self, segment: &Segment, shift: Option<u8>) -> bool {
        let before_it = *self;
        let flags = segment.flags;
        if !flags.ack() {
            if flags.syn() {
                self.syn_window = Some(segment.window);
            }
            return *self != before_it;
        }
        // A SYN's window is never scaled (RFC 7323 §2.2); a RST's means nothing.
        let shift = if flags.syn() { Some(0) } else { shift };
        let reached =
            if flags.rst() { segment.ack } else { edge(segment.ack, segment.window, shift.unwrap_or(0)) };
        let (ack, farthest) = self.point.map_or((segment.ack, reached), |(ack, farthest)| {
            (later(ack, segment.ack), later(farthest, reached))
        });
        if !flags.syn() && !flags.rst() {
            self.window = match (self.point, self.window) {
                (Some((old, _)), Some(window)) if before(segment.ack, old) => Some(window),
                (Some((old, _)), Some(window)) if old == segment.ack => Some(window.max(segment.window)),
                _ => Some(segment.window),
            };
        }
        self.point = Some((ack, farthest));
        *self != before_it
    }

    /// What of this segment may leave.
    #[inline]
    pub(super) fn fit(&self, segment: &Segment, shift: Option<u8>) -> Fit {
        let flags = segment.flags;
        if !flags.ack() {
            return self.fit_unacknowledged(segment);
        }
        let Some((reached, farthest)) = self.point else { return Fit::Wait };
        let ack = if before(reached, segment.ack) { reached } else { segment.ack };
        let window = if flags.rst() {
            segment.window
        } else {
            let shift = if flags.syn() { Some(0) } else { shift };
            match (shift, self.window) {
                (Some(shift), _) => {
                    // A lowered acknowledgement keeps the right edge, so that it never moves back.
                    let own = edge(segment.ack, segment.window, shift);
                    let edge = if before(farthest, own) { farthest } else { own };
                    let room = if before(edge, ack) { 0 } else { edge.wrapping_sub(ack) };
                    (room >> shift).min(u32::from(u16::MAX)) as u16
                }
                (None, Some(window)) => segment.window.min(window),
                (None, None) => return Fit::Wait,
            }
        };
        if ack == segment.ack && window == segment.window { Fit::Whole } else { Fit::Lower { ack, window } }
    }

    fn fit_unacknowledged(&self, segment: &Segment) -> Fit {
        match (segment.flags.syn(), self.syn_window) {
            (true, Some(window)) if window < segment.window => Fit::Lower { ack: segment.ack, window },
            _ => Fit::Whole,
        }
    }

    /// Whether this acknowledgement number is higher than any that was seen.
    pub(super) fn is_before(&self, ack: u32) -> bool {
        self.point.is_some_and(|(reached, _)| before(reached, ack))
    }

    /// Whether this acknowledgement number is lower than the highest that was seen.
    pub(super) fn is_beyond(&self, ack: u32) -> bool {
        self.point.is_some_and(|(reached, _)| before(ack, reached))
    }

    /// Whether this is the highest acknowledgement number that was seen.
    pub(super) fn is_at(&self, ack: u32) -> bool {
        self.point.is_some_and(|(reached, _)| reached == ack)
    }

    /// The highest acknowledgement number that was seen.
    pub(super) fn ack(&self) -> Option<u32> {
        self.point.map(|(reached, _)| reached)
    }

    /// Whether letting this out would tell the client anything new.
    pub(super) fn advances(&self, ack: u32, edge: u32) -> bool {
        self.point.is_none_or(|(reached, farthest)| before(reached, ack) || before(farthest, edge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Region, TcpFlags};

    const ACK: u8 = 0x10;
    const SYN: u8 = 0x02;

    fn segment(flags: u8, ack: u32, window: u16) -> Segment {
        Segment { seq: 0, ack, window, flags: TcpFlags(flags), header: 34, payload: Region::default() }
    }

    fn reach(shift: Option<u8>, segments: &[Segment]) -> Reach {
        let mut reach = Reach::default();
        for segment in segments {
            reach.observe(segment, shift);
        }
        reach
    }

    #[test]
    fn nothing_leaves_before_the_secondary_has_acknowledged_anything() {
        assert_eq!(Reach::default().fit(&segment(ACK, 5, 5), Some(0)), Fit::Wait);
    }

    #[test]
    fn a_higher_ack_is_lowered_and_keeps_its_right_edge() {
        let secondary = reach(Some(7), &[segment(ACK, 1000, 500)]);
        assert_eq!(secondary.fit(&segment(ACK, 1000, 500), Some(7)), Fit::Whole);
        assert_eq!(secondary.fit(&segment(ACK, 900, 100), Some(7)), Fit::Whole);
        // 1128 + 499·128 = 1000 + 500·128
        assert_eq!(secondary.fit(&segment(ACK, 1128, 499), Some(7)), Fit::Lower { ack: 1000, window: 500 });
        assert_eq!(secondary.fit(&segment(ACK, 1128, 600), Some(7)), Fit::Lower { ack: 1000, window: 500 });
        assert_eq!(secondary.fit(&segment(ACK, 872, 600), Some(7)), Fit::Lower { ack: 872, window: 501 });
    }

    #[test]
    fn the_wrap_is_no_boundary() {
        let secondary = reach(Some(0), &[segment(ACK, u32::MAX - 5, 10)]);
        assert_eq!(secondary.fit(&segment(ACK, 3, 2), Some(0)), Fit::Lower { ack: u32::MAX - 5, window: 10 });
        let secondary = reach(Some(0), &[segment(ACK, u32::MAX - 5, 10), segment(ACK, 3, 10)]);
        assert_eq!(secondary.fit(&segment(ACK, 3, 2), Some(0)), Fit::Whole);
        assert_eq!(secondary.fit(&segment(ACK, u32::MAX, 9), Some(0)), Fit::Whole);
    }

    #[test]
    fn with_an_unknown_scale_windows_are_compared_raw() {
        let syn = segment(SYN | ACK, 1000, u16::MAX);
        let mut secondary = reach(None, &[syn]);
        assert_eq!(secondary.fit(&segment(ACK, 1000, 1), None), Fit::Wait, "a SYN's window has another unit");
        secondary.observe(&segment(ACK, 1000, 400), None);
        assert_eq!(secondary.fit(&segment(ACK, 900, 450), None), Fit::Lower { ack: 900, window: 400 });
        assert_eq!(secondary.fit(&segment(ACK, 1001, 300), None), Fit::Lower { ack: 1000, window: 300 });
    }

    #[test]
    fn a_zero_window_of_the_secondary_closes_the_primarys() {
        let secondary = reach(Some(4), &[segment(ACK, 1000, 0)]);
        assert_eq!(secondary.fit(&segment(ACK, 1000, 9), Some(4)), Fit::Lower { ack: 1000, window: 0 });
    }

    #[test]
    fn a_syn_without_an_ack_offers_at_most_the_secondarys_window() {
        let secondary = reach(None, &[segment(SYN, 0, 100)]);
        assert_eq!(secondary.fit(&segment(SYN, 0, 100), None), Fit::Whole);
        assert_eq!(secondary.fit(&segment(SYN, 0, 101), None), Fit::Lower { ack: 0, window: 100 });
    }
}
