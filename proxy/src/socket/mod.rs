//! `colo-proxy compare`: the engine behind four stream sockets, in the framing of QEMU's comparer
//! object, which it can stand in for.
//!
//! ```text
//!                      ┌───────────────────────── Server (poll) ──────────────────────────┐
//!   primary VM's  ────►│ primary-in   ─► Deframer ─┐                                      │
//!   redirector         │                           ├─► Engine ─► Outlet ─► outdev         │───► redirector
//!   secondary VM's ───►│ secondary-in ─► Deframer ─┘      ▲                               │     into the tap
//!   redirector         │                                  └─► Notify ◄─► notify-dev       │◄──► VMM
//!                      └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! * [`framing`] cuts byte streams into frames, [`outlet`] queues what was released, [`notify`] is
//!   the conversation with the VMM, and [`comparer`] is the engine between them: all sans-I/O.
//! * [`endpoint`] says where sockets are, [`port`] keeps one of them connected, and [`server`] moves
//!   the bytes.
//! * [`stats`] is what was counted.
//!
//! The wire has no epochs, so frames belong to whatever epoch they are read in: whoever reports a
//! checkpoint as done should do so while both guests stand still.

pub mod comparer;
pub mod endpoint;
pub mod framing;
pub mod notify;
pub mod outlet;
mod pace;
pub mod port;
pub mod server;
pub mod stats;

pub use crate::frame::WireFrame;
pub use endpoint::{Endpoint, EndpointError, OpenError};
pub use server::{RunError, Server, Settings, StartError};
pub use stats::Report;
