//! Where the guest's memory is, and advice to the kernel about it.
#![expect(unsafe_code, reason = "mmap(2), munmap(2) and madvise(2) take addresses")]

use super::Written;
use std::ptr;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// The size of a huge page.
pub(super) const HUGE: usize = 2 << 20;

/// Asks for huge pages: fewer faults, and fewer steps of the CPU from guest to host addresses.
pub(super) fn prefer_huge_pages(region: &GuestRegionMmap<Written>) {
    // SAFETY: this is one mapping of ours in its full length, and the advice changes nothing in it. A
    // kernel without huge pages refuses, which is no harm.
    unsafe { libc::madvise(region.as_ptr().cast(), region.len() as usize, libc::MADV_HUGEPAGE) };
}

/// A gap between two mappings of ours, of one size, that begins at a huge page's edge: what is mapped while
/// this is there, at an address that the kernel chooses, falls into the gap.
///
/// KVM gives a guest huge pages only where both addresses of the memory, the guest's and ours, are at the same
/// place of one. Linux maps large regions so by itself since 6.7.
#[derive(Debug)]
pub(super) struct Gap([(usize, usize); 2]);

impl Gap {
    /// A gap of `size` bytes; none where the kernel gives no address space, which is no harm.
    pub(super) fn new(size: usize) -> Option<Self> {
        // A page at each end, so that nothing beside it makes it larger.
        let whole = size.checked_add(HUGE + 2 * PAGE)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping that nobody can access, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.expose_provenance();
        let first = (start + PAGE).next_multiple_of(HUGE);
        let last = first + size;
        unmap(first, size);
        Some(Self([(start, first - start), (last, start + whole - last)]))
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        for (start, len) in self.0 {
            unmap(start, len);
        }
    }
}

const PAGE: usize = 4096;

/// Gives back a part of what [`Gap::new`] mapped.
fn unmap(start: usize, len: usize) {
    // SAFETY: both callers are of `Gap`: the part is of its own mapping, is given back once, and nobody has
    // a reference to it, as it cannot be accessed.
    unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), len) };
}
