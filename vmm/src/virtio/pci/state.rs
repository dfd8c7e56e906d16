//! The plain state of a transport, and of what it carries.

use crate::pci::config::{ConfigError, ConfigState};
use crate::pci::msix::{MsixError, MsixState};
use crate::virtio::{DeviceState, Mismatch};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::QueueState;

/// A queue's registers, and how far both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// Its size, as the driver chose it.
    pub size: u16,
    /// Whether it is enabled.
    pub ready: bool,
    /// Where the descriptors are.
    pub descriptors: u64,
    /// Where the driver writes.
    pub driver: u64,
    /// Where the device writes.
    pub device: u64,
    /// The next buffer that the device takes.
    pub next_avail: u16,
    /// The next that it gives back.
    pub next_used: u16,
    /// Its vector.
    pub vector: u16,
}

impl QueueRegisters {
    pub(super) fn new(queue: &QueueState, vector: u16) -> Self {
        Self {
            size: queue.size,
            ready: queue.ready,
            descriptors: queue.desc_table,
            driver: queue.avail_ring,
            device: queue.used_ring,
            next_avail: queue.next_avail,
            next_used: queue.next_used,
            vector,
        }
    }

    pub(super) fn queue(&self, max_size: u16) -> QueueState {
        QueueState {
            max_size,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.driver,
            used_ring: self.device,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: false,
        }
    }
}

/// A transport's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// The status register, without `DEVICE_NEEDS_RESET`.
    pub status: u8,
    /// `DEVICE_NEEDS_RESET`.
    pub needs_reset: bool,
    /// What the driver wants of the features.
    pub features: u64,
    /// Which half of the device's features it reads.
    pub device_select: u32,
    /// Which half of its own it writes.
    pub driver_select: u32,
    /// Which queue it sets up.
    pub queue_select: u16,
    /// What has happened.
    pub isr: u8,
    /// The configuration's generation.
    pub generation: u8,
    /// The vector for changes of configuration.
    pub config_vector: u16,
    /// Its queues.
    pub queues: Vec<QueueRegisters>,
    /// Its messages.
    pub msix: MsixState,
    /// Its configuration space.
    pub config: ConfigState,
}

/// A card's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardState {
    /// What every virtio card has.
    pub transport: TransportState,
    /// What this device has.
    pub device: DeviceState,
}

/// A saved card that cannot be taken.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The number of queues differs.
    #[error(
        "the saved virtio device has {theirs} queues, this one {ours}; are both hosts' options the same?"
    )]
    Queues {
        /// Those of the state.
        theirs: usize,
        /// Those of the device.
        ours: usize,
    },
    /// A queue of an impossible size.
    #[error("queue {queue} of the saved virtio device has {size} descriptors, at most {most} are possible")]
    Size {
        /// Which queue.
        queue: usize,
        /// Its size.
        size: u16,
        /// The most.
        most: u16,
    },
    /// Features that are not there.
    #[error(
        "the saved virtio driver uses features {0:#x}, which this device does not have; are both hosts' options the same?"
    )]
    Features(u64),
    /// A status that no driver reaches.
    #[error("the saved virtio device has status {0:#x}, which is none")]
    Status(u8),
    /// Another configuration space.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another table.
    #[error(transparent)]
    Msix(#[from] MsixError),
    /// Another device.
    #[error(transparent)]
    Device(#[from] Mismatch),
}
