//! The guest's clocks: kvmclock, the time stamp counters, the ACPI timer's clock.
//!
//! ```text
//!   instant = (kvmclock in nanoseconds, the host's counter in ticks), read by KVM as one
//!
//!   stop    the instant is kept ─► start: kvmclock is set back to it, the counters by as many ticks
//!   save    the instant; each vCPU says what its counter is at it
//!   load    kvmclock is set, and KVM asked at which tick it is exactly that: the counters are set for that tick
//! ```

use crate::devices::pm::Stopwatch;
use crate::kvm::{Error as KvmError, Vm};
use crate::vcpu::{HostTicks, Vcpu, VcpuError};
use kvm_bindings::{KVM_CLOCK_HOST_TSC, kvm_clock_data};
use std::sync::Arc;

/// What the clocks say at a moment of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instant {
    /// kvmclock, in nanoseconds.
    pub(super) nanoseconds: u64,
    /// The host's counter.
    pub(super) at: HostTicks,
}

/// Whether they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hands {
    Going,
    /// From their beginning on: none has run.
    New,
    Standing(Instant),
}

/// What they were, to be that again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    hands: Hands,
    instant: Instant,
}

/// All clocks of a guest.
#[derive(Debug)]
pub(super) struct Clocks {
    vm: Arc<Vm>,
    timer: Arc<Stopwatch>,
    hands: Hands,
    khz: u32,
}

impl Clocks {
    /// They stand at first. `khz` is the host's counter's frequency.
    pub(super) fn new(vm: Arc<Vm>, timer: Arc<Stopwatch>, khz: u32) -> Self {
        Self { vm, timer, hands: Hands::New, khz }
    }

    /// To be called when no vCPU runs.
    pub(super) fn stop(&mut self) -> Result<(), KvmError> {
        if self.hands == Hands::Going {
            self.timer.stop();
            self.hands = Hands::Standing(self.read()?);
        }
        Ok(())
    }

    /// To be called before a vCPU runs.
    pub(super) fn start(&mut self, vcpus: &[Vcpu]) -> Result<(), VcpuError> {
        if let Hands::Standing(stood) = self.hands {
            let now = self.set(stood.nanoseconds)?;
            let ticks = now.0.saturating_sub(stood.at.0);
            let answers: Vec<_> = vcpus.iter().map(|vcpu| vcpu.shift(ticks)).collect();
            answers.into_iter().try_for_each(crate::vcpu::Answer::done)?;
        }
        if self.hands != Hands::Going {
            self.timer.start();
            self.hands = Hands::Going;
        }
        Ok(())
    }

    /// What they say: now, or since they stand.
    pub(super) fn now(&self) -> Result<Instant, KvmError> {
        match self.hands {
            Hands::Standing(instant) => Ok(instant),
            Hands::Going | Hands::New => self.read(),
        }
    }

    /// Makes kvmclock say this. Gives the moment at which it does, for the counters.
    pub(super) fn load(&mut self, nanoseconds: u64) -> Result<HostTicks, KvmError> {
        if self.hands == Hands::Going {
            return self.set(nanoseconds);
        }
        let at = HostTicks::now();
        self.hands = Hands::Standing(Instant { nanoseconds, at });
        Ok(at)
    }

    /// What they are.
    pub(super) fn reading(&self) -> Result<Reading, KvmError> {
        Ok(Reading { hands: self.hands, instant: self.now()? })
    }

    /// Makes kvmclock what it would be without a [`load`](Self::load) since.
    pub(super) fn put_back(&mut self, before: Reading) -> Result<(), KvmError> {
        self.hands = before.hands;
        if self.hands == Hands::Going {
            let ticks = u128::from(HostTicks::now().0.saturating_sub(before.instant.at.0));
            let since = ticks * 1_000_000 / u128::from(self.khz.max(1));
            self.set(before.instant.nanoseconds.saturating_add(since as u64))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<Instant, KvmError> {
        // Without the counter's value in KVM's answer the best is the middle of the call.
        let before = HostTicks::now();
        let clock = self.vm.fd().get_clock().map_err(KvmError::call("the guest's clock"))?;
        let after = HostTicks::now();
        let at = if clock.flags & KVM_CLOCK_HOST_TSC == 0 {
            HostTicks(before.0 + after.0.saturating_sub(before.0) / 2)
        } else {
            HostTicks(clock.host_tsc)
        };
        Ok(Instant { nanoseconds: clock.clock, at })
    }

    fn set(&self, nanoseconds: u64) -> Result<HostTicks, KvmError> {
        // Without flags: exactly this, and not what the host's time of day makes of it.
        let clock = kvm_clock_data { clock: nanoseconds, ..Default::default() };
        self.vm.fd().set_clock(&clock).map_err(KvmError::call("a new time of the guest's clock"))?;
        let now = self.read()?;
        let since =
            u128::from(now.nanoseconds.saturating_sub(nanoseconds)) * u128::from(self.khz) / 1_000_000;
        Ok(HostTicks(now.at.0.saturating_sub(since as u64)))
    }
}
