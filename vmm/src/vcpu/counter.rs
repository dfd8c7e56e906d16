//! The time stamp counter: what it says at an instant.
//!
//! ```text
//!   guest's counter = host's counter × (its frequency ÷ the host's) + offset
//! ```
//!
//! KVM takes the offset itself (Linux 5.16); all vCPUs are then set relative to one instant, however long it
//! takes to set one after the other. An older KVM is told the counter's value alone, and takes two values
//! that are nearly the same for the same: good enough to begin, not to go on exactly. And a KVM without help
//! of the CPU (PVM) lets guests read the host's counter: there it is what it is, and what the guest waits for
//! is moved instead.
//!
//! A host's kernel may find, at any time, that its counters cannot be relied on. KVM then changes a vCPU's
//! offset by itself with every call: the counter stands while the vCPU does, and is moved ahead at the next
//! entry to what it should be by the host's clock. Between the two the offset says less than the guest will
//! see, so what was known of the counter before counts as well.

use super::msrs;
use super::sys::host_counter;
use crate::kvm::{self, Counters, Error};
use kvm_ioctls::VcpuFd;
use std::sync::Once;

/// An instant, as this host's counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostTicks(pub u64);

impl HostTicks {
    /// This moment.
    pub fn now() -> Self {
        Self(host_counter())
    }
}

/// A vCPU's counter.
#[derive(Debug)]
pub(super) struct Counter {
    /// The frequency of the host's counter.
    host_khz: u32,
    /// The frequency of the guest's.
    khz: u32,
    way: Counters,
    /// Its offset, if KVM leaves that alone.
    offset: Option<u64>,
    /// An instant, and what it said then, or was to say.
    known: (HostTicks, u64),
}

impl Counter {
    /// That of a vCPU that is new, on a KVM that treats counters so.
    pub(super) fn new(fd: &VcpuFd, way: Counters) -> Result<Self, Error> {
        let khz = fd.get_tsc_khz().map_err(Error::call("the frequency of the time stamp counter"))?;
        let value = msrs::read_one(fd, msrs::TSC)?;
        Ok(Self { host_khz: khz, khz, way, offset: None, known: (HostTicks::now(), value) })
    }

    pub(super) fn is_its_own(&self) -> bool {
        self.way != Counters::TheHosts
    }

    pub(super) fn khz(&self) -> u32 {
        self.khz
    }

    /// What it says at an instant.
    pub(super) fn read(&mut self, fd: &VcpuFd, at: HostTicks) -> Result<u64, Error> {
        let value = match self.way {
            Counters::ByOffset => self.by_offset(fd, at)?,
            Counters::ByValue => {
                let now = HostTicks::now();
                let value = msrs::read_one(fd, msrs::TSC)?;
                value.wrapping_sub(self.scale(now).wrapping_sub(self.scale(at)))
            }
            Counters::TheHosts => at.0,
        };
        self.known = (at, value);
        Ok(value)
    }

    fn by_offset(&mut self, fd: &VcpuFd, at: HostTicks) -> Result<u64, Error> {
        let offset = offset(fd)?;
        let value = self.scale(at).wrapping_add(offset);
        if self.offset == Some(offset) {
            return Ok(value);
        }
        // The guest has set its counter; or KVM moves it, and then has moved it again by now.
        let is_kept = self::offset(fd)? == offset;
        self.offset = is_kept.then_some(offset);
        let expected = self.expected(at);
        let is_behind = value.wrapping_sub(expected).cast_signed() < 0;
        Ok(if !is_kept && is_behind { expected } else { value })
    }

    /// What it says at an instant if nobody has set it since something was known of it.
    fn expected(&self, at: HostTicks) -> u64 {
        let (then, value) = self.known;
        value.wrapping_add(self.scale(at).wrapping_sub(self.scale(then)))
    }

    /// Makes it say `value` at an instant. Gives how far ahead of that it is all the same.
    pub(super) fn set(&mut self, fd: &VcpuFd, value: u64, khz: u32, at: HostTicks) -> Result<u64, Error> {
        if khz != self.khz {
            fd.set_tsc_khz(khz).map_err(Error::call("another frequency of the time stamp counter"))?;
            self.khz = khz;
        }
        match self.way {
            Counters::ByOffset => {
                kvm::set_counter_offset(fd, value.wrapping_sub(self.scale(at)))
                    .map_err(Error::call("a new offset of the time stamp counter"))?;
            }
            Counters::ByValue => {
                let since = self.scale(HostTicks::now()).wrapping_sub(self.scale(at));
                msrs::write_one(fd, msrs::TSC, value.wrapping_add(since))?;
            }
            Counters::TheHosts => {
                say_that_it_jumps();
                return Ok(at.0.wrapping_sub(value));
            }
        }
        self.known = (at, value);
        Ok(0)
    }

    /// Turns it back by so many ticks of the host's counter; a deadline is then as far off as it was.
    pub(super) fn turn_back(&mut self, fd: &VcpuFd, ticks: u64) -> Result<(), Error> {
        let now = HostTicks::now();
        let deadline = msrs::read_one(fd, msrs::TSC_DEADLINE)?;
        let value = self.read(fd, now)?.wrapping_sub(self.scale(HostTicks(ticks)));
        let ahead = self.set(fd, value, self.khz, now)?;
        if deadline == 0 {
            return Ok(());
        }
        msrs::write_one(fd, msrs::TSC_DEADLINE, deadline.wrapping_add(ahead))
    }

    fn scale(&self, at: HostTicks) -> u64 {
        if self.khz == self.host_khz || self.host_khz == 0 {
            return at.0;
        }
        // The counter wraps after centuries only.
        (u128::from(at.0) * u128::from(self.khz) / u128::from(self.host_khz)) as u64
    }
}

fn offset(fd: &VcpuFd) -> Result<u64, Error> {
    kvm::counter_offset(fd).map_err(Error::call("the time stamp counter's offset"))
}

fn say_that_it_jumps() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "this host's KVM gives guests the host's time stamp counter: a guest that comes from \
             elsewhere, or stood, sees it jump; kvmclock goes on as it should"
        );
    });
}
