//! virtio-blk: a disk (virtio 1.3 §5.2).
//!
//! ```text
//!   driver ── kick ──► worker, a thread per queue
//!                        │ pop chains ─► Request ─► Image::find ─► Engine: many in flight
//!                        │                              └────────► Image: allocation and the like, here
//!                        └ reap ─► status byte, used ring ─► interrupt, if the driver wants one
//!   machine ─ pause ───► worker drains: every request that was begun is done and told of; then it stands
//! ```
//!
//! What goes wrong with a request is its status, and the guest's matter. A ring that is broken stops its
//! queue until the driver resets the device.

mod buffers;
mod config;
mod device;
mod request;
mod running;
mod state;
#[cfg(test)]
mod tests;
mod transfer;
mod worker;

pub use device::{Block, Disk};
pub use state::BlockState;
