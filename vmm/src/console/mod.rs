//! Where the guest's first serial port leads.
//!
//! ```text
//!   vCPU ── Output::write ──► Ring ──┐ (never waits; of too much the oldest is dropped and counted)
//!                                    ▼
//!                              thread: poll ◄──► terminal, pty, file, socket
//!                                    │
//!   serial port ◄── input(bytes) ────┘ (takes as much as it has room for; the rest waits)
//! ```
//!
//! Everything is opened by [`open`], before the process gives up its privileges; the thread opens
//! nothing. What the guest says while nobody is connected is kept in the ring, and shown to who comes.

mod escape;
mod place;
mod pump;
mod ring;
mod terminal;

pub use place::{OpenError, open};
pub use pump::{Console, Input, Opened};
pub use ring::Output;
pub use terminal::restore as restore_terminal;

#[cfg(test)]
mod tests;
