//! The ACPI tables: what a guest finds its hardware by, as there is no firmware.
//!
//! ```text
//!   RSDP ──► XSDT ──┬─► FADT: fixed registers (devices::pm), reset register ──┬─► DSDT: PCI, COM1, RTC, _S5
//!                   └─► MADT: local APICs, I/O APIC, wires that are crossed   └─► FACS
//! ```

mod dsdt;
mod madt;

use crate::devices::{pm, rtc};
use crate::memory::{GuestRam, layout};
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

const OEM: [u8; 6] = *b"COLO  ";
const OEM_TABLE: [u8; 8] = *b"COLOVM  ";
const OEM_REVISION: u32 = 1;
/// What asks the chipset for a full reset.
const RESET_VALUE: u8 = 6;
/// Tables begin at multiples of this; the FACS must.
const ALIGNMENT: u64 = 64;

/// Tables that do not fit, which only a bug or a tiny guest does.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// They are longer than their place.
    #[error("the ACPI tables end at {0:#x}, beyond their place")]
    TooLong(u64),
    /// The guest's memory is not there.
    #[error("cannot write the ACPI tables: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// Writes the tables of a machine with `cpus` vCPUs. Gives where the root pointer is.
pub fn write(ram: &GuestRam, cpus: u32) -> Result<u64, AcpiError> {
    for (address, bytes) in tables(cpus, layout::pci_memory_high(ram)) {
        let end = address + bytes.len() as u64;
        if end > layout::ACPI_END {
            return Err(AcpiError::TooLong(end));
        }
        ram.write_slice(&bytes, GuestAddress(address))?;
    }
    Ok(layout::ACPI)
}

/// The tables, and where each goes.
fn tables(cpus: u32, pci_high: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
    let mut next = layout::ACPI + ALIGNMENT;
    let mut place = |bytes: Vec<u8>| {
        let address = next;
        next = (next + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        (address, bytes)
    };
    let facs = place(bytes(&FACS::new()));
    let dsdt = place(dsdt::table(pci_high));
    let fadt = place(bytes(&fadt(facs.0, dsdt.0)));
    let madt = place(madt::table(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    [&fadt, &madt].into_iter().for_each(|(address, _)| xsdt.add_entry(*address));
    let xsdt = place(bytes(&xsdt));
    let rsdp = (layout::ACPI, bytes(&Rsdp::new(OEM, xsdt.0)));
    vec![facs, dsdt, fadt, madt, xsdt, rsdp]
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    /// There are devices that are not on PCI; no VGA; no power management of PCI Express.
    const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2 | 1 << 4;
    let port = |offset: u64| (layout::PM_PORT + offset) as u32;
    let register = |offset: u64, bits| {
        GAS::new(AddressSpace::SystemIo, bits, 0, AccessSize::Undefined, layout::PM_PORT + offset)
    };
    let mut builder = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION);
    builder.sci_int = (layout::SCI_GSI as u16).into();
    builder.pm1a_evt_blk = port(pm::EVENT).into();
    builder.pm1a_cnt_blk = port(pm::CONTROL).into();
    builder.pm_tmr_blk = port(pm::TIMER).into();
    builder.pm1_evt_len = 4;
    builder.pm1_cnt_len = 2;
    builder.pm_tmr_len = 4;
    builder.x_pm1a_evt_blk = register(pm::EVENT, 32);
    builder.x_pm1a_cnt_blk = register(pm::CONTROL, 16);
    builder.x_pm_tmr_blk = register(pm::TIMER, 32);
    // Longer than any that a CPU has: none.
    builder.p_lvl2_lat = 101.into();
    builder.p_lvl3_lat = 1001.into();
    builder.century = rtc::CENTURY;
    builder.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    builder.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, layout::RESET_PORT);
    builder.reset_value = RESET_VALUE;
    // The power button is a fixed one (the flag would say that it is not), a sleep button is not there.
    [Flags::Wbinvd, Flags::ProcC1, Flags::SlpButton, Flags::FixRtc, Flags::ResetRegSup]
        .into_iter()
        .fold(builder, FADTBuilder::flag)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use std::process::Command;

    fn word(bytes: &[u8], at: usize, len: usize) -> u64 {
        bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let len: u32 = ram.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; len as usize];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum of {at:#x}");
        bytes
    }

    #[test]
    fn an_operating_system_finds_each_table_with_its_checksum() {
        let ram = memory::new(2 << 20).unwrap();
        let root = write(&ram, 4).unwrap();
        let mut rsdp = [0; 36];
        ram.read_slice(&mut rsdp, GuestAddress(root)).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[..20].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let xsdt = table(&ram, word(&rsdp, 24, 8));
        assert_eq!(&xsdt[..4], b"XSDT");
        let found: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(&ram, word(entry, 0, 8))).collect();
        let [fadt, madt] = &found[..] else { panic!("two tables") };
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        assert_eq!(&table(&ram, word(fadt, 40, 4))[..4], b"DSDT");
        let facs = word(fadt, 36, 4);
        assert_eq!((facs % 64, word(fadt, 56, 4), word(fadt, 76, 4)), (0, 0x600, 0x608));
        assert_eq!((word(fadt, 120, 8), fadt[128]), (0xcf9, 6), "the reset register");
        let cpus = madt[44..].windows(2).filter(|pair| *pair == [0, 8]).count();
        assert!(cpus >= 4);
    }

    /// Debian's `acpica-tools`: its compiler reads what ours wrote, and compiles what it read.
    #[test]
    fn intels_compiler_understands_the_tables() {
        let folder = tempfile::tempdir().unwrap();
        for (index, (_, bytes)) in tables(16, 16 << 30..32 << 30).into_iter().enumerate() {
            if bytes.starts_with(b"RSD PTR ") {
                continue;
            }
            let (file, source) =
                (folder.path().join(format!("{index}.aml")), folder.path().join(format!("{index}.dsl")));
            std::fs::write(&file, &bytes).unwrap();
            let output = Command::new("iasl")
                .arg("-d")
                .arg(&file)
                .output()
                .expect("iasl, of the package acpica-tools");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !text.contains("rror"), "{text}");
            if bytes.starts_with(b"DSDT") {
                let output = Command::new("iasl").arg("-ve").arg(&source).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}");
                let source = std::fs::read_to_string(&source).unwrap();
                for word in ["PNP0A03", "PNP0501", "PNP0B00", "_S5"] {
                    assert!(source.contains(word), "{word} in {source}");
                }
            }
        }
    }
}
