//! What can be done to a running guest, by whoever: QMP, signals, a checkpoint.
//!
//! ```text
//!                 first state
//!   InMigrate ───────────────────────┐
//!            stop ─────────────►     ▼
//!   Running          ◄───────── cont   Paused
//!    │ ▲ └──► Colo (a checkpoint) ◄───┘ │
//!    │ └────────┘ freezes alone let it go on
//!    │ guest powers off, or quit        │ quit
//!    └───────────────► Shutdown ◄───────┘
//! ```

use crate::checkpoint::status::{Reason, Role, Status};
use crate::outlet::Outlet;
use serde::{Deserialize, Serialize};
use std::fmt;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use thiserror::Error;

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its vCPUs run.
    Running,
    /// They stand, and nothing is in flight.
    Paused,
    /// They stand and have nothing to do: the machine waits for its first state.
    #[serde(rename = "inmigrate")]
    InMigrate,
    /// They stand for a checkpoint; what made it lets them go on.
    Colo,
    /// It has powered off, or is being ended.
    Shutdown,
}

/// Something that happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its vCPUs stand.
    Stop,
    /// They go on.
    Resume,
    /// It ends.
    Shutdown {
        /// Whether the guest itself powered off.
        guest: bool,
    },
    /// It begins anew.
    Reset {
        /// Whether the guest itself asked.
        guest: bool,
    },
    /// Its power button was pressed.
    Powerdown,
    /// It is protected no more, or has taken over.
    ColoExit {
        /// Which side this was.
        role: Role,
        /// Why.
        reason: Reason,
    },
}

/// A vCPU, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuInfo {
    /// Its number.
    pub index: u32,
    /// Its thread, as the kernel numbers it.
    pub thread: u32,
}

/// A disk, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockInfo {
    /// What the guest calls it (`vda`), or what the command line did.
    pub device: String,
    /// The image.
    pub file: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Whether it can be written.
    pub read_only: bool,
    /// Its size in bytes, as the guest sees it.
    pub size: u64,
    /// Whether a write is done before it is on the medium.
    pub write_back: bool,
    /// Whether it goes round the host's page cache.
    pub direct: bool,
}

/// Something that cannot be done now.
#[derive(Debug, Error)]
#[error("cannot {what}: {reason}")]
pub struct ControlError {
    /// What was asked for.
    pub what: &'static str,
    /// Why not.
    pub reason: String,
}

/// A guest that runs, seen from outside. Calls may come from any thread.
pub trait Control: Send + Sync + fmt::Debug {
    /// What it does.
    fn state(&self) -> RunState;
    /// Stands it still; it stands when this returns, with nothing in flight. Standing already is fine.
    fn stop(&self) -> Result<(), ControlError>;
    /// Lets it go on. Running already is fine.
    fn cont(&self) -> Result<(), ControlError>;
    /// Presses its power button.
    fn powerdown(&self) -> Result<(), ControlError>;
    /// Presses its reset button.
    fn reset(&self) -> Result<(), ControlError>;
    /// Ends it at once.
    fn quit(&self);
    /// Its vCPUs.
    fn cpus(&self) -> Vec<CpuInfo>;
    /// Its disks.
    fn blocks(&self) -> Vec<BlockInfo>;
    /// What happens to it from now on; a receiver that is not read loses the newest events. After the last
    /// event of a guest that has ended the channel is closed.
    fn events(&self) -> Receiver<Event>;
}

/// What a saved state is, once it is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Bytes of the file.
    pub bytes: u64,
    /// Pages of RAM that are in it with their content.
    pub pages: u64,
    /// Pages that are all zeros.
    pub zero_pages: u64,
    /// How long the guest stood for it.
    pub stood: Duration,
}

/// Writes a guest's whole state somewhere.
pub trait Save: Send + Sync + fmt::Debug {
    /// The guest stands meanwhile, and goes on after if it ran before.
    fn save(&self, out: Outlet) -> Result<Saved, ControlError>;
}

/// A guest that has, or is, a secondary, seen from outside.
pub trait Colo: Send + Sync + fmt::Debug {
    /// How it is.
    fn status(&self) -> Status;
    /// Sets the time between two checkpoints that nothing else asks for; one is made at once, as QEMU does.
    fn set_delay(&self, delay: Duration) -> Result<(), ControlError>;
    /// Asks for a checkpoint.
    fn checkpoint(&self) -> Result<(), ControlError>;
    /// The peer is gone for good, somebody says who knows: a secondary takes over, a primary goes on alone.
    /// Its own process is sure of that when this returns.
    fn lost_heartbeat(&self) -> Result<(), ControlError>;
}

/// All that QMP can reach.
#[derive(Clone, Debug)]
pub struct Controls {
    /// The guest.
    pub guest: Arc<dyn Control>,
    /// Who writes its state.
    pub save: Option<Arc<dyn Save>>,
    /// Its checkpoints, if it has a peer.
    pub colo: Option<Arc<dyn Colo>>,
}
