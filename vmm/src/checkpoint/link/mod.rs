//! How messages get to the peer.
//!
//! ```text
//!   primary: dial ──────► TCP ──► TLS? ──► hello ──► Stream ──► protocol
//!                                                      └──────► Heartbeat
//!   secondary: Door ◄── anybody: each in a thread of its own until its hello is judged, a bounded number,
//!                       a bounded time; a session that lives hears nothing of it
//! ```
//!
//! * [`socket`]: sockets that notice when the peer is gone.
//! * [`stream`]: a connection with deadlines, plain or TLS. [`tls`]: who is let in by what certificate.
//! * [`greet`]: hellos over a stream. [`door`]: who comes in. [`heartbeat`]: signs of life.
//!
//! Names are looked up and sockets are made before the process is confined: no thread makes one later. Those
//! that are accepted inherit the options of the one that is listened on.

pub mod door;
pub mod greet;
pub mod heartbeat;
mod quiet;
pub mod socket;
pub mod stream;
pub mod tls;

pub use door::{Arrival, Door, Seat, Terms};
pub use greet::{GreetError, dial};
pub use heartbeat::{Beats, Heartbeat, Lost, Rhythm};
pub(crate) use quiet::Quiet;
pub use stream::{Hangup, Stream};
pub use tls::{Fingerprint, Tls, TlsError, Trust};

#[cfg(test)]
mod tests;
