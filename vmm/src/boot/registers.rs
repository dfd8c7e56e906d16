//! The registers that a boot protocol wants, and the tables that they point to.

use super::BootError;
use crate::kvm::Error as KvmError;
use crate::memory::GuestRam;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

const GDT: u64 = 0x500;
const STACK: u64 = 0x6ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const DIRECTORIES: u64 = 0xb000;
/// So many GiB are mapped as they are: all that is below 4 GiB, where kernel, initrd and tables are.
const GIBIBYTES: u64 = 4;

const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// A bit of the flags that is always set.
const FLAGS: u64 = 1 << 1;

/// Where the first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit code, with the address of `struct boot_params`.
    Linux64 {
        /// The first instruction.
        rip: u64,
        /// `struct boot_params`.
        zero_page: u64,
    },
    /// 32-bit code without paging, with the address of `struct hvm_start_info`.
    Pvh {
        /// The first instruction.
        eip: u32,
        /// `struct hvm_start_info`.
        start_info: u32,
    },
}

impl Entry {
    /// Sets a vCPU's registers to it.
    pub fn set(&self, ram: &GuestRam, fd: &VcpuFd) -> Result<(), BootError> {
        let mut sregs = fd.get_sregs().map_err(KvmError::call("a vCPU's registers"))?;
        let regs = self.prepare(ram, &mut sregs)?;
        fd.set_sregs(&sregs).map_err(KvmError::call("a vCPU's registers for boot"))?;
        Ok(fd.set_regs(&regs).map_err(KvmError::call("a vCPU's registers for boot"))?)
    }

    /// Changes registers to what it wants, and writes the table that they point to.
    pub fn prepare(&self, ram: &GuestRam, sregs: &mut kvm_sregs) -> Result<kvm_regs, BootError> {
        let regs = match *self {
            Self::Linux64 { rip, zero_page } => {
                long_mode(sregs);
                kvm_regs { rip, rsi: zero_page, rsp: STACK, rflags: FLAGS, ..Default::default() }
            }
            Self::Pvh { eip, start_info } => {
                protected_mode(sregs);
                kvm_regs { rip: eip.into(), rbx: start_info.into(), rflags: FLAGS, ..Default::default() }
            }
        };
        for (slot, segment) in (0..).zip([None, None, Some(&sregs.cs), Some(&sregs.ds), Some(&sregs.tr)]) {
            ram.write_obj(segment.map_or(0, descriptor), GuestAddress(GDT + slot * 8))?;
        }
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 5 * 8 - 1);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        Ok(regs)
    }
}

/// Maps the addresses below 4 GiB to themselves, in pages of 2 MiB.
pub(super) fn write_page_tables(ram: &GuestRam) -> Result<(), BootError> {
    const PRESENT: u64 = 1 << 0;
    const WRITABLE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
    ram.write_obj(PDPT | PRESENT | WRITABLE, GuestAddress(PML4))?;
    for gibibyte in 0..GIBIBYTES {
        let directory = DIRECTORIES + gibibyte * 4096;
        ram.write_obj(directory | PRESENT | WRITABLE, GuestAddress(PDPT + gibibyte * 8))?;
        let mut entries = [0_u8; 4096];
        for (page, entry) in (gibibyte * 512..).zip(entries.chunks_exact_mut(8)) {
            entry.copy_from_slice(&(page << 21 | PRESENT | WRITABLE | LARGE).to_le_bytes());
        }
        ram.write_slice(&entries, GuestAddress(directory))?;
    }
    Ok(())
}

/// A segment of everything.
fn flat(slot: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: slot * 8,
        type_,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn segments(sregs: &mut kvm_sregs, code: kvm_segment) {
    // Read, write, accessed.
    let data = kvm_segment { db: 1, ..flat(3, 3) };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy task state, of which nothing is ever used.
    sregs.tr = kvm_segment { limit: 0x67, s: 0, g: 0, ..flat(4, 0xb) };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

fn long_mode(sregs: &mut kvm_sregs) {
    // Execute, read, accessed; 64-bit.
    segments(sregs, kvm_segment { l: 1, ..flat(2, 0xb) });
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
    sregs.efer = EFER_LONG_MODE;
}

fn protected_mode(sregs: &mut kvm_sregs) {
    segments(sregs, kvm_segment { db: 1, ..flat(2, 0xb) });
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
}

/// A segment as the GDT has it (Intel SDM 3A §3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let flag = |value: u8, at: u32| u64::from(value & 1) << at;
    limit & 0xffff
        | (limit >> 16 & 0xf) << 48
        | (segment.base & 0xff_ffff) << 16
        | (segment.base >> 24 & 0xff) << 56
        | u64::from(segment.type_ & 0xf) << 40
        | flag(segment.s, 44)
        | u64::from(segment.dpl & 3) << 45
        | flag(segment.present, 47)
        | flag(segment.avl, 52)
        | flag(segment.l, 53)
        | flag(segment.db, 54)
        | flag(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_that_everyone_uses() {
        let mut sregs = kvm_sregs::default();
        long_mode(&mut sregs);
        assert_eq!(descriptor(&sregs.cs), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&sregs.ds), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&sregs.tr), 0x0000_8b00_0000_0067);
        protected_mode(&mut sregs);
        assert_eq!(descriptor(&sregs.cs), 0x00cf_9b00_0000_ffff);
    }
}
