//! virtio over PCI (virtio 1.3 §4.1), modern drivers only.
//!
//! ```text
//!   BAR 0, memory   0x0000 common configuration   0x1000 ISR   0x2000 device configuration
//!                   0x3000 MSI-X table            0x3800 pending bits
//!   BAR 1, ports    4 × queue: notifications, each an eventfd in KVM: such an exit ends in the kernel
//!
//!   vCPU ─ OUT ─► KVM ─► kick eventfd ─► worker ─► Signals ─► vector's eventfd ─► KVM ─► vCPU
//! ```
//!
//! While a driver works no access comes here: neither notifications nor interrupts do.

pub mod cards;
mod common;
mod signals;
mod state;
mod status;

pub use common::{RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1};
pub use state::{CardState, LoadError, QueueRegisters, TransportState};

use crate::kvm::{PortWidth, Vm};
use crate::memory::GuestRam;
use crate::pci::Function;
use crate::pci::config::{AddressSpace, BarKind, ConfigSpace, Full, Identity, Region};
use crate::pci::msix::{self, Msix, Vector};
use crate::pci::space::{NoRoom, Space};
use crate::virtio::{Device, Kind};
use common::Common;
use signals::Signals;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const VENDOR: u16 = 0x1af4;
/// Modern devices are this plus their kind.
const DEVICE: u16 = 0x1040;

const MEMORY_BAR: u8 = 0;
const MEMORY_SIZE: u64 = 0x4000;
const ISR: u64 = 0x1000;
const DEVICE_CONFIG: u64 = 0x2000;
const TABLE: u64 = 0x3000;
const PENDING: u64 = 0x3800;

const NOTIFY_BAR: u8 = 1;
const NOTIFY_SIZE: u64 = 0x100;
const NOTIFY_EACH: u64 = 4;
/// More would not fit into the notification BAR, nor their vectors into the table.
const MAX_QUEUES: usize = (NOTIFY_SIZE / NOTIFY_EACH) as usize;

const VENDOR_CAPABILITY: u8 = 9;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// A device that cannot be put on the bus.
#[derive(Debug, Error)]
pub enum TransportError {
    /// It has too many queues.
    #[error("a virtio device of {0} queues; at most {MAX_QUEUES} are possible")]
    Queues(usize),
    /// No room for its BARs.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// No room in its configuration space.
    #[error(transparent)]
    Full(#[from] Full),
    /// No eventfd.
    #[error("cannot make an eventfd for a virtio queue: {0}; raise the limit of open files (ulimit -n)")]
    Event(io::Error),
}

/// Who connects a port to an eventfd, so that a write to it ends in the kernel.
pub trait Doorbells: Send + Sync + fmt::Debug {
    /// Connects.
    fn attach(&self, kick: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
    /// Takes it back.
    fn detach(&self, kick: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

impl Doorbells for Vm {
    fn attach(&self, kick: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.attach_port(kick, port, PortWidth::Word, None)?)
    }

    fn detach(&self, kick: &EventFd, port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.detach_port(kick, port, PortWidth::Word, None)?)
    }
}

/// Where in the configuration space the capabilities are that the guest writes.
#[derive(Clone, Copy, Debug)]
struct Places {
    msix: u8,
    access: u8,
}

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci {
    config: Mutex<ConfigSpace>,
    places: Places,
    common: Mutex<Common>,
    signals: Arc<Signals>,
    kicks: Arc<[EventFd]>,
    doorbells: Option<Arc<dyn Doorbells>>,
    /// Where the doorbells are.
    rung_at: Mutex<Option<u16>>,
}

impl VirtioPci {
    /// Makes a function of a device. `vectors` are its interrupts: one for the configuration and one for
    /// each queue ([`vectors`] says how many); with fewer, queues share. Without `doorbells` a
    /// notification is an exit like any other.
    pub fn new(
        device: Box<dyn Device>,
        ram: Arc<GuestRam>,
        vectors: Vec<Box<dyn Vector>>,
        doorbells: Option<Arc<dyn Doorbells>>,
        space: &mut Space,
    ) -> Result<Arc<Self>, TransportError> {
        let queues = device.queues().len();
        if queues > MAX_QUEUES {
            return Err(TransportError::Queues(queues));
        }
        let msix = Msix::new(vectors);
        let mut config = ConfigSpace::new(identity(device.kind()));
        config.add_bar(
            usize::from(MEMORY_BAR),
            BarKind::Memory32,
            MEMORY_SIZE,
            space.memory(MEMORY_SIZE)?,
        )?;
        config.add_bar(usize::from(NOTIFY_BAR), BarKind::Ports, NOTIFY_SIZE, space.ports(NOTIFY_SIZE)?)?;
        let table = msix.capability(MEMORY_BAR, TABLE as u32, PENDING as u32);
        let control = msix::CONTROL_WRITABLE.to_le_bytes();
        let at_msix = config.add_capability(msix::CAPABILITY, &table, &control)?;
        let mut add = |kind, bar, offset: u64, len: u64, more: &[u8], writable: &[u8]| {
            let mut body = vec![16 + more.len() as u8, kind, bar, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend((len as u32).to_le_bytes());
            body.extend(more);
            config.add_capability(VENDOR_CAPABILITY, &body, writable)
        };
        add(COMMON_CFG, MEMORY_BAR, 0, common::LEN as u64, &[], &[])?;
        add(NOTIFY_CFG, NOTIFY_BAR, 0, NOTIFY_SIZE, &(NOTIFY_EACH as u32).to_le_bytes(), &[])?;
        add(ISR_CFG, MEMORY_BAR, ISR, 1, &[], &[])?;
        add(DEVICE_CFG, MEMORY_BAR, DEVICE_CONFIG, TABLE - DEVICE_CONFIG, &[], &[])?;
        // BAR, offset, length and data are the guest's.
        let mut writable = [0xff; 18];
        writable[..2].fill(0);
        writable[3..6].fill(0);
        let access = add(PCI_CFG, 0, 0, 0, &[0; 4], &writable)?;
        let kicks = (0..queues).map(|_| EventFd::new(EFD_NONBLOCK));
        let kicks: Arc<[EventFd]> = kicks.collect::<Result<_, _>>().map_err(TransportError::Event)?;
        let signals = Signals::new(msix, queues);
        let function = Self {
            config: Mutex::new(config),
            places: Places { msix: at_msix, access },
            common: Mutex::new(Common::new(device, ram, signals.clone(), kicks.clone())),
            signals,
            kicks,
            doorbells,
            rung_at: Mutex::new(None),
        };
        function.hang_doorbells();
        Ok(Arc::new(function))
    }

    /// Begins to pause.
    pub fn call(&self) {
        self.common().call();
    }

    /// Nothing is in flight when this returns. The vCPUs stand already.
    pub fn pause(&self) {
        self.common().pause();
    }

    /// Goes on, or begins what was loaded.
    pub fn resume(&self) {
        self.common().resume();
    }

    /// As after power-on, BARs excepted: those stay where the guest has put them.
    pub fn reset(&self) {
        self.common().reset();
        self.signals.msix.reset();
        self.config().write(self.places.msix + 2, &[0, 0]);
    }

    /// Its plain state, while it is paused.
    pub fn save(&self) -> CardState {
        let config = self.config().save();
        let mut common = self.common();
        let transport = common.save(TransportState {
            status: 0,
            needs_reset: false,
            features: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            isr: 0,
            generation: 0,
            config_vector: signals::NO_VECTOR,
            queues: Vec::new(),
            msix: self.signals.msix.save(),
            config,
        });
        CardState { transport, device: common.device().save() }
    }

    /// Whether a state is of such a card.
    pub fn check(&self, state: &CardState) -> Result<(), LoadError> {
        let transport = &state.transport;
        let mut common = self.common();
        common.check(transport)?;
        common.device().check(&state.device)?;
        self.config().check(&transport.config)?;
        Ok(self.signals.msix.check(&transport.msix)?)
    }

    /// Takes a state that was checked, while it is paused; another one is left. Says whether the bus is to
    /// decode anew.
    pub fn load(&self, state: &CardState) -> bool {
        let mut common = self.common();
        let mut config = self.config();
        let transport = &state.transport;
        let (Ok(stage), Ok(bytes)) = (common.check(transport), config.check(&transport.config)) else {
            return false;
        };
        let before = config.regions();
        config.load(bytes);
        let moved = config.regions() != before;
        drop(config);
        self.signals.msix.load(&transport.msix);
        common.load(transport, stage, &state.device);
        drop(common);
        self.hang_doorbells();
        moved
    }

    /// Moves the doorbells to where the notification BAR is.
    fn hang_doorbells(&self) {
        let Some(doorbells) = &self.doorbells else { return };
        let mut rung_at = self.rung_at.lock().unwrap_or_else(PoisonError::into_inner);
        let region = self.config().regions().into_iter().find(|region| region.space == AddressSpace::Ports);
        let wanted = region.and_then(|region| u16::try_from(region.first).ok());
        if wanted == *rung_at {
            return;
        }
        let port = |base: u16, queue: usize| base.wrapping_add(NOTIFY_EACH as u16 * queue as u16);
        for (queue, kick) in self.kicks.iter().enumerate() {
            // Without a doorbell the access comes to `write` below, which does the same.
            if let Some(base) = *rung_at
                && let Err(error) = doorbells.detach(kick, port(base, queue))
            {
                tracing::debug!(queue, %error, "a doorbell was not there");
            }
            if let Some(base) = wanted
                && let Err(error) = doorbells.attach(kick, port(base, queue))
            {
                tracing::debug!(queue, %error, "no doorbell: notifications of this queue leave the kernel");
            }
        }
        *rung_at = wanted;
    }

    fn common(&self) -> MutexGuard<'_, Common> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the guest wants to access a BAR through the configuration space (§4.1.4.9), if an access of
    /// `len` bytes at `offset` is that: the BAR, the offset in it, and the length.
    fn window(&self, offset: u8, len: usize) -> Option<(u8, u64, usize)> {
        let data = self.places.access + 16;
        if usize::from(offset) + len <= usize::from(data) || offset >= data + 4 {
            return None;
        }
        let config = self.config();
        let [_, bar] = config.half(self.places.access + 3).to_le_bytes();
        let (at, len) = (config.word(self.places.access + 8), config.word(self.places.access + 12));
        let sane = matches!(len, 1 | 2 | 4) && at % len == 0 && bar <= NOTIFY_BAR;
        sane.then_some((bar, u64::from(at), len as usize))
    }
}

/// How many vectors a device uses at most.
pub fn vectors(device: &dyn Device) -> usize {
    device.queues().len() + 1
}

fn identity(kind: Kind) -> Identity {
    let class = match kind {
        Kind::Net => [2, 0, 0],
        Kind::Block => [1, 0, 0],
        Kind::Rng => [0xff, 0, 0],
    };
    Identity { vendor: VENDOR, device: DEVICE + kind as u16, class, revision: 1, subsystem: 0x40 }
}

impl Function for VirtioPci {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            let mut value = [0xff; 4];
            self.read(bar, at, &mut value[..len]);
            self.config().write(self.places.access + 16, &value);
        }
        self.config().read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        let control = {
            let mut config = self.config();
            config.write(offset, data);
            config.half(self.places.msix + 2)
        };
        self.signals.msix.set_control(control);
        self.hang_doorbells();
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            let value = self.config().word(self.places.access + 16).to_le_bytes();
            self.write(bar, at, &value[..len]);
        }
    }

    fn regions(&self) -> Vec<Region> {
        self.config().regions()
    }

    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            _ if bar != MEMORY_BAR => {}
            ..ISR => self.common().read(offset as usize, data),
            ISR => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.signals.isr.swap(0, Ordering::Relaxed);
                }
            }
            DEVICE_CONFIG..TABLE => self.common().device().read_config(offset - DEVICE_CONFIG, data),
            TABLE..PENDING => self.signals.msix.read_table(offset - TABLE, data),
            PENDING.. => self.signals.msix.read_pending(offset - PENDING, data),
            _ => {}
        }
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        match offset {
            _ if bar == NOTIFY_BAR => {
                if let Some(kick) = self.kicks.get((offset / NOTIFY_EACH) as usize) {
                    // A full counter means that a kick is due already.
                    let _ = kick.write(1);
                }
            }
            ..ISR => self.common().write(offset as usize, data),
            DEVICE_CONFIG..TABLE => self.common().device().write_config(offset - DEVICE_CONFIG, data),
            TABLE..PENDING => self.signals.msix.write_table(offset - TABLE, data),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
