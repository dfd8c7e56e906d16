//! A guest with one virtio device, driven by registers alone.
//!
//! ```text
//!   0x1_0000 + n × 0x1_0000: queue n: descriptors, +0x8000 available ring, +0xa000 used ring
//!   0x10_0000 …: buffers
//! ```

use colo_vmm::bus::BusDevice;
use colo_vmm::memory::{GuestRam, layout};
use colo_vmm::pci::Function;
use colo_vmm::pci::msix::Vector;
use colo_vmm::pci::root::{Ports, Root, Window};
use colo_vmm::pci::space::Space;
use colo_vmm::virtio::Device;
use colo_vmm::virtio::pci::{VERSION_1, VirtioPci};
use std::error::Error;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of RAM.
pub const RAM: u64 = 2 << 20;
/// What every queue has.
pub const SIZE: u16 = 16;

/// An interrupt that nobody hears.
#[derive(Debug)]
struct Nobody;

impl Vector for Nobody {
    fn set(&self, _: u64, _: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
    fn mask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
    fn unmask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
    fn pending(&self) -> bool {
        false
    }
    fn forget(&self) {}
    fn signal(&self) {}
}

/// The guest.
#[derive(Debug)]
pub struct Guest {
    pub ram: Arc<GuestRam>,
    pub function: Arc<VirtioPci>,
    pub config: Ports,
    pub ports: Window,
    pub memory: Window,
    queues: u16,
}

impl Guest {
    /// A device on a bus, as it is before a driver comes.
    pub fn new(device: Box<dyn Device>) -> Self {
        let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), RAM as usize)]).expect("RAM"));
        let queues = device.queues().len() as u16;
        let vectors = (0..=queues).map(|_| -> Box<dyn Vector> { Box::new(Nobody) }).collect();
        let function =
            VirtioPci::new(device, ram.clone(), vectors, None, &mut Space::default()).expect("a function");
        let root = Root::new();
        root.insert(function.clone()).expect("a slot");
        let config = Ports::new(root.clone(), None);
        let (ports, memory) = (Window::ports(root.clone()), Window::memory(root));
        Self { ram, function, config, ports, memory, queues }
    }

    fn write(&self, register: u64, data: &[u8]) {
        self.function.write(0, register, data);
    }

    /// A driver sets all queues up. Says whether the device works.
    pub fn start(&self, features: u64) -> bool {
        let features = features | VERSION_1;
        for status in [0, 1, 3] {
            self.write(0x14, &[status]);
        }
        for select in 0..2_u32 {
            self.write(8, &select.to_le_bytes());
            self.write(12, &((features >> (32 * select)) as u32).to_le_bytes());
        }
        self.write(0x14, &[11]);
        for queue in 0..self.queues {
            let base = u64::from(queue + 1) << 16;
            self.write(0x16, &queue.to_le_bytes());
            self.write(0x18, &SIZE.to_le_bytes());
            for (register, address) in [(0x20, base), (0x28, base + 0x8000), (0x30, base + 0xa000)] {
                self.write(register, &address.to_le_bytes());
            }
            self.write(0x1c, &[1, 0]);
        }
        self.write(0x14, &[15]);
        self.status() == 15
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        let mut status = [0];
        self.function.read(0, 0x14, &mut status);
        status[0]
    }

    /// Writes RAM, if it is that.
    pub fn poke(&self, address: u64, data: &[u8]) {
        let _ = self.ram.write_slice(data, GuestAddress(address));
    }

    /// Kicks a queue.
    pub fn notify(&self, queue: u16) {
        self.function.write(1, 4 * u64::from(queue), &queue.to_le_bytes());
    }

    /// Identity of slot 1, by the ports.
    pub fn identity(&self) -> u32 {
        self.config.write(0, &0x8000_0800_u32.to_le_bytes());
        let mut data = [0xff; 4];
        self.config.read(4, &mut data);
        u32::from_le_bytes(data)
    }

    /// Where BARs may be.
    pub fn memory_start() -> u64 {
        layout::PCI_MEMORY.start
    }
}
