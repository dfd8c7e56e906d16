//! A client's side of one connection: orders and bytes in, bytes and answers out, no socket and no clock.
//!
//! ```text
//!   Handshake: greeting ─► flags ─► [STARTTLS ─► TLS] ─► STRUCTURED_REPLY ─► SET_META_CONTEXT ─► GO ─► Client
//!
//!   submit ─► waiting ─────────────────────► outgoing ─► parts, sent ─► the peer
//!               │ would it overlap with what   │
//!               │ is under way? (only where    └─► under way, by cookie ◄── room, received ◄── the peer
//!               │ the server keeps no order)                │
//!               └ the window bounds all three               └─► next_done: Done, with the order's token
//! ```
//!
//! * [`handshake`]: from the greeting to an export. [`session`]: orders on their way. `replies`: what comes back.
//! * `sums`: what a server says that regions come to.
//! * [`connect`]: a handshake on a connection; and one turn of sending and receiving on it.

pub mod handshake;
mod replies;
pub mod session;
mod shell;
mod sums;

pub use handshake::{Ask, Facts, Handshake, HandshakeError};
pub use session::{Answer, Client, ClientError, Command, Done, Order, Refused, Window};
pub use shell::{ConnectError, Turn, connect, turn};
pub use sums::SumsError;
