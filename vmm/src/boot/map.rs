//! The map of memory that a kernel is given (E820).

use super::low_end;
use crate::memory::{GuestRam, layout};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// What a range is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// For the kernel to use.
    Ram = 1,
    /// Not for the kernel.
    Reserved = 2,
    /// Tables, free when they have been read.
    Acpi = 3,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub start: u64,
    /// Its length.
    pub len: u64,
    /// What it is for.
    pub kind: Kind,
}

/// What is where.
pub fn memory_map(ram: &GuestRam) -> Vec<Range> {
    let range = |kind, start, end: u64| Range { start, len: end - start, kind };
    let mut map = vec![
        range(Kind::Ram, 0, layout::CONVENTIONAL_END),
        range(Kind::Acpi, layout::ACPI, layout::ACPI_END),
        range(Kind::Ram, layout::ACPI_END, low_end(ram).max(layout::ACPI_END)),
        // KVM's own pages on Intel.
        range(Kind::Reserved, layout::KVM_IDENTITY_MAP, layout::KVM_TSS + 3 * 4096),
    ];
    map.extend(ram.iter().skip(1).map(|region| Range {
        start: region.start_addr().0,
        len: region.len(),
        kind: Kind::Ram,
    }));
    map
}
