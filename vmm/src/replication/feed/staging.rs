//! Memory for the bytes that a guest writes, until both disks have them.

use super::ring::Ring;
use super::sys;
use crate::block::engine::Span;
use crate::block::follow::Copy;
use crate::memory::GuestRam;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Of bounded size. It takes memory only where it was used.
#[derive(Debug)]
pub(super) struct Staging {
    ram: Arc<GuestRam>,
    ring: Mutex<Ring>,
}

impl Staging {
    pub(super) fn new(size: usize) -> io::Result<Arc<Self>> {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)]).map_err(io::Error::other)?;
        Ok(Arc::new(Self { ram: Arc::new(ram), ring: Mutex::new(Ring::new(size)) }))
    }

    /// A copy of these bytes, if there is room.
    pub(super) fn copy(self: &Arc<Self>, bytes: &[VolatileSlice<'_>]) -> Option<Held> {
        let len = bytes.iter().map(VolatileSlice::len).sum();
        let at = self.ring().take(len)?;
        // From here on its end gives the place back.
        let held = Held { home: Arc::clone(self), at, len };
        let mut to = at;
        for piece in bytes {
            let place = self.ram.get_slice(GuestAddress(to as u64), piece.len()).ok()?;
            piece.copy_to_volatile_slice(place);
            to += piece.len();
        }
        Some(held)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.ring().used()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that were copied. Nobody writes to them; their place is given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    home: Arc<Staging>,
    at: usize,
    len: usize,
}

impl Held {
    /// For an image to write from.
    pub(super) fn copy(&self) -> Copy {
        let span = Span { address: GuestAddress(self.at as u64), len: self.len };
        Copy { ram: self.home.ram.clone(), span }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        sys::bytes(self, &self.home.ram, self.at, self.len)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.home.ring().give(self.at);
    }
}
