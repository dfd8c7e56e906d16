//! Block replication: the secondary's disk follows the primary's, epoch by epoch.
//!
//! ```text
//!   primary                                              secondary
//!   worker ─► local image ─► guest hears                 SVM ─► worker ─► layers ─► base
//!      └─► feed (in order, by epoch) ─► sender ── NBD ──► export ─────────┘
//! ```
//!
//! * [`feed`]: what the guest changes, on its way. [`bitmap`]: what the other host may not have.
//! * [`history`]: what a host remembers of a disk. [`primary`], [`secondary`]: the disks of a host, as checkpoints see them.
//! * [`layers`]: the secondary's disk, what the primary's unfinished epoch is to it, and what its own guest wrote.
//! * [`sender`]: a feed, as NBD; [`export`]: what it comes to. [`connection`]: how the two find each other, and find each other again.

pub mod bitmap;
pub mod connection;
pub mod export;
pub mod feed;
pub mod history;
pub mod layers;
pub mod primary;
pub mod secondary;
pub mod sender;
#[cfg(test)]
mod tests;
