//! How a device interrupts the guest.
//!
//! ```text
//!   legacy device ── Line ──► GSI 0–23 ──► PIC, I/O APIC  (both in KVM)
//!   virtio device ── Msi ───► a route in KVM ──► local APIC
//! ```
//!
//! Devices know these traits alone; what is behind them is KVM, and in tests a counter.

mod line;
mod msi;

pub use line::Pin;
pub use msi::{MsiVector, Routes};

use std::fmt;

/// A wire to an interrupt controller.
pub trait Line: Send + Sync + fmt::Debug {
    /// Raises or lowers it. An edge is a raise and a lower.
    fn set(&self, high: bool);
}

/// An interrupt of a virtio device, however it is carried.
pub trait Interrupt: Send + Sync + fmt::Debug {
    /// A queue has used buffers.
    fn queue(&self, queue: u16);
    /// The device's configuration has changed.
    fn config(&self);
}
