//! Scattered memory as one run of bytes.

use crate::block::zero;
use std::io;
use vm_memory::VolatileSlice;

/// The buffers of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers<'a, 'b> {
    slices: &'b [VolatileSlice<'a>],
    len: usize,
}

impl<'a, 'b> Buffers<'a, 'b> {
    pub(super) fn new(slices: &'b [VolatileSlice<'a>]) -> Self {
        Self { slices, len: slices.iter().map(VolatileSlice::len).sum() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn slices(&self) -> &'b [VolatileSlice<'a>] {
        self.slices
    }

    /// A part of them, for an image below.
    pub(super) fn part(&self, at: usize, len: usize) -> io::Result<Vec<VolatileSlice<'a>>> {
        let (mut skip, mut left) = (at, len);
        let mut out = Vec::new();
        for slice in self.slices {
            if left == 0 {
                break;
            }
            let cut = skip.min(slice.len());
            skip -= cut;
            let piece = (slice.len() - cut).min(left);
            if piece > 0 {
                out.push(slice.subslice(cut, piece).map_err(io::Error::other)?);
                left -= piece;
            }
        }
        Ok(out)
    }

    /// A place in them.
    pub(super) fn cursor(&self, at: usize) -> Cursor<'a, 'b> {
        let mut cursor = Cursor { slices: self.slices, slice: 0, within: 0, at: 0 };
        cursor.skip(at);
        cursor
    }
}

/// A place in buffers, which moves on with what is copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a, 'b> {
    slices: &'b [VolatileSlice<'a>],
    slice: usize,
    within: usize,
    at: usize,
}

impl<'a> Cursor<'a, '_> {
    /// Has `act` done to the next `len` bytes, piece by piece: how far it is, and the memory.
    fn pieces(&mut self, len: usize, mut act: impl FnMut(usize, &VolatileSlice<'a>)) {
        let mut done = 0;
        while done < len
            && let Some(slice) = self.slices.get(self.slice)
        {
            let piece = (slice.len() - self.within).min(len - done);
            if let Ok(part) = slice.subslice(self.within, piece) {
                act(done, &part);
            }
            done += piece;
            self.within += piece;
            if self.within == slice.len() {
                (self.slice, self.within) = (self.slice + 1, 0);
            }
        }
        self.at += done;
    }

    fn skip(&mut self, len: usize) {
        self.pieces(len, |_, _| ());
    }

    /// Goes to a place: cheap if it is ahead.
    pub(super) fn seek(&mut self, at: usize) {
        if at < self.at {
            (self.slice, self.within, self.at) = (0, 0, 0);
        }
        self.skip(at - self.at);
    }

    /// Copies the next bytes out of the buffers.
    pub(super) fn take(&mut self, into: &mut [u8]) {
        self.pieces(into.len(), |done, part| {
            part.copy_to(&mut into[done..]);
        });
    }

    /// Copies bytes into the buffers.
    pub(super) fn put(&mut self, from: &[u8]) {
        self.pieces(from.len(), |done, part| part.copy_from(&from[done..]));
    }

    /// Puts zeros into the buffers.
    pub(super) fn zero(&mut self, len: usize) {
        self.pieces(len, |_, part| zero(std::slice::from_ref(part)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_memory_is_one_run_of_bytes() {
        let (mut one, mut two, mut none) = ([1, 2, 3], [4, 5, 6, 7], []);
        let slices = [&mut one[..], &mut none[..], &mut two[..]].map(VolatileSlice::from);
        let buffers = Buffers::new(&slices);
        assert_eq!(buffers.len(), 7);
        let mut cursor = buffers.cursor(2);
        let mut found = [0; 3];
        cursor.take(&mut found);
        assert_eq!(found, [3, 4, 5]);
        cursor.seek(1);
        cursor.put(&[9, 9, 9]);
        cursor.seek(6);
        cursor.zero(1);
        let lens: Vec<_> = buffers.part(1, 4).unwrap().iter().map(VolatileSlice::len).collect();
        assert_eq!(lens, [2, 2]);
        assert_eq!((one, two), ([1, 9, 9], [9, 5, 6, 0]));
    }
}
