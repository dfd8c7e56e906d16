//! What a sender is given: what the secondary is to do, and what it is to be asked.

use super::staging::Held;

/// What is to be sent next.
#[derive(Debug)]
pub enum Next {
    /// What the secondary is to do.
    Message(Message),
    /// What it is to be asked.
    Question(Question),
}

/// What does the secondary have of some regions, when all has arrived that was sent before? It is given back to
/// [`Feed::answered`](super::Feed::answered), with the answer.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where they begin.
    pub offset: u64,
    /// How many bytes they have.
    pub len: u64,
    /// Which it is.
    pub(super) ticket: u64,
    /// Which connection it was made for.
    pub(super) link: u64,
}

/// What the secondary is to do.
#[derive(Debug)]
pub enum Change {
    /// To write these bytes.
    Write(Bytes),
    /// To make so many bytes zeros, and to let the space go if it can.
    Zeroes {
        /// How many.
        len: u64,
        /// Whether space may go.
        unmap: bool,
    },
}

/// Bytes to be written.
#[derive(Debug)]
pub enum Bytes {
    /// The guest's, as they were written.
    Held(Held),
    /// What was read from the local disk.
    Read(Vec<u8>),
}

impl Bytes {
    /// Them.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Held(held) => held.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

/// What says that a change has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    pub(super) epoch: u64,
    pub(super) link: u64,
}

/// A change on its way. Its receipt is given back to [`Feed::confirmed`](super::Feed::confirmed).
#[derive(Debug)]
pub struct Message {
    /// The epoch that it is part of; 0 before there are epochs.
    pub epoch: u64,
    /// Where on the disk.
    pub offset: u64,
    /// What.
    pub change: Change,
    /// Which connection it was made for.
    pub(super) link: u64,
}

impl Message {
    /// What says that it has arrived.
    pub fn receipt(&self) -> Receipt {
        Receipt { epoch: self.epoch, link: self.link }
    }

    /// How many bytes of the disk it changes.
    pub fn len(&self) -> u64 {
        match &self.change {
            Change::Write(bytes) => bytes.as_slice().len() as u64,
            Change::Zeroes { len, .. } => *len,
        }
    }

    /// Whether it changes none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
