//! What a machine begins with, each time: a reset makes it this again, in place.
//!
//! ```text
//!   Machine::new ─► Kernel::load ─► vCPUs with threads ─► Beginning::new ─► run
//!                        ▲                                    │
//!   reset: all stand ─► Beginning::again ─────────────────────┘
//!                        ├─ devices, interrupt controllers, timer: as they were
//!                        ├─ kernel, initrd, tables: read anew from files that are still open
//!                        └─ vCPUs: as they were, at the kernel's entry
//! ```
//!
//! Memory keeps what is in it, as on a PC that is reset; what has to be there for the kernel is written anew.

use super::devices::{Devices, DevicesState};
use super::{BootFiles, MachineError};
use crate::acpi;
use crate::boot::{self, Entry};
use crate::kvm::{Chips, Vm};
use crate::memory::GuestRam;
use crate::vcpu::{HostTicks, Vcpu, VcpuState};
use kvm_bindings::kvm_sregs;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// What is booted.
#[derive(Debug)]
pub(super) struct Kernel {
    path: PathBuf,
    // Both stay open: a process that is confined opens nothing any more.
    image: File,
    initrd: Option<File>,
    cmdline: String,
    cpus: u32,
}

impl Kernel {
    /// Opens what is to be booted.
    pub(super) fn open(files: BootFiles, cpus: u32) -> Result<Self, MachineError> {
        let BootFiles { kernel: path, initrd, cmdline } = files;
        let image = open("kernel", &path)?;
        let initrd = initrd.map(|path| open("initrd", &path)).transpose()?;
        Ok(Self { path, image, initrd, cmdline, cpus })
    }

    /// Puts all of it into the guest's memory.
    pub(super) fn load(&mut self, ram: &GuestRam) -> Result<Entry, MachineError> {
        let rsdp = acpi::write(ram, self.cpus)?;
        boot::load(ram, &mut self.image, self.initrd.as_mut(), self.cmdline.as_bytes(), rsdp)
            .map_err(|source| MachineError::Boot { path: self.path.clone(), source })
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }
}

fn open(what: &'static str, path: &PathBuf) -> Result<File, MachineError> {
    let failed = |source| MachineError::Open { what, path: path.clone(), source };
    // A FIFO would wait for its other end.
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        // It is read again when the guest begins anew.
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    Ok(file)
}

/// A machine before its first instruction.
#[derive(Debug)]
pub(super) struct Beginning {
    kernel: Kernel,
    vm: Arc<Vm>,
    vcpus: Vec<VcpuState>,
    devices: DevicesState,
    chips: Chips,
}

impl Beginning {
    /// Looks at a machine that has not run yet.
    pub(super) fn new(
        kernel: Kernel,
        vm: Arc<Vm>,
        vcpus: &[Vcpu],
        devices: &Devices,
    ) -> Result<Self, MachineError> {
        let now = HostTicks::now();
        let saved = vcpus.iter().map(|vcpu| vcpu.save(now).done().map(|state| *state));
        let mut states = saved.collect::<Result<Vec<_>, _>>()?;
        // A reset sets the counters to zero, and all at once: KVM keeps those together that are set alike.
        states.iter_mut().for_each(VcpuState::clear_counter);
        let chips = vm.chips()?;
        Ok(Self { kernel, vm, vcpus: states, devices: devices.state(), chips })
    }

    /// Makes the machine what it was. All of it stands.
    pub(super) fn again(&mut self, vcpus: &[Vcpu], devices: &Devices) -> Result<(), MachineError> {
        let now = HostTicks::now();
        devices.load(&self.devices)?;
        self.vm.set_chips(&self.chips)?;
        let entry = self.kernel.load(self.vm.ram())?;
        for (number, (vcpu, state)) in vcpus.iter().zip(&self.vcpus).enumerate() {
            let mut state = state.clone();
            if number == 0 {
                // The file may have become another kernel's.
                let mut sregs: kvm_sregs = (&state.sregs).into();
                let regs = entry
                    .prepare(self.vm.ram(), &mut sregs)
                    .map_err(|source| MachineError::Boot { path: self.kernel.path().clone(), source })?;
                (state.regs, state.sregs) = ((&regs).into(), (&sregs).into());
            }
            vcpu.load(state, now).done()?;
        }
        Ok(())
    }
}
