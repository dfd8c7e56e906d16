//! What is to be run: the command line and a file, parsed into one value.
//!
//! ```text
//!   --memory 2G --disk path=a.qcow2 … ──► Draft ─┐
//!                                                ├─ over ─► Draft ── finish ──► Config ──► machine
//!   web.toml ── read, keys checked ─────► Draft ─┘            └ colo ─────────► Colo ────► checkpoints
//! ```
//!
//! Parsed, not validated later: what a [`Config`] holds can be used as it is. A word that means nothing
//! is refused with the right form, and with what was probably meant.

mod address;
mod colo;
mod console;
mod disk;
mod draft;
mod file;
mod millis;
mod net;
mod options;
mod suggest;
mod user;
mod value;

pub use address::{AddressError, Listen, Peer};
pub use colo::{
    Background, COLO_KEYS, Colo, ColoDraft, ColoError, Dirty, DiskSync, Mode, Packing, PeerLoss, Side, Tls,
    Trust,
};
pub use console::{Console, ConsoleError, Endpoint, EndpointError};
pub use disk::{Cache, Disk, DiskError, Format, Serial};
pub use draft::{Draft, Incomplete};
pub use file::{FileError, KEYS, read};
pub use millis::{Millis, MillisError};
pub use net::{Mac, Net, NetError, Tap};
pub use options::OptionError;
pub use user::{User, UserError};
pub use value::{Cpus, Memory, Name, OnReset, SeccompMode, ValueError};

use std::net::SocketAddr;
use std::path::PathBuf;

/// A guest to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it is called in reports and by QMP.
    pub name: Name,
    /// Its kernel: a bzImage, or an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// Its first root file system.
    pub initrd: Option<PathBuf>,
    /// What its kernel is told.
    pub cmdline: String,
    /// Its RAM.
    pub memory: Memory,
    /// Its vCPUs.
    pub cpus: Cpus,
    /// Its disks: `vda`, `vdb` and so on, in this order.
    pub disks: Vec<Disk>,
    /// Its network cards, in this order.
    pub nets: Vec<Net>,
    /// Where its first serial port leads.
    pub console: Console,
    /// Where QMP is spoken.
    pub qmp: Vec<Endpoint>,
    /// Whether it has a source of randomness.
    pub rng: bool,
    /// What its reset does.
    pub on_reset: OnReset,
    /// What happens to a thread that calls what it has no business with.
    pub seccomp: SeccompMode,
    /// Who this process is once everything is open; who started it, if nobody.
    pub user: Option<User>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}
