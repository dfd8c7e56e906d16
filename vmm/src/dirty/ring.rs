//! KVM's rings, one for each vCPU.
//!
//! ```text
//!   collect   empties the rings into `ours`; what vCPUs took out themselves to make room is there too
//!   rearm     KVM_RESET_DIRTY_RINGS: the next write of each page that was taken is noted again
//! ```
//!
//! KVM resets all that was taken, or nothing: so pages that are collected and not rearmed, like those of devices
//! and of a failed epoch, are remembered in `ours`. That they may be noted again costs little and loses nothing.
//!
//! With rings KVM has no log on x86, and no way to note what it writes itself outside of a vCPU's calls.

use super::{DirtyError, PageSet, Tracker, take_written};
use crate::kvm::Vm;
use std::sync::Arc;

/// Tracks with KVM's rings.
#[derive(Debug)]
pub struct Ring {
    vm: Arc<Vm>,
    on: bool,
    ours: PageSet,
}

impl Ring {
    pub(super) fn new(vm: Arc<Vm>) -> Self {
        let ours = PageSet::new(vm.ram());
        Self { vm, on: false, ours }
    }
}

impl Tracker for Ring {
    fn name(&self) -> &'static str {
        "ring"
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
            self.vm.empty_rings()?;
        }
        self.ours.clear();
        Ok(())
    }

    fn collect(&mut self, into: &mut PageSet) -> Result<(), DirtyError> {
        if !self.on {
            return Err(DirtyError::Off);
        }
        take_written(&self.vm, &mut self.ours);
        self.vm.collect_rings(&mut self.ours)?;
        into.union(&self.ours);
        Ok(())
    }

    fn rearm(&mut self, pages: &PageSet) -> Result<(), DirtyError> {
        if !self.on {
            return Err(DirtyError::Off);
        }
        self.vm.reset_rings()?;
        // Last: if KVM refused, all of them are still dirty.
        self.ours.subtract(pages);
        Ok(())
    }

    fn redirty(&mut self, pages: &PageSet) {
        self.ours.union(pages);
    }
}
