//! Advice to the kernel about the guest's memory.
#![expect(unsafe_code, reason = "madvise(2) takes addresses")]

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// Asks for huge pages: fewer faults, and fewer steps of the CPU from guest to host addresses.
pub(super) fn prefer_huge_pages(region: &GuestRegionMmap<AtomicBitmap>) {
    // SAFETY: this is one mapping of ours in its full length, and the advice changes nothing in it. A
    // kernel without huge pages refuses, which is no harm.
    unsafe { libc::madvise(region.as_ptr().cast(), region.len() as usize, libc::MADV_HUGEPAGE) };
}
