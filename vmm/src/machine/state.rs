//! All that a machine is, but its memory.
//!
//! ```text
//!   MachineState ── shape (what it was built as) ── clock ── vCPUs ── chips ── COM1, RTC, PM, reset register
//!                └─ PCI's root ── cards: transport + what the device itself knows
//! ```

use crate::devices::i8042::ResetState;
use crate::devices::pm::PmState;
use crate::devices::rtc::RtcState;
use crate::devices::serial::SerialState;
use crate::kvm::{Chips, Error as KvmError};
use crate::pci::root::RootState;
use crate::vcpu::{VcpuError, VcpuState};
use crate::virtio::pci::CardState;
use crate::virtio::pci::cards::CardsError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a machine was built as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of RAM.
    pub memory: u64,
    /// How many vCPUs.
    pub cpus: u32,
}

/// The guest's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// kvmclock; the vCPUs' counters are of the same instant.
    pub nanoseconds: u64,
}

/// A machine's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// What it was built as.
    pub shape: Shape,
    /// Its clock.
    pub clock: ClockState,
    /// Its vCPUs, by number.
    pub vcpus: Vec<VcpuState>,
    /// Interrupt controllers and timer.
    pub chips: Chips,
    /// COM1.
    pub serial: SerialState,
    /// The real-time clock.
    pub rtc: RtcState,
    /// ACPI's fixed registers.
    pub pm: PmState,
    /// The reset register.
    pub reset: ResetState,
    /// PCI's root.
    pub pci: RootState,
    /// The virtio cards, by slot.
    pub cards: Vec<CardState>,
}

/// A state that cannot be had.
#[derive(Debug, Error)]
pub enum StateError {
    /// There is none.
    #[error("the guest has no state: this machine waits for its first one")]
    None,
    /// A vCPU does not give its own.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// KVM does not give a part.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// A state that cannot be taken. The machine is what it was before, if nothing else is said.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It was built otherwise.
    #[error(
        "the state is of a machine with {} bytes of RAM and {} vCPUs, and this one has {} and {}: start both with the same options",
        theirs.memory, theirs.cpus, ours.memory, ours.cpus
    )]
    Shape {
        /// In the state.
        theirs: Shape,
        /// Here.
        ours: Shape,
    },
    /// It has not as many vCPUs as it says.
    #[error("the state has {found} vCPUs and says that it has {said}: it is damaged")]
    Cpus {
        /// How many there are.
        found: usize,
        /// How many there should be.
        said: u32,
    },
    /// What a vCPU is said to be cannot be.
    #[error("the state of vCPU {index} cannot be taken: {source}")]
    Vcpu {
        /// Which.
        index: usize,
        /// Why not.
        source: crate::vcpu::StateError,
    },
    /// A card is another one.
    #[error(transparent)]
    Cards(#[from] CardsError),
    /// What is there now cannot be saved, so nothing was changed.
    #[error("the state cannot be taken, as that of before cannot be saved: {0}")]
    Before(#[from] StateError),
    /// KVM refused it half-way. What was before is there again.
    #[error("the state was refused, and that of before is back: {0}")]
    Refused(VcpuError),
    /// KVM refused that of before, too: the machine cannot go on.
    #[error("the state was refused ({refused}), and that of before, too ({again}): the guest is lost")]
    Lost {
        /// Why the state was refused.
        refused: VcpuError,
        /// Why that of before was.
        again: String,
    },
}
