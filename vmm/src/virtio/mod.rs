//! What a virtio device is, whatever carries it (virtio 1.3).
//!
//! ```text
//!   transport (PCI)                         device
//!     features, config ◄─────────────────► features, read_config, write_config
//!     DRIVER_OK ──── Activation ──────────► activate: a worker begins
//!     status := 0 ────────────────────────► reset: the worker ends
//!   machine
//!     pause ──────────────────────────────► pause: nothing is in flight, queues stand still
//!     save / load ◄───────────────────────► a plain state
//!     resume ─────────────────────────────► resume: the worker goes on
//! ```

pub mod answers;
#[cfg(test)]
pub(crate) mod fake_driver;
pub mod gather;
pub mod pci;
pub mod ring;
mod state;
pub mod throttle;
pub mod worker;

pub use state::{DeviceState, Mismatch};

use crate::irq::Interrupt;
use crate::memory::GuestRam;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use virtio_queue::{Queue, QueueState};
use vmm_sys_util::eventfd::EventFd;

/// What a driver is told that a device is (virtio 1.3 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// A network card.
    Net = 1,
    /// A disk.
    Block = 2,
    /// A source of randomness.
    Rng = 4,
}

/// A queue that a driver has set up.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number in the device.
    pub index: u16,
    /// Where its rings are, and how far both sides are.
    pub queue: Queue,
    /// The driver's notification (an ioeventfd).
    pub kick: EventFd,
}

/// All that a device works with while a driver uses it.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// The queues that the driver enabled; a subset of those that the device offers.
    pub queues: Vec<ActiveQueue>,
    /// The features that were negotiated.
    pub features: u64,
    /// How it interrupts.
    pub interrupt: Arc<dyn Interrupt>,
}

/// A device that cannot begin, or cannot go on.
#[derive(Debug, Error)]
#[error("{what}: {reason}")]
pub struct DeviceError {
    /// What was tried, on what.
    pub what: String,
    /// Why it failed.
    pub reason: Box<dyn std::error::Error + Send + Sync>,
}

/// A virtio device.
///
/// Its worker is its own matter; the transport calls from vCPU threads, and one call at a time. Nothing
/// that a driver writes into rings, buffers or configuration may panic or stall it: a queue that is
/// broken makes the device ask for a reset (`DEVICE_NEEDS_RESET`), and is logged at a bounded rate.
pub trait Device: Send + fmt::Debug {
    /// What it is.
    fn kind(&self) -> Kind;
    /// The features that it offers, transport features excepted (`VERSION_1` and the ring's are the
    /// transport's).
    fn features(&self) -> u64;
    /// The largest size of each queue.
    fn queues(&self) -> Vec<u16>;
    /// Reads its configuration; what is beyond the end stays as `data` is (zeros).
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes it. Most devices have nothing that a driver can write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready: begins to work. An error makes the device need a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;
    /// The driver wants to begin anew: ends all work, and waits for what is in flight.
    fn reset(&mut self);
    /// What it knows besides its transport, while it is paused.
    fn save(&self) -> DeviceState;
    /// Whether a state is of such a device.
    fn check(&self, state: &DeviceState) -> Result<(), Mismatch>;
    /// Takes a state that was checked, while it is paused; its transport has taken its own.
    fn load(&mut self, _state: &DeviceState) {}
    /// Takes other positions in its queues, while it is paused: where they are is the same. False if it
    /// cannot; then it is reset and activated anew.
    fn rewind(&mut self, _positions: &[(u16, QueueState)]) -> bool {
        false
    }
    /// Begins to end all work, and does not wait for it: [`pause`](Self::pause) follows.
    fn call(&mut self) {}
    /// Ends all work but forgets nothing: when this returns nothing is in flight, no thread touches
    /// the guest's memory, and every interrupt that is due was sent. Gives how far each active queue
    /// is. Paused already, or never activated, is fine.
    fn pause(&mut self) -> Vec<(u16, QueueState)>;
    /// Goes on after [`pause`](Self::pause).
    fn resume(&mut self);
}
