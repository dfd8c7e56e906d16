//! Memory for a guest of 18 bytes.
#![expect(unsafe_code, reason = "KVM is given memory of this process")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const PAGE: usize = 4096;

/// Gives a VM one page with this program at its start, for as long as this process lives.
pub(super) fn give_page(vm: &VmFd, address: u64, program: &[u8]) {
    assert!(program.len() <= PAGE);
    // SAFETY: a new private mapping, at an address that the kernel chooses. It is never unmapped.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }
    .unwrap();
    // SAFETY: the page is as large as asserted, mapped writable, and nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(program.as_ptr(), page.cast::<u8>(), program.len()) };
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: address,
        memory_size: PAGE as u64,
        userspace_addr: page as u64,
    };
    // SAFETY: the region is the mapping above, which lives as long as the process.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
}
