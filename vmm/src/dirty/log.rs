//! KVM's log with manual protection.
//!
//! ```text
//!   collect   KVM_GET_DIRTY_LOG: a copy of the bitmap of each region, whatever it says; changes nothing
//!   rearm     KVM_CLEAR_DIRTY_LOG: takes pages out, and has their next write noted again
//! ```
//!
//! A page that is not cleared stays in KVM's log by itself. What KVM does not know (writes of devices, pages of a
//! failed epoch) is kept here, in `ours`.

use super::{DirtyError, PageSet, Tracker, sys, take_written};
use crate::kvm::{Error as KvmError, Vm};
use std::sync::Arc;

/// Words of one clear: 1 GiB. While KVM clears it holds a lock that the guest's page faults need.
const CHUNK: usize = 4096;

/// Tracks with KVM's log.
#[derive(Debug)]
pub struct Log {
    vm: Arc<Vm>,
    on: bool,
    ours: PageSet,
    kvms: PageSet,
}

impl Log {
    pub(super) fn new(vm: Arc<Vm>) -> Self {
        let ours = PageSet::new(vm.ram());
        Self { vm, on: false, kvms: ours.none(), ours }
    }
}

impl Tracker for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        if !self.on {
            self.vm.set_logging(true)?;
            self.on = true;
        }
        self.ours.fill();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        if self.on {
            self.vm.set_logging(false)?;
            self.on = false;
        }
        self.ours.clear();
        Ok(())
    }

    fn collect(&mut self, into: &mut PageSet) -> Result<(), DirtyError> {
        if !self.on {
            return Err(DirtyError::Off);
        }
        take_written(&self.vm, &mut self.ours);
        for region in 0..self.kvms.regions() {
            if let Some(words) = self.kvms.region_mut(region) {
                sys::get_log(&self.vm, region, words).map_err(KvmError::call("its log of written pages"))?;
            }
            self.kvms.trim(region);
        }
        into.union(&self.kvms);
        into.union(&self.ours);
        Ok(())
    }

    fn rearm(&mut self, pages: &PageSet) -> Result<(), DirtyError> {
        if !self.on {
            return Err(DirtyError::Off);
        }
        for region in 0..pages.regions() {
            for (index, chunk) in pages.region(region).unwrap_or_default().chunks(CHUNK).enumerate() {
                let Some(first) = chunk.iter().position(|word| *word != 0) else { continue };
                let last = chunk.iter().rposition(|word| *word != 0).unwrap_or(first);
                sys::clear_log(&self.vm, region, index * CHUNK + first, &chunk[first..=last])
                    .map_err(KvmError::call("a clearing of its log of written pages"))?;
            }
        }
        // Last: if KVM refused, all of them are still dirty.
        self.ours.subtract(pages);
        Ok(())
    }

    fn redirty(&mut self, pages: &PageSet) {
        self.ours.union(pages);
    }
}
