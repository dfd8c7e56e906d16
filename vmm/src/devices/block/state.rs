//! A disk's state, as a checkpoint has it.
//!
//! A disk has nothing between its requests but its queues, which the transport keeps. What is here is what
//! both sides have to agree on before queues are loaded: a guest must not wake up on another disk.

use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// A state of another disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the state is of another disk: {theirs:?}, but this one is {ours:?}")]
pub struct Mismatch {
    /// This disk.
    pub ours: Box<BlockState>,
    /// What came.
    pub theirs: Box<BlockState>,
}
