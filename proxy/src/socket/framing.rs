//! Cuts a byte stream into frames. Sans-I/O: bytes go in as they come, frames come out.
//!
//! ```text
//!   vnet off:  u32 len │ frame[len]
//!   vnet on:   u32 len │ u32 vnet_hdr_len │ (vnet header ‖ frame)[len]        all lengths big-endian
//!
//!   space() ◄── bytes are read into it            ┌─ complete frames: handles into the block, uncopied
//!   filled(n) ───────────────────────────► next_frame() ┼─ nonsense of a known length: counted, skipped
//!                                                 └─ nonsense without an end: `OutOfStep`
//! ```
//!
//! A block is filled, cut into frames and then left to them; a part of a frame at its end moves to
//! the next block. If a read brought little, its frames get a small block of their own, so that a
//! trickle of frames that are held for long does not keep a large block for each of them.

use crate::frame::{PREFIX, Pool, WireFrame};
use crate::packet::{Offload, VNET_HDR_MAX};
use std::rc::Rc;
use thiserror::Error;

/// The longest frame, vnet header included: 64 KiB of GSO payload and room for headers.
pub const MAX_FRAME: usize = 69_632;

/// The longest claim that is skipped byte by byte. Whoever claims more is not in step with us.
pub const MAX_SKIP: usize = 16 << 20;

/// How much is read at once.
const BLOCK: usize = 256 << 10;

/// A read that brought less than this is copied to a block of its own size.
const SMALL: usize = BLOCK / 8;

/// The peer's bytes make no sense as frames any more: there is no way to find the next one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "a frame of {len} bytes is announced, which nobody sends (limit {MAX_FRAME}): the peer is out of step; \
     are both ends set to the same vnet_hdr_support?"
)]
pub struct OutOfStep {
    /// What the length field says.
    pub len: u32,
}

/// What a stream brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FramingStats {
    /// Bytes that were read.
    pub bytes: u64,
    /// Frames that were cut out of them.
    pub frames: u64,
    /// Frames without a single byte, skipped.
    pub empty: u64,
    /// Frames longer than any can be, skipped.
    pub oversized: u64,
    /// Frames whose vnet header makes no sense, skipped.
    pub bad_vnet_headers: u64,
    /// Frames that a disconnect cut off.
    pub cut: u64,
    /// Times that a peer was out of step.
    pub out_of_step: u64,
}

/// Cuts one peer's byte stream into frames.
#[derive(Debug)]
pub struct Deframer {
    vnet: bool,
    /// Bytes that were read; `start..end` is not cut yet.
    block: Rc<[u8]>,
    start: usize,
    end: usize,
    /// Where the frames of the last read live: the block itself, or a copy of it from an offset on.
    source: Option<(Rc<[u8]>, usize)>,
    /// Bytes of a skipped frame that are yet to come.
    skip: usize,
    pool: Pool,
    stats: FramingStats,
    last_vnet_header: usize,
}

/// What the next bytes are.
enum Head {
    /// Not enough of them to say, or to be a frame.
    Incomplete,
    /// A frame of `total` bytes with its framing, `header` of them before the Ethernet header.
    Frame { total: usize, header: usize },
    /// So many bytes of nonsense.
    Skip(usize),
}

impl Deframer {
    /// For a peer whose frames have vnet headers, or not.
    pub fn new(vnet: bool) -> Self {
        let mut pool = Pool::new(BLOCK);
        Self {
            vnet,
            block: pool.take(),
            start: 0,
            end: 0,
            source: None,
            skip: 0,
            pool,
            stats: FramingStats::default(),
            last_vnet_header: 0,
        }
    }

    /// Where the next bytes are to be put. Empty only if a block full of frames was not taken out
    /// with [`next_frame`](Self::next_frame).
    pub fn space(&mut self) -> &mut [u8] {
        self.source = None;
        if Rc::get_mut(&mut self.block).is_none() {
            let mut fresh = self.pool.take();
            if let Some(head) = Rc::get_mut(&mut fresh) {
                head[..self.end - self.start].copy_from_slice(&self.block[self.start..self.end]);
            }
            self.pool.retire(std::mem::replace(&mut self.block, fresh));
            self.end -= self.start;
            self.start = 0;
        }
        let Some(block) = Rc::get_mut(&mut self.block) else { return &mut [] };
        if self.start > 0 {
            block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut block[self.end..]
    }

    /// So many bytes were put there.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.block.len());
        self.stats.bytes += count as u64;
    }

    /// The next frame, if one is complete.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<(WireFrame, Offload)>, OutOfStep> {
        loop {
            match self.head()? {
                Head::Incomplete => return Ok(None),
                Head::Skip(bytes) => self.skip_over(bytes),
                Head::Frame { total, header } => {
                    let offload = if self.vnet {
                        let vnet_header = &self.block[self.start + 2 * PREFIX..self.start + header];
                        let Ok(offload) = Offload::parse(vnet_header) else {
                            self.stats.bad_vnet_headers += 1;
                            self.start += total;
                            continue;
                        };
                        self.last_vnet_header = vnet_header.len();
                        offload
                    } else {
                        Offload::default()
                    };
                    self.stats.frames += 1;
                    let start = self.start;
                    self.start += total;
                    let (source, base) = self.source(start);
                    let frame = WireFrame::new(Rc::clone(source), start - base, total, header);
                    return Ok(Some((frame, offload)));
                }
            }
        }
    }

    fn skip_over(&mut self, bytes: usize) {
        let here = bytes.min(self.end - self.start);
        self.start += here;
        self.skip = bytes - here;
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.block[self.start..self.end].get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
    }

    #[inline]
    fn head(&mut self) -> Result<Head, OutOfStep> {
        if self.skip > 0 {
            let skip = self.skip;
            return Ok(if self.start == self.end { Head::Incomplete } else { Head::Skip(skip) });
        }
        let Some(word) = self.word(0) else { return Ok(Head::Incomplete) };
        let len = word as usize;
        if len > MAX_SKIP {
            self.stats.out_of_step += 1;
            return Err(OutOfStep { len: word });
        }
        let mut header = PREFIX;
        let mut vnet_header = 0;
        if self.vnet {
            let Some(word) = self.word(PREFIX) else { return Ok(Head::Incomplete) };
            header += PREFIX;
            vnet_header = word as usize;
        }
        let total = header + len;
        if len > MAX_FRAME {
            self.stats.oversized += 1;
            return Ok(Head::Skip(total));
        }
        if vnet_header > VNET_HDR_MAX || vnet_header > len {
            if len == 0 {
                self.stats.empty += 1;
            } else {
                self.stats.bad_vnet_headers += 1;
            }
            return Ok(Head::Skip(total));
        }
        if vnet_header == len {
            self.stats.empty += 1;
            return Ok(Head::Skip(total));
        }
        if total > self.end - self.start {
            return Ok(Head::Incomplete);
        }
        Ok(Head::Frame { total, header: header + vnet_header })
    }

    /// The block that frames of the last read are cut from, the first of them at `start`, and which
    /// of our offsets it begins at.
    #[inline]
    fn source(&mut self, start: usize) -> &(Rc<[u8]>, usize) {
        let (block, unparsed) = (&self.block, start..self.end);
        self.source.get_or_insert_with(|| {
            if unparsed.len() < SMALL {
                (Rc::from(&block[unparsed.clone()]), unparsed.start)
            } else {
                (Rc::clone(block), 0)
            }
        })
    }

    /// The peer is gone, and what it left unfinished with it.
    pub fn reset(&mut self) {
        if self.start < self.end || self.skip > 0 {
            self.stats.cut += 1;
        }
        (self.start, self.end, self.skip, self.source) = (0, 0, 0, None);
        // Frames may live in the block still; `space` finds out.
    }

    /// The counters.
    pub fn stats(&self) -> &FramingStats {
        &self.stats
    }

    /// The length of the vnet header of the last frame that had one; none without vnet headers.
    pub fn vnet_header(&self) -> Option<usize> {
        self.vnet.then_some(self.last_vnet_header)
    }

    /// How many blocks may be kept by frames.
    pub fn blocks(&self) -> usize {
        self.pool.len()
    }

    /// Frees blocks that no frame keeps.
    pub fn sweep(&mut self) {
        self.pool.sweep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Frame as _;
    use proptest::prelude::*;

    /// What the stream of `pieces` brings, and the error it ended with.
    fn cut(vnet: bool, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<OutOfStep>, FramingStats) {
        let mut deframer = Deframer::new(vnet);
        let mut frames = Vec::new();
        for piece in pieces {
            let mut piece = *piece;
            while !piece.is_empty() {
                let space = deframer.space();
                let count = space.len().min(piece.len());
                assert!(count > 0, "there is always room once all frames were taken");
                space[..count].copy_from_slice(&piece[..count]);
                deframer.filled(count);
                piece = &piece[count..];
                loop {
                    match deframer.next_frame() {
                        Ok(Some((frame, _))) => frames.push(frame),
                        Ok(None) => break,
                        Err(error) => {
                            return (frames.iter().map(wire).collect(), Some(error), deframer.stats);
                        }
                    }
                }
            }
        }
        (frames.iter().map(wire).collect(), None, deframer.stats)
    }

    fn wire(frame: &WireFrame) -> Vec<u8> {
        frame.wire().to_vec()
    }

    fn plain(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_be_bytes(), payload].concat()
    }

    fn vnet(header: &[u8], payload: &[u8]) -> Vec<u8> {
        let len = (header.len() + payload.len()) as u32;
        [&len.to_be_bytes(), &(header.len() as u32).to_be_bytes(), header, payload].concat()
    }

    #[test]
    fn frames_keep_their_framing() {
        let (frames, _, stats) = cut(false, &[&[plain(b"one"), plain(b"twoo")].concat()]);
        assert_eq!(frames, [plain(b"one"), plain(b"twoo")]);
        assert_eq!((stats.frames, stats.bytes), (2, 15));

        let mut deframer = Deframer::new(true);
        let bytes = vnet(&[1, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0], b"frame");
        deframer.space()[..bytes.len()].copy_from_slice(&bytes);
        deframer.filled(bytes.len());
        let (frame, offload) = deframer.next_frame().unwrap().unwrap();
        assert_eq!((frame.bytes(), frame.wire()), (b"frame".as_slice(), bytes.as_slice()));
        assert!(offload.partial_checksum);
        assert_eq!(deframer.vnet_header(), Some(12));
    }

    #[test]
    fn nonsense_of_a_known_length_is_counted_and_skipped() {
        let long = plain(&vec![7; MAX_FRAME + 1]);
        let (frames, error, stats) = cut(false, &[&[plain(b""), long, plain(b"x")].concat()]);
        assert_eq!((frames, error), (vec![plain(b"x")], None));
        assert_eq!((stats.empty, stats.oversized), (1, 1));

        let stream = [
            vnet(&[0; 10], b""),                      // nothing but a vnet header
            vnet(&[0; 21], b"abc"),                   // a header longer than any
            vnet(&[0; 9], b"abc"),                    // shorter than any
            vnet(&[0; 10][..], b"x"),                 // good
            vec![0, 0, 0, 2, 0, 0, 0, 3, b'a', b'b'], // longer than the frame
            vec![0, 0, 0, 0, 0, 0, 0, 9],             // of no frame
            vnet(&[], b"y"),
        ];
        let (frames, error, stats) = cut(true, &[&stream.concat()]);
        assert_eq!((frames, error), (vec![vnet(&[0; 10], b"x"), vnet(&[], b"y")], None));
        assert_eq!((stats.empty, stats.bad_vnet_headers), (2, 3));
    }

    #[test]
    fn a_length_beyond_all_measure_ends_it() {
        let (frames, error, stats) = cut(false, &[&plain(b"fine"), &[0xff; 8]]);
        assert_eq!(frames, [plain(b"fine")]);
        assert_eq!((error, stats.out_of_step), (Some(OutOfStep { len: u32::MAX }), 1));
    }

    #[test]
    fn a_cut_frame_is_forgotten_with_its_peer() {
        let mut deframer = Deframer::new(false);
        deframer.space()[..6].copy_from_slice(&[0, 0, 0, 9, 1, 2]);
        deframer.filled(6);
        assert_eq!(deframer.next_frame().map(|frame| frame.is_some()), Ok(false));
        deframer.reset();
        deframer.space()[..5].copy_from_slice(&plain(b"x"));
        deframer.filled(5);
        assert_eq!(deframer.next_frame().unwrap().map(|(frame, _)| wire(&frame)), Some(plain(b"x")));
        assert_eq!(deframer.stats().cut, 1);
    }

    #[test]
    fn a_trickle_of_held_frames_keeps_no_large_blocks() {
        let mut deframer = Deframer::new(false);
        let mut held = Vec::new();
        for _ in 0..100 {
            deframer.space()[..5].copy_from_slice(&plain(b"x"));
            deframer.filled(5);
            held.extend(deframer.next_frame().unwrap());
        }
        assert_eq!(deframer.blocks(), 0);
    }

    #[test]
    fn blocks_are_used_again() {
        let mut deframer = Deframer::new(false);
        let frame = plain(&[3; 1000]);
        let mut held = std::collections::VecDeque::new();
        for _ in 0..100 {
            let space = deframer.space();
            let count = space.len() / frame.len();
            space.chunks_exact_mut(frame.len()).for_each(|chunk| chunk.copy_from_slice(&frame));
            deframer.filled(count * frame.len());
            while let Some(frame) = deframer.next_frame().unwrap() {
                held.push_back(frame);
            }
            while held.len() > 2 * count {
                held.pop_front();
            }
        }
        assert!(deframer.blocks() <= 4, "{} blocks", deframer.blocks());
        held.clear();
        deframer.sweep();
        assert!(deframer.blocks() <= 4);
    }

    fn stream(vnet_headers: bool) -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![8 => 0..200usize, 1 => 60_000..75_000usize];
        let header = prop_oneof![Just(0usize), Just(10), Just(12), 0..24usize];
        let frame = (length, header, any::<u8>()).prop_map(move |(len, header, fill)| {
            let mut bytes = (len as u32).to_be_bytes().to_vec();
            if vnet_headers {
                bytes.extend((header as u32).to_be_bytes());
            }
            bytes.resize(bytes.len() + len, fill);
            bytes
        });
        proptest::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// However a stream is chopped up, the same frames come out of it.
        #[test]
        fn chunking_does_not_matter(
            (vnet, bytes) in any::<bool>().prop_flat_map(|vnet| (Just(vnet), stream(vnet))),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(cut(vnet, &pieces), cut(vnet, &[&bytes]));
        }

        /// No bytes at all make it panic, or hand out more than came in.
        #[test]
        fn any_bytes_are_survived(
            vnet in any::<bool>(),
            words in proptest::collection::vec(prop_oneof![0..30u32, any::<u32>()], 0..2000),
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let (frames, _, _) = cut(vnet, &[&bytes]);
            prop_assert!(frames.iter().map(Vec::len).sum::<usize>() <= bytes.len());
        }
    }
}
