//! A disk's state, as a checkpoint has it.
//!
//! A disk has nothing between its requests but its queues, which the transport keeps. What is here is what
//! both sides have to agree on before queues are loaded: a guest must not wake up on another disk.

use crate::virtio::Mismatch;
use serde::{Deserialize, Serialize};

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Its size in sectors.
    pub sectors: u64,
    /// The smallest request in bytes.
    pub block_size: u32,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// How many queues it has.
    pub queues: u16,
    /// What it says it is.
    pub serial: String,
}

impl BlockState {
    /// Whether this disk is that one.
    pub(super) fn check(&self, theirs: &Self) -> Result<(), Mismatch> {
        Mismatch::unless_same("size in sectors", &theirs.sectors, &self.sectors)?;
        Mismatch::unless_same("block size", &theirs.block_size, &self.block_size)?;
        Mismatch::unless_same("read-only switch", &theirs.read_only, &self.read_only)?;
        Mismatch::unless_same("number of queues", &theirs.queues, &self.queues)?;
        Mismatch::unless_same("serial number", &theirs.serial, &self.serial)
    }
}
