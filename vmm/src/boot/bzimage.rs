//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL").

use super::{
    BootError, CMDLINE, Entry, HIGH_MEMORY, initrd, low_end, memory_map, registers, size_of, write_cmdline,
};
use crate::memory::GuestRam;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use std::io::{Read, Seek};
use vm_memory::{Bytes, GuestAddress, ReadVolatile};

/// `struct boot_params`.
const ZERO_PAGE: u64 = 0x7000;
/// From where the kernel is loaded to its 64-bit entry.
const ENTRY_64: u64 = 0x200;
/// `xloadflags`: there is one.
const HAS_ENTRY_64: u16 = 1;
/// A boot loader that has no number.
const LOADER: u8 = 0xff;
/// The protocol that brought `xloadflags`, and all fields that are read here.
const PROTOCOL: u16 = 0x20c;
/// The longest command line before kernels said so themselves.
const OLD_CMDLINE: u32 = 255;

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
    let (size, low) = (size_of(kernel, "kernel")?, low_end(ram));
    // Before any of it is read: a file may have holes, and be larger than any memory.
    if size > low {
        return Err(BootError::KernelTooLarge { end: size, low });
    }
    let high = GuestAddress(HIGH_MEMORY);
    let loaded = BzImage::load(ram, Some(high), kernel, Some(high))?;
    let header = loaded.setup_header.ok_or(BootError::No64BitEntry)?;
    if header.version < PROTOCOL || header.xloadflags & HAS_ENTRY_64 == 0 {
        return Err(BootError::No64BitEntry);
    }
    // It unpacks itself to where it prefers to be, and needs this much there.
    let prefers = header.pref_address.max(HIGH_MEMORY);
    let end = prefers.saturating_add(u64::from(header.init_size)).max(loaded.kernel_end);
    if end > low {
        return Err(BootError::KernelTooLarge { end, low });
    }
    let reach = u64::from(header.initrd_addr_max).saturating_add(1).min(low);
    let initrd = initrd::load(ram, initrd, end, reach)?;
    let most = if header.cmdline_size == 0 { OLD_CMDLINE } else { header.cmdline_size };
    write_cmdline(ram, cmdline, (most as usize).min(MOST_CMDLINE))?;

    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    // Both are below 4 GiB, as low RAM is.
    params.hdr.ramdisk_image = initrd.start as u32;
    params.hdr.ramdisk_size = initrd.len as u32;
    let map = memory_map(ram);
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: range.start, size: range.len, r#type: range.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len().min(table.len()) as u8;
    ram.write_obj(params, GuestAddress(ZERO_PAGE))?;
    registers::write_page_tables(ram)?;
    Ok(Entry::Linux64 { rip: HIGH_MEMORY + ENTRY_64, zero_page: ZERO_PAGE })
}

/// Up to where conventional memory is free for it.
const MOST_CMDLINE: usize = 0x1_0000;
