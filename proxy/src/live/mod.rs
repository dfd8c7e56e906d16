//! The engine on real interfaces.
//!
//! ```text
//!   main thread: set up ─► print ─► wait for a signal ─► stop ─► tear down
//!                  │                                       │
//!                  └─► a thread for each guest ◄── Handle ─┘◄── control socket, VMM
//!                        primary:   taps ─► engines ─► taps; checkpoints ─► a thread for each more queue
//!                        secondary: checkpoints, promotion (frames stay in the kernel)
//! ```
//!
//! * [`spec`] says what is to be protected.
//! * [`node`] runs it: [`Node::prepare`], and [`run`] for a command.
//! * [`hook`] runs a command that performs checkpoints.
//! * [`Handle`] is how a VMM performs checkpoints, and how everybody asks.
//!
//! # A VMM that performs checkpoints
//!
//! ```text
//!   primary's VMM                                  secondary's VMM
//!     Request ◄── listener
//!     stop the guest, capture its state
//!     checkpoint_begin                             stop the guest
//!     let the guest go on, send the state ──────►  receive all of it, load it
//!                                                  checkpoint_done
//!     checkpoint_done ◄──────── loaded ──────────  let the guest go on
//! ```
//!
//! * A request stands until `checkpoint_done` or `checkpoint_failed` answers it; meanwhile no other one
//!   comes for this guest. After a failure a new one comes as soon as one is needed again, which can be
//!   at once: a VMM that cannot perform one now waits before it takes the next from the channel.
//! * A checkpoint may be performed without a request, for the sake of a timer for example.
//! * The channel needs room for one request of each guest. If it is full, a request is lost, but the
//!   guest's status says that it stands.
//! * All of [`Node`]'s functions belong on a thread in the network namespace of the guests' interfaces,
//!   with `CAP_NET_ADMIN`, `CAP_BPF` and, for [`Node::prepare`], `CAP_PERFMON`. Threads that it starts
//!   inherit both. A [`Handle`] can be used from any thread, never waits for the network, and answers
//!   within seconds or says that it cannot.
//! * Control socket and metrics are [`run`]'s; a VMM has its own, and [`Handle::status`].
//!
//! # Example
//!
//! ```no_run
//! use colo_proxy::live::spec::{Attach, Checkpoints, Guest, Mode, Nic, OnCrash, Places, Queues, Spec, Start};
//! use colo_proxy::live::{AskError, Handle, LiveError, Node, Request};
//! use std::sync::mpsc::{Receiver, sync_channel};
//! use std::time::Duration;
//!
//! # fn capture() {}
//! # fn transfer() -> bool { true }
//! fn protect() -> Result<(), Box<dyn std::error::Error>> {
//!     let nic = Nic { vif: "tap0".parse()?, forward: "eth1".parse()?, index: "0".parse()?, bridge: None };
//!     let guest = Guest {
//!         name: "web".into(),
//!         mode: Mode::Primary,
//!         nics: vec![nic],
//!         // Nobody but the listener is asked.
//!         checkpoints: Checkpoints::default(),
//!         // Held from the first frame on; `Start::Mirrored` while a first full copy is under way.
//!         start: Start::Protected,
//!         on_crash: OnCrash::Closed,
//!         attach: Attach::Auto,
//!         queues: Queues::ONE,
//!         queue_frames: 16_384,
//!         flows: 65_536,
//!         busy_poll: Duration::ZERO,
//!         engine: colo_proxy::engine::Config::default(),
//!     };
//!     let spec = Spec { guests: vec![guest], places: Places::default(), metrics: None };
//!     let (listener, requests) = sync_channel(spec.guests.len());
//!     // Between these two is the time to give up privileges.
//!     let prepared = Node::prepare(&spec, Some(&listener))?;
//!     let node = prepared.launch()?;
//!     // What is left of it is the node's: its end is the end of the channel.
//!     drop(listener);
//!     let handles: Vec<Handle> = node.guests().cloned().collect();
//!     perform(&handles[0], &requests)?;
//!     // Restores the interfaces. What is held then never leaves.
//!     Ok(node.stop()?)
//! }
//!
//! fn perform(primary: &Handle, requests: &Receiver<Request>) -> Result<(), AskError> {
//!     while let Ok(request) = requests.recv() {
//!         println!("{}: {} in epoch {}", request.guest, request.trigger.cause, request.trigger.epoch.0);
//!         // The guest stands still while its state is captured, and goes on afterwards.
//!         capture();
//!         primary.checkpoint_begin()?;
//!         // On the other host: `secondary.checkpoint_done()` when the state is loaded there.
//!         if transfer() {
//!             primary.checkpoint_done()?;
//!         } else {
//!             primary.checkpoint_failed()?;
//!         }
//!     }
//!     // The guest has failed, or was stopped.
//!     if let Some(why) = primary.failure() {
//!         eprintln!("{why}");
//!     }
//!     Ok(())
//! }
//!
//! // On the host of the secondary, when the primary's is gone for sure.
//! fn take_over(secondary: &Handle) -> Result<(), AskError> {
//!     match secondary.promote()? {
//!         Ok(announced) => println!("{announced}"),
//!         Err(why) => eprintln!("it cannot serve: {why}"),
//!     }
//!     Ok(())
//! }
//! ```

mod bell;
mod clock;
pub mod config;
mod conversation;
mod crew;
mod descent;
mod desk;
pub mod detach;
mod exit;
mod frame;
pub mod group;
pub mod hook;
mod intake;
mod lane;
mod mailbox;
pub mod node;
pub mod options;
mod performers;
mod presence;
mod primary;
pub(crate) mod report;
mod secondary;
mod shard;
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
    #[error(
        "the thread of {0} ended by a fault of the program's own; report it, with what was logged before"
    )]
    Panicked(String),
    /// Guests had failed, and that was reported, while others went on.
    #[error("stopped with guests that had failed before, as was reported then: {0}")]
    FailedBefore(String),
}
