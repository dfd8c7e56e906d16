//! The PVH boot protocol: an ELF file with a note that gives a 32-bit entry (Xen's `docs/misc/pvh.pandoc`).

use super::{BootError, CMDLINE, Entry, HIGH_MEMORY, initrd, low_end, memory_map, write_cmdline};
use crate::memory::GuestRam;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use std::io::{Read, Seek};
use vm_memory::{Bytes, GuestAddress, ReadVolatile};

const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6100;
const MEMORY_MAP: u64 = 0x6200;
/// Linux's; the protocol has no limit of its own.
const MOST_CMDLINE: usize = 2047;
/// What Linux can reach for its initrd in 32-bit code.
const REACH: u64 = 1 << 31;

pub(super) fn load<K, I>(
    ram: &GuestRam,
    kernel: &mut K,
    initrd: Option<&mut I>,
    cmdline: &[u8],
    rsdp: u64,
) -> Result<Entry, BootError>
where
    K: Read + ReadVolatile + Seek,
    I: ReadVolatile + Seek,
{
    let loaded = Elf::load(ram, None, kernel, Some(GuestAddress(HIGH_MEMORY)))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };
    let low = low_end(ram);
    if loaded.kernel_end > low || entry.0 >= low {
        return Err(BootError::KernelTooLarge { end: loaded.kernel_end.max(entry.0), low });
    }
    let initrd = initrd::load(ram, initrd, loaded.kernel_end.max(HIGH_MEMORY), low.min(REACH))?;
    write_cmdline(ram, cmdline, MOST_CMDLINE)?;

    let map = memory_map(ram);
    for (index, range) in (0..).zip(&map) {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.len,
            type_: range.kind as u32,
            reserved: 0,
        };
        ram.write_obj(entry, GuestAddress(MEMORY_MAP + index * 24))?;
    }
    let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
    ram.write_obj(module, GuestAddress(MODULES))?;
    let has_initrd = initrd.len > 0;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(has_initrd),
        modlist_paddr: if has_initrd { MODULES } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    ram.write_obj(info, GuestAddress(START_INFO))?;
    Ok(Entry::Pvh { eip: entry.0 as u32, start_info: START_INFO as u32 })
}
