//! The machine's devices: each is made, wired, and given its addresses here.
//!
//! ```text
//!   ports   0x60 i8042   0x70 RTC   0x3f8 COM1   0x600 PM   0xcf9 reset    here
//!           0xcf8 PCI configuration ([`ConfigurationPorts`]), 0xc000… its ports  ┐ PCI: added in `new`
//!   memory  PCI's windows below and above 4 GiB                                  ┘ and in `buses`
//!   Work    whatever has threads of its own: stood still after the vCPUs
//! ```

use super::lifecycle::Request;
use crate::bus::{Bus, BusDevice, BusError};
use crate::devices::i8042::{self, I8042, ResetRegister};
use crate::devices::pm::{self, Pm, Power, Stopwatch};
use crate::devices::rtc::{self, Rtc};
use crate::devices::serial::{self, Output, Serial};
use crate::irq::{Pin, Routes};
use crate::kvm::Vm;
use crate::memory::layout;
use crate::vcpu::Buses;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// A device, or several, that works beside the vCPUs.
pub trait Work: Send + Sync + fmt::Debug {
    /// Stands it still. No vCPU runs; when this returns, nothing is in flight and no interrupt is lost.
    fn pause(&self);
    /// Lets it go on, before a vCPU runs.
    fn resume(&self);
}

/// All devices of a machine.
#[derive(Debug)]
pub struct Devices {
    routes: Routes,
    /// Those that work by themselves, in the order in which they are stood still. None of a PC's own do;
    /// devices on PCI are put in here.
    workers: Vec<Arc<dyn Work>>,
    serial: Arc<Serial>,
    rtc: Arc<Rtc>,
    pm: Arc<Pm>,
    timer: Arc<Stopwatch>,
    i8042: Arc<I8042>,
    reset: Arc<ResetRegister>,
}

/// What a device asks of the machine becomes a request.
#[derive(Debug)]
struct Requests(Sender<Request>);

impl Power for Requests {
    fn reset(&self) {
        // When the lifecycle has ended, nobody needs to know.
        let _ = self.0.send(Request::Reset { guest: true });
    }
    fn off(&self) {
        let _ = self.0.send(Request::Off);
    }
}

impl Devices {
    pub(super) fn new(vm: &Arc<Vm>, routes: &Routes, console: Output, requests: Sender<Request>) -> Self {
        let power = Arc::new(Requests(requests));
        let timer = Arc::new(Stopwatch::default());
        let pin = |gsi| Arc::new(Pin::new(vm.clone(), gsi));
        Self {
            routes: routes.clone(),
            workers: Vec::new(),
            serial: Arc::new(Serial::new(pin(layout::SERIAL_GSI), console)),
            rtc: Arc::new(Rtc::default()),
            pm: Arc::new(Pm::new(pin(layout::SCI_GSI), power.clone(), timer.clone())),
            timer,
            i8042: Arc::new(I8042::new(power.clone())),
            reset: Arc::new(ResetRegister::new(power)),
        }
    }

    /// Where message-signalled interrupts come from.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// COM1.
    pub fn serial(&self) -> Arc<Serial> {
        self.serial.clone()
    }

    /// The clock and its memory.
    pub fn rtc(&self) -> &Rtc {
        &self.rtc
    }

    /// ACPI's fixed registers.
    pub fn pm(&self) -> &Pm {
        &self.pm
    }

    pub(super) fn timer(&self) -> Arc<Stopwatch> {
        self.timer.clone()
    }

    /// Gives each its addresses.
    pub(super) fn buses(&self) -> Result<Buses, BusError> {
        let mut ports = Bus::default();
        let configuration = ConfigurationPorts { pci: None, reset: self.reset.clone() };
        let fixed: [(&'static str, u64, u64, Arc<dyn BusDevice>); 5] = [
            ("i8042", layout::I8042_PORT, i8042::PORTS, self.i8042.clone()),
            ("rtc", layout::RTC_PORT, rtc::PORTS, self.rtc.clone()),
            ("com1", layout::SERIAL_PORT, serial::PORTS, self.serial.clone()),
            ("pm", layout::PM_PORT, pm::PORTS, self.pm.clone()),
            ("pci-configuration", layout::PCI_CONFIG_PORT, 8, Arc::new(configuration)),
        ];
        for (name, first, len, device) in fixed {
            ports.insert(name, first, len, device)?;
        }
        Ok(Buses { ports, memory: Bus::default() })
    }

    /// Stands them still, when no vCPU runs: when this returns, nothing is in flight.
    pub(super) fn pause(&self) {
        self.workers.iter().for_each(|worker| worker.pause());
    }

    /// Lets them go on, before a vCPU runs.
    pub(super) fn resume(&self) {
        self.workers.iter().rev().for_each(|worker| worker.resume());
    }
}

/// Ports 0xcf8–0xcff: PCI's configuration address and data, and, as a byte in the middle of the address,
/// the chipset's reset register.
#[derive(Debug)]
struct ConfigurationPorts {
    /// PCI's root, once there is one: it gets the eight ports as its range.
    pci: Option<Arc<dyn BusDevice>>,
    reset: Arc<ResetRegister>,
}

impl ConfigurationPorts {
    const RESET: u64 = layout::RESET_PORT - layout::PCI_CONFIG_PORT;

    /// Whose an access is.
    fn owner(&self, offset: u64, len: usize) -> Option<&dyn BusDevice> {
        match (offset, len) {
            (Self::RESET, 1) => Some(&*self.reset),
            _ => self.pci.as_deref(),
        }
    }
}

impl BusDevice for ConfigurationPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(owner) = self.owner(offset, data.len()) {
            owner.read(offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(owner) = self.owner(offset, data.len()) {
            owner.write(offset, data);
        }
    }
}
