//! Two hellos that do not fit, and what is to be done about it.

use super::{Answer, Block, Mode, Role, Side};
use crate::config::Name;
use thiserror::Error;

/// Two hellos that do not fit. Each says both values.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Mismatch {
    /// Another VM.
    #[error("we protect {ours}, and the peer protects {theirs}; give both the same --name, or another port")]
    Vm {
        /// Our VM.
        ours: Name,
        /// The peer's.
        theirs: Name,
    },
    /// Two primaries, or two secondaries.
    #[error("both sides are the {0}; one is to be started as primary, the other as secondary")]
    Side(Side),
    /// Another kind of connection.
    #[error(
        "this is our {ours} connection, and the peer takes it for the {theirs} one; this is a bug of one of the two"
    )]
    Role {
        /// What it is to us.
        ours: Role,
        /// What it is to the peer.
        theirs: Role,
    },
    /// A primary that slept through a take-over.
    #[error(
        "the primary is of generation {primary}, and the secondary has seen generation {secondary}: the VM has been taken over since; start this primary's host as the secondary"
    )]
    Stale {
        /// The primary's generation.
        primary: u64,
        /// The secondary's.
        secondary: u64,
    },
    /// Another session.
    #[error("our session is {ours:#x}, and the peer's is {theirs:#x}; this heartbeat belongs to another one")]
    Session {
        /// Ours.
        ours: u64,
        /// The peer's.
        theirs: u64,
    },
    /// Another mode.
    #[error("our mode is {ours}, and the peer's is {theirs}; give both the same --mode")]
    Mode {
        /// Ours.
        ours: Mode,
        /// The peer's.
        theirs: Mode,
    },
    /// Another machine.
    #[error(
        "the machines differ: ours has {ours}, and the peer's {theirs}; give both the same guest (--cpus, --disk, --net, --rng, --kernel, --initrd, --cmdline)"
    )]
    Machine {
        /// Ours.
        ours: String,
        /// The peer's.
        theirs: String,
    },
    /// Another number of blocks.
    #[error("our guest has {ours} blocks of RAM, and the peer's has {theirs}; give both the same --memory")]
    BlockCount {
        /// Ours.
        ours: usize,
        /// The peer's.
        theirs: usize,
    },
    /// Another block.
    #[error("our RAM block is {ours}, and the peer's is {theirs}; give both the same --memory")]
    Block {
        /// Ours.
        ours: Block,
        /// The peer's.
        theirs: Block,
    },
    /// Another number of disks.
    #[error(
        "our guest has {ours} disks that it can write, and the peer's has {theirs}; give both the same --disk"
    )]
    DiskCount {
        /// Ours.
        ours: usize,
        /// The peer's.
        theirs: usize,
    },
    /// Another size.
    #[error(
        "our disk {disk} has {ours} bytes, and the peer's {theirs}; make the secondary's as large as the primary's \
         (truncate --size, qemu-img resize, lvresize)"
    )]
    DiskSize {
        /// What the guest calls it.
        disk: String,
        /// Ours.
        ours: u64,
        /// The peer's.
        theirs: u64,
    },
    /// The secondary does not take the connection.
    #[error("the secondary refuses: {0}")]
    Refused(Answer),
}
