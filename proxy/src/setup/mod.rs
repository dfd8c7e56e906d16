//! Setting a NIC up, and leaving no trace of it.
//!
//! ```text
//!   install: look at the devices ─► step ─► step ─► … ─► the role is written last
//!                                    │ each is in the journal before it is done
//!            a step fails ───────────┴──► the journal, backwards
//!   teardown: the journal, backwards, whoever wrote it and however it ended
//! ```
//!
//! A journal is a file for each protected NIC in `<run>/<network namespace>/`. What belongs to a
//! forward device rather than to one NIC has a journal of its own, and goes with the last NIC. All
//! of it happens under one lock, so that two commands do not mix.

mod abandon;
mod announce;
mod install;
mod journal;
mod leave;
mod owner;
pub(crate) mod promote;
mod teardown;
mod unattended;
mod undo;

pub(crate) use abandon::abandon;
pub use install::{BeforeStep, Charge, Installed, install};
pub use journal::{Device, Journal, Journals, Store};
pub use leave::leave;
pub use owner::Owner;
pub use promote::promote;
pub use teardown::{Which, teardown};
pub use unattended::unattended;

use crate::datapath::DatapathError;
use crate::link::{LinkError, TapError};
use crate::live::spec::{IfName, Index};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// How long setting up or tearing down may take (seed 000: R-000-16).
pub const TIME_LIMIT: Duration = Duration::from_secs(40);

/// A set-up that failed; what it had done is undone.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A device does not do.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel's part does not work.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// There is no tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The forward device cannot carry the guest's frames.
    #[error(
        "MTU too small: {forward} takes packets of {forward_mtu} bytes and {vif} has {vif_mtu}; \
         'ip link set {forward} mtu {vif_mtu}' on both nodes mends it"
    )]
    MtuTooSmall {
        /// The forward device.
        forward: IfName,
        /// Its MTU.
        forward_mtu: u32,
        /// The guest's interface.
        vif: IfName,
        /// Its MTU.
        vif_mtu: u32,
    },
    /// The forward device carries other traffic.
    #[error(
        "{forward} cannot be the forward device: it is a bridge or a port of one, and both guests' frames \
         would be on that network; give --forward a link of its own to the other host"
    )]
    NotALinkOfItsOwn {
        /// The forward device.
        forward: IfName,
    },
    /// A device without Ethernet.
    #[error("{device} has no Ethernet address; a guest's tap or veth, and an Ethernet link, will do")]
    NotEthernet {
        /// Which one.
        device: IfName,
    },
    /// Somebody protects this NIC.
    #[error(
        "device busy: {vif} is protected by process {pid} already; 'colo-proxy teardown --vif {vif}' ends that"
    )]
    Busy {
        /// The guest's interface.
        vif: IfName,
        /// The process.
        pid: u32,
    },
    /// It was left set up, with nobody in charge.
    #[error("device busy: {vif} is set up already; 'colo-proxy teardown --vif {vif}' ends that")]
    SetUpAlready {
        /// The guest's interface.
        vif: IfName,
    },
    /// Another NIC has this index.
    #[error("index {index} is already in use on {forward}; give --index another number from 0 to 100")]
    IndexInUse {
        /// The index.
        index: Index,
        /// The forward device.
        forward: IfName,
    },
    /// A file of ours cannot be used.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A journal cannot be understood.
    #[error(
        "{} is not a journal of this version: {why}; 'colo-proxy teardown --all' removes it with what it stands for",
        path.display()
    )]
    Journal {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing is set up for this NIC.
    #[error("{vif} is not set up here; 'colo-proxy status' shows what is")]
    NotSetUp {
        /// The guest's interface.
        vif: IfName,
    },
    /// Only a secondary can be promoted.
    #[error("{vif} is a primary here, and serves already")]
    NotASecondary {
        /// The guest's interface.
        vif: IfName,
    },
    /// The process in charge does not go.
    #[error("process {pid}, which protects {vif}, does not stop")]
    Stubborn {
        /// The process.
        pid: u32,
        /// The guest's interface.
        vif: IfName,
    },
    /// It took too long.
    #[error("not done after {} s; it was given up at: {step}", TIME_LIMIT.as_secs())]
    TooSlow {
        /// The step that was next.
        step: String,
    },
    /// A test wanted it.
    #[error("stopped before: {step}")]
    Stopped {
        /// The step that was next.
        step: String,
    },
}
