//! Any accesses to configuration ports and windows: the bus stays a bus, and each BAR where it says.
#![no_main]

use arbitrary::Arbitrary;
use colo_fuzz::guest::Guest;
use colo_vmm::bus::BusDevice;
use colo_vmm::devices::rng::Rng;
use colo_vmm::pci::Function;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Access {
    /// Selects a register of slot 1, and writes to it.
    Config {
        register: u8,
        data: [u8; 4],
        len: u8,
    },
    Ports {
        offset: u8,
        data: [u8; 4],
        len: u8,
    },
    PortWindow {
        offset: u16,
        data: [u8; 4],
        len: u8,
    },
    MemoryWindow {
        offset: u32,
        data: [u8; 8],
        len: u8,
    },
    Save,
}

fuzz_target!(|accesses: Vec<Access>| {
    let guest = Guest::new(Box::<Rng>::default());
    for access in accesses.into_iter().take(256) {
        match access {
            Access::Config { register, data, len } => {
                let address = 0x8000_0800 | u32::from(register & 0xfc);
                guest.config.write(0, &address.to_le_bytes());
                let offset = 4 + u64::from(register & 3);
                guest.config.write(offset, &data[..1 << (len % 3)]);
                let mut data = data;
                guest.config.read(offset, &mut data[..1 << (len % 3)]);
            }
            Access::Ports { offset, mut data, len } => {
                let len = 1 << (len % 3);
                guest.config.write(u64::from(offset % 8), &data[..len]);
                guest.config.read(u64::from(offset % 8), &mut data[..len]);
            }
            Access::PortWindow { offset, mut data, len } => {
                let len = 1 << (len % 3);
                guest.ports.write(u64::from(offset), &data[..len]);
                guest.ports.read(u64::from(offset), &mut data[..len]);
            }
            Access::MemoryWindow { offset, mut data, len } => {
                let len = 1 << (len % 4);
                guest.memory.write(u64::from(offset), &data[..len]);
                guest.memory.read(u64::from(offset), &mut data[..len]);
            }
            Access::Save => {
                guest.function.pause();
                let state = guest.function.save();
                guest.function.check(&state).expect("what was saved can be loaded");
                guest.function.load(&state);
                assert_eq!(guest.function.save(), state);
                guest.function.resume();
            }
        }
        for region in guest.function.regions() {
            let size = region.last - region.first + 1;
            assert!(size.is_power_of_two() && region.first % size == 0, "{region:x?}");
        }
    }
    assert_eq!(guest.identity(), 0x1044_1af4);
});
