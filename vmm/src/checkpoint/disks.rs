//! The guest's disks, as a checkpoint sees them.
//!
//! ```text
//!   primary                                              secondary
//!   meet ── begin ─ (writes go there while it runs)      meet ── replace, or resume
//!   ready? ── cut ── pages … delivered ── package ──►    checkpoint (the guest stands) ── level
//!   level … end                                          fail, or promote
//! ```
//!
//! An epoch of disks is numbered like the checkpoint that ends it.

use super::protocol::hello::{Agreed, Disk};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;
use thiserror::Error;

/// Disks that cannot go on with this session.
#[derive(Debug, Error)]
#[error("disk {name}: {source}")]
pub struct DiskError {
    /// What the guest calls it.
    pub name: String,
    /// What is wrong.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Whoever has the disks of a host.
pub trait Disks: Send + Sync + fmt::Debug {
    /// What is said of them first.
    fn known(&self) -> Vec<Disk>;
    /// What can be seen of them.
    fn status(&self) -> Vec<Status>;
    /// The guest has ended in order: what is to be kept is kept when this returns.
    fn close(&self);
}

/// A primary's. Calls come from the session's thread, but for [`Source::cut`].
pub trait Source: Disks {
    /// How many epochs there were in all sessions.
    fn epochs(&self) -> u64;
    /// A secondary is there, at this address: whether the two sides' disks can be made equal, by what each knows of them.
    fn meet(&self, agreed: &Agreed, at: Option<IpAddr>) -> Result<(), DiskError>;
    /// Whether a guest that the secondary holds can stay while it is sent what it lacks.
    fn resumes(&self) -> bool;
    /// Connects; what the secondary lacks is sent from now on, and what is written. `held`: over a guest that it
    /// holds.
    fn begin(&self, held: bool) -> Result<(), DiskError>;
    /// Whether so little is left to be sent that a checkpoint can be made of it.
    fn ready(&self) -> Result<bool, DiskError>;
    /// Whether so much was written since the last checkpoint that there should be one.
    fn heavy(&self) -> bool;
    /// The guest stands for the checkpoint that ends this epoch, and nothing of its I/O is in flight.
    fn cut(&self, epoch: u64) -> Result<(), DiskError>;
    /// Waits until the secondary has all of this epoch.
    fn delivered(&self, epoch: u64, until: Instant) -> Result<(), DiskError>;
    /// The secondary is level.
    fn level(&self);
    /// The secondary is lost: whoever waits for it waits no more.
    fn hang_up(&self);
    /// The session is over: nobody follows.
    fn end(&self);
}

/// A secondary's. Calls come from the session's thread, but for [`Sink::checkpoint`].
pub trait Sink: Disks {
    /// The session's thread is there, and the process is confined.
    fn start(&self) -> Result<(), DiskError>;
    /// A primary is there, from this address.
    fn meet(&self, agreed: &Agreed, from: Option<IpAddr>);
    /// What the guest here was is lost: all comes anew. It may be said again.
    fn replace(&self) -> Result<(), DiskError>;
    /// The guest stays what it is, until the next checkpoint.
    fn resume(&self) -> Result<(), DiskError>;
    /// The guest stands, and becomes what the primary's was at the end of this epoch, all of which has come.
    fn checkpoint(&self, epoch: u64);
    /// It goes on.
    fn level(&self);
    /// The session is over: what had come of an epoch that is not complete was never there.
    fn fail(&self);
    /// The guest goes on without the primary.
    fn promote(&self);
}

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nobody follows: what is written is here alone.
    Unprotected,
    /// It waits for its connection.
    Connecting,
    /// The secondary is sent what it lacks.
    Syncing,
    /// The secondary follows: at each checkpoint it has everything.
    Replicating,
    /// It follows a primary.
    Following,
    /// Its guest has taken over; what waited is being written into it.
    Committing,
    /// Its guest has taken over.
    Promoted,
}

/// A disk, for those who look. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the guest calls it.
    pub device: String,
    /// What it does.
    pub phase: Phase,
    /// Its size.
    pub size: u64,
    /// The generation of what is on it.
    pub generation: Option<String>,
    /// A primary's: what the secondary may not have, by regions of 64 KiB.
    pub missing: u64,
    /// A primary's: of that, what is still to be read and sent.
    pub unsent: u64,
    /// A primary's: what is on its way. A secondary's: what came of epochs that are not complete.
    pub pending: u64,
    /// Bytes that were sent, or written by the primary's epochs into the disk here.
    pub moved: u64,
    /// A primary's: regions that were compared, and were equal.
    pub same: u64,
    /// A secondary's: what its own guest has written since the last checkpoint.
    pub own: u64,
    /// A secondary's: what is still to be written into the image.
    pub left: u64,
    /// A secondary's: of all that waits, what is in the spill file.
    pub spilled: u64,
    /// Times that a change could not be kept on its way, or that the primary had to wait.
    pub waits: u64,
    /// Things that were refused or failed.
    pub errors: u64,
    /// The last of them.
    pub trouble: Option<String>,
}

/// A guest that has no disk which it can write.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDisks;

impl Disks for NoDisks {
    fn known(&self) -> Vec<Disk> {
        Vec::new()
    }
    fn status(&self) -> Vec<Status> {
        Vec::new()
    }
    fn close(&self) {}
}

impl Source for NoDisks {
    fn epochs(&self) -> u64 {
        0
    }
    fn meet(&self, _: &Agreed, _: Option<IpAddr>) -> Result<(), DiskError> {
        Ok(())
    }
    fn resumes(&self) -> bool {
        true
    }
    fn begin(&self, _: bool) -> Result<(), DiskError> {
        Ok(())
    }
    fn ready(&self) -> Result<bool, DiskError> {
        Ok(true)
    }
    fn heavy(&self) -> bool {
        false
    }
    fn cut(&self, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
    fn delivered(&self, _: u64, _: Instant) -> Result<(), DiskError> {
        Ok(())
    }
    fn level(&self) {}
    fn hang_up(&self) {}
    fn end(&self) {}
}

impl Sink for NoDisks {
    fn start(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn meet(&self, _: &Agreed, _: Option<IpAddr>) {}
    fn replace(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn checkpoint(&self, _: u64) {}
    fn level(&self) {}
    fn fail(&self) {}
    fn promote(&self) {}
}
