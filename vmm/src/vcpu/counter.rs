//! The time stamp counter: what it says at an instant.
//!
//! ```text
//!   guest's counter = host's counter × (its frequency ÷ the host's) + offset
//! ```
//!
//! KVM takes the offset itself (Linux 5.16); all vCPUs are then set relative to one instant, however long it
//! takes to set one after the other. An older KVM is told the counter's value alone, and takes two values
//! that are nearly the same for the same: good enough to begin, not to go on exactly. And a KVM without help
//! of the CPU (PVM) lets guests read the host's counter: there it is what it is.

use super::{msrs, sys};
use crate::kvm::Error;
use kvm_ioctls::VcpuFd;
use std::sync::Once;

/// An instant, as this host's counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostTicks(pub u64);

impl HostTicks {
    /// This moment.
    pub fn now() -> Self {
        Self(sys::host_counter())
    }
}

/// How KVM sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By its offset.
    Offset,
    /// By its value.
    Value,
    /// Not at all: it is the host's.
    Fixed,
}

/// A vCPU's counter.
#[derive(Debug)]
pub(super) struct Counter {
    /// The frequency of the host's counter.
    host_khz: u32,
    /// The frequency of the guest's.
    khz: u32,
    way: Way,
}

impl Counter {
    /// That of a vCPU that is new.
    pub(super) fn new(fd: &VcpuFd) -> Result<Self, Error> {
        let khz = fd.get_tsc_khz().map_err(Error::call("the frequency of the time stamp counter"))?;
        Ok(Self { host_khz: khz, khz, way: way(fd)? })
    }

    pub(super) fn is_its_own(&self) -> bool {
        self.way != Way::Fixed
    }

    pub(super) fn khz(&self) -> u32 {
        self.khz
    }

    /// What it says at an instant.
    pub(super) fn read(&self, fd: &VcpuFd, at: HostTicks) -> Result<u64, Error> {
        if self.way != Way::Value {
            let offset = sys::counter_offset(fd).map_err(Error::call("the time stamp counter's offset"))?;
            return Ok(self.scale(at).wrapping_add(offset));
        }
        let now = HostTicks::now();
        let value = msrs::read_one(fd, msrs::TSC)?;
        Ok(value.wrapping_sub(self.scale(now).wrapping_sub(self.scale(at))))
    }

    /// Makes it say `value` at an instant.
    pub(super) fn set(&mut self, fd: &VcpuFd, value: u64, khz: u32, at: HostTicks) -> Result<(), Error> {
        if khz != self.khz {
            fd.set_tsc_khz(khz).map_err(Error::call("another frequency of the time stamp counter"))?;
            self.khz = khz;
        }
        match self.way {
            Way::Offset => sys::set_counter_offset(fd, value.wrapping_sub(self.scale(at)))
                .map_err(Error::call("a new offset of the time stamp counter")),
            Way::Value => {
                let since = self.scale(HostTicks::now()).wrapping_sub(self.scale(at));
                msrs::write_one(fd, msrs::TSC, value.wrapping_add(since))
            }
            Way::Fixed => {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(
                        "this host's KVM gives guests the host's time stamp counter: a guest that comes from \
                         elsewhere, or stood, sees it jump; kvmclock goes on as it should"
                    );
                });
                Ok(())
            }
        }
    }

    /// Turns it back by so many ticks of the host's counter; a deadline is then as far off as it was.
    pub(super) fn turn_back(&mut self, fd: &VcpuFd, ticks: u64) -> Result<(), Error> {
        if self.way == Way::Fixed {
            return Ok(());
        }
        let now = HostTicks::now();
        let deadline = msrs::read_one(fd, msrs::TSC_DEADLINE)?;
        let value = self.read(fd, now)?.wrapping_sub(self.scale(HostTicks(ticks)));
        self.set(fd, value, self.khz, now)?;
        if deadline == 0 { Ok(()) } else { msrs::write_one(fd, msrs::TSC_DEADLINE, deadline) }
    }

    fn scale(&self, at: HostTicks) -> u64 {
        if self.khz == self.host_khz || self.host_khz == 0 {
            return at.0;
        }
        // The counter wraps after centuries only.
        (u128::from(at.0) * u128::from(self.khz) / u128::from(self.host_khz)) as u64
    }
}

/// Tries it on a vCPU that has not run.
fn way(fd: &VcpuFd) -> Result<Way, Error> {
    if !sys::has_counter_offset(fd) {
        return Ok(Way::Value);
    }
    let call = Error::call("the time stamp counter's offset");
    let before = sys::counter_offset(fd).map_err(&call)?;
    let other = before.wrapping_sub(1 << 20);
    sys::set_counter_offset(fd, other).map_err(&call)?;
    let kept = sys::counter_offset(fd).map_err(&call)? == other;
    sys::set_counter_offset(fd, before).map_err(&call)?;
    Ok(if kept { Way::Offset } else { Way::Fixed })
}
