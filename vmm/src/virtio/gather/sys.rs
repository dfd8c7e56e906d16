//! `readv` and `writev` on guest memory.
#![expect(
    unsafe_code,
    reason = "the kernel gets pointers into guest RAM; Gather sees to it that they are right"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::memory::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// A `struct iovec` that can go to another thread. Only [`Gather`](super::Gather) keeps any, with the RAM
/// (whose mappings never change) or the spill that they point to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Piece {
    base: usize,
    len: usize,
}

const _: () = assert!(size_of::<Piece>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<Piece>() == align_of::<libc::iovec>());

impl Piece {
    /// A part of RAM; none if it is not.
    pub(super) fn of_ram(ram: &GuestRam, address: u64, len: u32) -> Option<Self> {
        let slice = ram.get_slice(GuestAddress(address), len as usize).ok()?;
        Some(Self { base: slice.ptr_guard_mut().as_ptr().expose_provenance(), len: slice.len() })
    }

    /// Memory of ours.
    pub(super) fn of_spill(spill: &mut [u8]) -> Self {
        Self { base: spill.as_mut_ptr().expose_provenance(), len: spill.len() }
    }
}

/// Reads into pieces of memory.
pub(super) fn readv(fd: BorrowedFd<'_>, pieces: &[Piece]) -> io::Result<usize> {
    // SAFETY: a Piece has the layout of an iovec. Its memory is mapped: see `Piece`. RAM is never behind a
    // Rust reference, and the spill is borrowed exclusively by the caller.
    result(unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as i32) })
}

/// Writes from pieces of memory.
pub(super) fn writev(fd: BorrowedFd<'_>, pieces: &[Piece]) -> io::Result<usize> {
    // SAFETY: as for `readv`; the memory is only read.
    result(unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as i32) })
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
