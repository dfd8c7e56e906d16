//! The comparator of COLO: one guest runs on two hosts, and this crate decides, frame by frame,
//! whether what the primary run sends may leave.
//!
//! ```text
//!            frames, times, checkpoints            verdicts
//!   shells ───────────────────────────► engine ──────────────► shells
//!   replay (captures)                      │                   release · drop · trigger
//!   compare (stream sockets)               ▼
//!                                 packet → flow → compare
//! ```
//!
//! * [`packet`] parses an Ethernet frame into a flow key and what is to be compared.
//! * [`engine`] is the sans-I/O comparator: no clock, socket, thread or async in it.
//! * [`replay`] runs it over two captures with a virtual clock.
//! * [`socket`] runs it behind four stream sockets that speak QEMU's comparer framing.

pub mod control;
pub mod datapath;
pub mod engine;
mod frame;
pub mod link;
pub mod listener;
pub mod live;
pub mod packet;
pub mod privilege;
mod quiet;
pub mod replay;
pub mod setup;
mod signals;
pub mod socket;
