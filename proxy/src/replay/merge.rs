//! Two captures, frame by frame in the order of time.
//!
//! ```text
//!   primary   ──► lane (one frame ahead) ──┐ the earlier one; of two at one time, the side that
//!   secondary ──► lane (one frame ahead) ──┘ is behind in number ──► (Nanos, Record)
//! ```
//!
//! Time 0 is the earliest frame of both, or with `align` the first frame of each. Inside a capture
//! time never goes back: a frame that claims to is taken to be as late as the one before it.

use super::ReplayError;
use super::capture::{Capture, Record};
use crate::engine::{Nanos, Side};
use std::io::Read;
use std::path::Path;

/// One capture, and when it was.
#[derive(Debug)]
pub(super) struct Lane<R> {
    capture: Capture<R>,
    next: Option<Record>,
    /// When the first frame came, in nanoseconds since 1970.
    first: Option<u64>,
    /// When the latest came, never earlier than one before it.
    last: u64,
    frames: u64,
    backwards: u64,
}

impl<R: Read> Lane<R> {
    fn new(mut capture: Capture<R>) -> Result<Self, ReplayError> {
        let next = capture.next()?;
        let first = next.as_ref().map(|record| record.time);
        Ok(Self { capture, next, first, last: first.unwrap_or_default(), frames: 0, backwards: 0 })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        self.capture.path()
    }

    /// When its frames were, as (first, latest) in nanoseconds since 1970; none if it has none.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        self.first.map(|first| (first, self.last))
    }

    /// How many frames claimed to be earlier than the one before.
    pub(super) fn backwards(&self) -> u64 {
        self.backwards
    }

    /// When its next frame comes.
    fn due(&self) -> Option<u64> {
        self.next.as_ref().map(|record| record.time.max(self.last))
    }

    fn take(&mut self) -> Result<Option<Record>, ReplayError> {
        let Some(record) = self.next.take() else { return Ok(None) };
        self.next = self.capture.next()?;
        self.backwards += u64::from(record.time < self.last);
        self.last = self.last.max(record.time);
        self.frames += 1;
        Ok(Some(record))
    }
}

/// Both captures.
#[derive(Debug)]
pub(super) struct Merge<R> {
    lanes: [Lane<R>; 2],
    /// What each lane's time 0 is, in nanoseconds since 1970.
    origins: [u64; 2],
}

impl<R: Read> Merge<R> {
    pub(super) fn new(primary: Capture<R>, secondary: Capture<R>, align: bool) -> Result<Self, ReplayError> {
        let lanes = [Lane::new(primary)?, Lane::new(secondary)?];
        let firsts = [&lanes[0], &lanes[1]].map(|lane| lane.first);
        let earliest = firsts.into_iter().flatten().min().unwrap_or_default();
        let origins = firsts.map(|first| if align { first.unwrap_or_default() } else { earliest });
        Ok(Self { lanes, origins })
    }

    /// One side's capture.
    pub(super) fn lane(&self, side: Side) -> &Lane<R> {
        &self.lanes[index(side)]
    }

    /// How many bytes of both have been read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.capture.offset()).sum()
    }

    /// The next frame, and when it came.
    pub(super) fn next(&mut self) -> Result<Option<(Nanos, Record)>, ReplayError> {
        let due = |side: usize| {
            let at = self.lanes[side].due()?.saturating_sub(self.origins[side]);
            Some((at, self.lanes[side].frames, side))
        };
        let Some((at, _, side)) = due(0).into_iter().chain(due(1)).min() else { return Ok(None) };
        Ok(self.lanes[side].take()?.map(|record| (Nanos(at), record)))
    }
}

/// The place of a side in a pair.
pub(super) fn index(side: Side) -> usize {
    usize::from(side == Side::Secondary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pcap with empty frames at these times in seconds.
    fn capture(side: Side, times: &[u32]) -> Capture<std::io::Cursor<Vec<u8>>> {
        let mut bytes = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
        for time in times {
            bytes.extend([*time, 0, 0, 0].map(u32::to_le_bytes).concat());
        }
        Capture::new(side, Path::new("x"), std::io::Cursor::new(bytes)).unwrap()
    }

    fn order(primary: &[u32], secondary: &[u32], align: bool) -> (Vec<(u64, char, u64)>, [u64; 2]) {
        let (primary, secondary) = (capture(Side::Primary, primary), capture(Side::Secondary, secondary));
        let mut merge = Merge::new(primary, secondary, align).unwrap();
        let mut out = Vec::new();
        while let Some((at, record)) = merge.next().unwrap() {
            let side = if record.side == Side::Primary { 'p' } else { 's' };
            out.push((at.0 / 1_000_000_000, side, record.number));
        }
        (out, [Side::Primary, Side::Secondary].map(|side| merge.lane(side).backwards()))
    }

    #[test]
    fn the_earlier_frame_comes_first() {
        let (order, _) = order(&[10, 12, 15], &[11, 12], false);
        assert_eq!(order, [(0, 'p', 1), (1, 's', 1), (2, 'p', 2), (2, 's', 2), (5, 'p', 3)]);
    }

    #[test]
    fn aligned_captures_both_start_at_nought() {
        let (order, _) = order(&[10, 12], &[1000, 1001, 1002], true);
        assert_eq!(order, [(0, 'p', 1), (0, 's', 1), (1, 's', 2), (2, 'p', 2), (2, 's', 3)]);
    }

    #[test]
    fn time_that_goes_back_stands_still() {
        let (order, backwards) = order(&[10, 8, 9, 11], &[9], false);
        assert_eq!(order, [(0, 's', 1), (1, 'p', 1), (1, 'p', 2), (1, 'p', 3), (2, 'p', 4)]);
        assert_eq!(backwards, [2, 0]);
    }

    #[test]
    fn frames_without_times_alternate() {
        let (order, _) = order(&[0, 0, 0], &[0, 0, 0], false);
        let sides: String = order.iter().map(|&(_, side, _)| side).collect();
        assert_eq!(sides, "pspsps");
    }

    #[test]
    fn empty_captures_are_no_trouble() {
        assert!(order(&[], &[], false).0.is_empty());
        assert_eq!(order(&[], &[5], true).0, [(0, 's', 1)]);
    }
}
