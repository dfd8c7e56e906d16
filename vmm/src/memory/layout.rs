//! What is where in the guest's physical address space.
//!
//! ```text
//!   0                640 K  1 M                      3 G                    4 G
//!   ├─ boot tables ─┤ hole ├─ kernel, initrd, RAM ──┤ PCI window, APICs ├─ rest of RAM ─┬─ PCI window
//! ```

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// Where RAM below the hole ends at the latest.
pub const HOLE: u64 = 3 << 30;
/// Where RAM goes on.
pub const HIGH: u64 = 4 << 30;

/// Where conventional memory ends, and what PCs keep for firmware begins.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// The ACPI tables; the first 16 bytes are the root pointer, where an operating system looks for it.
pub const ACPI: u64 = 0xe_0000;
/// Where they end.
pub const ACPI_END: u64 = 0x10_0000;

/// Memory-mapped PCI, below 4 GiB.
pub const PCI_MEMORY: std::ops::Range<u64> = HOLE..0xfec0_0000;
/// How much there is above RAM.
const PCI_MEMORY_HIGH: u64 = 16 << 30;
/// Memory-mapped PCI, above all RAM.
pub fn pci_memory_high(ram: &super::GuestRam) -> std::ops::Range<u64> {
    let end_of_ram = ram.iter().last().map_or(0, |region| region.last_addr().0 + 1);
    let start = end_of_ram.max(HIGH).next_multiple_of(1 << 30);
    start..start + PCI_MEMORY_HIGH
}

/// PCI ports.
pub const PCI_PORTS: std::ops::Range<u64> = 0xc000..0x1_0000;

/// The I/O APIC's registers (in KVM).
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs' registers (in KVM).
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages that KVM on Intel needs for itself.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// One page that KVM on Intel needs for itself.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// COM1.
pub const SERIAL_PORT: u64 = 0x3f8;
/// COM1's interrupt.
pub const SERIAL_GSI: u32 = 4;
/// The real-time clock's index and data registers.
pub const RTC_PORT: u64 = 0x70;
/// The keyboard controller, for its reset line.
pub const I8042_PORT: u64 = 0x60;
/// ACPI's fixed registers: events, control, timer.
pub const PM_PORT: u64 = 0x600;
/// ACPI's interrupt.
pub const SCI_GSI: u32 = 9;
/// The reset register (FADT).
pub const RESET_PORT: u64 = 0xcf9;
/// PCI configuration, mechanism 1: address and data.
pub const PCI_CONFIG_PORT: u64 = 0xcf8;
/// The port of VMware's backdoor.
pub const VMWARE_PORT: u64 = 0x5658;
