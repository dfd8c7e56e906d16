//! The machine's devices: each is made, wired, and given its addresses here.
//!
//! ```text
//!   ports   0x60 i8042   0x70 RTC   0x3f8 COM1   0x600 PM                    ← here
//!           0xcf8 PCI configuration (0xcf9 among them), 0xc000… its ports   ← virtio::pci::cards
//!   memory  PCI's window below 4 GiB                                        ← the same
//! ```

use super::lifecycle::Request;
use super::state::MachineState;
use crate::bus::{Bus, BusDevice, BusError};
use crate::devices::i8042::{self, I8042, ResetRegister, ResetState};
use crate::devices::pm::{self, Pm, PmState, Power, Stopwatch};
use crate::devices::rtc::{self, Rtc};
use crate::devices::serial::{self, Output, Serial, SerialState};
use crate::irq::{Pin, Routes};
use crate::kvm::Vm;
use crate::memory::layout;
use crate::pci::root::RootState;
use crate::vcpu::Buses;
use crate::virtio::Device;
use crate::virtio::pci::CardState;
use crate::virtio::pci::cards::{CardError, Cards, CardsError, CardsState};
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
    cards: Cards,
}

/// What devices know that a reset makes them forget.
#[derive(Clone, Debug)]
pub(super) struct DevicesState {
    pub(super) serial: SerialState,
    pub(super) pm: PmState,
    pub(super) reset: ResetState,
    pub(super) cards: CardsState,
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
            serial: Arc::new(Serial::new(pin(layout::SERIAL_GSI), console)),
            rtc: Arc::new(Rtc::default()),
            pm: Arc::new(Pm::new(pin(layout::SCI_GSI), power.clone(), timer.clone())),
            timer,
            i8042: Arc::new(I8042::new(power.clone())),
            reset: Arc::new(ResetRegister::new(power)),
            cards: Cards::default(),
        }
    }

    /// Puts a virtio device on the PCI bus; gives its slot.
    pub(super) fn add(&mut self, device: Box<dyn Device>, vm: &Arc<Vm>) -> Result<u8, CardError> {
        self.cards.add(device, vm, &self.routes)
    }

    /// The virtio devices.
    pub fn cards(&self) -> &Cards {
        &self.cards
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

    /// What they know, while they stand; the clock, which nothing resets, excepted.
    pub(super) fn state(&self) -> DevicesState {
        DevicesState {
            serial: self.serial.state(),
            pm: self.pm.state(),
            reset: self.reset.state(),
            cards: self.cards.save(),
        }
    }

    /// Makes them know that, while they stand.
    pub(super) fn load(&self, state: &DevicesState) -> Result<(), CardsError> {
        self.serial.load(&state.serial);
        self.pm.load(&state.pm);
        self.reset.load(state.reset);
        self.cards.reset();
        self.cards.check(&state.cards.root, &state.cards.cards)?;
        self.cards.load(&state.cards.root, &state.cards.cards);
        Ok(())
    }

    /// Whether these are the states of such cards.
    pub(super) fn check(&self, root: &RootState, cards: &[CardState]) -> Result<(), CardsError> {
        self.cards.check(root, cards)
    }

    /// Makes them know what a state says that was checked, while they stand.
    pub(super) fn take(&self, state: &MachineState) {
        self.serial.load(&state.serial);
        self.rtc.load(&state.rtc);
        self.pm.load(&state.pm);
        self.reset.load(state.reset);
        self.cards.load(&state.pci, &state.cards);
    }

    /// Gives each its addresses.
    pub(super) fn buses(&self) -> Result<Buses, BusError> {
        let mut ports = Bus::default();
        let fixed: [(&'static str, u64, u64, Arc<dyn BusDevice>); 4] = [
            ("i8042", layout::I8042_PORT, i8042::PORTS, self.i8042.clone()),
            ("rtc", layout::RTC_PORT, rtc::PORTS, self.rtc.clone()),
            ("com1", layout::SERIAL_PORT, serial::PORTS, self.serial.clone()),
            ("pm", layout::PM_PORT, pm::PORTS, self.pm.clone()),
        ];
        for (name, first, len, device) in fixed {
            ports.insert(name, first, len, device)?;
        }
        let mut memory = Bus::default();
        // The reset register is inside PCI's eight ports, which pass bytes at it on.
        self.cards.insert_into(&mut ports, &mut memory, self.reset.clone())?;
        Ok(Buses { ports, memory })
    }

    /// Stands them still, when no vCPU runs: when this returns, nothing is in flight.
    pub(super) fn pause(&self) {
        // None of the others works by itself.
        self.cards.pause();
    }

    /// Lets them go on, before a vCPU runs.
    pub(super) fn resume(&self) {
        self.cards.resume();
    }
}
