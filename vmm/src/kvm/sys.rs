//! The one call to KVM whose argument is an address of ours.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION lends this process's memory to a guest")]

use crate::memory::GuestRam;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::sync::Arc;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;

/// A VM with the memory that it runs on: the memory is unmapped after the VM has gone.
#[derive(Debug)]
pub(super) struct Mapped {
    // The order matters: fields are dropped from the top.
    vm: VmFd,
    ram: Arc<GuestRam>,
}

impl Mapped {
    /// Gives each region of `ram` to the guest, slot by slot.
    pub(super) fn new(vm: VmFd, ram: Arc<GuestRam>) -> Result<Self, errno::Error> {
        let mapped = Self { vm, ram };
        mapped.set_slots(0)?;
        Ok(mapped)
    }

    /// Whether KVM notes which pages of the guest's memory are written.
    pub(super) fn set_logging(&self, on: bool) -> Result<(), errno::Error> {
        self.set_slots(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    fn set_slots(&self, flags: u32) -> Result<(), errno::Error> {
        for (slot, region) in self.ram.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of ours of that size, and `ram` is kept until the VM is
            // closed. Who holds a vCPU holds its `Vm`, and so this.
            unsafe { self.vm.set_user_memory_region(region) }?;
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.vm
    }

    pub(super) fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}
