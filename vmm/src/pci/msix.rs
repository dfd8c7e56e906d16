//! MSI-X (PCI Local Bus 3.0 §6.8.2): who interrupts, with what message, and whether now.
//!
//! ```text
//!   control: enable, function mask ─┐
//!   table entry: vector mask ───────┴─► open? ── yes ─► Vector: set(message), unmask
//!                                          └──── no ──► Vector: mask (it keeps what is signalled)
//!   pending bits ◄────────────────────────────────────── Vector: pending
//! ```
//!
//! Signalling goes past the table: the vector knows whether it is open, so a worker takes no lock here.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use thiserror::Error;

use crate::irq::MsiVector;
use crate::virtio::throttle::Throttle;

/// The capability's id.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY: u64 = 16;
/// The most vectors that a table can have.
pub const MAX_VECTORS: usize = 2048;

/// The bits of the control register that a guest can write: enable and function mask.
pub const CONTROL_WRITABLE: u16 = ENABLE | FUNCTION_MASK;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const VECTOR_MASK: u32 = 1;

/// Where an interrupt of a device goes: KVM's routes, or a test's counter.
pub trait Vector: Send + Sync + fmt::Debug {
    /// What is sent from now on.
    fn set(&self, address: u64, data: u32) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// Keeps what is signalled from now on.
    fn mask(&self) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// Sends what was kept, and all that comes.
    fn unmask(&self) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// Whether something is kept.
    fn pending(&self) -> bool;
    /// Keeps nothing any more.
    fn forget(&self);
    /// Interrupts.
    fn signal(&self);
}

impl Vector for MsiVector {
    fn set(&self, address: u64, data: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.set(address, data)?)
    }

    fn mask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.mask()?)
    }

    fn unmask(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.unmask()?)
    }

    fn pending(&self) -> bool {
        self.pending()
    }

    fn forget(&self) {
        self.forget();
    }

    fn signal(&self) {
        self.signal();
    }
}

/// An entry of the table, as the guest wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the message goes.
    pub address: u64,
    /// What it is.
    pub data: u32,
    /// Bit 0: masked.
    pub control: u32,
}

/// A table's plain state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// The message control register's writable bits.
    pub control: u16,
    /// The table.
    pub entries: Vec<Entry>,
    /// Which vectors have something to send.
    pub pending: Vec<bool>,
}

/// A saved table that is not this device's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "the saved MSI-X table has {theirs} entries and {pending} pending bits, the device has {ours} vectors"
)]
pub struct MsixError {
    theirs: usize,
    pending: usize,
    ours: usize,
}

#[derive(Debug)]
struct Table {
    control: u16,
    entries: Vec<Entry>,
    /// What each vector was told last; open vectors are told of a message only once.
    open: Vec<bool>,
    throttle: Throttle,
}

/// A device's vectors and their table.
#[derive(Debug)]
pub struct Msix {
    vectors: Vec<Box<dyn Vector>>,
    table: Mutex<Table>,
}

impl Msix {
    /// All masked, none enabled. At most [`MAX_VECTORS`] are used.
    pub fn new(mut vectors: Vec<Box<dyn Vector>>) -> Self {
        vectors.truncate(MAX_VECTORS);
        let entries = vec![Entry { address: 0, data: 0, control: VECTOR_MASK }; vectors.len()];
        let open = vec![false; vectors.len()];
        Self {
            vectors,
            table: Mutex::new(Table { control: 0, entries, open, throttle: Throttle::default() }),
        }
    }

    /// How many vectors there are.
    pub fn len(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Whether the guest has enabled them.
    pub fn enabled(&self) -> bool {
        self.table().control & ENABLE != 0
    }

    /// The capability's body, for a table and pending bits in one memory BAR.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&self.len().saturating_sub(1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        body
    }

    /// Interrupts; a vector that is not there is no interrupt.
    pub fn signal(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            vector.signal();
        }
    }

    /// The guest wrote the control register.
    pub fn set_control(&self, control: u16) {
        let mut table = self.table();
        let control = control & CONTROL_WRITABLE;
        if table.control != control {
            table.control = control;
            for number in 0..self.vectors.len() {
                self.apply(&mut table, number);
            }
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = self.table();
        for (at, byte) in (offset..).zip(data) {
            if let Some(entry) = table.entries.get((at / ENTRY) as usize) {
                *byte = entry_bytes(entry)[(at % ENTRY) as usize];
            }
        }
    }

    /// Writes the table: aligned words of four or eight bytes, as the standard wants; others are lost.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(4) {
            return;
        }
        let mut table = self.table();
        for (at, word) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let number = (at / ENTRY) as usize;
            let Some(entry) = table.entries.get_mut(number) else { return };
            let value = word.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            match at % ENTRY {
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                _ => entry.control = value & VECTOR_MASK,
            }
            // A message may only change while it is masked; one that changes all the same is sent
            // as it is when its last word is written.
            self.apply(&mut table, number);
        }
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = (at * 8) as usize;
            *byte = (0..8).fold(0, |bits, bit| {
                let pending = self.vectors.get(first + bit).is_some_and(|vector| vector.pending());
                bits | u8::from(pending) << bit
            });
        }
    }

    /// As after power-on.
    pub fn reset(&self) {
        let mut table = self.table();
        table.control = 0;
        for number in 0..self.vectors.len() {
            table.entries[number] = Entry { address: 0, data: 0, control: VECTOR_MASK };
            self.apply(&mut table, number);
        }
    }

    /// Its plain state.
    pub fn save(&self) -> MsixState {
        let table = self.table();
        let pending = self.vectors.iter().map(|vector| vector.pending()).collect();
        MsixState { control: table.control, entries: table.entries.clone(), pending }
    }

    /// Whether a state is of such a table.
    pub fn check(&self, state: &MsixState) -> Result<(), MsixError> {
        let ours = self.vectors.len();
        let (theirs, pending) = (state.entries.len(), state.pending.len());
        if theirs != ours || pending != ours {
            return Err(MsixError { theirs, pending, ours });
        }
        Ok(())
    }

    /// Takes a state that was checked; what is beyond the vectors is left.
    pub fn load(&self, state: &MsixState) {
        let mut table = self.table();
        table.control = state.control & CONTROL_WRITABLE;
        let saved = state.entries.iter().zip(&state.pending).zip(&self.vectors).enumerate();
        for (number, ((entry, pending), vector)) in saved {
            let Entry { address, data, control } = *entry;
            table.entries[number] = Entry { address: address & !3, data, control: control & VECTOR_MASK };
            // What was kept here was of a guest that is no more.
            vector.forget();
            self.apply(&mut table, number);
            // What KVM has sent is in the local APICs' state; what it has not is sent anew.
            if *pending {
                vector.signal();
            }
        }
    }

    /// Tells a vector what the table says of it.
    fn apply(&self, table: &mut Table, number: usize) {
        let entry = table.entries[number];
        let open = table.control & CONTROL_WRITABLE == ENABLE && entry.control & VECTOR_MASK == 0;
        let vector = &self.vectors[number];
        let told = if open {
            // The same message again costs the vector nothing.
            let set = vector.set(entry.address, entry.data);
            if table.open[number] { set } else { set.and_then(|()| vector.unmask()) }
        } else if table.open[number] {
            vector.mask()
        } else {
            Ok(())
        };
        table.open[number] = open;
        if let Err(error) = told
            && let Some(silenced) = table.throttle.admit(Instant::now())
        {
            tracing::warn!(vector = number, %error, silenced, "KVM refuses a guest's interrupt message");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry_bytes(entry: &Entry) -> [u8; ENTRY as usize] {
    let mut bytes = [0; ENTRY as usize];
    bytes[..8].copy_from_slice(&entry.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&entry.data.to_le_bytes());
    bytes[12..].copy_from_slice(&entry.control.to_le_bytes());
    bytes
}

#[cfg(test)]
pub(crate) mod tests;
