//! Makes a piece smaller: zero pages, differences, compression.
//!
//! ```text
//!   this epoch's capture ─┐  by address, side by side
//!   the epoch before's ───┴─► same page in both, and the secondary's guest has not written it?
//!                               yes ─► XOR ─► lz4 ─► DELTA      no ─► lz4 ─► LZ4, or PLAIN if that is no gain
//! ```
//!
//! The page of the epoch before is what the secondary has: it has loaded that epoch before this one is sent.

use super::records::{self, Content, DELTA, EOS, LZ4, PLAIN, Record, Records, ZERO};
use super::{Blocks, PAGE};
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use std::iter::{self, Peekable};

/// What is done to pages before they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Nothing: the copy goes out as it is.
    #[default]
    None,
    /// Zero pages are named and not sent.
    Zeros,
    /// And others are compressed.
    Lz4,
    /// And of pages that change again and again the difference is sent.
    Delta,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Pages that are all zeros.
    pub zero: usize,
    /// Pages as they are.
    pub plain: usize,
    /// Compressed pages.
    pub lz4: usize,
    /// Differences.
    pub delta: usize,
}

/// Packs pieces. It keeps its buffers.
#[derive(Debug)]
pub struct Packer {
    packing: Packing,
    out: Vec<u8>,
    compressed: Vec<u8>,
}

impl Packer {
    /// One that does this.
    pub fn new(packing: Packing) -> Self {
        Self { packing, out: Vec::new(), compressed: vec![0; get_maximum_output_size(PAGE)] }
    }

    /// What it does.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Packs `piece`, a whole one with plain pages in order. `base` are the pages that the secondary loaded before,
    /// if it has; the pieces of one capture take from it one after the other. `foreign` says which pages, by their
    /// address in the guest, are something else there now: those have no base.
    pub fn pack<'a, 'b>(
        &'a mut self,
        blocks: &Blocks,
        piece: &'a [u8],
        base: &mut Peekable<impl Iterator<Item = Record<'b>>>,
        foreign: impl Fn(u64) -> bool,
    ) -> (&'a [u8], Packed) {
        let mut packed = Packed::default();
        if self.packing == Packing::None {
            packed.plain = Records::new(blocks, piece).count();
            return (piece, packed);
        }
        self.repack(blocks, piece, base, foreign)
    }

    /// Packs a piece that has no base.
    pub fn pack_alone<'a>(&'a mut self, blocks: &Blocks, piece: &'a [u8]) -> (&'a [u8], Packed) {
        self.pack(blocks, piece, &mut iter::empty().peekable(), |_| true)
    }

    /// Packs a piece of the first transfer: most of a guest's memory are zeros.
    pub fn pack_first<'a>(&'a mut self, blocks: &Blocks, piece: &[u8]) -> (&'a [u8], Packed) {
        self.repack(blocks, piece, &mut iter::empty().peekable(), |_| true)
    }

    fn repack<'a, 'b>(
        &'a mut self,
        blocks: &Blocks,
        piece: &[u8],
        base: &mut Peekable<impl Iterator<Item = Record<'b>>>,
        foreign: impl Fn(u64) -> bool,
    ) -> (&'a [u8], Packed) {
        let mut packed = Packed::default();
        self.out.clear();
        let mut block = None;
        for record in Records::new(blocks, piece).flatten() {
            let Record { block: number, offset, content: Content::Plain(page) } = record else { continue };
            let place = (number, offset);
            let before = (self.packing == Packing::Delta).then_some(&mut *base).and_then(|base| {
                while base.next_if(|record| (record.block, record.offset) < place).is_some() {}
                base.next_if(|record| (record.block, record.offset) == place)
            });
            let address = blocks.get(number).map_or(0, |block| block.start) + offset;
            let before = match before.map(|record| record.content) {
                Some(Content::Plain(before)) if !foreign(address) => Some(before),
                _ => None,
            };
            let name = blocks.get(number).map(|block| block.name.as_str()).filter(|_| block != Some(number));
            block = Some(number);
            self.page(offset, name, page, before, &mut packed);
        }
        records::end(&mut self.out);
        debug_assert!(self.out.ends_with(&EOS.to_be_bytes()));
        (&self.out, packed)
    }

    fn page(
        &mut self,
        offset: u64,
        name: Option<&str>,
        page: &[u8; PAGE],
        before: Option<&[u8; PAGE]>,
        packed: &mut Packed,
    ) {
        if records::is_zero(page) {
            records::begin(&mut self.out, offset, ZERO, name);
            self.out.push(0);
            packed.zero += 1;
            return;
        }
        if matches!(self.packing, Packing::Lz4 | Packing::Delta) {
            let difference;
            let (flag, bytes, counter) = match before {
                Some(before) => {
                    difference = xor(page, before);
                    (DELTA, &difference, &mut packed.delta)
                }
                None => (LZ4, page, &mut packed.lz4),
            };
            // Room for the worst is there; what is no gain is sent as it is.
            if let Ok(len) = compress_into(bytes, &mut self.compressed)
                && len < PAGE * 7 / 8
            {
                records::begin(&mut self.out, offset, flag, name);
                self.out.extend((len as u16).to_be_bytes());
                self.out.extend(&self.compressed[..len]);
                *counter += 1;
                return;
            }
        }
        records::begin(&mut self.out, offset, PLAIN, name);
        self.out.extend(page);
        packed.plain += 1;
    }
}

/// A page that was compressed. It is checked that it is one.
pub(super) fn unpack(compressed: &[u8], page: &mut [u8; PAGE]) -> Result<(), String> {
    match decompress_into(compressed, page) {
        Ok(PAGE) => Ok(()),
        Ok(other) => Err(format!("it becomes {other} bytes")),
        Err(error) => Err(error.to_string()),
    }
}

/// What differs.
pub(super) fn xor(one: &[u8; PAGE], other: &[u8; PAGE]) -> [u8; PAGE] {
    let mut difference = *one;
    difference.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
    difference
}
