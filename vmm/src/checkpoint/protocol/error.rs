//! What can go wrong in a session, and how one ends.
//!
//! An error ends the session that it happened in; its cause is kept until somebody reads it. What follows is
//! for others to decide: the same cause lets a primary go on alone, and a secondary take over.

use super::message::Code;
use std::fmt;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Where a session stands. The same words for both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// All of RAM is sent for the first time.
    FirstSync,
    /// All was sent; the secondary gets ready.
    Synced,
    /// Between checkpoints.
    Level,
    /// A checkpoint was asked for.
    Requested,
    /// The secondary stands.
    Replied,
    /// The epoch's pages were sent.
    PagesSent,
    /// All of the epoch was sent.
    Shipped,
    /// The secondary has all of it, and loads it.
    Received,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstSync => "in the first sync",
            Self::Synced => "after the first sync",
            Self::Level => "between checkpoints",
            Self::Requested => "after the request for a checkpoint",
            Self::Replied => "after the reply to a request",
            Self::PagesSent => "after the pages of a checkpoint",
            Self::Shipped => "after all of a checkpoint was sent",
            Self::Received => "while a checkpoint is loaded",
        })
    }
}

/// What may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted(pub &'static [Code]);

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, code) in self.0.iter().enumerate() {
            let between = match self.0.len() - at {
                _ if at == 0 => "",
                1 => " or ",
                _ => ", ",
            };
            write!(f, "{between}{code}")?;
        }
        Ok(())
    }
}

/// A session that cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    /// A number that says nothing.
    #[error("the peer sent {0:#x} {phase}, which is no message; is it of another version?", phase = .1)]
    InvalidCommand(u32, Phase),
    /// A message out of turn.
    #[error("the peer sent {got} {phase}, where {wanted} is due; both sides are to run the same version")]
    Unexpected {
        /// What came.
        got: Code,
        /// What may come.
        wanted: Wanted,
        /// When.
        phase: Phase,
    },
    /// A message of another epoch.
    #[error(
        "the peer sent {code} of epoch {got} {phase}, where epoch {wanted} is due; the two are not level"
    )]
    Epoch {
        /// What came.
        code: Code,
        /// Its epoch.
        got: u64,
        /// The one that is due.
        wanted: u64,
        /// When.
        phase: Phase,
    },
    /// A payload that is too long.
    #[error("{sender} {code} with {len} bytes, and at most {max} may follow it; {hint}", hint = sender.hint())]
    Length {
        /// Who.
        sender: Sender,
        /// Of what.
        code: Code,
        /// How long.
        len: u64,
        /// The most.
        max: u64,
    },
    /// The peer closed the connection between two messages.
    #[error("the peer closed the connection {0}: its process has ended, or has given the session up")]
    Closed(Phase),
    /// The peer closed the connection within a message.
    #[error("the connection ended {phase} after {got} of {of} bytes of {what}; none of it is used")]
    Truncated {
        /// What was being received.
        what: Part,
        /// What came.
        got: u64,
        /// What was due.
        of: u64,
        /// When.
        phase: Phase,
    },
    /// Nothing came, or too slowly.
    #[error(
        "nothing complete came from the peer within {waited:?} {phase}, and {wanted} is due; is it alive?"
    )]
    Silent {
        /// How long was waited.
        waited: Duration,
        /// What may come.
        wanted: Wanted,
        /// When.
        phase: Phase,
    },
    /// The peer did not take what was sent.
    #[error(
        "the peer did not take {code} of {len} bytes within {waited:?}; is it alive, is the network too slow?"
    )]
    Stuck {
        /// What was sent.
        code: Code,
        /// How long it was.
        len: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke while receiving.
    #[error("cannot receive from the peer {phase}: {source}")]
    Receive {
        /// When.
        phase: Phase,
        /// Why.
        source: io::Error,
    },
    /// The connection broke while sending.
    #[error("cannot send {code} to the peer: {source}")]
    Send {
        /// What.
        code: Code,
        /// Why.
        source: io::Error,
    },
    /// A message was to follow one that was not sent whole.
    #[error("{0} cannot follow a message that failed; the session is over")]
    Broken(Code),
    /// No memory for a payload.
    #[error("there is no memory for the {len} bytes of {code}; give this host more, or this guest less")]
    NoMemory {
        /// Of what.
        code: Code,
        /// How much.
        len: u64,
    },
}

/// Who has sent, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The other side.
    Peer,
    /// This side.
    Us,
}

impl Sender {
    const fn hint(self) -> &'static str {
        match self {
            Self::Peer => "nothing of it was read",
            Self::Us => "nothing of it was sent, and this is a bug",
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "the peer announced",
            Self::Us => "this side was to send",
        })
    }
}

/// What of a message was being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The header.
    Header,
    /// The payload of this.
    Payload(Code),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("a header"),
            Self::Payload(code) => code.fmt(f),
        }
    }
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// In order: the guest ended, or an operator ended the protection.
    Completed,
    /// This side goes on alone, as the one that serves.
    Failover,
    /// By this; what becomes of the guest is open.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failover => f.write_str("failover"),
            Self::Failed(cause) => write!(f, "failed: {cause}"),
        }
    }
}

impl From<Error> for End {
    fn from(cause: Error) -> Self {
        Self::Failed(Box::new(cause))
    }
}
