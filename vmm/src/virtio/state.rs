//! What a device knows besides its transport, as a plain state.

use crate::devices::block::BlockState;
use crate::devices::net::NetState;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A device's own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A network card's.
    Net(NetState),
    /// A disk's: what it is.
    Block(BlockState),
    /// A source of randomness has none.
    Rng,
}

impl DeviceState {
    /// What has it, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Net(_) => "network card",
            Self::Block(_) => "disk",
            Self::Rng => "source of randomness",
        }
    }
}

/// A state of another device.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the state is of another device: its {what} is {theirs}, and {ours} here; are both hosts' options the same?"
)]
pub struct Mismatch {
    /// What differs.
    pub what: &'static str,
    /// What it is in the state.
    pub theirs: String,
    /// What it is here.
    pub ours: String,
}

impl Mismatch {
    /// Compares one thing.
    pub fn unless_same<T: PartialEq + std::fmt::Debug>(
        what: &'static str,
        theirs: &T,
        ours: &T,
    ) -> Result<(), Self> {
        if theirs == ours {
            return Ok(());
        }
        Err(Self { what, theirs: format!("{theirs:?}"), ours: format!("{ours:?}") })
    }

    /// Another kind of device.
    pub fn kind(theirs: &DeviceState, ours: &DeviceState) -> Self {
        Self { what: "kind", theirs: theirs.name().to_owned(), ours: ours.name().to_owned() }
    }
}
