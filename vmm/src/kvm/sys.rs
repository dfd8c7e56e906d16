//! Calls to KVM whose argument is an address of ours, or a union.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION lends this process's memory; chips are unions")]

use super::chips::IoApicState;
use crate::memory::GuestRam;
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state,
    kvm_ioapic_state__bindgen_ty_1, kvm_irqchip, kvm_pic_state, kvm_userspace_memory_region,
};
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
        for (slot, region) in ram.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of ours of that size, and `ram` is kept until the VM is
            // closed. Who holds a vCPU holds its `Vm`, and so this.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        Ok(Self { vm, ram })
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.vm
    }

    pub(super) fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

/// An interrupt controller, by KVM's number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Controller {
    FirstPic = KVM_IRQCHIP_PIC_MASTER as isize,
    SecondPic = KVM_IRQCHIP_PIC_SLAVE as isize,
}

/// Reads a PIC.
pub(super) fn pic(fd: &VmFd, which: Controller) -> Result<kvm_pic_state, errno::Error> {
    let mut chip = kvm_irqchip { chip_id: which as u32, ..Default::default() };
    fd.get_irqchip(&mut chip)?;
    // SAFETY: the chip that was asked for is a PIC, so that is the member that KVM wrote; all are plain bytes.
    Ok(unsafe { chip.chip.pic })
}

/// Sets a PIC.
pub(super) fn set_pic(fd: &VmFd, which: Controller, pic: &kvm_pic_state) -> Result<(), errno::Error> {
    let mut chip = kvm_irqchip { chip_id: which as u32, ..Default::default() };
    chip.chip.pic = *pic;
    fd.set_irqchip(&chip)
}

/// Reads the I/O APIC.
pub(super) fn io_apic(fd: &VmFd) -> Result<IoApicState, errno::Error> {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    fd.get_irqchip(&mut chip)?;
    // SAFETY: the chip that was asked for is the I/O APIC, so that is the member that KVM wrote.
    let io_apic = unsafe { chip.chip.ioapic };
    Ok(IoApicState {
        base_address: io_apic.base_address,
        register_select: io_apic.ioregsel,
        id: io_apic.id,
        requests: io_apic.irr,
        // SAFETY: both members of an entry are its 64 bits.
        redirections: io_apic.redirtbl.map(|entry| unsafe { entry.bits }),
    })
}

/// Sets the I/O APIC.
pub(super) fn set_io_apic(fd: &VmFd, state: &IoApicState) -> Result<(), errno::Error> {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    chip.chip.ioapic = kvm_ioapic_state {
        base_address: state.base_address,
        ioregsel: state.register_select,
        id: state.id,
        irr: state.requests,
        pad: 0,
        redirtbl: state.redirections.map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits }),
    };
    fd.set_irqchip(&chip)
}
