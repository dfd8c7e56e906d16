//! What can be refused, and what can be seen from outside.

use serde::Serialize;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Bounds of one disk's layers. Each has a place in [`Status`] where it shows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of data in memory, in whole MiB.
    pub memory: usize,
    /// Bytes of the tables that say where data is; about 100 for each 256 KiB of the disk that anything is
    /// known of, and 12 more for each 4 KiB.
    pub index: usize,
    /// Bytes of data in the spill file, in whole MiB.
    pub spill: u64,
    /// Epochs that may be settled and not yet in the base, before the primary's writes wait.
    pub layers: usize,
    /// Bytes of data that may be settled and not yet in the base, before the primary's writes wait.
    pub backlog: u64,
    /// How many epochs the primary may have open at once.
    pub epochs: usize,
    /// How long a write waits for room before it is refused.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            index: 64 << 20,
            spill: 16 << 30,
            layers: 32,
            backlog: 128 << 20,
            epochs: 4,
            patience: Duration::from_secs(10),
        }
    }
}

/// What a layer has no more room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// No slot is free.
    Slots,
    /// The tables are as large as they may be.
    Index,
}

/// A write that a layer has no room for.
#[derive(Debug)]
pub(super) enum NoRoom {
    Full(Full),
    Spill(io::Error),
}

impl From<Full> for NoRoom {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

/// Something that was asked of the secondary's disk and is not done. Nothing of it was, or a part of it: who
/// asked for it cannot rely on what is in that range of the epoch.
#[derive(Debug, Error)]
pub enum Refused {
    /// It is not on the disk.
    #[error("{len} bytes at {offset} are beyond the disk's end at {size}")]
    Range {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
        /// The disk's size.
        size: u64,
    },
    /// Straight into the base, under a guest's feet.
    #[error(
        "a write without an epoch goes straight into the disk, which a guest is running on; \
         end that guest, or negotiate `colo:epoch`"
    )]
    Held,
    /// Straight into the base, after epochs have begun.
    #[error(
        "a write without an epoch came after writes with one, which it would be overtaken by; begin the session anew"
    )]
    Begun,
    /// An epoch that is over.
    #[error("a write of epoch {tag:#x} came after one of epoch {newest:#x}; begin the session anew")]
    Back {
        /// The write's epoch, as on the wire.
        tag: u32,
        /// The newest that has been seen.
        newest: u32,
    },
    /// Too far ahead.
    #[error("epoch {tag:#x} cannot begin: {open} epochs are open that no checkpoint has ended")]
    Ahead {
        /// The write's epoch, as on the wire.
        tag: u32,
        /// How many are open.
        open: usize,
    },
    /// The session it belongs to has ended.
    #[error("the session that this belongs to has ended: {0}")]
    Ended(&'static str),
    /// No memory, no spill file.
    #[error(
        "the secondary has no room for what the primary writes: {0} are used up; allow it more memory, name a directory \
         with --spill, or make checkpoints more often"
    )]
    Full(&'static str),
    /// The disk does not keep up.
    #[error(
        "the secondary's disk does not keep up: {bytes} bytes in {layers} epochs wait to be written to it, and it took \
         less than needed in {waited:?}; see its status for errors"
    )]
    Backlog {
        /// How many bytes wait.
        bytes: u64,
        /// In how many epochs.
        layers: usize,
        /// How long the write has waited.
        waited: Duration,
    },
    /// The spill file.
    #[error("cannot keep what is written in the spill file: {0}; look after the disk of --spill")]
    Spill(#[source] io::Error),
    /// The base.
    #[error("the secondary's disk: {0}")]
    Base(#[source] io::Error),
}

impl Refused {
    /// What kind of error it is, for who has numbers only.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Range { .. } | Self::Back { .. } | Self::Ahead { .. } => io::ErrorKind::InvalidInput,
            Self::Held | Self::Begun => io::ErrorKind::PermissionDenied,
            Self::Ended(_) => io::ErrorKind::BrokenPipe,
            Self::Full(_) | Self::Backlog { .. } => io::ErrorKind::StorageFull,
            Self::Spill(error) | Self::Base(error) => error.kind(),
        }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(refused.kind(), refused)
    }
}

/// A disk that layers cannot be put on.
#[derive(Debug, Error)]
pub enum SecondaryError {
    /// It cannot be written.
    #[error(
        "the secondary's disk is read-only, so that nothing can be replicated to it; leave out `readonly`"
    )]
    ReadOnly,
    /// Its size.
    #[error("the secondary's disk has {0} bytes, which is no multiple of 512")]
    Size(u64),
    /// No thread.
    #[error("cannot start the thread that writes epochs into the secondary's disk: {0}")]
    Thread(#[source] io::Error),
}

/// What a disk is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No guest is held: it can be written to without epochs.
    Open,
    /// A guest runs on it, level with the primary at the last checkpoint.
    Held,
    /// The guest runs on without a primary; layers are being committed.
    Promoted,
    /// That is done: the disk is the base.
    Plain,
}

/// A disk and its layers. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// What it is there for.
    pub phase: Phase,
    /// The last checkpoint.
    pub checkpoint: Option<u64>,
    /// The newest epoch that is wholly in the base.
    pub in_base: Option<u64>,
    /// The newest that is there for good.
    pub stable: Option<u64>,
    /// Data in memory.
    pub memory: u64,
    /// What memory is held for data, used or not.
    pub held: u64,
    /// Data in the spill file.
    pub spilled: u64,
    /// The layers' tables.
    pub index: u64,
    /// The guest's own data since the checkpoint.
    pub active: u64,
    /// Settled layers.
    pub settled_layers: usize,
    /// Their data.
    pub settled: u64,
    /// The primary's open epochs.
    pub pending_epochs: usize,
    /// Their data.
    pub pending: u64,
    /// What is still to be written into the base, zeros included: the commit's progress after a promotion.
    pub left: u64,
    /// What was written into the base since the beginning, zeros included.
    pub written: u64,
    /// Slots that there was no room for, and tables that could not grow.
    pub full: u64,
    /// Times that a write waited for room.
    pub waits: u64,
    /// Things that the primary asked for and did not get.
    pub refused: u64,
    /// Failed reads and writes of the spill file.
    pub spill_errors: u64,
    /// Failed writes and syncs of the base.
    pub base_errors: u64,
    /// What keeps the layers from getting into the base just now.
    pub trouble: Option<String>,
}
