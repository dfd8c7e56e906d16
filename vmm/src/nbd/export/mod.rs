//! What is behind a name: the disk that a server shows.
//!
//! ```text
//!   Session ── read, write(tag), zero(tag), trim(tag), flush(tag), status ──► Export
//!                                                                              ├─ ImageExport: any disk image
//!                                                                              └─ others: whoever keeps epochs
//! ```

mod image;

pub use image::ImageExport;

use super::sum::Sum;
use super::wire::numbers::allocation;
use std::fmt;
use std::io;

/// The epoch that a request belongs to, modulo 2³², if the client speaks of epochs (context `colo:epoch`). Zero: it
/// belongs to none, and is for the disk itself.
pub type Tag = Option<u32>;

/// How zeros are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeroing {
    /// Whether the space may be let go.
    pub unmap: bool,
    /// Whether to refuse (`Unsupported`) where it is no faster than to write.
    pub fast: bool,
}

/// What is so of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// How long it is; not zero.
    pub len: u64,
    /// Whether it takes no space.
    pub hole: bool,
    /// Whether it reads as zeros.
    pub zero: bool,
}

impl Range {
    /// Space that holds bytes.
    pub fn data(len: u64) -> Self {
        Self { len, hole: false, zero: false }
    }

    /// No space, zeros.
    pub fn hole(len: u64) -> Self {
        Self { len, hole: true, zero: true }
    }

    pub(super) fn status(self) -> u32 {
        u32::from(self.hole) * allocation::HOLE + u32::from(self.zero) * allocation::ZERO
    }
}

/// A disk that is served. Offsets and lengths are any number of bytes, inside of it. Several connections may call
/// at once; the requests of one come one after the other, as they were sent.
///
/// An error is told to the client as the number that [`Errno::of`](super::Errno::of) makes of it, and its text.
pub trait Export: Send + Sync + fmt::Debug {
    /// In bytes.
    fn size(&self) -> u64;
    /// Whether it cannot be written.
    fn read_only(&self) -> bool;
    /// Reads.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes. The bytes are the session's: it lends them mutably, as some images have use for that.
    fn write(&self, tag: Tag, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes a range read as zeros.
    fn zero(&self, tag: Tag, offset: u64, len: u64, how: Zeroing) -> io::Result<()>;
    /// The bytes of a range do not matter any more.
    fn trim(&self, tag: Tag, offset: u64, len: u64) -> io::Result<()>;
    /// Makes stable what was written before.
    fn flush(&self, tag: Tag) -> io::Result<()>;
    /// Makes stable what was written to a range, at least.
    fn flush_range(&self, tag: Tag, _offset: u64, _len: u64) -> io::Result<()> {
        self.flush(tag)
    }
    /// What is so at the beginning of a range, and for how long: no longer than the range, at least one byte.
    fn status(&self, offset: u64, len: u64) -> io::Result<Range> {
        let _ = offset;
        Ok(Range::data(len))
    }
    /// Whether it knows what an epoch is: then `colo:epoch` is offered.
    fn epochs(&self) -> bool {
        false
    }
    /// What `colo:epoch` says of every block: the newest epoch that is stable on this disk, modulo 2³².
    fn stable_epoch(&self) -> u32 {
        0
    }
    /// Whether `colo:sum-0` to `colo:sum-3` are offered.
    fn sums(&self) -> bool {
        false
    }
    /// What a range comes to, of 64 KiB at most, as the session sees it.
    fn sum(&self, offset: u64, len: u64) -> io::Result<Sum> {
        let mut bytes = vec![0; len as usize];
        self.read(&mut bytes, offset)?;
        Ok(Sum::of(&bytes))
    }
    /// Whether a flush on one connection covers what was answered on every other.
    fn multi_conn(&self) -> bool {
        false
    }
}
