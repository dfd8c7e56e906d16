//! Disk images, and what moves their bytes.
//!
//! ```text
//!   virtio-blk ──► Image ── find ──► Place::File ──────────► Engine (io_uring, or threads) ──► the file
//!                    │               Place::Zeroes ────────► the guest's buffer is filled
//!                    │               Place::Elsewhere ─┐
//!                    ├─ read, write, discard … ◄───────┘  on the caller's thread
//!                    │
//!         Raw ── a file or a block device
//!         Qcow2 ── over an image (its file), and over another (its backing image)
//!         overlays ── over any image
//! ```
//!
//! An image says *where* a range is; most of them then need nothing but the kernel, with as many requests
//! in flight as the guest has. What needs more (allocation, decompression, a copy before a write) the
//! image does itself. Images compose, since a place found in an image below is as good as one's own.

pub mod engine;
pub mod follow;
pub mod lock;
mod open;
pub mod qcow2;
pub mod raw;
mod sys;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use vm_memory::VolatileSlice;

pub use open::{OpenError, Options, open};

/// How an image is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The guest's bytes, and nothing else.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// What a place is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To overwrite all of it.
    Write,
}

/// Where a range of an image is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file, in one piece. A read that ends early has met the end of the file: the rest is zeros.
    File {
        /// The file.
        file: Arc<File>,
        /// Where in it.
        offset: u64,
    },
    /// Nowhere; it reads as zeros.
    Zeroes,
    /// Where only [`Image::read`] and [`Image::write`] get at it.
    Elsewhere,
}

/// A disk, as the guest sees it.
///
/// Calls may come from any thread, several at once. Nothing that stands in a file may make one panic, or
/// take time or memory that the range does not explain.
pub trait Image: Send + Sync + fmt::Debug {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// Whether it cannot be written.
    fn read_only(&self) -> bool;
    /// How it is laid out.
    fn format(&self) -> Format;
    /// What offsets, lengths and buffers have to be multiples of for a [`Place::File`], a power of two.
    fn alignment(&self) -> u32;
    /// Where the first bytes of a range are, and how many of them (at least one).
    fn find(&self, offset: u64, len: u64, access: Access) -> io::Result<(Place, u64)>;
    /// Whether a place that was found can become another's: then nothing may be in flight there during
    /// [`discard`](Self::discard) and [`write_zeroes`](Self::write_zeroes), and one thread alone may find.
    fn moves(&self) -> bool;
    /// Reads; what is beyond the end reads as zeros.
    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes.
    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Hands what is still in memory to the file. When that file is synced, everything is stable that was
    /// written before.
    fn settle(&self) -> io::Result<Option<Arc<File>>>;
    /// Makes everything stable that was written before.
    fn flush(&self) -> io::Result<()> {
        self.settle()?.map_or(Ok(()), |file| file.sync_data())
    }
    /// Its bytes do not matter any more. A hint: an image may keep them.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes a range read as zeros; `unmap` lets the space go.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
    /// Makes it at least so large, and never smaller. A file under a format grows by this.
    fn grow(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Reads into plain memory.
pub fn read_at(image: &dyn Image, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    image.read(&[VolatileSlice::from(buffer)], offset)
}

/// Writes from plain memory. It is lent mutably since a volatile slice could be written.
pub fn write_at(image: &dyn Image, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    image.write(&[VolatileSlice::from(buffer)], offset)
}

/// A slice of guest memory without its bitmap: who reads into it marks by hand.
pub fn plain<'a, B: vm_memory::bitmap::BitmapSlice>(slice: &VolatileSlice<'a, B>) -> VolatileSlice<'a> {
    sys::plain(slice)
}

/// Fills buffers with zeros.
pub(crate) fn zero(buffers: &[VolatileSlice<'_>]) {
    sys::zero(buffers);
}

/// Whether a range is inside of an image.
pub(crate) fn inside(image: &dyn Image, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= image.size() => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len} bytes at {offset} are beyond the image's end at {}", image.size()),
        )),
    }
}

/// The descriptor of an event, to wait for.
pub(crate) fn event_fd(event: &vmm_sys_util::eventfd::EventFd) -> std::os::fd::BorrowedFd<'_> {
    sys::event(event)
}

/// What Linux calls a guest's disk of this number, from 0: `vda`, after `vdz` comes `vdaa`.
pub fn guest_name(number: usize) -> String {
    let letter = |digit: usize| char::from(b'a' + (digit % 26) as u8);
    match number.checked_sub(26) {
        None => format!("vd{}", letter(number)),
        Some(rest) => format!("vd{}{}", letter(rest / 26), letter(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_called_as_the_guest_calls_them() {
        assert_eq!([0, 25, 26, 27].map(guest_name), ["vda", "vdz", "vdaa", "vdab"]);
    }
}
