//! ACPI tables as an operating system finds them: from the root pointer on, believing nothing.

use colo_vmm::memory::GuestRam;
use colo_vmm::memory::layout::{ACPI, ACPI_END, IO_APIC, LOCAL_APIC};
use vm_memory::{Bytes, GuestAddress};

/// What a kernel learns of the machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Numbers of the local APICs that can be used.
    pub apics: Vec<u8>,
    /// What is in the DSDT: code.
    pub code: Vec<u8>,
}

/// Follows every pointer from the root pointer at `rsdp`.
pub fn read(ram: &GuestRam, rsdp: u64) -> Found {
    let root = bytes(ram, rsdp, 36);
    assert_eq!(&root[..8], b"RSD PTR ");
    assert_eq!(sum(&root[..20]), 0, "the checksum of ACPI 1");
    assert_eq!(sum(&root), 0, "the checksum of ACPI 2");
    let xsdt = table(ram, number(&root[24..32]), *b"XSDT");
    let (mut found, mut seen) = (Found { apics: Vec::new(), code: Vec::new() }, Vec::new());
    for entry in xsdt[36..].chunks(8) {
        let address = number(entry);
        let name: [u8; 4] = bytes(ram, address, 4).try_into().expect("four bytes");
        assert!(!seen.contains(&name), "one of each");
        seen.push(name);
        let table = table(ram, address, name);
        match &name {
            b"FACP" => found.code = fixed(ram, &table),
            b"APIC" => found.apics = apics(&table),
            other => panic!("nobody knows {other:?}"),
        }
    }
    assert_eq!(seen.len(), 2);
    found
}

/// The fixed table; gives the code of the one that it points to.
fn fixed(ram: &GuestRam, table: &[u8]) -> Vec<u8> {
    let facs = number(&table[36..40]);
    assert_eq!(facs % 64, 0);
    let facs = bytes(ram, facs, 8);
    assert_eq!((&facs[..4], number(&facs[4..8])), (&b"FACS"[..], 64));
    let dsdt = number(&table[40..44]);
    let also = number(&table[140..148]);
    assert!(also == 0 || also == dsdt);
    self::table(ram, dsdt, *b"DSDT")[36..].to_vec()
}

/// Entry after entry, to the last byte.
fn apics(table: &[u8]) -> Vec<u8> {
    assert_eq!(number(&table[36..40]), LOCAL_APIC);
    let (mut rest, mut apics, mut io) = (&table[44..], Vec::new(), 0);
    while let [kind, len, ..] = *rest {
        let (entry, after) = rest.split_at(usize::from(len));
        match kind {
            0 => {
                assert_eq!((len, number(&entry[4..8])), (8, 1));
                apics.push(entry[3]);
            }
            1 => {
                assert_eq!((len, number(&entry[4..8]), number(&entry[8..12])), (12, IO_APIC, 0));
                io += 1;
            }
            2 => assert_eq!(len, 10),
            4 => assert_eq!(len, 6),
            other => panic!("nobody asked for an entry of kind {other}"),
        }
        rest = after;
    }
    assert!(rest.is_empty());
    assert_eq!(io, 1);
    apics
}

/// A table by its header.
fn table(ram: &GuestRam, address: u64, name: [u8; 4]) -> Vec<u8> {
    let header = bytes(ram, address, 36);
    assert_eq!(header[..4], name);
    let table = bytes(ram, address, number(&header[4..8]));
    assert_eq!(sum(&table), 0, "the checksum of {name:?}");
    table
}

fn bytes(ram: &GuestRam, address: u64, len: u64) -> Vec<u8> {
    assert!(address >= ACPI && address + len <= ACPI_END, "{address:#x}, {len:#x}: the map says otherwise");
    let mut bytes = vec![0; len as usize];
    ram.read_slice(&mut bytes, GuestAddress(address)).expect("RAM");
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
