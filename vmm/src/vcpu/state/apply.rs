//! Sets a vCPU's state, call by call, in KVM's order.
//!
//! | call | after | because |
//! |---|---|---|
//! | registers | | it drops exceptions that are pending: events are set last |
//! | local APIC | system registers | they switch it on and place it |
//! | counter | | the deadline is counted in its ticks |
//! | local APIC | local APIC | KVM stops a timer whose mode becomes a deadline, or no longer is one: the second time it is that already |
//! | MSRs | local APIC | a deadline needs the timer's mode |
//! | events | all | they are what the calls before would drop |

use super::registers::to_xcrs;
use super::{Keeper, StateError, VcpuState, cpu, read_cpuid};
use crate::kvm::Error as KvmError;
use crate::vcpu::counter::HostTicks;
use crate::vcpu::msrs::{self, Msr};
use crate::vcpu::sys;
use kvm_bindings::{CpuId, kvm_lapic_state, kvm_mp_state, kvm_xsave};
use kvm_ioctls::VcpuFd;
use std::collections::HashMap;
use vm_memory::{Bytes, GuestAddress};

/// What KVM writes where a wall clock's MSR points to: a version, seconds, nanoseconds.
type WallClock = [u8; 12];

impl Keeper {
    /// Sets what differs from `before`, which it is.
    pub(super) fn apply(
        &mut self,
        fd: &VcpuFd,
        state: &VcpuState,
        before: &VcpuState,
        at: HostTicks,
    ) -> Result<(), StateError> {
        self.set(fd, state, Some(before), at)
    }

    /// Sets everything, whatever it is.
    pub(super) fn apply_all(
        &mut self,
        fd: &VcpuFd,
        state: &VcpuState,
        at: HostTicks,
    ) -> Result<(), StateError> {
        self.set(fd, state, None, at)
    }

    fn set(
        &mut self,
        fd: &VcpuFd,
        state: &VcpuState,
        before: Option<&VcpuState>,
        at: HostTicks,
    ) -> Result<(), StateError> {
        // KVM takes no other CPUID once it has run, and needs none if it is the same CPU.
        if !cpu::same(&self.cpuid, &state.cpuid) {
            let leaves: Vec<_> = state.cpuid.iter().map(Into::into).collect();
            let cpuid = CpuId::from_entries(&leaves)
                .map_err(|_| KvmError::Missing("room for so many CPUID leaves"))?;
            fd.set_cpuid2(&cpuid).map_err(KvmError::call("the CPUID of the state"))?;
            self.cpuid = read_cpuid(fd)?;
        }
        let other =
            |differs: fn(&VcpuState, &VcpuState) -> bool| before.is_none_or(|before| differs(state, before));
        if other(|state, before| state.mp_state != before.mp_state) {
            let mode = kvm_mp_state { mp_state: state.mp_state };
            fd.set_mp_state(mode).map_err(KvmError::call("a vCPU's new mode"))?;
        }
        fd.set_regs(&(&state.regs).into()).map_err(KvmError::call("a vCPU's new registers"))?;
        if other(|state, before| state.sregs != before.sregs) {
            fd.set_sregs(&(&state.sregs).into()).map_err(KvmError::call("a vCPU's new system registers"))?;
        }
        if other(|state, before| state.xsave != before.xsave) {
            sys::set_xsave(fd, &xsave(&state.xsave))
                .map_err(KvmError::call("a vCPU's new extended registers"))?;
        }
        if other(|state, before| state.xcrs != before.xcrs) {
            fd.set_xcrs(&to_xcrs(&state.xcrs))
                .map_err(KvmError::call("a vCPU's new extended control registers"))?;
        }
        if other(|state, before| state.debug != before.debug) {
            fd.set_debug_regs(&(&state.debug).into()).map_err(KvmError::call("a vCPU's new breakpoints"))?;
        }
        if other(|state, before| state.lapic != before.lapic) {
            let (lapic, call) = (lapic(&state.lapic), KvmError::call("a local APIC's new state"));
            if before.is_none_or(|before| counts_to_deadline(before) != counts_to_deadline(state)) {
                fd.set_lapic(&lapic).map_err(&call)?;
            }
            fd.set_lapic(&lapic).map_err(&call)?;
        }
        let ahead = self.counter.set(fd, state.tsc, state.tsc_khz, at)?;
        self.set_msrs(fd, state, before, ahead)?;
        fd.set_vcpu_events(&(&state.events).into()).map_err(KvmError::call("a vCPU's new pending events"))?;
        Ok(())
    }

    /// The counter is so many ticks `ahead` of what it is in the state.
    fn set_msrs(
        &self,
        fd: &VcpuFd,
        state: &VcpuState,
        before: Option<&VcpuState>,
        ahead: u64,
    ) -> Result<(), StateError> {
        let known: HashMap<u32, u64> =
            before.into_iter().flat_map(|before| &before.msrs).map(|msr| (msr.index, msr.value)).collect();
        let (mut values, mut deadline) = (Vec::new(), None);
        for &msr in &state.msrs {
            match msr.index {
                msrs::TSC_DEADLINE => deadline = Some(msr),
                // A file may have one all the same: it has its own field.
                msrs::TSC => {}
                index if known.get(&index) == Some(&msr.value) => {}
                _ => values.push(msr),
            }
        }
        // A deadline of zero is a timer that is off, or one that has fired and whose interrupt KVM still
        // keeps to itself: one that is due now is right for both, as guests bear an interrupt that they did
        // not expect, and not one that is lost.
        let due = |deadline| if deadline == 0 { state.tsc } else { deadline };
        values.extend(deadline.map(|msr| Msr { value: due(msr.value).wrapping_add(ahead), ..msr }));
        let clocks = self.wall_clocks(&values);
        let refused = msrs::write(fd, &values)?;
        for (place, bytes) in clocks {
            // It was read from there.
            let _ = self.ram.write_slice(&bytes, place);
        }
        // A register that nobody uses may be one that this KVM does not have.
        match refused.into_iter().find(|msr| msr.value != 0) {
            Some(Msr { index, value }) => Err(StateError::Msr { index, value }),
            None => Ok(()),
        }
    }

    /// What is where KVM is about to write the time of the host: the guest's memory is not ours to change.
    fn wall_clocks(&self, values: &[Msr]) -> Vec<(GuestAddress, WallClock)> {
        let clocks = values.iter().filter(|msr| msrs::WALL_CLOCKS.contains(&msr.index));
        let read = |msr: &Msr| {
            let place = GuestAddress(msr.value);
            self.ram.read_obj(place).ok().map(|bytes| (place, bytes))
        };
        clocks.filter_map(read).collect()
    }
}

/// Whether the local APIC's timer has a deadline instead of a count. The length was checked.
fn counts_to_deadline(state: &VcpuState) -> bool {
    const TIMER_MODE: usize = 0x322;
    state.lapic.get(TIMER_MODE).is_some_and(|mode| mode >> 1 & 3 == 2)
}

/// Its length was checked.
fn xsave(bytes: &[u8]) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    for (to, from) in xsave.region.iter_mut().zip(bytes.as_chunks().0) {
        *to = u32::from_le_bytes(*from);
    }
    xsave
}

/// Its length was checked.
fn lapic(bytes: &[u8]) -> kvm_lapic_state {
    let mut lapic = kvm_lapic_state::default();
    for (to, from) in lapic.regs.iter_mut().zip(bytes) {
        *to = *from as i8;
    }
    lapic
}
