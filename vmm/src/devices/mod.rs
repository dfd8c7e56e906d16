//! The devices of a PC that are not on PCI.
//!
//! Each is a folder: the device, its plain state, its tests. A device knows how it interrupts
//! ([`Line`](crate::irq::Line)) and what it asks of the machine ([`Power`](pm::Power)), and nothing else.

pub mod i8042;
pub mod pm;
pub mod rtc;
pub mod serial;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's registers. No code that holds them can panic half-way, so a poisoned lock is whole.
fn lock<T>(registers: &Mutex<T>) -> MutexGuard<'_, T> {
    registers.lock().unwrap_or_else(PoisonError::into_inner)
}
