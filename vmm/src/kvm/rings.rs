//! KVM's rings of written pages, one for each vCPU.
//!
//! ```text
//!                     KVM pushes                          we take               KVM resets
//!   entry:  empty ───────────────► DIRTY (slot, page) ──────────────► RESET ────────────────► empty
//!                                                        │          the page is protected again
//!                                                        └─► taken
//! ```
//!
//! A vCPU whose ring is nearly full leaves the guest, and does not go back before there is room. It makes room by
//! itself, whoever else is busy: what it takes waits in `taken` until a tracker asks.
//!
//! KVM never fills the last entries of a ring on purpose. A KVM that emulates the guest does (PVM runs on and on
//! without a look at the ring), and writes over entries then: pages are lost. A ring without an empty entry
//! is therefore an error from then on, never a set that lacks some.

use super::Error;
use super::sys::{RingMap, reset_rings};
use crate::dirty::PageSet;
use kvm_ioctls::{VcpuFd, VmFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The rings of a VM.
#[derive(Debug)]
pub(super) struct Rings {
    entries: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rings: Vec<RingMap>,
    taken: PageSet,
    /// Entries that were taken, and that KVM has not reset.
    waiting: u64,
    /// Written pages were lost.
    overrun: bool,
}

impl Rings {
    /// Of `entries` each, for a VM whose memory `taken` is of.
    pub(super) fn new(entries: u32, taken: PageSet) -> Self {
        Self { entries, inner: Mutex::new(Inner { rings: Vec::new(), taken, waiting: 0, overrun: false }) }
    }

    /// Maps a new vCPU's.
    pub(super) fn add(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let ring = RingMap::new(vcpu, self.entries).map_err(Error::call("a vCPU's ring of written pages"))?;
        self.lock().rings.push(ring);
        Ok(())
    }

    /// Gives all pages that are in the rings, or were taken out of them to make room.
    pub(super) fn collect(&self, into: &mut PageSet) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.take()?;
        into.union(&inner.taken);
        inner.taken.clear();
        Ok(())
    }

    /// Has KVM protect all pages again that were taken.
    pub(super) fn reset(&self, vm: &VmFd) -> Result<(), Error> {
        self.lock().reset(vm)
    }

    /// Empties the rings, so that vCPUs can go on. A page that is written from now on is noted again.
    pub(super) fn make_room(&self, vm: &VmFd) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.take()?;
        inner.reset(vm)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Result<(), Error> {
        for ring in &mut self.rings {
            while let Some((slot, page)) = ring.take() {
                self.waiting += 1;
                // Guests have one address space, whose slots are the regions of RAM.
                if !self.taken.insert_in(slot as usize, page) {
                    return Err(Error::Written { slot, page });
                }
            }
            self.overrun |= ring.is_full();
        }
        if self.overrun { Err(Error::Overrun) } else { Ok(()) }
    }

    fn reset(&mut self, vm: &VmFd) -> Result<(), Error> {
        while self.waiting > 0 {
            // Kernels since 6.16 stop early when a signal comes, and are asked again.
            match reset_rings(vm) {
                Ok(0) => return Err(Error::NotReset(self.waiting)),
                Ok(count) => self.waiting = self.waiting.saturating_sub(u64::from(count)),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(source) => {
                    return Err(Error::Call { what: "a reset of its rings of written pages", source });
                }
            }
        }
        self.rings.iter_mut().for_each(RingMap::was_reset);
        Ok(())
    }
}
