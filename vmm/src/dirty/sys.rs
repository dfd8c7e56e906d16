//! KVM's calls for its log of written pages, which `kvm-ioctls` lacks or answers with a new allocation.
#![expect(unsafe_code, reason = "ioctls that take addresses of our buffers")]

use crate::kvm::Vm;
use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// Pages in a word.
const BITS: u64 = u64::BITS as u64;

/// Reads the log of a region into `words`, one bit for each of its pages. The log stays as it is.
pub(super) fn get_log(vm: &Vm, region: usize, words: &mut [u64]) -> Result<(), errno::Error> {
    if pages(vm, region).div_ceil(BITS) != words.len() as u64 {
        return Err(errno::Error::new(libc::EINVAL));
    }
    let log = kvm_dirty_log {
        slot: region as u32,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_mut_ptr().cast() },
    };
    // SAFETY: the VM has a slot for each region, of that number and size (see `kvm::Vm`); KVM writes a bit
    // for each page of the slot, in whole words, which is what the buffer has room for.
    result(unsafe { ioctl_with_ref(vm.fd(), KVM_GET_DIRTY_LOG(), &log) })
}

/// Clears pages of a region in its log, and protects them: those whose bits are set in `words`, the first of
/// which stands for the 64 pages from `first * 64` on.
pub(super) fn clear_log(vm: &Vm, region: usize, first: usize, words: &[u64]) -> Result<(), errno::Error> {
    let first_page = first as u64 * BITS;
    let left = pages(vm, region).saturating_sub(first_page);
    if words.len() as u64 > left.div_ceil(BITS) {
        return Err(errno::Error::new(libc::EINVAL));
    }
    let num_pages =
        u32::try_from(left.min(words.len() as u64 * BITS)).map_err(|_| errno::Error::new(libc::E2BIG))?;
    let log = kvm_clear_dirty_log {
        slot: region as u32,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: KVM reads a bit for each of these pages, in whole words, all of which the buffer has; it
    // does not write there.
    result(unsafe { ioctl_with_ref(vm.fd(), KVM_CLEAR_DIRTY_LOG(), &log) })
}

fn pages(vm: &Vm, region: usize) -> u64 {
    vm.ram().iter().nth(region).map_or(0, |region| region.len().div_ceil(super::PAGE))
}

fn result(code: i32) -> Result<(), errno::Error> {
    if code < 0 { Err(errno::Error::last()) } else { Ok(()) }
}
