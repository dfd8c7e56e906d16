//! Memory that is there when it is touched, in huge pages where the host has them.
#![expect(unsafe_code, reason = "mmap(2), munmap(2) and madvise(2) take addresses")]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr::{self, NonNull};
use std::{io, slice};

/// Bytes of zeros, of which only those that were touched take memory.
#[derive(Debug)]
pub(super) struct Arena {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is this value's own, as a Vec's allocation is.
unsafe impl Send for Arena {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves addresses for `len` bytes.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(super::PAGE);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        // SAFETY: it is the mapping of above, and the advice changes nothing in it. A kernel without huge
        // pages refuses, which is no harm.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length, is readable, and anonymous memory is initialised with zeros.
        // Who can write has the only reference.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; `self` is borrowed for as long.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Gives back the memory from `from` on; zeros are there then.
    pub(super) fn give_back(&mut self, from: usize) {
        let from = from.next_multiple_of(super::PAGE);
        if let Some(len) = self.len.checked_sub(from).filter(|len| *len > 0) {
            // SAFETY: a part of the mapping, to which `self` has the only reference; anonymous memory reads as
            // zeros after, which is as initialised as before. A failure leaves all as it was.
            let _ = unsafe { madvise(self.start.as_ptr().add(from).cast(), len, Advice::LinuxDontNeed) };
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new` in its full length, which nobody refers to any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
