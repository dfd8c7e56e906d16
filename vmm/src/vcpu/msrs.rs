//! Model-specific registers.

use super::state::StateError;
use crate::kvm::Error as KvmError;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// The time stamp counter.
pub(super) const TSC: u32 = 0x10;
/// When the local APIC's timer fires, in ticks of that.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
const MISC_ENABLE: u32 = 0x1a0;
const MTRR_DEFAULT: u32 = 0x2ff;

/// How many KVM takes in one call.
const CHUNK: usize = 256;

/// What firmware would have set.
pub(super) fn set_start_values(fd: &VcpuFd) -> Result<(), KvmError> {
    const FAST_STRINGS: u64 = 1;
    const MTRRS_ON: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    let values = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEFAULT, MTRRS_ON | WRITE_BACK)];
    // A KVM that refuses one (an AMD CPU has no MISC_ENABLE) refuses what the guest does not have either.
    write(fd, &values).map(drop).map_err(|error| match error {
        StateError::Kvm(error) => error,
        StateError::Running => KvmError::Missing("MSRs"),
    })
}

/// Reads those of `indices`. What KVM lists but does not give is taken off the list.
pub(super) fn read(fd: &VcpuFd, indices: &mut Vec<u32>) -> Result<Vec<(u32, u64)>, StateError> {
    let mut values = Vec::with_capacity(indices.len());
    while values.len() < indices.len() {
        let rest = &indices[values.len()..];
        let entries: Vec<_> = rest.iter().take(CHUNK).map(|&index| entry(index, 0)).collect();
        let mut msrs = list(&entries)?;
        let read = fd.get_msrs(&mut msrs).map_err(KvmError::call("a vCPU's MSRs"))?;
        values.extend(msrs.as_slice().iter().take(read).map(|msr| (msr.index, msr.data)));
        if read < entries.len() {
            let refused = indices.remove(values.len());
            tracing::debug!(msr = format_args!("{refused:#x}"), "KVM lists an MSR and does not give it");
        }
    }
    Ok(values)
}

/// Writes them in order. Gives those that KVM refuses.
pub(super) fn write(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<Vec<u32>, StateError> {
    let mut refused = Vec::new();
    let mut done = 0;
    while done < values.len() {
        let entries: Vec<_> =
            values[done..].iter().take(CHUNK).map(|&(index, value)| entry(index, value)).collect();
        let written = fd.set_msrs(&list(&entries)?).map_err(KvmError::call("a change of a vCPU's MSRs"))?;
        done += written;
        if written < entries.len() {
            refused.push(values[done].0);
            done += 1;
        }
    }
    Ok(refused)
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Missing("room for a list of MSRs"))
}
