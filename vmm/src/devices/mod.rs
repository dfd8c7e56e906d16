//! What a guest finds in its machine.
//!
//! Each is a folder: the device, its plain state, its tests. A device knows how it interrupts
//! ([`Line`](crate::irq::Line), [`Interrupt`](crate::irq::Interrupt)) and what it asks of the machine
//! ([`Power`](pm::Power)), and nothing else.

pub mod block;
pub mod i8042;
pub mod net;
pub mod pm;
pub mod rng;
pub mod rtc;
pub mod serial;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's registers. No code that holds them can panic half-way, so a poisoned lock is whole.
fn lock<T>(registers: &Mutex<T>) -> MutexGuard<'_, T> {
    registers.lock().unwrap_or_else(PoisonError::into_inner)
}
