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

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::mpsc::Receiver;
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
