//! Which pages of a guest's RAM were written, by its vCPUs and by its devices.
//!
//! ```text
//!   vCPUs ── write ──► KVM's log or rings ──┐ collect                    rearm
//!                                           ├────────► PageSet ── copy ───────► these pages are clean
//!   devices ─ write ─► memory::Written ─────┘                                   from here on
//!                                                           ▲
//!                              a failed epoch's set ────────┘ redirty
//! ```
//!
//! # The order in which it is done
//!
//! *A checkpoint, while the guest stands.* Nothing may write RAM between the three steps, so they come last:
//! 1. vCPUs stand, devices are drained, their states are saved (what is saved may write RAM, and KVM writes
//!    to it when a vCPU is left);
//! 2. [`collect`](Tracker::collect);
//! 3. copy the pages of the set;
//! 4. [`rearm`](Tracker::rearm) with the set; the guest goes on.
//!
//! *Pre-copy, while the guest runs.* Pages may be written at any moment, so each is armed before it is read:
//! 1. [`collect`](Tracker::collect);
//! 2. [`rearm`](Tracker::rearm) with the set, or with the part of it that is sent next;
//! 3. copy these pages. A copy may be torn by a write; that write makes the page dirty again, and it
//!    comes with a later set, at the latest with that of the next checkpoint.
//!
//! *An epoch that failed.* Its set is given to [`redirty`](Tracker::redirty): the pages are dirty until they are
//! rearmed again. So whoever copies keeps the set until the other side has the pages.
//!
//! What is collected and not rearmed stays dirty, and is collected again.

mod log;
pub mod pages;
mod ring;
mod sys;
#[cfg(test)]
mod tests;

pub use crate::kvm::Tracking;
pub use log::Log;
pub use pages::{PAGE, PageSet};
pub use ring::Ring;

use crate::kvm::{Error as KvmError, Tracked, Vm};
use crate::memory::Written;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, MmapRegion};

/// Written pages that are not known.
#[derive(Debug, Error)]
pub enum DirtyError {
    /// Nobody began to note them.
    #[error("cannot tell which pages the guest wrote: this was not started")]
    Off,
    /// KVM has no way.
    #[error(
        "cannot tell which pages the guest wrote: this host's KVM has neither KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 nor \
         KVM_CAP_DIRTY_LOG_RING; Linux has them since 5.2 and 5.11"
    )]
    Unavailable,
    /// KVM refuses.
    #[error("cannot tell which pages the guest wrote: {0}")]
    Kvm(#[from] KvmError),
}

/// Tells which pages were written. Each method says all that it needs; in which order they are called is said
/// at the top of [this module](self).
///
/// Where one fails, what was dirty before is dirty still.
pub trait Tracker: fmt::Debug + Send {
    /// What it is called, for people.
    fn name(&self) -> &'static str;

    /// Begins. All pages are dirty at first, as nobody has a copy of any; also if it had begun already.
    fn start(&mut self) -> Result<(), DirtyError>;

    /// Ends: writes cost the guest nothing more.
    fn stop(&mut self) -> Result<(), DirtyError>;

    /// Adds the pages to `into` that are dirty: written, by a vCPU or by a device, since they were last
    /// rearmed. They stay dirty.
    fn collect(&mut self, into: &mut PageSet) -> Result<(), DirtyError>;

    /// Makes these pages clean: the next write makes each dirty again. They were collected, and either the guest
    /// stands or they are copied after this.
    fn rearm(&mut self, pages: &PageSet) -> Result<(), DirtyError>;

    /// Makes these pages dirty, until they are rearmed.
    fn redirty(&mut self, pages: &PageSet);
}

/// The tracker of what this VM was made for ([`Vm::tracked_by`]).
pub fn choose(vm: &Arc<Vm>) -> Result<Box<dyn Tracker>, DirtyError> {
    match vm.tracked() {
        Tracked::Log => Ok(Box::new(Log::new(vm.clone()))),
        Tracked::Ring(_) => Ok(Box::new(Ring::new(vm.clone()))),
        Tracked::Not => Err(DirtyError::Unavailable),
    }
}

/// Takes what this program wrote.
fn take_written(vm: &Vm, into: &mut PageSet) {
    for (index, region) in vm.ram().iter().enumerate() {
        if let Some(words) = into.region_mut(index) {
            // The region's own method of that name gives a view of the marks, not the marks.
            let mapping: &MmapRegion<Written> = region;
            mapping.bitmap().take(words);
        }
    }
}
