//! What primary and secondary say to each other, and in which order. No socket is in here.
//!
//! ```text
//!   primary                                   secondary
//!     hello ─────────────────────────────────────► compares
//!     compares ◄───────────────────────────────── hello
//!     ram … ram, synced ─────────────────────────►             the first sync: epoch 0; or
//!     resume ────────────────────────────────────►             go on from what the secondary's hello says it holds
//!           ◄──────────────────────── checkpoint-ready
//!   ┌► ram … ram (background) ───────────────────► staged       epoch n = 1, 2, …
//!   │ checkpoint-request ────────────────────────► (COLO: stops its guest)
//!   │       ◄──────────────────────── checkpoint-reply (what its guest has dirtied)
//!   │ (pause, copy, go on)
//!   │ ram … ram, vmstate-send (pages), vmstate-size (state) ───►
//!   │       ◄──────────────────────── vmstate-received          held output may go
//!   │       ◄──────────────────────── vmstate-loaded            level
//!   └─ n := n + 1            … or: ended ───────►               the guest has ended
//! ```
//!
//! * [`message`]: a header, its bounds. [`hello`]: who speaks, and whether the two fit.
//! * [`primary`], [`secondary`]: a type per phase. Each transition takes the phase and gives the next, so that
//!   a message out of turn cannot be sent, and one that comes is an error which names both.
//! * [`merge`]: reasons for a checkpoint, of which one is under way at a time.
//! * [`Channel`]: what the two need of a connection.

mod buffer;
mod error;
pub mod hello;
pub mod merge;
pub mod message;
pub mod primary;
pub mod secondary;
mod wire;

pub use buffer::Buffer;
pub use error::{End, Error, Part, Phase, Sender, Wanted};
pub use message::{Code, Header, Limits};
pub use wire::{Channel, Patience};

#[cfg(test)]
mod tests;
