//! Who interrupts whom (ACPI 6.5 §5.2.12).

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::memory::layout;
use acpi_tables::sdt::Sdt;

/// Header, address of the local APICs, flags.
const HEADER: u32 = 44;
/// There are PICs too.
const PC_COMPATIBLE: u32 = 1;
/// High is on, and it is a level.
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// As the bus says; for an ISA wire, a rising edge.
const OF_THE_BUS: u16 = 0;

/// The table of `cpus` vCPUs, whose APICs are numbered from 0.
pub(super) fn table(cpus: u32) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", HEADER, 5, OEM, OEM_TABLE, OEM_REVISION);
    table.write_u32(36, layout::LOCAL_APIC as u32);
    table.write_u32(40, PC_COMPATIBLE);
    for cpu in 0..cpus as u8 {
        // Type, length, processor, APIC; enabled.
        table.append_slice(&[0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    // Its number is above every vCPU's. Its first pin is GSI 0.
    table.append_slice(&[1, 12, IO_APIC_NUMBER, 0]);
    table.append_slice(&(layout::IO_APIC as u32).to_le_bytes());
    table.append_slice(&0_u32.to_le_bytes());
    // The PIT's wire ends at pin 2, as on every PC.
    override_wire(&mut table, 0, 2, OF_THE_BUS);
    override_wire(&mut table, layout::SCI_GSI as u8, layout::SCI_GSI, ACTIVE_HIGH_LEVEL);
    // Non-maskable interrupts come to pin 1 of every local APIC.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

/// KVM's I/O APIC has no number until the guest gives it one.
const IO_APIC_NUMBER: u8 = 0xf0;

/// "Interrupt source override".
fn override_wire(table: &mut Sdt, irq: u8, gsi: u32, flags: u16) {
    table.append_slice(&[2, 10, 0, irq]);
    table.append_slice(&gsi.to_le_bytes());
    table.append_slice(&flags.to_le_bytes());
}
