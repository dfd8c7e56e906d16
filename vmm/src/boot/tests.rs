//! Kernels that were never built by a compiler.

use super::*;
use crate::memory::{self, layout};
use linux_loader::loader::bootparam::{boot_params, setup_header};
use proptest::prelude::*;
use std::io::Cursor;
use vm_memory::ByteValued;

const RSDP: u64 = layout::ACPI;
const NO_INITRD: Option<&mut Cursor<Vec<u8>>> = None;

/// A bzImage of a header and 1000 bytes of 0x90.
fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: 1,
        code32_start: 0x10_0000,
        xloadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x20_0000,
        ..Default::default()
    };
    change(&mut header);
    let mut file = vec![0; 1024];
    file[0x1f1..][..std::mem::size_of::<setup_header>()].copy_from_slice(header.as_slice());
    file.resize(1024 + 1000, 0x90);
    file
}

fn ram() -> GuestRam {
    memory::new(64 << 20).unwrap()
}

fn load_bytes(
    ram: &GuestRam,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    cmdline: &[u8],
) -> Result<Entry, BootError> {
    load(ram, &mut Cursor::new(kernel), initrd.map(Cursor::new).as_mut(), cmdline, RSDP)
}

#[test]
fn a_bzimage_finds_all_that_it_is_told_of() {
    let ram = ram();
    let initrd: Vec<u8> = (0..5000).map(|n| n as u8).collect();
    let entry = load_bytes(&ram, bzimage(|_| {}), Some(initrd.clone()), b"console=ttyS0").unwrap();
    let Entry::Linux64 { rip, zero_page } = entry else { panic!("{entry:?}") };
    assert_eq!(rip, 0x10_0200);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x10_0000 + 999)).unwrap(), 0x90);
    let params: boot_params = ram.read_obj(GuestAddress(zero_page)).unwrap();
    let (start, len) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!(u64::from(start), (64 << 20) - 8192, "at the top of memory");
    let mut found = vec![0; len as usize];
    ram.read_slice(&mut found, GuestAddress(start.into())).unwrap();
    assert_eq!(found, initrd);
    let mut text = [0; 14];
    ram.read_slice(&mut text, GuestAddress(u64::from(params.hdr.cmd_line_ptr))).unwrap();
    assert_eq!(&text, b"console=ttyS0\0");
    assert_eq!({ params.acpi_rsdp_addr }, RSDP);
    let usable: u64 = params.e820_table[..usize::from(params.e820_entries)]
        .iter()
        .filter(|entry| { entry.r#type } == 1)
        .map(|entry| entry.size)
        .sum();
    assert_eq!(usable, (64 << 20) - (layout::ACPI_END - layout::CONVENTIONAL_END));
}

#[test]
fn the_map_has_no_overlap_and_all_memory() {
    for size in [2 << 20, 512 << 20, layout::HOLE, layout::HOLE + (1 << 30)] {
        let map = memory_map(&memory::new(size).unwrap());
        let mut sorted = map.clone();
        sorted.sort_by_key(|range| range.start);
        assert!(sorted.windows(2).all(|pair| pair[0].start + pair[0].len <= pair[1].start), "{sorted:x?}");
        let total: u64 = map.iter().filter(|range| range.kind == Kind::Ram).map(|range| range.len).sum();
        assert_eq!(total, size - (layout::ACPI_END - layout::CONVENTIONAL_END));
    }
}

#[test]
fn what_cannot_boot_is_refused_with_a_reason() {
    let ram = ram();
    let refuse = |kernel: Vec<u8>, words: &str| {
        let text = load_bytes(&ram, kernel, None, b"").unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    };
    refuse(vec![], "empty");
    refuse(b"\x1f\x8b\x08 and so on".to_vec(), "gzip");
    refuse(vec![0; 10_000], "neither");
    refuse(bzimage(|header| header.xloadflags = 0), "64-bit entry");
    refuse(bzimage(|header| header.version = 0x206), "64-bit entry");
    refuse(bzimage(|header| header.init_size = u32::MAX), "--memory");
    refuse(bzimage(|header| header.pref_address = u64::MAX), "--memory");
    refuse(bzimage(|header| header.setup_sects = 255), "whole");
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let ram = ram();
    let error = load_bytes(&ram, bzimage(|_| {}), None, &[b'x'; 2048]).unwrap_err();
    assert!(matches!(error, BootError::CmdlineTooLong { len: 2048, most: 2047 }), "{error}");
    let error = load_bytes(&ram, bzimage(|_| {}), None, b"a\0b").unwrap_err();
    assert!(matches!(error, BootError::CmdlineZero), "{error}");
    let error = load_bytes(&ram, bzimage(|_| {}), Some(vec![0; 47 << 20]), b"").unwrap_err();
    assert!(matches!(error, BootError::InitrdTooLarge { .. }), "{error}");
    let error = load_bytes(&ram, bzimage(|_| {}), Some(vec![]), b"").unwrap_err();
    assert!(matches!(error, BootError::InitrdEmpty), "{error}");
    let error =
        load_bytes(&ram, bzimage(|header| header.initrd_addr_max = 0), Some(vec![1]), b"").unwrap_err();
    assert!(matches!(error, BootError::InitrdTooLarge { .. }), "{error}");
}

/// An ELF file of one segment and the note of its PVH entry.
fn elf(paddr: u64, entry: u32) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let word = |file: &mut Vec<u8>, value: u64, len: usize| file.extend(&value.to_le_bytes()[..len]);
    for (value, len) in
        [(2, 2), (62, 2), (1, 4), (paddr, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2), (0, 6)]
    {
        word(&mut file, value, len);
    }
    // PT_LOAD, then PT_NOTE.
    for (kind, offset, len, memory) in [(1, 256, 64, 4096), (4, 200, 20, 20)] {
        for (value, len) in
            [(kind, 4), (7, 4), (offset, 8), (paddr, 8), (paddr, 8), (len, 8), (memory, 8), (4, 8)]
        {
            word(&mut file, value, len);
        }
    }
    file.resize(200, 0);
    for value in [4, 4, 18] {
        word(&mut file, value, 4);
    }
    file.extend(b"Xen\0");
    word(&mut file, entry.into(), 4);
    file.resize(256 + 64, 0x90);
    file
}

#[test]
fn an_elf_kernel_begins_at_its_note() {
    let ram = ram();
    let entry = load_bytes(&ram, elf(0x20_0000, 0x20_0010), Some(vec![7; 10]), b"quiet").unwrap();
    let Entry::Pvh { eip, start_info } = entry else { panic!("{entry:?}") };
    assert_eq!(eip, 0x20_0010);
    let info: linux_loader::start_info::hvm_start_info =
        ram.read_obj(GuestAddress(start_info.into())).unwrap();
    assert_eq!((info.magic, info.nr_modules, info.rsdp_paddr), (0x336e_c578, 1, RSDP));
    assert_eq!(ram.read_obj::<u8>(GuestAddress((64 << 20) - 4096)).unwrap(), 7);
    let mut plain = elf(0x20_0000, 0x20_0010);
    plain[120] = 0;
    assert!(matches!(load_bytes(&ram, plain, None, b""), Err(BootError::NoPvhEntry)));
    assert!(load_bytes(&ram, elf(64 << 20, 0x20_0010), None, b"").is_err());
    assert!(load_bytes(&ram, elf(0x20_0000, u32::MAX), None, b"").is_err());
}

proptest! {
    #[test]
    fn damaged_kernels_are_errors_or_entries(
        is_elf: bool,
        damage in proptest::collection::vec((0_usize..700, any::<u8>()), 1..12),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut file = if is_elf { elf(0x20_0000, 0x20_0010) } else { bzimage(|_| {}) };
        for (at, value) in damage {
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
        }
        let len = cut.index(file.len()) + 1;
        if len > 400 {
            file.truncate(len);
        }
        let _ = load_bytes(&ram(), file, Some(vec![1; 100]), b"x");
    }
}

#[test]
fn an_initrd_is_not_needed() {
    load(&ram(), &mut Cursor::new(bzimage(|_| {})), NO_INITRD, b"", RSDP).unwrap();
}
