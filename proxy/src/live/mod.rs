//! The engine on real interfaces.
//!
//! ```text
//!   main thread: set up ─► print ─► wait for a signal ─► stop ─► tear down
//!                  │                                       │
//!                  └─► a thread for each guest ◄── Handle ─┘◄── control socket, VMM
//!                        primary:   taps ─► engines ─► taps; checkpoints
//!                        secondary: checkpoints, promotion (frames stay in the kernel)
//! ```
//!
//! * [`spec`] says what is to be protected.
//! * [`node`] runs it: [`Node::prepare`], and [`run`] for a command.
//! * [`hook`] runs a command that performs checkpoints.
//! * [`Handle`] is how a VMM performs checkpoints, and how everybody asks.

mod clock;
pub mod config;
mod conversation;
mod descent;
mod desk;
pub mod detach;
mod exit;
mod frame;
pub mod group;
pub mod hook;
mod intake;
mod mailbox;
pub mod node;
pub mod options;
mod performers;
mod presence;
mod primary;
pub(crate) mod report;
mod secondary;
pub mod spec;

pub use exit::ExitStats;
pub use frame::LiveFrame;
pub use intake::IntakeStats;
pub use mailbox::{AskError, Handle};
pub use node::{Attendance, Node, run};
pub use performers::{PerformersError, Request};

use crate::control::listener::BindError;
use crate::control::server::StartError;
use crate::datapath::DatapathError;
use crate::privilege::PrivilegeError;
use crate::setup::SetupError;
use spec::IfName;
use std::io;
use thiserror::Error;

/// A node that cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum LiveError {
    /// A NIC cannot be set up, or its maps cannot be written.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The kernel's part does not work.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Those who perform checkpoints cannot be reached.
    #[error("{guest}: {error}")]
    Performers {
        /// The guest.
        guest: String,
        /// Why not.
        error: PerformersError,
    },
    /// Frames cannot be read.
    #[error("{vif}: cannot read from the capture tap: {error}; was it deleted?")]
    Tap {
        /// The guest's interface.
        vif: IfName,
        /// What the kernel said.
        error: io::Error,
    },
    /// A device was deleted.
    #[error(
        "{vif}: the device {device} is gone; unless --on-crash is open nothing of this guest leaves until \
         'colo-proxy run' or 'colo-proxy teardown'"
    )]
    Gone {
        /// The guest's interface.
        vif: IfName,
        /// The device.
        device: IfName,
    },
    /// Waiting does not work.
    #[error("cannot wait for frames: {0}; nothing that is held was released")]
    Poll(io::Error),
    /// The system does not give us something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// The control socket or the metrics cannot be served.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Their thread cannot be started.
    #[error(transparent)]
    Control(#[from] StartError),
    /// Privileges that are needed are not there, or others cannot be given up.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// A guest's thread ended without being told.
    #[error("the thread of {0} ended by a fault of the program's own; report it, with what was logged before")]
    Panicked(String),
    /// Guests had failed, and that was reported, while others went on.
    #[error("stopped with guests that had failed before, as was reported then: {0}")]
    FailedBefore(String),
}
