//! QMP: how programs control a guest, with the words of QEMU where the meaning is the same.
//!
//! ```text
//!   socket ─ bytes ─► Session ─┬─ Send ─────────────────────────────────────────────► socket
//!      │              (no I/O) └─ Run(command) ─► Desk ─┬─► Control, Colo ── reply ─► socket
//!      └ descriptors ──────────────────────────────►┘   └─► Migration ─► Save
//!   Control::events, Migration ─► Session::event (to who has negotiated)
//! ```
//!
//! * `scan` cuts a stream of bytes into JSON objects, within bounds.
//! * `request` reads one object as a command; `command` knows them and their arguments, `perform` does
//!   them, `answers` are what is said of a guest.
//! * `descriptors` are sent along, and `migration` writes a guest's state into one.
//! * [`Session`] is a connection without its socket: what goes in comes out as what is to be done.
//! * [`Server`] is the shell: one thread that polls, and performs one command at a time.
//! * [`client`] is the other end.
//!
//! Everything is bounded: clients, the length and depth of an object, descriptors, and what a client does not
//! read.

mod answers;
pub mod client;
mod command;
mod descriptors;
mod migration;
mod perform;
mod request;
mod scan;
mod server;
mod session;

pub use command::{Capability, Command, FdName, Plain};
pub use migration::Stage;
pub use server::Server;
pub use session::{News, Output, Session};

#[cfg(test)]
mod tests;
