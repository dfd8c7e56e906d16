//! A frame with what it came in, and the blocks of memory that frames live in.
//!
//! ```text
//!   block   ┌─────┬─────────┬─────┬─────────┬─────┬─────────┬───────────┐
//!           │ len │ frame 1 │ len │ frame 2 │ len │ frame 3 │ (unused)  │
//!           └─────┴─────────┴─────┴─────────┴─────┴─────────┴───────────┘
//!             ▲ one handle each: which block, from where, how long
//! ```
//!
//! A frame keeps the length prefix (on a socket) or the vnet header (on a tap) that it came with,
//! because it leaves with the very same one: releasing it costs no byte copied, and frames that lie
//! side by side leave as one stretch of memory.
//!
//! Blocks are shared by a plain (not an atomic) count: a comparer is one thread. A block that has
//! handles is never written to again; a frame that must be rewritten moves to a block of its own.

use crate::engine;
use std::rc::Rc;

/// The length field that every frame starts with.
pub(crate) const PREFIX: usize = 4;

/// A frame with the framing around it.
#[derive(Clone, Debug)]
pub struct WireFrame {
    block: Rc<[u8]>,
    start: u32,
    len: u32,
    /// Where the Ethernet header begins: after the length fields and the vnet header.
    header: u32,
}

impl WireFrame {
    /// The `len` bytes at `start` of a block, of which `header` come before the Ethernet header.
    pub(crate) fn new(block: Rc<[u8]>, start: usize, len: usize, header: usize) -> Self {
        debug_assert!(header <= len && start + len <= block.len(), "a frame lies inside its block");
        Self { block, start: start as u32, len: len as u32, header: header as u32 }
    }

    /// Frames Ethernet bytes of our own, behind a vnet header of zeros if there is to be one.
    pub fn made(ethernet: &[u8], vnet_header: Option<usize>) -> Self {
        let zeros = vnet_header.unwrap_or(0);
        let header = PREFIX + vnet_header.map_or(0, |zeros| PREFIX + zeros);
        let mut bytes = Vec::with_capacity(header + ethernet.len());
        bytes.extend_from_slice(&((zeros + ethernet.len()) as u32).to_be_bytes());
        if vnet_header.is_some() {
            bytes.extend_from_slice(&(zeros as u32).to_be_bytes());
            bytes.resize(header, 0);
        }
        bytes.extend_from_slice(ethernet);
        let len = bytes.len();
        Self::new(bytes.into(), 0, len, header)
    }

    /// The same behind a header of another kind.
    pub(crate) fn behind(header: &[u8], ethernet: &[u8]) -> Self {
        Self::new([header, ethernet].concat().into(), 0, header.len() + ethernet.len(), header.len())
    }

    /// All of it, framing included.
    pub fn wire(&self) -> &[u8] {
        let start = self.start as usize;
        &self.block[start..start + self.len as usize]
    }

    /// Copies the frame to a block of its own if it keeps a much larger one alive.
    pub fn shrink(&mut self) {
        if self.block.len() > 2 * self.len as usize {
            self.detach();
        }
    }

    /// Cuts it in two, framing included in both; see [`engine::Frame::cut`]. Lengths that the framing
    /// has stay as they are.
    pub(crate) fn cut_behind(&mut self, header: usize, at: usize) -> Option<Self> {
        let own = self.header as usize;
        let wire = self.wire();
        let rest = [wire.get(..own + header)?, wire.get(own + at..)?].concat();
        let len = rest.len();
        self.len = (own + at) as u32;
        Some(Self::new(rest.into(), 0, len, own))
    }

    fn detach(&mut self) {
        self.block = Rc::from(self.wire());
        self.start = 0;
    }

    /// Lowers the length field that a frame on a socket starts with.
    fn shorten_prefix(&mut self, by: u32) {
        if Rc::get_mut(&mut self.block).is_none() {
            self.detach();
        }
        let start = self.start as usize;
        let block = Rc::get_mut(&mut self.block);
        if let Some(field) = block.and_then(|block| block.get_mut(start..)?.first_chunk_mut::<PREFIX>()) {
            *field = u32::from_be_bytes(*field).saturating_sub(by).to_be_bytes();
        }
    }

    /// Takes the handle apart: block, start, length.
    pub(crate) fn into_parts(self) -> (Rc<[u8]>, u32, u32) {
        (self.block, self.start, self.len)
    }
}

impl engine::Frame for WireFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.wire()[self.header as usize..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        if Rc::get_mut(&mut self.block).is_none() {
            self.detach();
        }
        let range = (self.start + self.header) as usize..(self.start + self.len) as usize;
        // A block that was just made has one handle.
        Rc::get_mut(&mut self.block).and_then(|block| block.get_mut(range)).unwrap_or_default()
    }

    fn cut(&mut self, header: usize, at: usize) -> Option<Self> {
        let whole = self.len;
        let mut rest = self.cut_behind(header, at)?;
        self.shorten_prefix(whole - self.len);
        rest.shorten_prefix(whole - rest.len);
        Some(rest)
    }
}

/// A block of `len` zeros.
fn zeros(len: usize) -> Rc<[u8]> {
    std::iter::repeat_n(0, len).collect()
}

/// Blocks of one size that are used again once no frame lives in them.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    /// Blocks that were in use, and may still be.
    used: Vec<Rc<[u8]>>,
}

impl Pool {
    /// Blocks that are remembered. One more that is retired frees itself with its last frame.
    const MAX: usize = 128;
    /// Free blocks that are kept.
    const SPARE: usize = 4;

    pub(crate) fn new(size: usize) -> Self {
        Self { size, used: Vec::new() }
    }

    /// A block without handles; its content is arbitrary.
    pub(crate) fn take(&mut self) -> Rc<[u8]> {
        // The one retired last is the one most likely to be in the CPU's cache still.
        match self.used.iter_mut().rposition(|block| Rc::get_mut(block).is_some()) {
            Some(index) => self.used.swap_remove(index),
            None => zeros(self.size),
        }
    }

    /// Puts a block back, whether or not frames live in it still.
    pub(crate) fn retire(&mut self, block: Rc<[u8]>) {
        if self.used.len() < Self::MAX {
            self.used.push(block);
        }
    }

    /// How many blocks are remembered. After [`sweep`](Self::sweep): how many are in use.
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }

    /// Frees what no frame needs, but for a few.
    pub(crate) fn sweep(&mut self) {
        let mut spare = Self::SPARE;
        self.used.retain_mut(|block| {
            if Rc::get_mut(block).is_none() {
                return true;
            }
            let kept = spare > 0;
            spare -= usize::from(kept);
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Frame as _;

    #[test]
    fn a_frame_shows_its_ethernet_part_and_keeps_its_framing() {
        let block: Rc<[u8]> = b"..\0\0\0\x05hello...".as_slice().into();
        let frame = WireFrame::new(block, 2, 9, 4);
        assert_eq!((frame.bytes(), frame.wire()), (b"hello".as_slice(), b"\0\0\0\x05hello".as_slice()));
    }

    #[test]
    fn rewriting_a_frame_leaves_its_neighbours_alone() {
        let block: Rc<[u8]> = b"\0\0\0\x02ab\0\0\0\x02cd".as_slice().into();
        let mut first = WireFrame::new(Rc::clone(&block), 0, 6, 4);
        let second = WireFrame::new(block, 6, 6, 4);
        first.bytes_mut()[0] = b'X';
        assert_eq!((first.bytes(), second.bytes()), (b"Xb".as_slice(), b"cd".as_slice()));
        let own = Rc::as_ptr(&first.block);
        first.bytes_mut()[1] = b'Y';
        assert_eq!((first.bytes(), Rc::as_ptr(&first.block)), (b"XY".as_slice(), own), "no second copy");
    }

    #[test]
    fn a_small_frame_lets_go_of_a_large_block() {
        let block: Rc<[u8]> = zeros(4096);
        let mut small = WireFrame::new(Rc::clone(&block), 100, 64, 4);
        let mut large = WireFrame::new(Rc::clone(&block), 200, 3000, 4);
        small.shrink();
        large.shrink();
        assert_eq!((small.block.len(), small.wire().len()), (64, 64));
        assert_eq!(Rc::strong_count(&block), 2);
        drop(large);
    }

    #[test]
    fn a_frame_of_our_own_is_framed_as_its_flow_is() {
        assert_eq!(WireFrame::made(b"ack", None).wire(), b"\0\0\0\x03ack");
        assert_eq!(WireFrame::made(b"ack", Some(0)).wire(), b"\0\0\0\x03\0\0\0\0ack");
        let with_header = WireFrame::made(b"ack", Some(12));
        assert_eq!(with_header.wire(), [b"\0\0\0\x0f\0\0\0\x0c".as_slice(), &[0; 12], b"ack"].concat());
        assert_eq!(with_header.bytes(), b"ack");
    }

    #[test]
    fn a_frame_that_is_cut_is_framed_twice() {
        for vnet in [None, Some(12)] {
            let mut first = WireFrame::made(b"headPAYLOADpayload", vnet);
            let rest = first.cut(4, 11).unwrap();
            assert_eq!(first.wire(), WireFrame::made(b"headPAYLOAD", vnet).wire());
            assert_eq!(rest.wire(), WireFrame::made(b"headpayload", vnet).wire());
            assert!(first.cut(4, 100).is_none());
            assert_eq!(first.bytes(), b"headPAYLOAD");
        }
    }

    #[test]
    fn a_pool_hands_a_block_out_again_only_when_no_frame_lives_in_it() {
        let mut pool = Pool::new(8);
        let block = pool.take();
        let (address, frame) = (Rc::as_ptr(&block), WireFrame::new(Rc::clone(&block), 0, 8, 4));
        pool.retire(block);
        assert!(!std::ptr::eq(Rc::as_ptr(&pool.take()), address));
        drop(frame);
        assert!(std::ptr::eq(Rc::as_ptr(&pool.take()), address));
    }
}
