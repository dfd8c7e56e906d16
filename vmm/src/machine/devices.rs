//! The machine's devices: each is made, wired, and given its addresses here.
//!
//! ```text
//!   ports   0x60 i8042   0x70 RTC   0x3f8 COM1   0x600 PM   0xcf9 reset    ← here
//!           0xcf8 PCI configuration, 0xc000… its ports                     ← PCI: `Devices::add_pci`'s place
//!   memory  PCI's windows below and above 4 GiB                            ← the same
//! ```

use super::lifecycle::Request;
use crate::bus::{Bus, BusDevice, BusError};
use crate::devices::i8042::{self, I8042, ResetRegister};
use crate::devices::pm::{self, Pm, Power, Stopwatch};
use crate::devices::rtc::{self, Rtc};
use crate::devices::serial::{self, Output, Serial};
use crate::irq::{Pin, Routes};
use crate::kvm::{Error as KvmError, Vm};
use crate::memory::layout;
use crate::vcpu::Buses;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// All devices of a machine.
#[derive(Debug)]
pub struct Devices {
    routes: Routes,
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
    pub(super) fn new(
        vm: &Arc<Vm>,
        routes: &Routes,
        console: Output,
        requests: Sender<Request>,
    ) -> Result<Self, KvmError> {
        let power = Arc::new(Requests(requests));
        let timer = Arc::new(Stopwatch::default());
        let pin = |gsi| Arc::new(Pin::new(vm.clone(), gsi));
        Ok(Self {
            routes: routes.clone(),
            serial: Arc::new(Serial::new(pin(layout::SERIAL_GSI), console)),
            rtc: Arc::new(Rtc::default()),
            pm: Arc::new(Pm::new(pin(layout::SCI_GSI), power.clone(), timer.clone())),
            timer,
            i8042: Arc::new(I8042::new(power.clone())),
            reset: Arc::new(ResetRegister::new(power)),
        })
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
        let fixed: [(&'static str, u64, u64, Arc<dyn BusDevice>); 5] = [
            ("i8042", layout::I8042_PORT, i8042::PORTS, self.i8042.clone()),
            ("rtc", layout::RTC_PORT, rtc::PORTS, self.rtc.clone()),
            ("com1", layout::SERIAL_PORT, serial::PORTS, self.serial.clone()),
            ("pm", layout::PM_PORT, pm::PORTS, self.pm.clone()),
            // Inside PCI's eight ports: whoever has those passes byte accesses at this one on.
            ("reset", layout::RESET_PORT, 1, self.reset.clone()),
        ];
        for (name, first, len, device) in fixed {
            ports.insert(name, first, len, device)?;
        }
        Ok(Buses { ports, memory: Bus::default() })
    }

    /// Stands them still, when no vCPU runs: when this returns, nothing is in flight.
    pub(super) fn pause(&self) {
        // None of the devices here works by itself. Those on PCI have workers: they are paused here.
    }

    /// Lets them go on, before a vCPU runs.
    pub(super) fn resume(&self) {
        // As above.
    }
}
