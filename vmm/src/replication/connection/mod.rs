//! How two hosts find each other, and find each other again.
//!
//! ```text
//!             start                       connected, accepted
//!   none ────────────────► in progress ───────────────────────► established
//!                            │   ▲  ▲                               │    │
//!             kill, given up │   │  └───────── restart ─────────────┘    │ kill
//!                            ▼   │ start                                 │
//!                          closed ◄──────────────────────────────────────┘
//! ```
//!
//! One side listens and takes in one peer; the other connects, again and again. What is established is a TCP
//! connection, which is handed out; TLS and hellos are for who gets it.
//!
//! * [`machine`]: the states and what leads from one to the next. It does no I/O.
//! * [`shell`]: its sockets and its clock: tokio, on a thread of its own.
//! * [`role`]: who listens. [`errno`]: which errors pass. [`backoff`]: how long to wait.
//!
//! The rules (R-003-1 … 19 in `tests/rules.rs`, a test each) are those of the connection of Xen's block
//! replication, without its faults.

pub mod backoff;
pub mod errno;
pub mod machine;
pub mod role;
pub mod shell;

pub use backoff::Backoff;
pub use machine::{Failure, Side, Status};
pub use role::{Role, RoleError};
pub use shell::{Connection, Handle, Outcome, Report, StartError};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Who is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    /// Whoever comes; a stranger is told apart one level above (TLS).
    #[default]
    Anybody,
    /// These addresses.
    Only(Vec<IpAddr>),
}

impl Allow {
    /// Whether this one is let in. An IPv4 address is the same when it comes in an IPv6 one.
    pub fn allows(&self, from: IpAddr) -> bool {
        match self {
            Self::Anybody => true,
            Self::Only(known) => known.iter().any(|known| known.to_canonical() == from.to_canonical()),
        }
    }
}

/// What a connection is to be like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, or to connect to: all of what a name stands for, in the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
    /// Who may connect.
    pub allow: Allow,
    /// How long to wait when no address answers.
    pub backoff: Backoff,
    /// How long one address may take to answer.
    pub patience: Duration,
    /// How often all addresses are tried; without it, for ever.
    pub rounds: Option<u32>,
    /// How long nobody is accepted after an error that would come again at once, such as too many open files.
    pub pause: Duration,
}

impl Config {
    /// With the usual times, for whoever comes.
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            allow: Allow::Anybody,
            backoff: Backoff::default(),
            patience: Duration::from_secs(5),
            rounds: None,
            pause: Duration::from_millis(250),
        }
    }
}

#[cfg(test)]
mod tests;
