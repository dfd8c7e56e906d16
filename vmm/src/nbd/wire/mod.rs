//! Messages to bytes and back.
//!
//! * [`numbers`]: what the specification calls what. [`errno`]: what can go wrong with a request.
//! * [`options`]: messages of the handshake. [`requests`]: messages of transmission.
//! * [`cursor`]: what they are read with. [`buffer`]: where bytes wait.
//!
//! What is read is checked against what is there before memory is taken for it. A head that is not whole yet is
//! `None`, one that cannot be right is a [`WireError`], after which nothing on that connection makes sense.

pub mod buffer;
pub mod cursor;
pub mod errno;
pub mod numbers;
pub mod options;
pub mod requests;

pub use errno::Errno;
pub use requests::{Extent, ReplyHead, Request};

use thiserror::Error;

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A beginning that is not newstyle NBD's.
    #[error("what answers is no newstyle NBD server: it begins with {0:016x} {1:016x}; is the port right?")]
    Greeting(u64, u64),
    /// No option.
    #[error("an NBD option begins with {0:016x}; what is there is no NBD client")]
    Option(u64),
    /// No answer to an option.
    #[error("an answer to an NBD option begins with {0:016x}; the server is broken")]
    Answer(u64),
    /// No request.
    #[error("an NBD request begins with {0:08x}; the client is broken")]
    Request(u32),
    /// No reply.
    #[error("an NBD reply begins with {0:08x}; the server is broken")]
    Reply(u32),
    /// More than is taken.
    #[error("{what} of {len} bytes is longer than any that NBD needs; the peer is broken or hostile")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long it says it is.
        len: u64,
    },
}

#[cfg(test)]
mod tests;
