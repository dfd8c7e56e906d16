//! All that a vCPU is between two instructions.
//!
//! The order of the calls is KVM's: what a call changes beside its own is set after it.
//!
//! ```text
//!   save   MP state (it may still process a start) ─► registers … MSRs ─► events (pending interrupts)
//!   load   CPUID ─► MP state ─► registers ─► APIC ─► TSC frequency ─► MSRs (TSC, deadline last) ─► events
//! ```

use super::{msrs, sys};
use crate::kvm::Error as KvmError;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A state that cannot be read or set.
#[derive(Debug, Error)]
pub enum StateError {
    /// It runs.
    #[error("it runs, and only one that stands has a state")]
    Running,
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// A vCPU's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// Whether it runs, halts, or waits for its start.
    pub mp_state: kvm_mp_state,
    /// The general registers.
    pub regs: kvm_regs,
    /// Segments, control registers.
    pub sregs: kvm_sregs,
    /// Floating point and vectors, as the XSAVE instruction lays them out.
    pub xsave: Vec<u32>,
    /// What of those is in use.
    pub xcrs: kvm_xcrs,
    /// Breakpoints.
    pub debug: kvm_debugregs,
    /// The local APIC.
    pub lapic: kvm_lapic_state,
    /// The frequency of the time stamp counter.
    pub tsc_khz: u32,
    /// The CPU that it is.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// The model-specific registers that this KVM has.
    pub msrs: Vec<(u32, u64)>,
    /// Exceptions and interrupts that are under way.
    pub events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads it. `msrs` are those to be read; what KVM does not give is taken off.
    pub(super) fn save(fd: &VcpuFd, msrs: &mut Vec<u32>) -> Result<Self, StateError> {
        let call = KvmError::call("a vCPU's state");
        let mp_state = fd.get_mp_state().map_err(&call)?;
        let regs = fd.get_regs().map_err(&call)?;
        let sregs = fd.get_sregs().map_err(&call)?;
        let xsave = fd.get_xsave().map_err(&call)?.region.to_vec();
        let xcrs = fd.get_xcrs().map_err(&call)?;
        let debug = fd.get_debug_regs().map_err(&call)?;
        let lapic = fd.get_lapic().map_err(&call)?;
        let tsc_khz = fd.get_tsc_khz().map_err(&call)?;
        let cpuid = read_cpuid(fd)?;
        let msrs = msrs::read(fd, msrs)?;
        let events = fd.get_vcpu_events().map_err(&call)?;
        Ok(Self { mp_state, regs, sregs, xsave, xcrs, debug, lapic, tsc_khz, cpuid, msrs, events })
    }

    /// Makes its time stamp counter begin at zero, with no deadline.
    pub fn clear_counter(&mut self) {
        for (index, value) in &mut self.msrs {
            if matches!(*index, msrs::TSC | msrs::TSC_DEADLINE) {
                *value = 0;
            }
        }
    }

    /// Sets it.
    pub(super) fn load(&self, fd: &VcpuFd) -> Result<(), StateError> {
        let call = KvmError::call("a vCPU's new state");
        // KVM takes no other CPUID once it has run, and needs none if it is the same CPU.
        if !same_cpu(&read_cpuid(fd)?, &self.cpuid) {
            let cpuid = CpuId::from_entries(&self.cpuid)
                .map_err(|_| KvmError::Missing("room for so many CPUID leaves"))?;
            fd.set_cpuid2(&cpuid).map_err(&call)?;
        }
        fd.set_mp_state(self.mp_state).map_err(&call)?;
        fd.set_regs(&self.regs).map_err(&call)?;
        fd.set_sregs(&self.sregs).map_err(&call)?;
        sys::set_xsave(fd, &self.extended()).map_err(&call)?;
        fd.set_xcrs(&self.xcrs).map_err(&call)?;
        fd.set_debug_regs(&self.debug).map_err(&call)?;
        fd.set_lapic(&self.lapic).map_err(&call)?;
        if fd.get_tsc_khz().map_err(&call)? != self.tsc_khz {
            fd.set_tsc_khz(self.tsc_khz)
                .map_err(KvmError::call("another frequency of the time stamp counter"))?;
        }
        let refused = msrs::write(fd, &self.msrs_in_order())?;
        if !refused.is_empty() {
            tracing::warn!(msrs = format_args!("{refused:#x?}"), "KVM does not take back MSRs that it gave");
        }
        fd.set_vcpu_events(&self.events).map_err(&call)?;
        Ok(())
    }

    /// A list of another length is cut or filled up: then KVM refuses it, or its header says what is there.
    fn extended(&self) -> kvm_xsave {
        let mut xsave = kvm_xsave::default();
        xsave.region.iter_mut().zip(&self.xsave).for_each(|(to, from)| *to = *from);
        xsave
    }

    /// The deadline counts in ticks of the counter, so it comes after. A deadline of zero is a timer that is
    /// off, or one that has fired and whose interrupt KVM still keeps to itself: one that is due now is right
    /// for both, as guests bear an interrupt that they did not expect, and not one that is lost.
    fn msrs_in_order(&self) -> Vec<(u32, u64)> {
        let (deadline, mut values): (Vec<_>, Vec<_>) =
            self.msrs.iter().copied().partition(|(index, _)| *index == msrs::TSC_DEADLINE);
        let tsc = values.iter().find(|(index, _)| *index == msrs::TSC).map_or(0, |(_, value)| *value);
        values
            .extend(deadline.into_iter().map(|(index, value)| (index, if value == 0 { tsc } else { value })));
        values
    }
}

fn read_cpuid(fd: &VcpuFd) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("a vCPU's CPUID"))?;
    Ok(cpuid.as_slice().to_vec())
}

/// Whether two lists are one CPU: what shows control registers, or a size that follows from them, aside.
fn same_cpu(one: &[kvm_cpuid_entry2], other: &[kvm_cpuid_entry2]) -> bool {
    let constant = |leaf: &kvm_cpuid_entry2| {
        let (mut ebx, mut ecx, mut edx) = (leaf.ebx, leaf.ecx, leaf.edx);
        match leaf.function {
            // OSXSAVE and MWAIT; whether the local APIC is on.
            1 => (ecx, edx) = (ecx & !(1 << 27 | 1 << 3), edx & !(1 << 9)),
            // OSPKE.
            7 => ecx &= !(1 << 4),
            // The size of what is switched on.
            0xd => ebx = 0,
            _ => {}
        }
        (leaf.function, leaf.index, leaf.eax, ebx, ecx, edx)
    };
    one.iter().map(constant).eq(other.iter().map(constant))
}
