//! What this host's KVM lets be done with a vCPU's time stamp counter.
//!
//! It is tried on a VM of its own, which nobody runs: KVM tells guests that their counters agree (and their
//! clock may be read without a call) only as long as no vCPU was ever set otherwise than the one before.

use super::{Error, Kvm, counter_offset, set_counter_offset, sys::has_counter_offset};

/// How a vCPU's counter is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counters {
    /// By its offset to the host's.
    ByOffset,
    /// By its value.
    ByValue,
    /// Not at all: it is the host's.
    TheHosts,
}

/// An offset that is told from others also by a KVM that changes offsets a little by itself: hours.
const FAR: u64 = 1 << 45;

impl Kvm {
    /// How counters of vCPUs are set here.
    pub fn counters(&self) -> Result<Counters, Error> {
        if let Some(known) = self.counters.get() {
            return Ok(*known);
        }
        let found = self.try_counter()?;
        Ok(*self.counters.get_or_init(|| found))
    }

    fn try_counter(&self) -> Result<Counters, Error> {
        let vm = self.create_vm().map_err(Error::call("a VM to try its counter"))?;
        let fd = vm.create_vcpu(0).map_err(Error::call("a vCPU to try its counter"))?;
        if !has_counter_offset(&fd) {
            return Ok(Counters::ByValue);
        }
        let call = Error::call("the time stamp counter's offset");
        let wanted = counter_offset(&fd).map_err(&call)?.wrapping_sub(FAR);
        set_counter_offset(&fd, wanted).map_err(&call)?;
        let missed = counter_offset(&fd).map_err(&call)?.wrapping_sub(wanted).cast_signed();
        Ok(if missed.unsigned_abs() < FAR / 2 { Counters::ByOffset } else { Counters::TheHosts })
    }
}
