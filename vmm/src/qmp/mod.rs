//! QMP: how programs control a guest, with the words of QEMU where the meaning is the same.
//!
//! ```text
//!   socket ─ bytes ─► Session ─┬─ Send ──────────────────────────────► socket
//!                     (no I/O) └─ Run(command) ─► dyn Control ─ reply ─► socket
//!                        ▲
//!   Control::events ─────┘ (to who has negotiated)
//! ```
//!
//! * `scan` cuts a stream of bytes into JSON objects, within bounds.
//! * `request` reads one object as a command; `command` performs it.
//! * [`Session`] is a connection without its socket: what goes in comes out as what is to be done.
//! * [`Server`] is the shell: one thread that polls, and performs one command at a time.
//!
//! Everything is bounded: clients, the length and depth of an object, and what a client does not read.

mod command;
mod request;
mod scan;
mod server;
mod session;

pub use command::{Command, run};
pub use server::Server;
pub use session::{Output, Session};

#[cfg(test)]
mod tests;
