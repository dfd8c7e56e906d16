//! Bytes of a staging memory, as a slice.
#![expect(unsafe_code, reason = "memory that the kernel also reads is only had by its address")]

use super::staging::Held;
use crate::memory::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// The bytes that `held` owns, which are these of `ram`.
pub(super) fn bytes<'a>(_held: &'a Held, ram: &'a GuestRam, at: usize, len: usize) -> &'a [u8] {
    let Ok(slice) = ram.get_slice(GuestAddress(at as u64), len) else { return &[] };
    // SAFETY: the range was just found to be mapped, and `ram` keeps it so. It was written before `held` was
    // made, and nobody writes there as long as that lives: the ring gives the place to nobody else, and images
    // only read from it.
    unsafe { std::slice::from_raw_parts(slice.ptr_guard().as_ptr(), len) }
}
