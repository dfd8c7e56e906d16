//! What has been released and is not written yet. Sans-I/O.
//!
//! ```text
//!   push(frame) ─► ┌─ run ──────────────┐┌─ run ─┐┌─ run ───────────┐ ─► slices ─► one gathering write
//!                  │ frames side by side ││       ││                 │ ◄─ wrote(n)
//!                  └─────────▲──────────┘└───────┘└─────────────────┘
//!                            └─ so much of the first one is written
//! ```
//!
//! Frames that are neighbours in memory become one run, so a burst of small frames leaves as one
//! stretch. A run is kept until all of it is written: if the peer goes, the frame that was cut is
//! sent again from its start to the next peer. Nothing is dropped and nothing changes places.

use crate::frame::{PREFIX, WireFrame};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

/// The most stretches that one gathering write takes (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;

/// Whole frames, one behind the other in one block.
#[derive(Debug)]
struct Run {
    block: Rc<[u8]>,
    start: u32,
    end: u32,
}

impl Run {
    fn bytes(&self) -> &[u8] {
        &self.block[self.start as usize..self.end as usize]
    }

    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Released frames on their way out.
#[derive(Debug)]
pub struct Outlet {
    vnet: bool,
    runs: VecDeque<Run>,
    /// Bytes of the first run that are written.
    written: usize,
    /// Bytes that are not.
    pending: usize,
    /// Frames that were put in.
    frames: u64,
    /// Bytes that were written, and not taken back.
    bytes: u64,
}

impl Outlet {
    /// `vnet`: how the frames are framed.
    pub fn new(vnet: bool) -> Self {
        Self { vnet, runs: VecDeque::new(), written: 0, pending: 0, frames: 0, bytes: 0 }
    }

    /// Puts a frame at the end.
    #[inline]
    pub fn push(&mut self, frame: WireFrame) {
        let (block, start, len) = frame.into_parts();
        self.frames += 1;
        self.pending += len as usize;
        match self.runs.back_mut() {
            Some(run) if run.end == start && Rc::ptr_eq(&run.block, &block) => run.end += len,
            _ => self.runs.push_back(Run { block, start, end: start + len }),
        }
    }

    /// How many bytes wait.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Frames that were put in, since it was made.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames that wait, the one that is cut included.
    pub fn frames_pending(&self) -> u64 {
        let cut = self.boundary();
        let frames = |(index, run): (usize, &Run)| {
            let from = if index == 0 { cut } else { 0 };
            self.boundaries(&run.bytes()[from..]).count() as u64
        };
        self.runs.iter().enumerate().map(frames).sum()
    }

    /// Bytes that were written, without frames that have to be written again.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to write next, as far as one write takes it.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.written;
        let slice = |run| IoSlice::new(&Run::bytes(run)[std::mem::take(&mut skip)..]);
        self.runs.iter().take(MAX_SLICES).map(slice).collect()
    }

    /// So many bytes of that were written.
    pub fn wrote(&mut self, count: usize) {
        let count = count.min(self.pending);
        self.pending -= count;
        self.bytes += count as u64;
        self.written += count;
        while let Some(run) = self.runs.front()
            && self.written >= run.len()
        {
            self.written -= run.len();
            self.runs.pop_front();
        }
    }

    /// The peer is gone: the frame that was cut will be sent again from its start. Returns whether
    /// there is one.
    pub fn rewind(&mut self) -> bool {
        let boundary = self.boundary();
        let again = self.written - boundary;
        if let Some(run) = self.runs.front_mut() {
            run.start += boundary as u32;
        }
        self.written = 0;
        self.pending += again;
        self.bytes -= again as u64;
        again > 0
    }

    /// Where the frame starts, in the first run, that is written in part or not at all.
    fn boundary(&self) -> usize {
        let Some(run) = self.runs.front() else { return 0 };
        self.boundaries(run.bytes()).take_while(|start| *start <= self.written).last().unwrap_or_default()
    }

    /// Where frames start.
    fn boundaries<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = usize> + use<'a> {
        let header = if self.vnet { 2 * PREFIX } else { PREFIX };
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            let len = u32::from_be_bytes(*bytes.get(start..)?.first_chunk()?);
            next = start + header + len as usize;
            Some(start)
        })
    }

    /// Copies what keeps much larger blocks alive.
    pub fn shrink(&mut self) {
        for run in &mut self.runs {
            if run.block.len() > 2 * run.len() {
                let len = run.len();
                run.block = Rc::from(run.bytes());
                (run.start, run.end) = (0, len as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::framing::Deframer;

    fn framed(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_be_bytes(), payload].concat()
    }

    /// Frames that came in one read.
    fn frames(payloads: &[&[u8]]) -> Vec<WireFrame> {
        let mut deframer = Deframer::new(false);
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| framed(payload)).collect();
        deframer.space()[..stream.len()].copy_from_slice(&stream);
        deframer.filled(stream.len());
        std::iter::from_fn(|| deframer.next_frame().unwrap().map(|(frame, _)| frame)).collect()
    }

    fn pending(outlet: &Outlet) -> Vec<u8> {
        outlet.slices().iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn neighbours_leave_as_one_stretch() {
        let mut outlet = Outlet::new(false);
        frames(&[b"a", b"bb", b"ccc"]).into_iter().for_each(|frame| outlet.push(frame));
        assert_eq!(outlet.slices().len(), 1);
        frames(&[b"d"]).into_iter().for_each(|frame| outlet.push(frame));
        assert_eq!(outlet.slices().len(), 2);
        assert_eq!(pending(&outlet), [framed(b"a"), framed(b"bb"), framed(b"ccc"), framed(b"d")].concat());
        assert_eq!((outlet.pending(), outlet.frames_pending()), (23, 4));
    }

    #[test]
    fn frames_that_are_not_neighbours_keep_their_order() {
        let mut outlet = Outlet::new(false);
        frames(&[b"a", b"b", b"c"]).into_iter().rev().for_each(|frame| outlet.push(frame));
        assert_eq!(pending(&outlet), [framed(b"c"), framed(b"b"), framed(b"a")].concat());
    }

    #[test]
    fn a_cut_frame_is_sent_again_from_its_start() {
        let all = [b"one".as_slice(), b"two", b"three"];
        for written in 0..=22 {
            let mut outlet = Outlet::new(false);
            frames(&all).into_iter().for_each(|frame| outlet.push(frame));
            outlet.wrote(written);
            let left = match written {
                0..7 => &all[..],
                7..14 => &all[1..],
                14..23 => &all[2..],
                _ => &[],
            };
            assert_eq!(outlet.frames_pending(), left.len() as u64);
            assert_eq!(outlet.rewind(), ![0, 7, 14].contains(&written), "after {written} bytes");
            assert_eq!(pending(&outlet), left.iter().flat_map(|frame| framed(frame)).collect::<Vec<_>>());
            assert_eq!(outlet.bytes() + outlet.pending() as u64, 23);
            assert!(!outlet.rewind(), "once is enough");
        }
    }

    #[test]
    fn what_is_written_is_gone() {
        let mut outlet = Outlet::new(false);
        frames(&[b"one", b"two"]).into_iter().for_each(|frame| outlet.push(frame));
        outlet.wrote(10);
        outlet.push(WireFrame::made(b"ack", None));
        assert_eq!(pending(&outlet), [b"\0\0\0\x03two"[3..].to_vec(), framed(b"ack")].concat());
        outlet.wrote(11);
        assert_eq!((outlet.pending(), outlet.slices().len(), outlet.frames_pending()), (0, 0, 0));
        assert!(!outlet.rewind());
        assert_eq!((outlet.frames(), outlet.bytes()), (3, 21));
    }

    #[test]
    fn shrinking_changes_nothing_but_the_blocks() {
        let big = vec![7u8; 40_000];
        let mut outlet = Outlet::new(false);
        let mut kept = frames(&[b"small", &big, b"tiny"]);
        outlet.push(kept.remove(2));
        outlet.push(kept.remove(0));
        outlet.wrote(3);
        let before = pending(&outlet);
        outlet.shrink();
        assert_eq!(pending(&outlet), before);
        assert!(outlet.runs.iter().all(|run| run.block.len() == run.len()));
        assert!(outlet.rewind());
        assert_eq!(pending(&outlet), [framed(b"tiny"), framed(b"small")].concat());
    }
}
