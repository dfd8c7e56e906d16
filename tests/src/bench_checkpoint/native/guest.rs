//! A guest that writes to as many pages as it is asked to: the smallest that KVM runs, so that any `/dev/kvm` will do.
//!
//! ```text
//!   ORDER: how many ─┐                      WINDOW: page, page, page, …
//!   VALUE: + 1       ├─► code in a loop ──► one word at the beginning of each, from START on
//!   START: where ────┘   ORDER becomes 0
//! ```

use anyhow::Result;
use colo_vmm::memory::GuestRam;
use std::io::Write as _;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

/// Its memory.
pub(super) const MEMORY: u64 = 512 << 20;
pub(super) const PAGE: u64 = 4096;
const ORDER: GuestAddress = GuestAddress(0x30_0000);
const START: GuestAddress = GuestAddress(0x30_0008);
const WINDOW: u64 = 4 << 20;
/// How many pages it can write to.
pub(super) const PAGES: u64 = (MEMORY - WINDOW) / PAGE;
const LOAD_ADDRESS: u64 = 2 << 20;

/// 32-bit code without paging, as PVH's entry is.
const CODE: [u8; 47] = [
    0x8b, 0x0d, 0, 0, 0x30, 0, // mov ecx, [ORDER]
    0x85, 0xc9, // test ecx, ecx
    0x74, 0xf6, // jz to the start
    0xff, 0x05, 4, 0, 0x30, 0, // inc dword [VALUE]
    0x8b, 0x1d, 4, 0, 0x30, 0, // mov ebx, [VALUE]
    0x8b, 0x3d, 8, 0, 0x30, 0, // mov edi, [START]
    0x89, 0x1f, // mov [edi], ebx
    0x81, 0xc7, 0, 0x10, 0, 0,    // add edi, 4096
    0x49, // dec ecx
    0x75, 0xf5, // jnz to `mov [edi]`
    0x89, 0x0d, 0, 0, 0x30, 0, // mov [ORDER], ecx
    0xeb, 0xd1, // jmp to the start
];

/// An ELF file with a PVH note, whose entry is the code.
pub(super) fn kernel() -> Result<NamedTempFile> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |value: u64, len: usize| image.extend(&value.to_le_bytes()[..len]);
    let header = [
        (2, 2),
        (62, 2),
        (1, 4),
        (LOAD_ADDRESS, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (2, 2),
        (0, 6),
    ];
    header.into_iter().for_each(|(value, len)| put(value, len));
    for (kind, offset, len) in [(1, 256, CODE.len() as u64), (4, 200, 20)] {
        let at = LOAD_ADDRESS;
        let segment = [(kind, 4), (7, 4), (offset, 8), (at, 8), (at, 8), (len, 8), (len, 8), (4, 8)];
        segment.into_iter().for_each(|(value, len)| put(value, len));
    }
    image.resize(200, 0);
    image.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    image.extend((LOAD_ADDRESS as u32).to_le_bytes());
    image.resize(256, 0);
    image.extend(CODE);
    let mut file = NamedTempFile::new()?;
    file.write_all(&image)?;
    Ok(file)
}

/// Fills the window: half of each page is noise, the other half a pattern, so that packing has something to do; or
/// all of it is noise.
pub(super) fn fill(ram: &GuestRam, all: bool) -> Result<()> {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut page = [0x5a_u8; PAGE as usize];
    let noisy = if all { PAGE } else { PAGE / 2 } as usize;
    for number in 0..PAGES {
        for word in page[..noisy].chunks_exact_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            word.copy_from_slice(&noise.to_le_bytes());
        }
        ram.write_slice(&page, address(number))?;
    }
    Ok(())
}

/// Where a page of the window is.
pub(super) fn address(page: u64) -> GuestAddress {
    GuestAddress(WINDOW + page * PAGE)
}

/// Has it write to pages from `first` on, and waits until it has.
pub(super) fn write(ram: &GuestRam, first: u64, pages: u64) -> Result<()> {
    if pages == 0 {
        return Ok(());
    }
    ram.write_obj(address(first).0 as u32, START)?;
    ram.write_obj(pages as u32, ORDER)?;
    let until = Instant::now() + Duration::from_mins(1);
    while ram.read_obj::<u32>(ORDER)? != 0 {
        anyhow::ensure!(Instant::now() < until, "the guest does not write");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}
