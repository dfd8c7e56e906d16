//! The devices that cannot be found by asking a bus: the PCI root, COM1, the clock; and how to power off.

use super::{OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::{pm, rtc, serial};
use crate::memory::layout;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use std::iter;
use std::ops::Range;

/// The table; `pci_high` is where PCI devices can have memory above 4 GiB.
pub(super) fn table(pci_high: Range<u64>) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    let mut code = Vec::new();
    bus(&mut code, &pci_high);
    off(&mut code);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

fn bus(code: &mut Vec<u8>, pci_high: &Range<u64>) {
    let uncached = || AddressSpaceCacheable::NotCacheable;
    let low = layout::PCI_MEMORY;
    let pci = resources(&[
        &AddressSpace::new_bus_number(0_u16, 0_u16),
        &ports(layout::PCI_CONFIG_PORT, 8),
        &AddressSpace::new_io(layout::PCI_PORTS.start as u16, (layout::PCI_PORTS.end - 1) as u16, None),
        &AddressSpace::new_memory(uncached(), true, low.start as u32, (low.end - 1) as u32, None),
        &AddressSpace::new_memory(uncached(), true, pci_high.start, pci_high.end - 1, None),
    ]);
    // COM1's interrupt is an edge, high, not shared.
    let interrupt = Interrupt::new(true, true, false, false, layout::SERIAL_GSI);
    let serial = resources(&[&ports(layout::SERIAL_PORT, serial::PORTS), &interrupt]);
    let rtc = resources(&[&ports(layout::RTC_PORT, rtc::PORTS)]);
    device(code, "PCI0", "PNP0A03", &[("_UID", &0_u8), ("_BBN", &0_u8), ("_CRS", &pci)]);
    device(code, "COM1", "PNP0501", &[("_UID", &1_u8), ("_CRS", &serial)]);
    device(code, "RTC0", "PNP0B00", &[("_CRS", &rtc)]);
}

/// A value that is bytes of AML already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn resources(descriptors: &[&dyn Aml]) -> Encoded {
    Encoded(bytes(&ResourceTemplate::new(descriptors.to_vec())))
}

fn device(code: &mut Vec<u8>, name: &str, id: &str, values: &[(&str, &dyn Aml)]) {
    let id = Name::new("_HID".into(), &EISAName::new(id));
    let values: Vec<_> = values.iter().map(|(name, value)| Name::new((*name).into(), *value)).collect();
    let children = iter::once(&id).chain(&values).map(|child| child as &dyn Aml).collect();
    let device = Device::new(name.into(), children);
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(code);
}

fn ports(first: u64, len: u64) -> IO {
    IO::new(first as u16, first as u16, 1, len as u8)
}

/// The sleep type that means "off".
fn off(code: &mut Vec<u8>) {
    let values = Package::new(vec![&pm::SLEEP_TYPE_OFF, &pm::SLEEP_TYPE_OFF, &0_u8, &0_u8]);
    Name::new(Path::new("\\_S5_"), &values).to_aml_bytes(code);
}
