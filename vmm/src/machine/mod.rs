//! A machine: everything put together, and who decides what it does next.
//!
//! ```text
//!   Setup ─► Machine::new ─► run ──────────────► ExitReason
//!                             │  lifecycle: one request after the other
//!      Control (QMP, signals) │
//!         stop, cont, … ─────►├─► vCPUs: pause, resume
//!      Freezer (checkpoints) ►├─► a closure that holds a machine that stands: save, load
//!      Power (guest) ────────►├─► devices: pause, resume (machine::devices)
//!      vCPUs: ended ─────────►└─► clocks: stand, go on
//! ```
//!
//! All requests come through one channel to one thread, so that no two are ever half done at once.

mod beginning;
mod clocks;
mod control;
pub mod devices;
pub mod files;
mod frozen;
mod lifecycle;
mod load;
pub mod sections;
mod state;

pub use frozen::{After, Freezer, Frozen, PauseTimes, Time};
pub use lifecycle::ExitReason;
pub use state::{ClockState, LoadError, MachineState, Shape, StateError};

use crate::acpi::AcpiError;
use crate::boot::BootError;
use crate::bus::BusError;
use crate::config::OnReset;
use crate::control::{BlockInfo, Control, Event, RunState};
use crate::devices::serial::{Output, Serial};
use crate::irq::Routes;
use crate::kvm::{Error as KvmError, Kvm, Tracking, Vm};
use crate::memory::{self, RamError};
use crate::sandbox::{ConfineError, Sandbox};
use crate::vcpu::{self, VcpuError};
use crate::virtio::Device;
use crate::virtio::pci::cards::{CardError, CardsError};
use beginning::{Beginning, Kernel};
use clocks::Clocks;
use control::Handle;
use lifecycle::{Lifecycle, Parts, Request};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::{fmt, io};
use thiserror::Error;

/// What is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel: a bzImage or an ELF file.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
}

/// How a machine begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It boots.
    Boot(BootFiles),
    /// It waits for a state, and boots this when it is reset after; without it a reset is the end.
    Wait(Option<BootFiles>),
}

/// What a machine is made of.
pub struct Setup {
    /// How it begins.
    pub begin: Begin,
    /// Bytes of RAM.
    pub memory: u64,
    /// How many vCPUs.
    pub cpus: u32,
    /// Where what COM1 prints goes.
    pub console: Output,
    /// Its virtio devices, in the order of their slots.
    pub devices: Vec<Box<dyn Device>>,
    /// What its disks are, for people.
    pub blocks: Vec<BlockInfo>,
    /// What its reset does.
    pub on_reset: OnReset,
    /// How written pages are to be noted, once somebody wants to know them.
    pub tracking: Tracking,
    /// Called when everything is open, before the first thread: what the threads enter.
    pub confine: Confine,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("begin", &self.begin)
            .field("memory", &self.memory)
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}

/// Gives up what a running machine has no use for.
pub type Confine = Box<dyn FnOnce() -> Result<Sandbox, ConfineError>>;

/// The most vCPUs of a machine.
pub const MOST_CPUS: u32 = 16;

/// A machine that cannot be made, or cannot go on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM refuses something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The memory cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Two devices want one address, which only a bug does.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device finds no place.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Devices do not become what they were, which only a bug does.
    #[error("cannot reset the devices: {0}")]
    Cards(#[from] CardsError),
    /// A vCPU cannot be had, or went away.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The tables cannot be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The kernel cannot be booted.
    #[error("cannot boot {}: {source}", path.display())]
    Boot {
        /// Which.
        path: PathBuf,
        /// Why.
        source: BootError,
    },
    /// A file cannot be opened.
    #[error("cannot open the {what} {}: {source}", path.display())]
    Open {
        /// What it is.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many vCPUs, or none.
    #[error("a machine has 1 to {most} vCPUs, not {0}", most = MOST_CPUS)]
    Cpus(u32),
    /// It was frozen, and is neither what it was nor what it was to be.
    #[error("the guest cannot go on: {0}")]
    Lost(String),
    /// It cannot be confined.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// A vCPU failed.
    #[error("vCPU {index} failed: {reason}{hint}")]
    Failed {
        /// Which.
        index: u32,
        /// Why, in a line.
        reason: String,
        /// What may be behind it.
        hint: String,
    },
}

/// A machine that has not begun to run.
#[derive(Debug)]
pub struct Machine {
    lifecycle: Lifecycle,
    control: Arc<Handle>,
    serial: Arc<Serial>,
    sandbox: Sandbox,
}

impl Machine {
    /// Makes it, with the kernel in its memory if it boots.
    pub fn new(setup: Setup) -> Result<Self, MachineError> {
        if !(1..=MOST_CPUS).contains(&setup.cpus) {
            return Err(MachineError::Cpus(setup.cpus));
        }
        // First what can be wrong with the command line, so that nothing is made in vain.
        let (boots, files) = match setup.begin {
            Begin::Boot(files) => (true, Some(files)),
            Begin::Wait(files) => (false, files),
        };
        let mut kernel = files.map(|files| Kernel::open(files, setup.cpus)).transpose()?;
        let kvm = Kvm::open()?;
        let ram = Arc::new(memory::new(setup.memory)?);
        let to_boot = kernel.as_mut().filter(|_| boots);
        let entry = to_boot
            .map(|kernel| Ok::<_, MachineError>((kernel.load(&ram)?, kernel.path().clone())))
            .transpose()?;
        let vm = Arc::new(Vm::tracked_by(&kvm, ram, setup.tracking)?);
        let routes = Routes::new(vm.clone())?;
        let resets: Vec<_> = (0..setup.cpus)
            .map(|index| vcpu::Reset::new(&kvm, &vm, index, setup.cpus))
            .collect::<Result<_, _>>()?;
        if let (Some(first), Some((entry, path))) = (resets.first(), entry) {
            entry.set(vm.ram(), first.fd()).map_err(|source| MachineError::Boot { path, source })?;
        }
        let khz = resets.first().map_or(0, vcpu::Reset::counter_khz);

        let (requests, inbox) = channel();
        let mut devices = devices::Devices::new(&vm, &routes, setup.console, requests.clone());
        for device in setup.devices {
            devices.add(device, &vm)?;
        }
        let buses = Arc::new(devices.buses()?);
        let serial = devices.serial();
        let sandbox = (setup.confine)()?;
        let mut vcpus = Vec::new();
        for reset in resets {
            let requests = requests.clone();
            // When the lifecycle has ended, nobody needs to know.
            let told = move |index, ending| drop(requests.send(Request::Ended(index, ending)));
            vcpus.push(reset.start(buses.clone(), sandbox.clone(), told)?);
        }
        let state = if boots { RunState::Paused } else { RunState::InMigrate };
        let control = Arc::new(Handle::new(&vcpus, setup.blocks, requests, state));
        let reboot = match (setup.on_reset, kernel) {
            (OnReset::Reboot, Some(kernel)) => Some(Beginning::new(kernel, vm.clone(), &vcpus, &devices)?),
            _ => None,
        };
        let clocks = Clocks::new(vm.clone(), devices.timer(), khz);
        let parts = Parts { kvm, vm, vcpus, devices, clocks, beginning: reboot };
        let lifecycle = Lifecycle::new(parts, inbox, control.clone());
        Ok(Self { lifecycle, control, serial, sandbox })
    }

    /// Who commands it, from any thread.
    pub fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    /// Who freezes it, from any thread.
    pub fn freezer(&self) -> Freezer {
        self.control.freezer()
    }

    /// Its VM: its memory, and what notes who writes it.
    pub fn vm(&self) -> Arc<Vm> {
        self.lifecycle.vm()
    }

    /// Who tells those that listen to [`Control::events`] of something.
    pub fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let control = self.control.clone();
        move |event| control.tell(event)
    }

    /// COM1, for what is typed.
    pub fn serial(&self) -> Arc<Serial> {
        self.serial.clone()
    }

    /// What its threads are in, for those that join them.
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox.clone()
    }

    /// Runs it until it ends, and takes it apart.
    pub fn run(self) -> Result<ExitReason, MachineError> {
        self.lifecycle.run()
    }
}

/// A KVM that emulates each instruction is the likeliest reason why stock kernels fail.
fn hint(kvm: &Kvm) -> String {
    kvm.warning().map_or_else(String::new, |warning| format!("; {warning}"))
}

#[cfg(test)]
pub(crate) mod tests;
