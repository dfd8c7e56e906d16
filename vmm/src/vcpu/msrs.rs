//! Model-specific registers.

use crate::kvm::Error;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

/// The time stamp counter.
pub(super) const TSC: u32 = 0x10;
/// When the local APIC's timer fires, in ticks of that.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
/// Where the guest wants to read when it was started. KVM writes that time there when this is set.
pub(super) const WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];
const MISC_ENABLE: u32 = 0x1a0;
const MTRR_DEFAULT: u32 = 0x2ff;

/// How many KVM takes in one call.
const CHUNK: usize = 256;

/// A model-specific register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// What is in it.
    pub value: u64,
}

/// Those of a vCPU that are its state, with KVM's lists of them.
#[derive(Debug)]
pub(super) struct Bank(Vec<Msrs>);

impl Bank {
    pub(super) fn new(indices: &[u32]) -> Result<Self, Error> {
        let chunk = |indices: &[u32]| list(indices.iter().map(|&index| Msr { index, value: 0 }));
        Ok(Self(indices.chunks(CHUNK).map(chunk).collect::<Result<_, _>>()?))
    }

    /// Reads them. What KVM lists but does not give is taken off the list.
    pub(super) fn read(&mut self, fd: &VcpuFd) -> Result<Vec<Msr>, Error> {
        let mut values = Vec::with_capacity(self.0.iter().map(|chunk| chunk.as_slice().len()).sum());
        for chunk in &mut self.0 {
            loop {
                let read = fd.get_msrs(chunk).map_err(Error::call("a vCPU's MSRs"))?;
                let Some(refused) = chunk.as_slice().get(read) else { break };
                let index = refused.index;
                tracing::debug!(msr = format_args!("{index:#x}"), "KVM lists an MSR and does not give it");
                let rest = chunk.as_slice().iter().filter(|entry| entry.index != index);
                *chunk = list(rest.map(|entry| Msr { index: entry.index, value: 0 }))?;
            }
            values.extend(chunk.as_slice().iter().map(|entry| Msr { index: entry.index, value: entry.data }));
        }
        Ok(values)
    }
}

/// What firmware would have set.
pub(super) fn set_start_values(fd: &VcpuFd) -> Result<(), Error> {
    const FAST_STRINGS: u64 = 1;
    const MTRRS_ON: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    let values = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEFAULT, MTRRS_ON | WRITE_BACK)];
    // A KVM that refuses one (an AMD CPU has no MISC_ENABLE) refuses what the guest does not have either.
    write(fd, &values.map(|(index, value)| Msr { index, value })).map(drop)
}

/// Writes them in order. Gives those that KVM refuses.
pub(super) fn write(fd: &VcpuFd, values: &[Msr]) -> Result<Vec<Msr>, Error> {
    let mut refused = Vec::new();
    let mut rest = values;
    while !rest.is_empty() {
        let count = rest.len().min(CHUNK);
        let written = fd
            .set_msrs(&list(rest[..count].iter().copied())?)
            .map_err(Error::call("a change of a vCPU's MSRs"))?;
        rest = rest.get(written..).unwrap_or_default();
        if written < count
            && let Some((first, others)) = rest.split_first()
        {
            refused.push(*first);
            rest = others;
        }
    }
    Ok(refused)
}

pub(super) fn read_one(fd: &VcpuFd, index: u32) -> Result<u64, Error> {
    let mut msrs = list([Msr { index, value: 0 }].into_iter())?;
    fd.get_msrs(&mut msrs).map_err(Error::call("one of a vCPU's MSRs"))?;
    Ok(msrs.as_slice().first().map_or(0, |entry| entry.data))
}

pub(super) fn write_one(fd: &VcpuFd, index: u32, value: u64) -> Result<(), Error> {
    write(fd, &[Msr { index, value }]).map(drop)
}

fn list(values: impl Iterator<Item = Msr>) -> Result<Msrs, Error> {
    let entries: Vec<_> = values
        .map(|Msr { index, value }| kvm_msr_entry { index, data: value, ..Default::default() })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| Error::Missing("room for a list of MSRs"))
}
