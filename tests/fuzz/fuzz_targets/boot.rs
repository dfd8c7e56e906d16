//! Any kernel, initrd, command line and machine: an entry or an error. With an entry, everything that
//! the kernel is told is true, and the ACPI tables are what an operating system can read.
#![no_main]

use arbitrary::Arbitrary;
use colo_fuzz::tables;
use colo_vmm::acpi;
use colo_vmm::boot::{Entry, Kind, load, memory_map};
use colo_vmm::memory::{GuestRam, layout};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use vm_memory::{Bytes, GuestAddress};

#[derive(Arbitrary, Debug)]
struct Case {
    /// RAM below 4 GiB, in MiB above the least.
    low: u8,
    /// Where RAM above 4 GiB begins, in GiB above its place: a machine of so much, of which one page is there.
    high: Option<u16>,
    cpus: u8,
    kernel: Kernel,
    initrd: Option<(u8, u32)>,
    cmdline: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Kernel {
    Any(Vec<u8>),
    BzImage {
        setup_sects: u8,
        version: u16,
        loadflags: u8,
        xloadflags: u16,
        code32_start: u32,
        pref_address: u64,
        init_size: u32,
        initrd_addr_max: u32,
        cmdline_size: u32,
        body: Vec<u8>,
        patches: Vec<(u16, u8)>,
    },
    Elf {
        entry: u64,
        segments: Vec<Segment>,
        note: Vec<u8>,
        patches: Vec<(u16, u8)>,
    },
}

#[derive(Arbitrary, Debug)]
struct Segment {
    note: bool,
    /// Of PVH, with this entry.
    pvh: Option<u32>,
    address: u64,
    wild: bool,
    offset: u16,
    len: u16,
    more: u32,
}

impl Kernel {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let patches = match self {
            Self::Any(bytes) => return bytes.clone(),
            Self::BzImage {
                setup_sects,
                version,
                loadflags,
                xloadflags,
                code32_start,
                pref_address,
                init_size,
                initrd_addr_max,
                cmdline_size,
                body,
                patches,
            } => {
                let setup = (usize::from(if *setup_sects == 0 { 4 } else { *setup_sects }) + 1) * 512;
                bytes.resize(setup.max(0x270), 0);
                let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
                put(0x1f1, &[*setup_sects]);
                put(0x202, b"HdrS");
                // Around what is taken, mostly.
                put(0x206, &(0x208 + version % 8).to_le_bytes());
                put(0x211, &[loadflags | 1]);
                put(0x214, &(0x10_0000 | code32_start).to_le_bytes());
                put(0x22c, &initrd_addr_max.to_le_bytes());
                put(0x236, &(xloadflags | 1).to_le_bytes());
                put(0x238, &cmdline_size.to_le_bytes());
                put(0x258, &pref_address.to_le_bytes());
                put(0x260, &init_size.to_le_bytes());
                bytes.extend(body);
                patches
            }
            Self::Elf { entry, segments, note, patches } => {
                let segments = &segments[..segments.len().min(8)];
                bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
                bytes.extend((0x10_0000 + entry % (8 << 20)).to_le_bytes());
                bytes.extend(64_u64.to_le_bytes());
                bytes.extend([0; 12]);
                bytes.extend([64, 0, 56, 0, segments.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
                let base = (64 + 56 * segments.len()) as u64;
                let mut notes = Vec::new();
                for segment in segments {
                    let address = if segment.wild { segment.address } else { segment.address % (8 << 20) };
                    let (mut offset, mut len) = (base + u64::from(segment.offset), u64::from(segment.len));
                    if let Some(entry) = segment.pvh.filter(|_| segment.note) {
                        (offset, len) = (base + notes.len() as u64, 20);
                        notes.extend(b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0");
                        notes.extend(entry.to_le_bytes());
                    }
                    bytes.extend([if segment.note { 4 } else { 1 }, 0, 0, 0, 7, 0, 0, 0]);
                    for word in [offset, address, address, len, len + u64::from(segment.more), 4] {
                        bytes.extend(word.to_le_bytes());
                    }
                }
                bytes.extend(notes);
                bytes.extend(note);
                patches
            }
        };
        for (at, value) in patches.iter().take(16) {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *value;
        }
        bytes
    }
}

/// A number somewhere in RAM.
fn number(ram: &GuestRam, at: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    ram.read_slice(&mut bytes[..len], GuestAddress(at)).expect("RAM");
    u64::from_le_bytes(bytes)
}

fn bytes(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read_slice(&mut bytes, GuestAddress(at)).expect("RAM");
    bytes
}

fuzz_target!(|case: Case| {
    let low = (2 + u64::from(case.low % 31)) << 20;
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if let Some(high) = case.high {
        ranges.push((GuestAddress(layout::HIGH + (u64::from(high % (16 << 10)) << 30)), 4096));
    }
    let ram = GuestRam::from_ranges(&ranges).expect("RAM");
    let cpus = u32::from(case.cpus % 16) + 1;
    let rsdp = acpi::write(&ram, cpus).expect("every machine has tables");
    let found = tables::read(&ram, rsdp);
    assert_eq!(found.apics, (0..cpus as u8).collect::<Vec<_>>());
    let window = layout::pci_memory_high(&ram);
    let ends = [window.start.to_le_bytes(), (window.end - 1).to_le_bytes()].concat();
    assert!(found.code.windows(16).any(|part| part == ends), "the window above RAM is in the code");

    let initrd = case.initrd.map(|(fill, len)| vec![fill; len as usize % (3 << 20)]);
    let kernel = case.kernel.bytes();
    let mut file = initrd.as_deref().map(Cursor::new);
    let Ok(entry) = load(&ram, &mut Cursor::new(&kernel[..]), file.as_mut(), &case.cmdline, rsdp) else {
        return;
    };

    let map = memory_map(&ram);
    for pair in map.windows(2) {
        assert!(pair[0].start + pair[0].len <= pair[1].start, "the map is in order: {map:x?}");
    }
    let is_ram =
        |at: u64| map.iter().any(|r| r.kind == Kind::Ram && (r.start..r.start + r.len).contains(&at));
    let (cmdline, (start, len)) = match entry {
        Entry::Linux64 { rip, zero_page } => {
            assert!(is_ram(rip) && is_ram(zero_page));
            assert_eq!(number(&ram, zero_page + 0x70, 8), rsdp);
            assert_eq!(number(&ram, zero_page + 0x1e8, 1), map.len() as u64);
            for (index, range) in (0..).zip(&map) {
                let at = zero_page + 0x2d0 + 20 * index;
                let told = (number(&ram, at, 8), number(&ram, at + 8, 8), number(&ram, at + 16, 4));
                assert_eq!(told, (range.start, range.len, range.kind as u64));
            }
            let initrd = (number(&ram, zero_page + 0x218, 4), number(&ram, zero_page + 0x21c, 4));
            (number(&ram, zero_page + 0x228, 4), initrd)
        }
        Entry::Pvh { eip, start_info } => {
            assert!(u64::from(eip) < low);
            let info = u64::from(start_info);
            assert_eq!(number(&ram, info, 4), 0x336e_c578);
            assert_eq!(number(&ram, info + 32, 8), rsdp);
            let (told, count) = (number(&ram, info + 40, 8), number(&ram, info + 48, 4));
            assert_eq!(count, map.len() as u64);
            for (index, range) in (0..).zip(&map) {
                let at = told + 24 * index;
                let told = (number(&ram, at, 8), number(&ram, at + 8, 8), number(&ram, at + 16, 4));
                assert_eq!(told, (range.start, range.len, range.kind as u64));
            }
            let module = number(&ram, info + 16, 8);
            let initrd = match number(&ram, info + 12, 4) {
                0 => (0, 0),
                _ => (number(&ram, module, 8), number(&ram, module + 8, 8)),
            };
            (number(&ram, info + 24, 8), initrd)
        }
    };
    assert_eq!(bytes(&ram, cmdline, case.cmdline.len() + 1), [&case.cmdline[..], &[0]].concat());
    assert_eq!(len, initrd.as_ref().map_or(0, |initrd| initrd.len() as u64));
    if let Some(initrd) = initrd {
        assert!(start >= 1 << 20 && start + len <= low);
        assert!(bytes(&ram, start, initrd.len()) == initrd, "nothing was put over the initrd");
    }
});
