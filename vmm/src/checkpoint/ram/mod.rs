//! Pages on their way: from the primary's memory to the secondary's.
//!
//! ```text
//!   guest's RAM ── capture ──► records ── pack (XOR, lz4: a choice) ──► link ──► staged ── apply ──► RAM
//!                                                                                  └ spill: a file, if much waits
//! ```
//!
//! What is on the wire are QEMU's RAM records, in pieces that can be read by themselves.

pub mod blocks;
pub mod capture;
pub mod pack;
pub mod records;
pub mod spill;
pub mod staged;
mod sys;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use capture::Capture;
pub use records::{Content, Record, RecordError, Records};
pub use spill::{Spill, SpillError};
pub use staged::Staged;

/// The size of a page.
pub const PAGE: usize = 4096;
