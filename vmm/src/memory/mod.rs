//! The guest's memory.
//!
//! Two mappings, one under and one over the hole below 4 GiB ([`layout`]). What the VMM writes itself
//! (virtqueues, I/O into buffers) is marked in a bitmap ([`Written`]), as KVM marks what vCPUs write in its log: a
//! checkpoint sends both. Writes through `vm_memory`'s accessors mark by themselves; who writes
//! through a raw pointer (`io_uring`, `readv`) must mark by hand.

pub mod layout;
mod ram;
mod sys;
mod written;

pub use ram::{RamError, new, ranges};
pub use written::Written;

/// The guest's RAM.
pub type GuestRam = vm_memory::GuestMemoryMmap<Written>;
