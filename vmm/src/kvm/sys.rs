//! The calls to KVM that share memory, this process's with a guest and KVM's rings with this process; and those
//! whose argument is a union.
#![expect(
    unsafe_code,
    reason = "memory that the kernel, or a guest, reads and writes while we do; chips are unions"
)]

use super::chips::IoApicState;
use crate::memory::GuestRam;
use kvm_bindings::{
    KVM_DIRTY_LOG_PAGE_OFFSET, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_dirty_gfn,
    kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_irqchip, kvm_pic_state,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

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

/// A vCPU's ring of written pages, mapped. The mapping keeps the vCPU alive in KVM, whoever closes its handle.
#[derive(Debug)]
pub(super) struct RingMap {
    start: NonNull<kvm_dirty_gfn>,
    entries: usize,
    next: usize,
    /// Entries that were taken, and that KVM has not reset.
    used: usize,
}

// SAFETY: the mapping is reached through this struct alone, and is no thread's own.
unsafe impl Send for RingMap {}

/// What an entry is (linux/kvm.h): the kernel sets the first, and we both when we have taken it.
const DIRTY: u32 = 1 << 0;
const RESET: u32 = 1 << 1;

impl RingMap {
    /// Maps it. The VM has rings of so many entries.
    pub(super) fn new(vcpu: &VcpuFd, entries: u32) -> Result<Self, errno::Error> {
        let entries = entries as usize;
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * 4096;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses. It refuses what is no ring of its.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                entries * size_of::<kvm_dirty_gfn>(),
                access,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(start.cast::<kvm_dirty_gfn>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { start, entries, next: 0, used: 0 })
            }
            _ => Err(errno::Error::last()),
        }
    }

    /// Whether all entries were taken and none was reset: KVM, which keeps some, did not stop in time.
    pub(super) fn is_full(&self) -> bool {
        self.used >= self.entries
    }

    /// All entries that were taken have been reset.
    pub(super) fn was_reset(&mut self) {
        self.used = 0;
    }

    /// The entry of that number, which is less than `entries`, and its flags.
    fn entry(&self, number: usize) -> (*mut kvm_dirty_gfn, &AtomicU32) {
        // SAFETY: the entry is inside the mapping, which lasts as long as self.
        let entry = unsafe { self.start.as_ptr().add(number) };
        // SAFETY: the field is aligned, and both sides access it as an atomic.
        (entry, unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) })
    }

    /// Takes the next entry: a slot, and the number of a page in it.
    pub(super) fn take(&mut self) -> Option<(u32, u64)> {
        if self.is_full() {
            return None;
        }
        let (entry, flags) = self.entry(self.next);
        if flags.load(Ordering::Acquire) & (DIRTY | RESET) != DIRTY {
            return None;
        }
        // SAFETY: as above. The kernel wrote these before the flag, and writes again only after a reset.
        let taken = unsafe {
            ((&raw const (*entry).slot).read_volatile(), (&raw const (*entry).offset).read_volatile())
        };
        flags.store(DIRTY | RESET, Ordering::Release);
        self.next = (self.next + 1) % self.entries;
        self.used += 1;
        Some(taken)
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: our own mapping, in its full length, to which nobody has a reference.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.entries * size_of::<kvm_dirty_gfn>()) };
    }
}

/// Has KVM protect the pages of all entries that were taken. Gives how many these were.
pub(super) fn reset_rings(vm: &VmFd) -> Result<u32, errno::Error> {
    // SAFETY: takes no argument.
    u32::try_from(unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) }).map_err(|_| errno::Error::last())
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

/// `KVM_SET_DEVICE_ATTR`, `KVM_GET_DEVICE_ATTR` and `KVM_HAS_DEVICE_ATTR` (linux/kvm.h): `kvm-ioctls` has
/// them for vCPUs of other architectures.
const SET_ATTRIBUTE: libc::c_ulong = 0x4018_aee1;
const GET_ATTRIBUTE: libc::c_ulong = 0x4018_aee2;
const HAS_ATTRIBUTE: libc::c_ulong = 0x4018_aee3;

/// Calls with the attribute "offset of the time stamp counter", which is at `place`.
fn offset_attribute(fd: &VcpuFd, call: libc::c_ulong, place: &mut u64) -> Result<(), errno::Error> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(place).expose_provenance() as u64,
    };
    // SAFETY: the three calls read this struct, whose size is in their numbers; of what it points to they
    // read or write eight bytes, which are `place`'s.
    match unsafe { libc::ioctl(fd.as_raw_fd(), call, &raw const attribute) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

/// Whether KVM knows offsets of the time stamp counter (Linux 5.16).
pub(super) fn has_counter_offset(fd: &VcpuFd) -> bool {
    offset_attribute(fd, HAS_ATTRIBUTE, &mut 0).is_ok()
}

/// How much is added to the host's counter.
pub(crate) fn counter_offset(fd: &VcpuFd) -> Result<u64, errno::Error> {
    let mut offset = 0;
    offset_attribute(fd, GET_ATTRIBUTE, &mut offset)?;
    Ok(offset)
}

/// Sets that.
pub(crate) fn set_counter_offset(fd: &VcpuFd, mut offset: u64) -> Result<(), errno::Error> {
    offset_attribute(fd, SET_ATTRIBUTE, &mut offset)
}
